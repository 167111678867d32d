"""Measures the effect of attention.py: CPU time of an exported decoder with and without one or both of its changes.

    python models/export/tools/attention_speed.py PACKAGE [--context N]... [--steps N]

All four graphs read the same noise in chunks of 512 tokens, and then single tokens at the end of it, by turns, on one
thread; medians of ratios. The changes are undone in form only: the answers differ, the costs are right.
"""

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import attention
from runtime import graph_file, session

KINDS = ["neither", "scale in the weights", "sink that adds nothing", "both"]
CHUNK = 512


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("package", type=Path)
    parser.add_argument("--context", type=int, action="append")
    parser.add_argument("--steps", type=int, default=30)
    args = parser.parse_args()
    print("context | graph | reading all | a step")
    for context in args.context or [1024, 3700]:
        measure(args.package, context, args.steps)
    return 0


def measure(package: Path, context: int, steps: int) -> None:
    text = json.loads((package / "config.json").read_text())["text_config"]
    # The graph leaves it open.
    head_dim = text.get("head_dim") or text["hidden_size"] // text["num_attention_heads"]
    graph = graph_file(package, "decoder_model_merged")
    sides = [InPlace(graph, kind, context + 1, head_dim) for kind in KINDS]
    noise = np.random.default_rng(1).uniform(-1, 1, (1, context + 1, sides[0].width)).astype(np.float32)
    chunks = [noise[:, at : min(at + CHUNK, context)] for at in range(0, context, CHUNK)]
    read = np.array([[side(at * CHUNK, chunk) for side in sides] for at, chunk in enumerate(chunks)]).sum(axis=0)
    step = np.array([[side(context, noise[:, context:]) for side in sides] for _ in range(steps)])
    faster = np.median(step[:, :1] / step, axis=0)
    for at, kind in enumerate(KINDS):
        print(
            f"{context} | {kind} | {read[at]:.1f} s, {read[0] / read[at]:.2f} times as fast"
            f" | {1e3 * np.median(step[:, at]):.1f} ms, {faster[at]:.2f} times", flush=True,
        )  # fmt: skip


class InPlace:
    """A decoder whose cache is written in place, as the daemon runs it."""

    def __init__(self, graph: Path, kind: str, capacity: int, head_dim: int):
        model = onnx.load(graph)
        for node in (node for node in model.graph.node if node.op_type == "GroupQueryAttention"):
            if node.input[attention.SINK] != attention.NO_SINK:
                raise SystemExit(f"{graph}: {node.name} has no sink: not exported for a CPU by this exporter")
            if kind in ("neither", "scale in the weights"):
                node.input[attention.SINK] = ""
            if kind in ("neither", "sink that adds nothing"):
                next(a for a in node.attribute if a.name == "scale").f = 0.125
        with tempfile.TemporaryDirectory() as folder:
            onnx.save_model(model, Path(folder, "graph.onnx"))
            self.session = session(Path(folder, "graph.onnx"))
        shapes = {i.name: i.shape for i in self.session.get_inputs()}
        self.width = shapes["inputs_embeds"][-1]
        self.cache = {
            name: ort.OrtValue.ortvalue_from_numpy(np.zeros((1, shape[1], capacity, head_dim), np.float32))
            for name, shape in shapes.items() if name.startswith("past_key_values.")
        }  # fmt: skip

    def __call__(self, past: int, embeds: np.ndarray) -> float:
        """Returns the CPU-seconds of appending `[1, L, D]` after `past` tokens."""
        binding = self.session.io_binding()
        binding.bind_cpu_input("inputs_embeds", np.ascontiguousarray(embeds))
        binding.bind_cpu_input("attention_mask", np.ones((1, past + embeds.shape[1]), np.int64))
        for name, value in self.cache.items():
            binding.bind_ortvalue_input(name, value)
            binding.bind_ortvalue_output(name.replace("past_key_values", "present"), value)
        binding.bind_output("logits")
        begun = time.process_time()
        self.session.run_with_iobinding(binding)
        return time.process_time() - begun


if __name__ == "__main__":
    sys.exit(main())
