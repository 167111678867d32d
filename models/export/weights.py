"""Reads and writes the values of a graph's initialisers, in the graph or in a data file beside it."""

from pathlib import Path

import numpy as np
from onnx import TensorProto, helper


def outside(tensor: TensorProto, file, location: str) -> TensorProto:
    """Moves the values to the data file and leaves a reference. Small values, such as shapes, stay."""
    if len(tensor.raw_data) < 1024:
        return tensor
    # Aligned, so that onnxruntime can map them.
    file.write(b"\0" * (-file.tell() % 4096))
    place = {"location": location, "offset": file.tell(), "length": len(tensor.raw_data)}
    file.write(tensor.raw_data)
    left = TensorProto(name=tensor.name, dims=tensor.dims, data_type=tensor.data_type)
    left.data_location = TensorProto.EXTERNAL
    for key, value in place.items():
        left.external_data.add(key=key, value=str(value))
    return left


def overwrite(tensor: TensorProto, values: np.ndarray, data: Path) -> None:
    """Replaces the values by others of the same shape, in the tensor's type."""
    if list(tensor.dims) != list(values.shape):
        raise RuntimeError(f"initialiser {tensor.name} is {list(tensor.dims)}; wanted {list(values.shape)}")
    payload = values.astype(helper.tensor_dtype_to_np_dtype(tensor.data_type)).tobytes()
    if tensor.data_location != TensorProto.EXTERNAL:
        tensor.raw_data = payload
        return
    place = {entry.key: entry.value for entry in tensor.external_data}
    with data.open("r+b") as file:
        file.seek(int(place.get("offset", 0)))
        file.write(payload)
