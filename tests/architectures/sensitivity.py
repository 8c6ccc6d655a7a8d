"""Wrong variants of a model's reference: what a converter or a graph gets wrong when it forgets a detail. Each must be
farther from the right one than a test allows, or the test would not see the mistake."""

import numpy as np
import reference
from reference import Reference


def without(*names):
    def change(model):
        for block in model.blocks:
            for name in names:
                setattr(block, name, None)

    return change


def no_in_norms(model):
    for block in model.blocks:
        for name in "qkvo":
            getattr(block, name).in_norm = None
        block.down.in_norm = None


def no_bias(model):
    for block in model.blocks:
        for name in ("q", "k", "v", "o", "up", "down"):
            getattr(block, name).bias = None


def no_qk_bias(model):
    for block in model.blocks:
        block.q.bias = block.k.bias = None


def scaled(name, factor):
    def change(model):
        setattr(model, name, getattr(model, name) * factor)

    return change


def no_scaling(model):
    model.config["rope_scaling"] = None


def other_base(model):
    model.config["rope_theta"] *= 20


def pairs_interleaved(model):
    def turn(block, rope, q, k, first=0):
        if block.q_norm is not None:
            q, k = block.q_norm(q), block.k_norm(k)
        half = model.head_dim // 2
        order = np.arange(2 * half).reshape(2, half).T.reshape(-1)  # halves -> neighbours
        back = np.argsort(order)
        q, k = (reference.rotate(x[..., back], *rope, first)[..., order] for x in (q, k))
        return model.half(q), model.half(k)

    model.turn = turn


def heads_swapped(model):
    for block in model.blocks:
        for linear in (block.k, block.v):
            n = len(linear.codes if linear.ternary else linear.matrix)
            order = np.roll(np.arange(n), model.head_dim)
            for name in ("codes", "matrix", "bias"):
                if getattr(linear, name) is not None:
                    setattr(linear, name, getattr(linear, name)[order])
            if linear.ternary:
                linear.scales = linear.scales[:, order]


def other_window(model):
    model.config["sliding_window"] += 1


def one_rope_base(model):
    model.config["rope_local_base_freq"] = model.config["rope_theta"]


def other_pattern(model):
    model.config["sliding_window_pattern"] = 2


def other_activation(model):
    wrong = {reference.relu2: reference.silu, reference.silu: reference.gelu, reference.gelu: reference.silu}
    model.activation = wrong[model.activation]


def no_positions(model):
    model.positions = model.positions * 0


def layer_norm_without_mean(model):
    model.blocks[0].attn_norm = lambda x: x / np.sqrt((x * x).mean(axis=-1, keepdims=True) + model.eps)


def first_scale_for_all(model):
    for block in model.blocks:
        for name in ("q", "k", "v", "o", "gate", "up", "down"):
            linear = getattr(block, name)
            linear.scales = np.full_like(linear.scales, linear.scales[0, 0])


def wrong_variants(case):
    """name -> what to do to a Reference of the case."""
    variants = {"activation": other_activation}
    if case.kind != "gpt2":
        variants["rope pairs"] = pairs_interleaved
        if case.name != "embedding_gemma3":  # all its layers have the local base
            variants["rope base"] = other_base
        if case.kv_heads > 1:
            variants["heads"] = heads_swapped
    else:
        variants |= {"positions": no_positions, "mean": layer_norm_without_mean, "biases": no_bias}
    if case.kind.startswith("bitnet"):
        variants |= {"attn_sub_norm": without("attn_sub_norm"), "ffn_sub_norm": without("ffn_sub_norm")}
    if case.kind in ("qwen3", "gemma3_text"):
        variants["QK norms"] = without("q_norm", "k_norm")
    if case.kind == "gemma3_text":
        variants["post norms"] = without("post_attention", "post_ffn")
        variants["embedding scale"] = scaled("embedding_scale", 0.5)
        variants["attention scale"] = scaled("scale", 2**-0.5)
        if case.config.get("sliding_window", 0) < 100:
            variants |= {"window": other_window, "pattern": other_pattern, "local base": one_rope_base}
    if case.kind == "minicpm":
        variants |= {"residual scale": scaled("residual_scale", 0.9), "embedding scale": scaled("embedding_scale", 0.5)}
    if case.kind == "qwen2" or case.config.get("attention_bias"):
        variants |= {"biases": no_bias, "biases of q, k": no_qk_bias}
    if case.config.get("rope_scaling"):
        variants["rope scaling"] = no_scaling
    if case.in_norms:
        variants["norms of inputs"] = no_in_norms
    if case.weights in ("rows", "groups"):
        variants["scales"] = first_scale_for_all
    return variants


def wrong_logits(case, directory, change, ids):
    model = Reference(directory, **case.reference_options)
    change(model)
    return model.logits(ids)
