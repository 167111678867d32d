"""Exports the small checkpoints of the golden end-to-end cases, for the daemon's tests.

    python models/export/golden.py GOLDEN_DIR OUT_DIR [--decoder gqa|plain] [--verify]

OUT_DIR gets one package for each checkpoint of a required case in GOLDEN_DIR/e2e.json, named by
the checkpoint's folder. A package is made again only when its checkpoint, the exporter or the
lock changed. --verify decodes every required case from its recorded video tokens and compares ids.
"""

import argparse
import hashlib
import json
import sys
from pathlib import Path

import numpy as np

HERE = Path(__file__).resolve().parent


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("golden", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--decoder", default="gqa", choices=["gqa", "plain"])
    parser.add_argument("--verify", action="store_true")
    args = parser.parse_args()
    cases = [c for c in json.loads((args.golden / "e2e.json").read_text())["cases"] if c["required"]]
    for name in dict.fromkeys(c["checkpoint"] for c in cases):
        source, package = args.golden / name, args.out / Path(name).name
        if (code := export_if_changed(source, package, args.decoder)) != 0:
            return code
    return verify(args.golden, args.out, cases, args.decoder) if args.verify else 0


def export_if_changed(source: Path, package: Path, decoder: str) -> int:
    wanted = fingerprint(source, decoder)
    stamp = package.with_name(package.name + ".sha256")
    if package.is_dir() and stamp.is_file() and stamp.read_text() == wanted:
        print(f"{package}: up to date")
        return 0
    # Loading torch takes seconds, so it is loaded only if there is something to do.
    import export
    from plan import Plan

    export.quiet()
    code = export.export(source, package, Plan("fp32", "cpu", decoder))
    if code == 0:
        stamp.write_text(wanted)
    return code


def fingerprint(source: Path, decoder: str) -> str:
    """Returns a hash of everything the package depends on: checkpoint, exporter, lock, kind of decoder."""
    digest = hashlib.sha256(decoder.encode())
    from export import SOURCES

    files = [p for p in source.iterdir() if p.is_file()] + [HERE / name for name in SOURCES]
    for path in sorted(files, key=lambda p: p.name):
        digest.update(f"\0{path.name}\0".encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()


def verify(golden: Path, out: Path, cases: list[dict], decoder_kind: str) -> int:
    import checkpoint
    import export
    import runtime

    export.quiet()
    wrong, loaded = 0, {}
    for case in cases:
        name = case["checkpoint"]
        if name not in loaded:
            source, onnx_dir = checkpoint.open_checkpoint(golden / name), out / Path(name).name / "onnx"
            text = source.text
            tables = source.rotary_tables(text.max_position_embeddings) if decoder_kind == "gqa" else None
            path = onnx_dir / "decoder_model_merged.onnx"
            decoder = runtime.Decoder(path, text.num_key_value_heads, source.head_dim, tables)
            loaded[name] = decoder, runtime.session(onnx_dir / "embed_tokens.onnx")
        decoder, embed = loaded[name]
        words = lambda ids, embed=embed: embed.run(None, {"input_ids": np.array([ids], np.int64)})[0]
        ids = greedy(decoder, words, prompt_of(golden, case, words), case["max_new_tokens"])
        agrees = ids == case["ids"]
        wrong += not agrees
        print(f"{case['id']}: " + ("same ids" if agrees else f"wanted {case['ids']}, found {ids}"))
    print(f"{len(cases) - wrong} passed, {wrong} failed")
    return 1 if wrong else 0


def prompt_of(golden: Path, case: dict, words) -> np.ndarray:
    """Returns `[1, L, D]`: the recorded embeddings, or the recorded video tokens between the embedded texts."""
    tensors = case["tensors"]
    if "inputs_embeds" in tensors:
        whole = np.load(golden / tensors["inputs_embeds"])
        return whole.reshape(1, *whole.shape[-2:])
    video = np.load(golden / tensors["video_tokens"])
    at, ids = case["marker_position"], case["input_ids_with_marker"]
    return np.concatenate([words(ids[:at]), video.reshape(1, *video.shape[-2:]), words(ids[at + 1 :])], axis=1)


def greedy(decoder, words, prompt: np.ndarray, count: int) -> list[int]:
    decoder.reset()
    ids = [int(decoder(prompt).argmax())]
    while len(ids) < count:
        ids.append(int(decoder(words(ids[-1:])).argmax()))
    return ids


if __name__ == "__main__":
    sys.exit(main())
