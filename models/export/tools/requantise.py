"""Quantises a float32 package of this exporter, without its checkpoint.

    python models/export/tools/requantise.py PACKAGE OUT --precision int8|int4

Gives what lookout-export --precision would give of the checkpoint, for a CPU. The tests use it on the
demo's package, the one with trained weights that is at hand everywhere. Nothing is checked: compare() of
check.py needs the checkpoint.
"""

import argparse
import copy
import shutil
import sys
import tempfile
from pathlib import Path

import onnx
from onnx import TensorProto, helper, numpy_helper

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import quantise
from graphs import settle_weights
from plan import Plan


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("package", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--precision", required=True, choices=["int8", "int4"])
    args = parser.parse_args()
    requantise(args.package, args.out, args.precision)
    return 0


def requantise(package: Path, out: Path, precision: str) -> None:
    plan = Plan(precision, "cpu")
    (out / "onnx").mkdir(parents=True, exist_ok=True)
    for file in package.glob("*.json"):
        shutil.copyfile(file, out / file.name)
    onnx.save_model(half_table(onnx.load(package / "onnx/embed_tokens.onnx")), out / "onnx" / plan.embed_file)
    with tempfile.TemporaryDirectory(dir=out) as work:
        blocks = Path(work, "blocks.onnx")
        quantise.decoder_blocks(package / "onnx/decoder_model_merged.onnx", blocks, precision, 4)
        vision = Path(work, "vision.onnx")
        quantise.vision_int8(package / "onnx/vision_encoder.onnx", vision)
        settle_weights(vision, out / "onnx" / plan.vision_file, plan.external_above)
        settle_weights(blocks, out / "onnx" / plan.decoder_file, plan.external_above)


def half_table(model: onnx.ModelProto) -> onnx.ModelProto:
    """Returns the embedding with a float16 table and a Cast after it."""
    model = copy.deepcopy(model)
    (table,), (gather,) = model.graph.initializer, model.graph.node
    table.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(table).astype("float16"), table.name))
    cast = helper.make_node("Cast", ["rows"], list(gather.output), to=TensorProto.FLOAT)
    gather.output[0] = "rows"
    model.graph.node.append(cast)
    return model


if __name__ == "__main__":
    sys.exit(main())
