"""Quantises the weights of finished float32 and float16 graphs.

One matrix is in memory at a time, however large the model.
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer

from weights import outside

BLOCK = 32
# At int4 `lm_head` keeps 8 bit: it causes a fifth of the error and has 1 % of a 7B model's weights.
HEAD = "/lm_head/MatMul"


def vision_int8(source: Path, path: Path) -> None:
    """Converts matrix products to int8, with a scale for each column and dynamic activations; the patch
    convolution stays float32. All weights stand in `path`.data beside the graph.

    onnxruntime joins the nodes to one kernel. At ViT-L size on one thread 0.46 s for four layers,
    float32 0.79 s, blocks of 8 bit as in decoders 1.16 s.
    """
    seen = set()

    def replace(node: onnx.NodeProto, matrix) -> tuple[list[onnx.NodeProto], list[TensorProto]]:
        (x, w), (y,) = node.input, node.output
        # A column of zeros may have any scale.
        scale = (np.abs(matrix).max(axis=0) / 127).astype(np.float32)
        whole = np.rint(matrix / np.where(scale == 0, 1, scale)).astype(np.int8)
        tensors = [(whole, f"{w}_int8"), (scale, f"{w}_scale"), (np.zeros_like(scale, np.int8), f"{w}_zero")]
        nodes = [
            helper.make_node("MatMulInteger", [f"{x}_uint8", f"{w}_int8", f"{x}_zero", f"{w}_zero"], [f"{y}_int32"]),
            helper.make_node("Cast", [f"{y}_int32"], [f"{y}_float"], to=TensorProto.FLOAT),
            helper.make_node("Mul", [f"{x}_scale", f"{w}_scale"], [f"{y}_scales"]),
            helper.make_node("Mul", [f"{y}_float", f"{y}_scales"], [y]),
        ]
        if x not in seen:
            seen.add(x)
            outputs = [f"{x}_uint8", f"{x}_scale", f"{x}_zero"]
            nodes.insert(0, helper.make_node("DynamicQuantizeLinear", [x], outputs))
        return nodes, [numpy_helper.from_array(values, name) for values, name in tensors]

    replace_matrices(source, path, replace)


def decoder_blocks(source: Path, path: Path, precision: str, accuracy_level: int) -> None:
    """Converts matrices to symmetric blocks. All weights go to `path`.data beside the graph.

    Accuracy level 4 also quantises activations to 8 bit as they come, which is what is fast on a CPU.
    """

    def replace(node: onnx.NodeProto, matrix) -> tuple[list[onnx.NodeProto], list[TensorProto]]:
        return one_matrix(node, matrix, 4 if precision == "int4" and node.name != HEAD else 8, accuracy_level)

    replace_matrices(source, path, replace)


def replace_matrices(source: Path, path: Path, replace: Callable) -> None:
    """Replaces each product with a constant matrix by other nodes and initialisers."""
    model = onnx.load(source, load_external_data=False)
    weights = {tensor.name: tensor for tensor in model.graph.initializer}
    values = lambda name: numpy_helper.to_array(weights[name], str(source.parent))
    nodes, kept, taken = [], [], set()
    data = path.with_name(path.name + ".data")
    with data.open("wb") as file:
        for node in model.graph.node:
            if node.op_type != "MatMul" or node.input[1] not in weights:
                nodes.append(node)
                continue
            taken.add(node.input[1])
            others, tensors = replace(node, values(node.input[1]))
            nodes += others
            kept += [outside(tensor, file, data.name) for tensor in tensors]
        still = {name for node in nodes for name in node.input}
        for name in weights:
            if name not in taken or name in still:
                kept.append(outside(numpy_helper.from_array(values(name), name), file, data.name))
    del model.graph.node[:], model.graph.initializer[:], model.graph.value_info[:]
    model.graph.node.extend(nodes)
    model.graph.initializer.extend(kept)
    onnx.save_model(model, path)


def one_matrix(node: onnx.NodeProto, matrix, bits: int, accuracy_level: int):
    """Runs onnxruntime's quantiser on this node alone. Returns a MatMulNBits node and its initialisers."""
    kind = helper.np_dtype_to_tensor_dtype(matrix.dtype)
    rows, columns = matrix.shape
    graph = helper.make_graph(
        [node], "one",
        [helper.make_tensor_value_info(node.input[0], kind, ["n", rows])],
        [helper.make_tensor_value_info(node.output[0], kind, ["n", columns])],
        [numpy_helper.from_array(matrix, node.input[1])],
    )  # fmt: skip
    quantiser = MatMulNBitsQuantizer(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)]),
        bits=bits, block_size=BLOCK, is_symmetric=True, accuracy_level=accuracy_level,
    )  # fmt: skip
    quantiser.process()
    graph = quantiser.model.model.graph
    return list(graph.node), list(graph.initializer)
