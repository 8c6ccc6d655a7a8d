"""The installed program as the tests see it: conversions, runs, and the files that it dumps."""

import json
import os
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

import numpy as np

NODE = re.compile(r"(\d+) (\S+) op=(\S+) ne=\[(\d+),(\d+),(\d+),(\d+)\] contiguous=1")


def bitnet(*arguments):
    """Standard output of `bitnet ARGUMENTS`; a failure is an error that shows what the program said."""
    command = [str(Path(os.environ["BITNET_BIN"]) / "bitnet"), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise AssertionError(f"{' '.join(command)}\nexit {done.returncode}\n{done.stderr}")
    return done.stdout


def convert(source, target, kind, *options):
    bitnet("convert", "-i", source, "-o", target, "--type", kind, *options)
    return target


def id_list(ids):
    return ",".join(str(int(i)) for i in ids)


@dataclass
class Node:
    name: str
    op: str
    data: np.ndarray  # [ne3 * ne2 * ne1, ne0] for matrices, slowest first


@dataclass
class Run:
    tokens: list
    logits: np.ndarray  # [positions, vocabulary] float32
    nodes: list


def read_nodes(folder):
    nodes = []
    for line in (folder / "nodes.txt").read_text().splitlines():
        found = NODE.match(line)
        if found is None:
            continue
        index, name, op, *ne = found.groups()
        ne = [int(n) for n in ne]
        plain = re.sub(r"[()/ ]", "_", name)
        data = np.fromfile(folder / f"t.{index}.{plain}.{op}.f32", np.float32)
        nodes.append(Node(name, op, data.reshape(-1, ne[0]) if ne[2] == 1 else data.reshape(ne[2::-1])))
    return nodes


def run(model, ids, folder, generate=1, threads=1, nodes=False, options=()):
    """Greedy generation after `ids`; the logits of every position that was evaluated."""
    folder.mkdir(parents=True, exist_ok=True)
    logits = folder / "logits.f32"
    arguments = ["run", "-m", model, "--prompt-ids", id_list(ids), "-n", generate, "--greedy", "--ignore-eos", "--json"]
    arguments += ["-q", "-t", threads, "--repetition-penalty", 1, "--dump-logits", logits, *options]
    if "--temperature" in options:
        arguments.remove("--greedy")
    if nodes:
        arguments += ["--dump-nodes", folder / "nodes", "--dump-layers", "all"]
    out = json.loads(bitnet(*arguments))
    values = np.fromfile(logits, np.float32)
    positions = len(ids) + len(out["tokens"])
    return Run(out["tokens"], values.reshape(positions, -1), read_nodes(folder / "nodes") if nodes else [])
