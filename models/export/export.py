"""Exports a LLaVA checkpoint to a model package which lookout runs.

    python models/export/export.py CHECKPOINT OUT [--precision fp32] [--device cpu] [--decoder gqa]

CHECKPOINT is a Hugging Face folder (LlavaForConditionalGeneration: CLIP tower, Llama language
model). OUT becomes a package: the checkpoint's own config and tokenizer files, and onnx/ with
vision_encoder, embed_tokens and decoder_model_merged. Ends with code 2 on a checkpoint or setting
that it cannot export, with 1 when the package does not agree with transformers.
"""

import argparse
import logging
import shutil
import sys
import tempfile
import warnings
from pathlib import Path

import torch
import transformers

import check
import checkpoint
import graphs


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("checkpoint", type=Path, help="Hugging Face checkpoint folder")
    parser.add_argument("out", type=Path, help="package folder to write")
    parser.add_argument("--precision", default="fp32", choices=["fp32", "fp16", "int8", "int4"])
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--decoder", default="gqa", choices=["gqa", "plain"], help="see graphs.py")
    args = parser.parse_args()
    quiet()
    try:
        if args.precision != "fp32":
            raise checkpoint.Refusal(f"--precision {args.precision} is not yet supported; fp32 is.")
        return export(args.checkpoint, args.out, args.device, args.decoder)
    except checkpoint.Refusal as refusal:
        print(f"export: {refusal}", file=sys.stderr)
        return 2


def export(source: Path, out: Path, device: str = "cpu", decoder: str = "gqa") -> int:
    """Writes the package beside OUT and moves it there only when its graphs agree with transformers."""
    # Never wipe a folder that holds anything but a package.
    if out.exists() and any(out.iterdir()) and not (out / "config.json").is_file():
        raise checkpoint.Refusal(f"{out} exists and is not a model package; choose another folder.")
    print(f"loading {source}", flush=True)
    loaded = checkpoint.load(source, device)
    if decoder == "plain" and loaded.rope_kind == "dynamic":
        raise checkpoint.Refusal(f"{source}: RoPE scaling is dynamic; --decoder plain cannot carry it, gqa can.")
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}.") as work:
        package = Path(work, "package")
        onnx_dir = package / "onnx"
        onnx_dir.mkdir(parents=True)
        for name in checkpoint.NEEDED_FILES + checkpoint.OPTIONAL_FILES:
            if (source / name).is_file():
                # The bytes only: a read-only checkpoint should not make a read-only package.
                shutil.copyfile(source / name, package / name)

        print("writing vision_encoder.onnx", flush=True)
        graphs.write_vision_encoder(loaded, onnx_dir / "vision_encoder.onnx")
        print("writing embed_tokens.onnx", flush=True)
        graphs.write_embed_tokens(loaded, onnx_dir / "embed_tokens.onnx")
        print(f"writing decoder_model_merged.onnx ({decoder})", flush=True)
        if decoder == "gqa":
            graphs.write_gqa_decoder(loaded, onnx_dir / "decoder_model_merged.onnx", device)
        else:
            graphs.write_plain_decoder(loaded, onnx_dir / "decoder_model_merged.onnx")

        print("checking against transformers", flush=True)
        gap = check.compare(loaded, onnx_dir, decoder)
        print(f"  image_features   off by at most {gap.image_features:.1e}")
        print(f"  prefill logits   off by at most {gap.prefill_logits:.1e}")
        print(f"  next-step logits off by at most {gap.step_logits:.1e}")
        if gap.fails():
            print(f"export: {out} not written: a deviation is above {check.TOLERANCE}.", file=sys.stderr)
            return 1
        if out.exists():
            shutil.rmtree(out)
        package.rename(out)
    size = sum(f.stat().st_size for f in out.rglob("*") if f.is_file())
    print(f"{out}: {size / 1e6:.1f} MB")
    return 0


def quiet() -> None:
    """One thread, and only this program's own lines."""
    torch.set_num_threads(1)
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    for noisy in ("torch.onnx", "torch.utils.flop_counter"):
        logging.getLogger(noisy).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore")


if __name__ == "__main__":
    sys.exit(main())
