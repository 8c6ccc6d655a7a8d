"""Quantisation-aware training of BitNet b1.58 models: what train.py, finetune.py, evaluate.py and export.py share."""
