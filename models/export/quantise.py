"""Smaller weights for finished float32 and float16 graphs.

Matrices go through onnxruntime's quantisers one at a time, so that a model of any size takes the memory of
its largest matrix.
"""

from pathlib import Path

import onnx
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import QuantType, quantize_dynamic
from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer

BLOCK = 32
# The words' own matrix keeps 8 bit at int4: a fifth of the error, and of a model of 7B one hundredth of the weights.
HEAD = "/lm_head/MatMul"


def vision_int8(source: Path, path: Path) -> None:
    """Matrix products in int8, activations quantised as they come; the patch convolution stays float32.

    At ViT-L size on one thread 0.46 s for four layers, float32 0.79 s, blocks of 8 bit 1.16 s.
    """
    quantize_dynamic(
        source, path, op_types_to_quantize=["MatMul"], per_channel=True, weight_type=QuantType.QInt8,
        extra_options={"MatMulConstBOnly": True},
    )  # fmt: skip


def decoder_blocks(source: Path, path: Path, precision: str, accuracy_level: int) -> None:
    """Writes the graph with its matrices in symmetric blocks, and all weights in `path`.data beside it.

    Accuracy level 4 also quantises activations to 8 bit as they come, which is what is fast on a CPU.
    """
    model = onnx.load(source, load_external_data=False)
    weights = {tensor.name: tensor for tensor in model.graph.initializer}
    nodes, taken = [], set()
    data = path.with_name(path.name + ".data")
    with data.open("wb") as file:
        kept = []
        for node in model.graph.node:
            if node.op_type != "MatMul" or node.input[1] not in weights:
                nodes.append(node)
                continue
            taken.add(node.input[1])
            matrix = numpy_helper.to_array(weights[node.input[1]], str(source.parent))
            bits = 4 if precision == "int4" and node.name != HEAD else 8
            small, tensors = one_matrix(node, matrix, bits, accuracy_level)
            nodes.append(small)
            kept += [outside(tensor, file, data.name) for tensor in tensors]
        for name, tensor in weights.items():
            if name not in taken:
                whole = numpy_helper.from_array(numpy_helper.to_array(tensor, str(source.parent)), name)
                kept.append(outside(whole, file, data.name))
    del model.graph.node[:], model.graph.initializer[:]
    model.graph.node.extend(nodes)
    model.graph.initializer.extend(kept)
    onnx.save_model(model, path)


def one_matrix(node: onnx.NodeProto, matrix, bits: int, accuracy_level: int):
    """The MatMulNBits node in the place of a MatMul, and its initialisers."""
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
    (small,) = quantiser.model.model.graph.node
    return small, list(quantiser.model.model.graph.initializer)


def outside(tensor: TensorProto, file, location: str) -> TensorProto:
    """Writes the values to the data file; what stays is a reference."""
    # Aligned, so that onnxruntime can map them.
    file.write(b"\0" * (-file.tell() % 4096))
    place = {"location": location, "offset": file.tell(), "length": len(tensor.raw_data)}
    file.write(tensor.raw_data)
    left = TensorProto(name=tensor.name, dims=tensor.dims, data_type=tensor.data_type)
    left.data_location = TensorProto.EXTERNAL
    for key, value in place.items():
        left.external_data.add(key=key, value=str(value))
    return left
