"""Writes a LLaVA checkpoint as the files that llama-server loads: model.gguf and mmproj.gguf.

    PYTHONPATH=.../gguf-py python models/export/gguf_llava.py CHECKPOINT OUT

For the tests with a real llama-server, whose source brings the package `gguf`. llama.cpp's own converter does not
take a LLaVA of CLIP and Llama. Everything is in float32, but for the convolution of the patches. A third file,
blind.gguf, is an mmproj.gguf that gives the same features for every frame.

Known here: a CLIP tower of which the features before the last layer are used, without that of the class; a
projector of two layers; a Llama; a byte-level tokenizer that splits texts by GPT-2's rule.
"""

import argparse
import json
import sys
from pathlib import Path

from gguf import GGUFWriter, TokenType

# Names of transformers, and of GGUF.
LLAMA_LAYER = {
    "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm", "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down",
}  # fmt: skip
CLIP_LAYER = {
    "layer_norm1": "ln1", "layer_norm2": "ln2", "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v", "self_attn.out_proj": "attn_out", "mlp.fc1": "ffn_up", "mlp.fc2": "ffn_down",
}  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("checkpoint", type=Path, metavar="CHECKPOINT")
    parser.add_argument("out", type=Path, metavar="OUT")
    args = parser.parse_args()
    from transformers import AutoModelForImageTextToText

    model = AutoModelForImageTextToText.from_pretrained(args.checkpoint, dtype="float32")
    check(model.config)
    args.out.mkdir(parents=True, exist_ok=True)
    weights = {name: tensor.numpy().copy() for name, tensor in model.state_dict().items()}
    write_language(model.config.text_config, weights, args.checkpoint, args.out / "model.gguf")
    write_vision(model.config, weights, args.checkpoint, args.out / "mmproj.gguf")
    weights["model.multi_modal_projector.linear_2.weight"] *= 0
    write_vision(model.config, weights, args.checkpoint, args.out / "blind.gguf")
    return 0


def check(config) -> None:
    found = {
        "model_type": config.model_type, "vision_config.model_type": config.vision_config.model_type,
        "vision_config.hidden_act": config.vision_config.hidden_act, "vision_feature_layer": config.vision_feature_layer,
        "vision_feature_select_strategy": config.vision_feature_select_strategy,
        "text_config.model_type": config.text_config.model_type,
        "rope_type": config.text_config.rope_parameters["rope_type"],
    }  # fmt: skip
    known = ["llava", "clip_vision_model", "quick_gelu", -2, "default", "llama", "default"]
    for (key, value), wanted in zip(found.items(), known):
        if value != wanted:
            raise SystemExit(f"{key} is {value!r}; {wanted!r} is known here.")


def write_language(config, weights: dict, checkpoint: Path, file: Path) -> None:
    writer = GGUFWriter(file, "llama")
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(config.head_dim)
    writer.add_value_length(config.head_dim)
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_vocab_size(config.vocab_size)
    write_tokenizer(writer, checkpoint, config)
    start = "model.language_model"
    writer.add_tensor("token_embd.weight", weights[f"{start}.embed_tokens.weight"])
    writer.add_tensor("output_norm.weight", weights[f"{start}.norm.weight"])
    writer.add_tensor("output.weight", weights["lm_head.weight"])
    heads = {"attn_q": config.num_attention_heads, "attn_k": config.num_key_value_heads}
    for layer in range(config.num_hidden_layers):
        for name, part in LLAMA_LAYER.items():
            matrix = weights[f"{start}.layers.{layer}.{name}.weight"]
            matrix = as_gguf(matrix, heads[part]) if part in heads else matrix
            writer.add_tensor(f"blk.{layer}.{part}.weight", matrix)
    finish(writer)


def as_gguf(matrix, heads: int):
    """Reorders the rows of a matrix that makes queries or keys, [heads x size, width].

    RoPE turns pairs of rows of a head: in a GGUF rows that are neighbours, in transformers rows half a head apart.
    """
    return matrix.reshape(heads, 2, -1, matrix.shape[1]).swapaxes(1, 2).reshape(matrix.shape)


