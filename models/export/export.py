"""Exports a LLaVA checkpoint to a model package that lookout runs.

CHECKPOINT is a folder in the layout of transformers, or a repository of the Hugging Face Hub
(ORGANISATION/NAME or ORGANISATION/NAME@REVISION), which is downloaded first: LLaVA (CLIP or SigLIP with
Llama, Vicuna, Mistral or Qwen2), LLaVA-NeXT or LLaVA-OneVision. OUT becomes a package: the checkpoint's
config and tokenizer files, and onnx/ with a vision encoder, the token embedding and the decoder.

The work is done in OUT.partial, in stages; after an interruption the same command goes on where it
was. The last stage runs the package beside transformers, and OUT appears only when they agree.
"""

import argparse
import hashlib
import json
import logging
import os
import resource
import shutil
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path

from plan import DEFAULT_PRECISION, EXTERNAL_ABOVE, KINDS, PARTS, Plan

HERE = Path(__file__).resolve().parent
# The files of the exporter that a package depends on.
SOURCES = [
    "attention.py", "check.py", "checkpoint.py", "export.py", "graphs.py", "plan.py", "quantise.py", "runtime.py", "weights.py",
    "requirements.txt",
]  # fmt: skip

NOTES = """precisions (what the files hold; vision and embedding take and give float32 always):
  fp32          float32 everywhere: exact, largest
  fp16          float16 weights, KV cache and logits
  int8          decoder 8 bit in blocks of 32; on a CPU also the vision encoder; embedding float16
  int4          decoder 4 bit in blocks of 32; on a CPU the vision encoder 8 bit; embedding float16
  Without --precision: int4 for a CPU, fp16 for CUDA. With --device cuda the vision encoder is never
  quantised and the decoder computes in float16.

parts: with --parts vision,embed the package has no decoder. It is for language.backend = "vllm", where
  servers run the language model, and needs neither the time nor the disk of a decoder.

ends with 0 when OUT is written, 1 when the package does not agree with transformers (or the disk is
full), 2 when this checkpoint or setting cannot be exported, 130 when interrupted."""


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="lookout-export", description=__doc__, epilog=NOTES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("checkpoint", metavar="CHECKPOINT", help="checkpoint folder, or repository of the hub")
    parser.add_argument("out", type=Path, metavar="OUT", help="package folder to write")
    parser.add_argument("--precision", choices=list(dict.fromkeys(p for p, _ in KINDS)), help="see below")
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"], help="what will run it (default: cpu)")
    parser.add_argument(
        "--decoder", default="gqa", choices=["gqa", "plain"],
        help="plain: ordinary operators and a growing cache, as ready-made exports have; fp32 and fp16 only, for tests",
    )  # fmt: skip
    parser.add_argument(
        "--external-above", type=int, default=EXTERNAL_ABOVE, metavar="BYTES",
        help=f"larger weights stand beside their graph in NAME.onnx_data (default: {EXTERNAL_ABOVE})",
    )  # fmt: skip
    parser.add_argument(
        "--parts", type=parts_of, default=tuple(PARTS), metavar="PART,…",
        help=f"parts to export, of {', '.join(PARTS)} (default: all)",
    )  # fmt: skip
    args = parser.parse_args()
    precision = args.precision or DEFAULT_PRECISION[args.device]
    plan = Plan(precision, args.device, args.decoder, args.external_above, args.parts)

    quiet()
    from checkpoint import Refusal

    try:
        import hub

        source = hub.fetch(args.checkpoint) if hub.is_repository(args.checkpoint) else Path(args.checkpoint)
        return export(source, args.out, plan)
    except Refusal as refusal:
        print(f"lookout-export: {refusal}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"lookout-export: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nlookout-export: interrupted; the same command goes on from here.", file=sys.stderr)
        return 130


def parts_of(text: str) -> tuple[str, ...]:
    """Returns the parts that a list names, in the order of the export."""
    named = [part.strip() for part in text.split(",")]
    if wrong := [part for part in named if part not in PARTS]:
        raise argparse.ArgumentTypeError(f"{wrong[0]!r} is no part; wanted one or more of {', '.join(PARTS)}")
    return tuple(part for part in PARTS if part in named)


def export(source: Path, out: Path, plan: Plan, vision: Path | None = None) -> int:
    """Writes the package. Returns 0, or 1 if it does not agree with transformers. Raises `Refusal`.

    `vision` is this checkpoint's float32 vision encoder, if one exists already.
    """
    import check
    import checkpoint
    import graphs

    source, out = Path(os.path.abspath(source)), Path(os.path.abspath(out))
    loaded = checkpoint.open_checkpoint(source)
    refuse_plan(loaded, plan)
    refuse_to_wipe(out)
    print(f"{source.name}: {loaded.family}, {loaded.config.vision_config.model_type}, {loaded.text.model_type}; "
          f"{plan.precision} for {plan.device}", flush=True)  # fmt: skip
    stages = Stages(out, fingerprint(source, plan))
    package, work = stages.folder / "package", stages.folder / "work"
    onnx_dir, language, reference = package / "onnx", work / "language", work / "reference.npz"

    stages.run("config and tokenizer", lambda: copy_files(source, package), package)
    path = onnx_dir / plan.vision_file
    if "vision" in plan.parts:
        stages.run(path.name, lambda: graphs.write_vision_encoder(loaded, path, plan, work, vision), path)
    embed = onnx_dir / plan.embed_file
    if "embed" in plan.parts:
        stages.run(embed.name, lambda: graphs.write_embed_tokens(loaded, embed, plan), embed)
    decoder = onnx_dir / plan.decoder_file
    if "decoder" not in plan.parts:
        pass
    elif plan.decoder == "plain":
        stages.run(decoder.name, lambda: graphs.write_plain_decoder(loaded, decoder, plan, work), decoder)
    else:
        if not stages.is_done(decoder.name):
            stages.run("language model apart", lambda: graphs.write_language_model(loaded, language), language)
        stages.run(
            decoder.name, lambda: graphs.write_gqa_decoder(loaded, decoder, plan, language, work), decoder
        )  # fmt: skip
        shutil.rmtree(language, ignore_errors=True)
    stages.run("transformers' answers", lambda: check.write_reference(loaded, reference, plan), reference)

    started = time.monotonic()
    gap = check.compare(loaded, package, plan, reference)
    print(f"{'beside transformers':32} {time.monotonic() - started:7.1f} s; memory {peak_memory():.2f} GB")
    for line in gap.lines():
        print(f"  {line}")
    if why := gap.fails(plan.precision):
        print(f"lookout-export: {out} not written: {why}. The graphs are in {stages.folder}.", file=sys.stderr)
        return 1
    stages.finish(package)
    size = sum(file.stat().st_size for file in out.rglob("*") if file.is_file())
    print(f"{out}: {size / 1e6:.1f} MB; memory at most {peak_memory():.2f} GB")
    if plan.missing:
        print(f"  without {' and '.join(plan.missing)}: {runs_on(plan)}")
    return 0


def runs_on(plan: Plan) -> str:
    """Returns a sentence that names the back end for a package that lacks parts."""
    if plan.missing == [PARTS["decoder"]]:
        return 'it needs language.backend = "vllm", and servers that run the same checkpoint'
    return "no back end of lookout runs it; every package needs vision_encoder and embed_tokens"


def peak_memory() -> float:
    """Returns the largest amount of memory that this process ever held, in GB."""
    # Linux counts in KiB.
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9


class Stages:
    """The folder OUT.partial: the finished stages of a package, for one checkpoint and its settings."""

    def __init__(self, out: Path, wanted: str):
        self.out, self.folder = out, out.with_name(out.name + ".partial")
        self.state_file = self.folder / "state.json"
        self.state = {"fingerprint": wanted, "done": []}
        if self.folder.exists():
            from checkpoint import Refusal

            if not self.state_file.is_file():
                raise Refusal(f"{self.folder} exists and is not left by an export; move it away.")
            found = json.loads(self.state_file.read_text())
            if found["fingerprint"] == wanted:
                self.state = found
                print(f"going on in {self.folder}")
            else:
                print(f"{self.folder} is of another checkpoint, setting or exporter: starting anew")
                shutil.rmtree(self.folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.save()
        (self.folder / "work").mkdir(exist_ok=True)

    def is_done(self, name: str) -> bool:
        return name in self.state["done"]

    def run(self, name: str, work: Callable[[], None], result: Path) -> None:
        """Runs a stage unless it is finished. The rest of a killed stage is overwritten."""
        if self.is_done(name):
            print(f"{name:32} done before")
            return
        if result.is_dir():
            shutil.rmtree(result)
        print(f"{name:32}", end=" ", flush=True)
        started = time.monotonic()
        work()
        parts = result.rglob("*") if result.is_dir() else result.parent.glob(result.name + "*")
        size = sum(part.stat().st_size for part in parts if part.is_file())
        # Saved before the line is complete: a stage that was reported as done is not repeated.
        self.state["done"].append(name)
        self.save()
        print(f"{time.monotonic() - started:7.1f} s {size / 1e6:10.1f} MB; memory {peak_memory():.2f} GB", flush=True)

    def save(self) -> None:
        new = self.state_file.with_suffix(".new")
        new.write_text(json.dumps(self.state))
        new.replace(self.state_file)

    def finish(self, package: Path) -> None:
        """Moves the package to OUT. An older package there is replaced only then."""
        old = self.folder / "old"
        if self.out.exists():
            self.out.rename(old)
        package.rename(self.out)
        shutil.rmtree(self.folder)


def refuse_plan(loaded, plan: Plan) -> None:
    from checkpoint import Refusal

    if (plan.precision, plan.device) not in KINDS:
        raise Refusal(f"--precision {plan.precision} is not for {plan.device}, whose attention is float16; take fp16.")
    if plan.decoder != "plain":
        return
    if "decoder" not in plan.parts:
        raise Refusal("--decoder plain is for packages with a decoder; --parts names none.")
    if plan.precision not in ("fp32", "fp16"):
        raise Refusal(f"--decoder plain is for fp32 and fp16; --precision is {plan.precision}.")
    if loaded.rope_kind == "dynamic":
        raise Refusal(f"{loaded.folder}: RoPE scaling is dynamic; --decoder plain cannot carry it, gqa can.")


def refuse_to_wipe(out: Path) -> None:
    """Refuses to replace a folder that is not a package."""
    from checkpoint import Refusal

    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    weights = [*out.glob("*.safetensors"), *out.glob("*.bin")] if out.is_dir() else []
    if weights or not (out / "config.json").is_file() or not (out / "onnx").is_dir():
        raise Refusal(f"{out} exists and is not a model package; choose another folder.")


def copy_files(source: Path, package: Path) -> None:
    import checkpoint

    (package / "onnx").mkdir(parents=True)
    for name in checkpoint.NEEDED_FILES + checkpoint.PICTURE_FILES + checkpoint.OPTIONAL_FILES:
        if (source / name).is_file():
            # Not the mode: a read-only checkpoint should not make a read-only package.
            shutil.copyfile(source / name, package / name)
    pictures = package / "preprocessor_config.json"
    if not pictures.exists():
        processor = json.loads((source / "processor_config.json").read_text())
        if "image_processor" not in processor:
            raise checkpoint.Refusal(f"{source}: processor_config.json has no image_processor, and no file beside it.")
        pictures.write_text(json.dumps(processor["image_processor"], indent=2) + "\n")
        print("preprocessor_config.json is made of processor_config.json's image_processor")


def fingerprint(source: Path, plan: Plan) -> str:
    """Returns a hash of the checkpoint's files (name, size, time), the settings and the exporter."""
    digest = hashlib.sha256(repr(plan).encode())
    for file in sorted(source.iterdir()):
        if file.is_file():
            stat = file.stat()
            digest.update(f"\0{file.name} {stat.st_size} {stat.st_mtime_ns}".encode())
    for name in SOURCES:
        digest.update((HERE / name).read_bytes())
    return digest.hexdigest()


def quiet() -> None:
    """Silences the libraries, so that only this program prints."""
    warnings.filterwarnings("ignore")
    import transformers

    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    logging.disable(logging.WARNING)


if __name__ == "__main__":
    sys.exit(main())
