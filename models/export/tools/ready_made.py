"""Converts a package to the layout of ready-made ones, as the transformers.js community publishes them.

Takes a `plain` package and writes one whose decoder is merged (both branches of an If, chosen by
`use_cache_branch`), keeps as many logits as `num_logits_to_keep` says, and carries the suffix
`_quantized`; whose vision encoder gives all frames' tokens in one list of rows. The tests use it to show that the
daemon runs such packages, without downloading one.
"""

import shutil
from pathlib import Path

import onnx
from onnx import TensorProto, helper


def write(plain: Path, out: Path) -> None:
    (out / "onnx").mkdir(parents=True)
    for file in plain.iterdir():
        if file.is_file():
            shutil.copyfile(file, out / file.name)
    shutil.copyfile(plain / "onnx/embed_tokens.onnx", out / "onnx/embed_tokens_quantized.onnx")
    vision = flat_features(onnx.load(plain / "onnx/vision_encoder.onnx"))
    onnx.save_model(vision, out / "onnx/vision_encoder_quantized.onnx")
    decoder = merged(onnx.load(plain / "onnx/decoder_model_merged.onnx"))
    onnx.checker.check_model(decoder)
    onnx.save_model(decoder, out / "onnx/decoder_model_merged_quantized.onnx")


def flat_features(model: onnx.ModelProto) -> onnx.ModelProto:
    """Changes `image_features` from `[B, N, D]` to `[B*N, D]`."""
    graph = model.graph
    width = graph.output[0].type.tensor_type.shape.dim[2].dim_value
    rename_output(graph, "image_features", "grid_features")
    graph.initializer.append(helper.make_tensor("rows", TensorProto.INT64, [2], [-1, width]))
    graph.node.append(helper.make_node("Reshape", ["grid_features", "rows"], ["image_features"]))
    features = helper.make_tensor_value_info("image_features", TensorProto.FLOAT, ["rows", width])
    graph.output[0].CopyFrom(features)
    return model


def merged(model: onnx.ModelProto) -> onnx.ModelProto:
    """Puts the decoder into both branches of an If, and returns the last `num_logits_to_keep` rows of logits."""
    graph = model.graph
    outputs = [o.name for o in graph.output]
    branches = {name: branch(graph, name) for name in ("then", "else")}
    inner = ["all_logits" if name == "logits" else name for name in outputs]
    choice = helper.make_node(
        "If", ["use_cache"], inner, then_branch=branches["then"], else_branch=branches["else"]
    )  # fmt: skip
    constants = [
        helper.make_tensor("zero", TensorProto.INT64, [1], [0]),
        helper.make_tensor("logits_end", TensorProto.INT64, [1], [2**62]),
        helper.make_tensor("logits_axis", TensorProto.INT64, [1], [1]),
    ]
    nodes = [
        helper.make_node("Squeeze", ["use_cache_branch"], ["use_cache"]),
        choice,
        helper.make_node("Unsqueeze", ["num_logits_to_keep", "zero"], ["kept"]),
        helper.make_node("Neg", ["kept"], ["logits_start"]),
        helper.make_node("Slice", ["all_logits", "logits_start", "logits_end", "logits_axis"], ["logits"]),
    ]
    inputs = [
        *graph.input,
        helper.make_tensor_value_info("num_logits_to_keep", TensorProto.INT64, []),
        helper.make_tensor_value_info("use_cache_branch", TensorProto.BOOL, [1]),
    ]
    whole = helper.make_graph(nodes, "merged", inputs, list(graph.output), [*graph.initializer, *constants])
    return helper.make_model(whole, opset_imports=model.opset_import, ir_version=model.ir_version)


def branch(graph: onnx.GraphProto, prefix: str) -> onnx.GraphProto:
    """Copies the graph's nodes under other names. Inputs and weights are those of the outer graph."""
    outer = {i.name for i in graph.input} | {w.name for w in graph.initializer}
    own = lambda name: name if not name or name in outer else f"{prefix}/{name}"
    nodes = []
    for node in graph.node:
        copy = onnx.NodeProto()
        copy.CopyFrom(node)
        copy.name = f"{prefix}/{node.name}"
        copy.input[:] = [own(name) for name in node.input]
        copy.output[:] = [own(name) for name in node.output]
        nodes.append(copy)
    outputs = []
    for output in graph.output:
        copy = onnx.ValueInfoProto()
        copy.CopyFrom(output)
        copy.name = own(output.name)
        outputs.append(copy)
    return helper.make_graph(nodes, prefix, [], outputs)


def rename_output(graph: onnx.GraphProto, old: str, new: str) -> None:
    for node in graph.node:
        node.output[:] = [new if name == old else name for name in node.output]
        node.input[:] = [new if name == old else name for name in node.input]
