"""Rewrites GroupQueryAttention into the form that is fastest on onnxruntime's CPU for one token at a time.

- The scale of the scores, head_dim ** -0.5, goes into the matrices and biases that make the queries, and is 1 here.
- Every head has a sink of -1e30. It adds nothing to a sum of exponentials, but with sinks onnxruntime leaves its flash
  attention, which is slower at single tokens; it then holds the scores of a chunk, heads x chunk x context floats.

Neither alone is worth much: models/README.md, "Attention on a CPU".
"""

from pathlib import Path

import numpy as np
import onnx
from onnx import numpy_helper

from weights import overwrite

NO_SINK = "no_sink"
# Names of the operator's inputs.
QUERY, SINK = 0, 11


def for_cpu(path: Path, head_dim: int) -> None:
    """Changes a float32 graph and its data file in place."""
    model = onnx.load(path, load_external_data=False)
    weights = {tensor.name: tensor for tensor in model.graph.initializer}
    makers = {name: node for node in model.graph.node for name in node.output}
    heads = 0
    for node in (node for node in model.graph.node if node.op_type == "GroupQueryAttention"):
        attributes = {attribute.name: attribute for attribute in node.attribute}
        heads, scale = attributes["num_heads"].i, attributes["scale"].f
        attributes["scale"].f = 1.0
        for tensor in of_queries(node, makers, weights):
            values = numpy_helper.to_array(tensor, str(path.parent)).copy()
            # Where one matrix makes all three, the queries are its first columns.
            values[..., : heads * head_dim] *= np.float32(scale)
            overwrite(tensor, values, path.with_name(path.name + ".data"))
        node.input.extend([""] * (SINK + 1 - len(node.input)))
        node.input[SINK] = NO_SINK
    model.graph.initializer.append(numpy_helper.from_array(np.full(heads, -1e30, np.float32), NO_SINK))
    onnx.save_model(model, path)


def of_queries(attention: onnx.NodeProto, makers: dict, weights: dict) -> list[onnx.TensorProto]:
    """Returns the matrix of the queries, and the bias if there is one."""
    found, node = [], makers[attention.input[QUERY]]
    if node.op_type == "Add":
        found.append(next(weights[name] for name in node.input if name in weights))
        node = makers[next(name for name in node.input if name in makers)]
    if node.op_type != "MatMul" or node.input[1] not in weights:
        raise RuntimeError(
            f"{attention.name}: its queries come of {node.op_type} {node.name}; wanted a MatMul's matrix"
        )
    return [*found, weights[node.input[1]]]
