#!/usr/bin/env python3
"""Compares likelihoods of one text: compare_scores.py REFERENCE.json OTHER.json...

The files are those of `evaluate.py --json` and `bitnet score --json`. They must have scored the same tokens of the same
bytes in the same windows; exit code 1 where bits per byte differ by more than the tolerance.
"""

import argparse
import math
import sys
from pathlib import Path

from bitnet_training import errors
from bitnet_training.files import read_json

SAME = ("total_tokens", "total_bytes", "ctx_size", "stride")


def read(name: str) -> dict:
    values = read_json(Path(name), "give what evaluate.py --json or bitnet score --json printed")
    for key in (*SAME, "bits_per_byte"):
        value = values.get(key)
        if not isinstance(value, int | float) or not math.isfinite(value) or value <= 0:
            raise errors.UserError(f"{name}: {key} is {value!r}; expected a positive number")
    return values


def main() -> None:
    parser = argparse.ArgumentParser(description="Compares bits per byte of the same text.")
    parser.add_argument("reference")
    parser.add_argument("others", nargs="+")
    parser.add_argument("--tolerance", type=float, default=0.005, help="of the reference (default: 0.005)")
    options = parser.parse_args()
    if not 0.0 <= options.tolerance < 1.0:
        raise errors.UserError(f"--tolerance {options.tolerance}: expected 0 to 1")
    reference = read(options.reference)
    print(f"{reference['bits_per_byte']:.6f} bits per byte  {options.reference}")
    good = True
    for name in options.others:
        other = read(name)
        for key in SAME:
            if other[key] != reference[key]:
                raise errors.UserError(f"{name}: {key} is {other[key]}, in {options.reference} {reference[key]}")
        difference = other["bits_per_byte"] / reference["bits_per_byte"] - 1.0
        inside = abs(difference) <= options.tolerance
        good = good and inside
        print(f"{other['bits_per_byte']:.6f} bits per byte  {name}  {difference:+.4%}{'' if inside else '  TOO FAR'}")
    if not good:
        sys.exit(1)


if __name__ == "__main__":
    errors.run(main)