def write_tokenizer(writer: GGUFWriter, checkpoint: Path, config) -> None:
    tokenizer = json.loads((checkpoint / "tokenizer.json").read_text())
    kind = tokenizer["model"]["type"], (tokenizer["pre_tokenizer"] or {}).get("type")
    if kind != ("BPE", "ByteLevel"):
        raise SystemExit(f"the tokenizer is {kind}; BPE of bytes is known here.")
    ids = tokenizer["model"]["vocab"] | {token["content"]: token["id"] for token in tokenizer["added_tokens"]}
    names = {number: token for token, number in ids.items()}
    special = {token["id"] for token in tokenizer["added_tokens"]}
    numbers = range(config.vocab_size)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list([names.get(number, f"[unused {number}]") for number in numbers])
    writer.add_token_types([
        TokenType.CONTROL if number in special else TokenType.NORMAL if number in names else TokenType.UNUSED
        for number in numbers
    ])  # fmt: skip
    writer.add_token_merges([" ".join(merge) for merge in tokenizer["model"]["merges"]])
    writer.add_bos_token_id(config.bos_token_id)
    writer.add_eos_token_id(config.eos_token_id)
    writer.add_pad_token_id(config.pad_token_id)
    # Chat templates bring the first token.
    writer.add_add_bos_token(False)
    settings = json.loads((checkpoint / "tokenizer_config.json").read_text())
    if template := settings.get("chat_template"):
        writer.add_chat_template(template)


def write_vision(config, weights: dict, checkpoint: Path, file: Path) -> None:
    import numpy

    vision = config.vision_config
    writer = GGUFWriter(file, "clip")
    writer.add_bool("clip.has_vision_encoder", True)
    writer.add_string("clip.projector_type", "mlp")
    # quick_gelu
    writer.add_bool("clip.use_gelu", False)
    # llama.cpp uses the features before the last of these layers.
    for key, value in {
        "image_size": vision.image_size, "patch_size": vision.patch_size, "embedding_length": vision.hidden_size,
        "feed_forward_length": vision.intermediate_size, "block_count": vision.num_hidden_layers,
        "projection_dim": config.text_config.hidden_size, "attention.head_count": vision.num_attention_heads,
    }.items():  # fmt: skip
        writer.add_uint32(f"clip.vision.{key}", value)
    writer.add_float32("clip.vision.attention.layer_norm_epsilon", vision.layer_norm_eps)
    pictures = json.loads((checkpoint / "preprocessor_config.json").read_text())
    writer.add_array("clip.vision.image_mean", pictures["image_mean"])
    writer.add_array("clip.vision.image_std", pictures["image_std"])
    start = "model.vision_tower"
    writer.add_tensor("v.class_embd", weights[f"{start}.embeddings.class_embedding"])
    # [width, 3, patch, patch]
    writer.add_tensor(
        "v.patch_embd.weight", weights[f"{start}.embeddings.patch_embedding.weight"].astype(numpy.float16)
    )
    writer.add_tensor("v.position_embd.weight", weights[f"{start}.embeddings.position_embedding.weight"])
    both = ("weight", "bias")
    for end in both:
        writer.add_tensor(f"v.pre_ln.{end}", weights[f"{start}.pre_layrnorm.{end}"])
        for part, layer in (("mm.0", "linear_1"), ("mm.2", "linear_2")):
            writer.add_tensor(f"{part}.{end}", weights[f"model.multi_modal_projector.{layer}.{end}"])
        for layer in range(vision.num_hidden_layers):
            for name, part in CLIP_LAYER.items():
                writer.add_tensor(
                    f"v.blk.{layer}.{part}.{end}", weights[f"{start}.encoder.layers.{layer}.{name}.{end}"]
                )
    finish(writer)


def finish(writer: GGUFWriter) -> None:
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


if __name__ == "__main__":
    sys.exit(main())
