"""Compares lookout with llama.cpp on the same language model: tokens read and written per CPU-second.

    python models/export/tools/compare_llama_cpp.py LLAMA_CPP CHECKPOINT PACKAGE [--plan PLAN]... [--rounds N]
        [--max-new-tokens N]

LLAMA_CPP is its source, built in its folder `build`. CHECKPOINT's language model, a Qwen2, is written to
CHECKPOINT-q4_0.gguf beside it, by llama-quantize as it does by itself: matrices Q4_0, and the table of the words, which
is also the last matrix, Q8_0. PACKAGE is lookout's of the same checkpoint, in int4.

In each round both sides read a prompt of the same length and then write, one thread each; who begins changes with each
round. Both are counted alike, model loaded: CPU time of the process from a phase's beginning to its end. lookout's is
that of onnxruntime's calls (`lookout bench language --only share`); llama-bench's is its process's clock, read as it
says which phase begins. Figures are medians of the rounds. The last column is llama-bench's own time, which is by the wall
and of both phases together, beside that: above 1, something else had the core.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
# About 1,000 and 3,700 tokens with the question.
PLANS = ["8:slowfast-slow_3frms_spatial_1d_max_pool-fast_4x4", "paper"]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("llama_cpp", type=Path)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("package", type=Path)
    parser.add_argument("--lookout", type=Path, default=ROOT / "target/release/lookout")
    parser.add_argument("--plan", action="append", help="a context's length, as in `lookout bench language`")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--max-new-tokens", type=int, default=64, help="written after each prompt")
    parser.add_argument("--llama-bench", default="", help="more options for it, as --llama-bench='-fa 0'")
    args = parser.parse_args()
    model = args.checkpoint.with_name(args.checkpoint.name + "-q4_0.gguf")
    if not model.exists():
        convert(args.llama_cpp, args.checkpoint, model)
    print("context | read: lookout, llama.cpp, ratio | written: lookout, llama.cpp, ratio | llama-bench, wall to CPU")
    for plan in args.plan or PLANS:
        compare(args, plan, model)
    return 0


def compare(args: argparse.Namespace, plan: str, model: Path) -> None:
    context, ours, theirs, walls = 0, [], [], []
    for round in range(args.rounds):
        # The first round begins with lookout, which alone knows how long its prompt is.
        for side in ("lookout", "llama.cpp") if round % 2 == 0 else ("llama.cpp", "lookout"):
            if side == "lookout":
                context, speed = lookout(args, plan)
                ours.append(speed)
            else:
                theirs.append(llama_bench(args, model, context, walls))
        print(f"  {context} {round + 1}: lookout {speeds(ours[-1])}, llama.cpp {speeds(theirs[-1])}", file=sys.stderr)
    cells = [str(context)]
    for phase in range(2):
        pairs = [(our[phase], their[phase]) for our, their in zip(ours, theirs)]
        our, their = (statistics.median(side) for side in zip(*pairs))
        cells.append(f"{our:.1f}, {their:.1f}, {statistics.median(our / their for our, their in pairs):.2f}")
    print(" | ".join([*cells, f"{statistics.median(walls):.2f}"]), flush=True)


def speeds(side: tuple[float, float]) -> str:
    return f"{side[0]:.1f} and {side[1]:.1f}"


def lookout(args: argparse.Namespace, plan: str) -> tuple[int, tuple[float, float]]:
    """Returns the prompt's length, and the tokens per second in it and after it. The prompt gives the first token."""
    which = ["--package", str(args.package), "--plan", plan, "--threads", "1"]
    how = ["--only", "share", "--rounds", "1", "--max-new-tokens", str(args.max_new_tokens + 1), "--json"]
    command = [args.lookout, "bench", "language", *which, *how]
    share = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)["share"]
    return share["prompt_tokens"], (share["prefill_tokens_per_second"], share["decode_tokens_per_second"])


def llama_bench(args: argparse.Namespace, model: Path, context: int, walls: list[float]) -> tuple[float, float]:
    """Returns llama.cpp's tokens per second in a prompt and after it. `walls` gets the wall seconds of both."""
    command = [args.llama_cpp / "build/bin/llama-bench", "-m", model, "-t", "1", "-r", "1", "--no-warmup"]
    command += [
        "-p",
        "0",
        "-n",
        "0",
        "-pg",
        f"{context},{args.max_new_tokens}",
        "--progress",
        "-o",
        "jsonl",
        "-oe",
        "jsonl",
    ]
    command += args.llama_bench.split()
    child = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    # The clock of another process's CPU time, as clock_getcpuclockid(3) would name it.
    clock = (~child.pid << 3) | 2
    begun, said = {}, None
    for line in child.stderr:
        # What is said comes when a phase begins, and when the last has ended: `-oe` says that on stderr too.
        now = time.clock_gettime(clock)
        for phase in ("prompt run", "generation run"):
            if phase in line:
                begun[phase] = now
        if line.startswith("{"):
            said, end = json.loads(line), now
    if child.wait() != 0 or said is None or len(begun) != 2:
        raise SystemExit(f"llama-bench ended with {child.returncode} and said {said}, {begun}")
    reading, writing = begun["generation run"] - begun["prompt run"], end - begun["generation run"]
    walls.append(said["avg_ns"] / 1e9 / (reading + writing))
    return context / reading, args.max_new_tokens / writing


def convert(llama_cpp: Path, folder: Path, path: Path) -> None:
    """Converts the language model alone, without a tokenizer."""
    sys.path.insert(0, str(llama_cpp / "gguf-py"))
    import gguf
    import torch

    from checkpoint import open_checkpoint

    checkpoint = open_checkpoint(folder)
    text, whole = checkpoint.text, path.with_suffix(".f16")
    writer = gguf.GGUFWriter(whole, "qwen2")
    writer.add_block_count(text.num_hidden_layers)
    writer.add_context_length(text.max_position_embeddings)
    writer.add_embedding_length(text.hidden_size)
    writer.add_feed_forward_length(text.intermediate_size)
    writer.add_head_count(text.num_attention_heads)
    writer.add_head_count_kv(text.num_key_value_heads)
    writer.add_rope_freq_base(text.rope_parameters["rope_theta"])
    writer.add_layer_norm_rms_eps(text.rms_norm_eps)
    writer.add_vocab_size(text.vocab_size)
    writer.add_tokenizer_model("none")
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.QWEN2, text.num_hidden_layers)
    for name in checkpoint.tensors:
        if ".language_model." not in name and name != "lm_head.weight":
            continue
        theirs = names.get_name(name.replace(".language_model.", "."), try_suffixes=(".weight", ".bias"))
        tensor = checkpoint.tensors.get(name)
        writer.add_tensor(theirs, tensor.to(torch.float16 if tensor.dim() == 2 else torch.float32).numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    quantize = llama_cpp / "build/bin/llama-quantize"
    subprocess.run([quantize, whole, path, "Q4_0", "1"], check=True, stdout=sys.stderr)
    whole.unlink()


if __name__ == "__main__":
    sys.exit(main())
