"""Runs an exported package by onnxruntime and measures how far it is from transformers.

transformers goes first and leaves its answers in a file; it holds one layer of the language model
at a time, so that a large model needs no more memory than onnxruntime does after it.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from checkpoint import Checkpoint, fill
from plan import Plan
from runtime import Decoder, session

# float32 must be equal but for rounding; other precisions keep the direction. The floors tell a broken graph
# from a coarse one: trained weights stay far above them, random ones, whose errors grow from layer to layer,
# come near (models/README.md).
TOLERANCE = 1e-3
FLOORS = {"fp16": 0.999, "int8": 0.95, "int4": 0.80}
TEXT_TOKENS, BEFORE_PICTURE = 12, 4


@dataclass
class Gap:
    """The difference of one output from transformers': the largest deviation, and the cosine."""

    most: float
    cosine: float


class Deviation(dict[str, Gap]):
    """The gap of each output of the parts that were exported, by its name."""

    def lines(self) -> list[str]:
        return [f"{name:17} off by at most {gap.most:.1e}, cosine {gap.cosine:.6f}" for name, gap in self.items()]

    def fails(self, precision: str) -> str | None:
        """Returns the reason for which the package is refused, or None."""
        for name, gap in self.items():
            # Written so that NaN fails.
            if precision == "fp32" and not gap.most <= TOLERANCE:
                return f"{name} deviates by {gap.most:.1e}; fp32 allows {TOLERANCE}"
            if precision != "fp32" and not gap.cosine >= FLOORS[precision]:
                return f"{name} has cosine {gap.cosine:.4f}; {precision} must reach {FLOORS[precision]}"
        return None


@torch.no_grad()
def write_reference(checkpoint: Checkpoint, path: Path, plan: Plan, seed: int = 1) -> None:
    """Writes transformers' outputs for two random images, a short random prompt and one more token.

    Without a decoder the language model does not run.
    """
    random = torch.Generator().manual_seed(seed)
    config, text = checkpoint.config.vision_config, checkpoint.text
    pixels = torch.randn(2, config.num_channels, config.image_size, config.image_size, generator=random)
    ids = torch.randint(0, text.vocab_size, (TEXT_TOKENS,), generator=random)

    vision = checkpoint.vision()
    features = vision(pixels)
    vision.to("meta")
    name = "model.language_model.embed_tokens.weight"
    words = torch.cat([checkpoint.tensors.rows(name, int(i), 1) for i in ids]).float()
    outputs = {"pixels": pixels, "ids": ids, "features": features, "words": words}
    if "decoder" in plan.parts:
        whole = torch.cat([words[:BEFORE_PICTURE], features[0], words[BEFORE_PICTURE:], words[:1]])
        outputs["logits"] = layer_by_layer(checkpoint, whole[None])[0]
    np.savez(path, **{name: tensor.numpy() for name, tensor in outputs.items()})


def layer_by_layer(checkpoint: Checkpoint, embeds: torch.Tensor) -> torch.Tensor:
    """Returns transformers' logits `[1, 2, V]` of the last two positions. Only the layer that runs has weights."""
    language, head, tensors = checkpoint.language(), checkpoint.model.lm_head, checkpoint.tensors
    hooks = []
    for number, layer in enumerate(language.layers):
        prefix = f"model.language_model.layers.{number}."
        hooks.append(layer.register_forward_pre_hook(lambda part, _, prefix=prefix: fill(part, tensors, prefix)))
        hooks.append(layer.register_forward_hook(lambda part, *_: part.to("meta") and None))
    fill(language.norm, tensors, "model.language_model.norm.")
    out = language(inputs_embeds=embeds, use_cache=False).last_hidden_state[:, -2:]
    for hook in hooks:
        hook.remove()
    fill(head, tensors, "model.language_model.embed_tokens." if checkpoint.tied else "lm_head.")
    logits = head(out)
    head.to("meta")
    return logits


def compare(checkpoint: Checkpoint, package: Path, plan: Plan, reference: Path) -> Deviation:
    """Runs the parts of the package. The decoder gets transformers' outputs in place of missing parts."""
    wanted, onnx_dir, text = np.load(reference), package / "onnx", checkpoint.text
    features, words, deviation = wanted["features"], wanted["words"][None], Deviation()
    if "vision" in plan.parts:
        vision = session(onnx_dir / plan.vision_file)
        features = vision.run(["image_features"], {"pixel_values": wanted["pixels"]})[0]
        deviation["image features"] = gap(features, wanted["features"])
        del vision
    if "embed" in plan.parts:
        embed = session(onnx_dir / plan.embed_file)
        words = embed.run(["inputs_embeds"], {"input_ids": wanted["ids"][None]})[0]
        deviation["token embeddings"] = gap(words[0], wanted["words"])
        del embed
    if "decoder" not in plan.parts:
        return deviation
    prompt = np.concatenate([words[:, :BEFORE_PICTURE], features[:1], words[:, BEFORE_PICTURE:]], axis=1)
    decoder = Decoder(onnx_dir / plan.decoder_file, text.num_key_value_heads, checkpoint.head_dim)
    first, second = decoder(prompt), decoder(words[:, :1])
    deviation["prefill logits"] = gap(first, wanted["logits"][0])
    deviation["next step logits"] = gap(second, wanted["logits"][1])
    return deviation


def gap(found: np.ndarray, wanted: np.ndarray) -> Gap:
    if found.shape != wanted.shape:
        raise RuntimeError(f"shapes differ: onnxruntime gives {found.shape}, transformers {wanted.shape}")
    return Gap(float(np.abs(found - wanted).max()), cosine(found, wanted))


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    a, b = a.ravel().astype(np.float64), b.ravel().astype(np.float64)
    return float(a @ b / (np.linalg.norm(a) * np.linalg.norm(b)))
