"""The types and file names of each graph, by precision and device."""

from dataclasses import dataclass

# One protobuf file ends at 2 GB; well below it the weights move to a file beside the graph.
EXTERNAL_ABOVE = 1_500_000_000

# Weights of (vision, embedding), and the decoder's file suffix. onnxruntime's CUDA has no float32
# GroupQueryAttention, so that there is no fp32 for it.
KINDS = {
    ("fp32", "cpu"): ("fp32", "fp32", ""),
    ("fp16", "cpu"): ("fp16", "fp16", "_fp16"),
    ("fp16", "cuda"): ("fp16", "fp16", "_fp16"),
    ("int8", "cpu"): ("int8", "fp16", "_int8"),
    ("int8", "cuda"): ("fp16", "fp16", "_int8"),
    ("int4", "cpu"): ("int8", "fp16", "_q4"),
    ("int4", "cuda"): ("fp16", "fp16", "_q4f16"),
}
DEFAULT_PRECISION = {"cpu": "int4", "cuda": "fp16"}
# The parts of a package and the graphs that hold them, in the order of the export.
PARTS = {"vision": "vision_encoder", "embed": "embed_tokens", "decoder": "decoder_model_merged"}
SUFFIX = {"fp32": "", "fp16": "_fp16", "int8": "_int8"}


@dataclass(frozen=True)
class Plan:
    precision: str
    device: str
    decoder: str = "gqa"
    external_above: int = EXTERNAL_ABOVE
    parts: tuple[str, ...] = tuple(PARTS)

    @property
    def vision(self) -> str:
        return KINDS[self.precision, self.device][0]

    @property
    def embed(self) -> str:
        return KINDS[self.precision, self.device][1]

    @property
    def decoder_io(self) -> str:
        """The type of embeddings, KV cache and logits. Quantised decoders compute in float32 on a CPU."""
        if self.precision in ("int8", "int4"):
            return "fp16" if self.device == "cuda" else "fp32"
        return self.precision

    @property
    def missing(self) -> list[str]:
        """The graphs that the package lacks."""
        return [graph for part, graph in PARTS.items() if part not in self.parts]

    @property
    def vision_file(self) -> str:
        return f"vision_encoder{SUFFIX[self.vision]}.onnx"

    @property
    def embed_file(self) -> str:
        return f"embed_tokens{SUFFIX[self.embed]}.onnx"

    @property
    def decoder_file(self) -> str:
        return f"decoder_model_merged{KINDS[self.precision, self.device][2]}.onnx"
