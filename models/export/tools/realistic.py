"""Makes a checkpoint with random weights in the size of real ones: CLIP ViT-L/14-336 and Qwen2-0.5B.

    python models/export/tools/realistic.py OUT_DIR

For measuring time and memory; its words mean nothing. Weights are bfloat16, 1.6 GB in four shards, made one
tensor at a time. The output projections are small, as in trained models, so that errors do not grow
from layer to layer; the tokenizer is families.py's, far smaller than the embedding table.
"""

import argparse
import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import families

CLIP_L = families.CLIP | {
    "hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24, "num_attention_heads": 16,
    "image_size": 336, "patch_size": 14, "projection_dim": 768, "vocab_size": 32000,
}  # fmt: skip
QWEN2_05B = {
    "model_type": "qwen2", "hidden_size": 896, "intermediate_size": 4864, "num_hidden_layers": 24,
    "num_attention_heads": 14, "num_key_value_heads": 2, "vocab_size": 151936, "max_position_embeddings": 32768,
    "rms_norm_eps": 1e-6, "rope_theta": 1e6, "tie_word_embeddings": True,
}  # fmt: skip
CONFIG = families.LLAVA | {
    "vision_config": CLIP_L, "text_config": QWEN2_05B, "tie_word_embeddings": True, "image_seq_length": 576,
}  # fmt: skip
SHARD_BYTES = 500_000_000


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("out", type=Path)
    folder = parser.parse_args().out
    folder.mkdir(parents=True)
    families.FAMILIES["realistic"] = (CONFIG, "qwen", families.QWEN_CHAT, families.MAX_1D, "old")
    family = families.Family("realistic", folder)
    family.write_tokenizer()
    family.write_pictures_config()
    family.dump("config.json", CONFIG | {"image_token_index": family.image_token, "torch_dtype": "bfloat16"})
    write_weights(folder)
    return 0


def write_weights(folder: Path) -> None:
    import torch
    from safetensors.torch import save_file
    from transformers import AutoConfig, AutoModelForImageTextToText

    with torch.device("meta"):
        model = AutoModelForImageTextToText.from_config(AutoConfig.from_pretrained(folder))
    random, shard, size, weight_map = torch.Generator().manual_seed(1), {}, 0, {}
    names = [name for name in model.state_dict() if name != "lm_head.weight"]
    for name in names:
        old = families.older_name(name)
        shard[old] = weight(name, model.state_dict()[name].shape, random)
        size += shard[old].nbytes
        if size > SHARD_BYTES or name == names[-1]:
            file = f"model-{len(set(weight_map.values())) + 1:05}.safetensors"
            save_file(shard, folder / file, {"format": "pt"})
            weight_map |= dict.fromkeys(shard, file)
            shard, size = {}, 0
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}, indent=1))


def weight(name: str, shape, random):
    import torch

    noise = torch.randn(shape, generator=random)
    if "norm" in name:
        value = 1 + 0.2 * noise if name.endswith("weight") else 0.1 * noise
    elif "embed" in name or name.endswith("bias"):
        value = 0.02 * noise
    else:
        # Columns of unequal weight: a few channels matter most in trained models.
        spread = torch.exp(0.5 * torch.randn(shape[1], generator=random)) if noise.dim() == 2 else 1.0
        last = any(part in name for part in ("o_proj", "down_proj", "out_proj", "fc2"))
        value = noise * spread * (0.15 if last else 1.0) / noise[0].numel() ** 0.5
    return value.to(torch.bfloat16)


if __name__ == "__main__":
    sys.exit(main())
