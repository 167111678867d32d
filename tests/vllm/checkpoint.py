"""Writes the language model of the demo's package as a checkpoint that vLLM loads.

checkpoint.py PACKAGE FOLDER [--other-table]

--other-table moves every row of the table of words by one, so that it is another model.
"""

import json
import shutil
import sys
from pathlib import Path

import numpy
import onnx
from onnx import numpy_helper
from safetensors.numpy import save_file

package, folder = Path(sys.argv[1]), Path(sys.argv[2])


def initialisers(graph: str) -> dict:
    model = onnx.load(package / "onnx" / f"{graph}.onnx")
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}


config = json.loads((package / "config.json").read_text())["text_config"]
config["architectures"] = ["LlamaForCausalLM"]
decoder = initialisers("decoder_model_merged")
weights = {
    "model.embed_tokens.weight": initialisers("embed_tokens")["table"],
    "model.norm.weight": decoder[f"model.layers.{config['num_hidden_layers']}.final_norm_layernorm.weight"],
    "lm_head.weight": decoder["lm_head.MatMul.weight"].T,
}
# Graphs have matrices for a product with rows, checkpoints for one with columns.
for layer in range(config["num_hidden_layers"]):
    start = f"model.layers.{layer}"
    for name in ("input_layernorm", "post_attention_layernorm"):
        weights[f"{start}.{name}.weight"] = decoder[f"{start}.{name}.weight"]
    packed = decoder[f"{start}.attn.qkv_proj.MatMul.weight"].T
    heads = [config["num_attention_heads"]] + 2 * [config["num_key_value_heads"]]
    ends = numpy.cumsum(heads)[:-1] * config["head_dim"]
    query, key, value = numpy.split(packed, ends)
    # The exporter has put the scale of the scores into the queries (models/export/attention.py).
    query = query * numpy.float32(config["head_dim"] ** 0.5)
    for name, matrix in (("q", query), ("k", key), ("v", value)):
        weights[f"{start}.self_attn.{name}_proj.weight"] = matrix
    weights[f"{start}.self_attn.o_proj.weight"] = decoder[f"{start}.attn.o_proj.MatMul.weight"].T
    for name in ("gate_proj", "up_proj", "down_proj"):
        weights[f"{start}.mlp.{name}.weight"] = decoder[f"{start}.mlp.{name}.MatMul.weight"].T

folder.mkdir(parents=True, exist_ok=True)
if "--other-table" in sys.argv[3:]:
    weights["model.embed_tokens.weight"] = numpy.roll(weights["model.embed_tokens.weight"], 1, axis=0)
contiguous = {name: numpy.ascontiguousarray(matrix) for name, matrix in weights.items()}
save_file(contiguous, folder / "model.safetensors", metadata={"format": "pt"})
(folder / "config.json").write_text(json.dumps(config, indent=2))
for name in ("generation_config.json", "tokenizer.json", "tokenizer_config.json"):
    shutil.copy(package / name, folder / name)
