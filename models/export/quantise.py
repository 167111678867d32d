"""Smaller weights for the vision encoder; the decoder's are made by its builder."""

from pathlib import Path

from onnxruntime.quantization import QuantType, quantize_dynamic


def vision_int8(source: Path, path: Path) -> Path:
    """Matrix products in int8, activations quantised as they come; the patch convolution stays float32."""
    quantize_dynamic(
        source, path, op_types_to_quantize=["MatMul"], per_channel=True, weight_type=QuantType.QInt8,
        use_external_data_format=False, extra_options={"MatMulConstBOnly": True},
    )
    return path
