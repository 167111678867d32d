"""Runs a package's graphs by onnxruntime in Python: for checks and measurements, without torch."""

from pathlib import Path

import numpy as np
import onnxruntime as ort

DTYPES = {"tensor(float)": np.float32, "tensor(float16)": np.float16}


class Decoder:
    """Runs either kind of decoder graph. It passes exactly the inputs that the graph declares."""

    def __init__(self, path: Path, kv_heads: int, head_dim: int, rope: tuple[np.ndarray, np.ndarray] | None = None):
        options = one_thread()
        dtype = np.float16 if rope is not None and declared_half(path) else np.float32
        if rope is not None:
            # onnxruntime keeps a reference, not a copy: the values must live as long as the session.
            self.tables = [ort.OrtValue.ortvalue_from_numpy(np.ascontiguousarray(t, dtype)) for t in rope]
            options.add_initializer("cos_cache", self.tables[0])
            options.add_initializer("sin_cache", self.tables[1])
        self.session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        self.outputs = [o.name for o in self.session.get_outputs()]
        self.inputs = {i.name: DTYPES.get(i.type) for i in self.session.get_inputs()}
        self.shape = (1, kv_heads, 0, head_dim)
        self.reset()

    def reset(self) -> None:
        """Forgets the cache: the next call starts a new sequence."""
        past = {name: dtype for name, dtype in self.inputs.items() if name.startswith("past_key_values.")}
        self.cache = {name: np.zeros(self.shape, dtype) for name, dtype in past.items()}

    def __call__(self, embeds: np.ndarray) -> np.ndarray:
        """Appends `[1, L, D]` embeddings to the cache. Returns the logits `[V]` of the last position."""
        past = self.cache["past_key_values.0.key"].shape[2]
        total = past + embeds.shape[1]
        embeds = embeds.astype(self.inputs["inputs_embeds"], copy=False)
        feed = {"inputs_embeds": embeds, "attention_mask": np.ones((1, total), np.int64), **self.cache}
        if "position_ids" in self.inputs:
            feed["position_ids"] = np.arange(past, total)[None]
        out = dict(zip(self.outputs, self.session.run(self.outputs, feed)))
        for name in self.cache:
            self.cache[name] = out[name.replace("past_key_values", "present")]
        return out["logits"][0, -1].astype(np.float32)


def declared_half(path: Path) -> bool:
    """Returns true if the decoder computes in float16. Its tables then are float16 too."""
    import onnx

    graph = onnx.load(path, load_external_data=False).graph
    kinds = {i.name: i.type.tensor_type.elem_type for i in graph.input}
    return kinds["inputs_embeds"] == onnx.TensorProto.FLOAT16


def graph_file(package: Path, kind: str) -> Path:
    """Returns the package's one graph of a kind, whatever its suffix."""
    found = sorted((package / "onnx").glob(f"{kind}*.onnx"))
    if len(found) != 1:
        raise FileNotFoundError(f"{package}/onnx: one {kind}*.onnx wanted, {len(found)} found")
    return found[0]


def one_thread() -> ort.SessionOptions:
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    return options


def session(path: Path) -> ort.InferenceSession:
    return ort.InferenceSession(str(path), one_thread(), providers=["CPUExecutionProvider"])
