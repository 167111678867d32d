"""Runs an exported package by onnxruntime beside transformers and measures how far apart they are."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from checkpoint import Checkpoint
from runtime import Decoder, session

TOLERANCE = 1e-3


@dataclass
class Deviation:
    image_features: float
    prefill_logits: float
    step_logits: float

    def fails(self) -> bool:
        return not max(self.image_features, self.prefill_logits, self.step_logits) <= TOLERANCE


def rotary_tables(checkpoint: Checkpoint) -> tuple[np.ndarray, np.ndarray] | None:
    """The tables that replace a gqa graph's `cos_cache` and `sin_cache`, or None where they are right.

    The builder drops linear and dynamic RoPE scaling without a word, so whoever runs the graph
    puts the tables in when the session is built. The daemon computes them from config.json; here
    they come from transformers, which makes this check an honest one. Dynamic scaling acts only
    past the trained length, which this check stays below: there the built tables are right.
    """
    if checkpoint.rope_kind != "linear":
        return None
    text = checkpoint.model.config.text_config
    positions = torch.arange(text.max_position_embeddings)[None]
    rotary = checkpoint.model.model.language_model.rotary_emb
    # Both halves of a head turn by the same angles; the tables hold them once: [positions, head_dim / 2].
    cos, sin = (t[0, :, : text.head_dim // 2].numpy() for t in rotary(torch.zeros(1), positions))
    return cos, sin


@torch.no_grad()
def compare(checkpoint: Checkpoint, onnx_dir: Path, decoder_kind: str, seed: int = 1) -> Deviation:
    """A random picture and a short random prompt around it, then one more token on the KV cache."""
    model, config = checkpoint.model.cpu(), checkpoint.model.config
    random = torch.Generator().manual_seed(seed)
    side = config.vision_config.image_size
    pixels = torch.randn(2, 3, side, side, generator=random)
    ids = torch.randint(0, config.text_config.vocab_size, (1, 12), generator=random)

    wanted = model.get_image_features(pixel_values=pixels, return_dict=True).pooler_output
    vision = session(onnx_dir / "vision_encoder.onnx")
    found = vision.run(["image_features"], {"pixel_values": pixels.numpy()})[0]
    feature_gap = distance(found, torch.stack(list(wanted)).numpy())

    embed = session(onnx_dir / "embed_tokens.onnx")
    words = embed.run(["inputs_embeds"], {"input_ids": ids.numpy()})[0]
    prompt = np.concatenate([words[:, :4], found[:1], words[:, 4:]], axis=1)
    tables = rotary_tables(checkpoint) if decoder_kind == "gqa" else None
    text = config.text_config
    decoder = Decoder(onnx_dir / "decoder_model_merged.onnx", text.num_key_value_heads, text.head_dim, tables)
    first = decoder(prompt)
    second = decoder(words[:, :1])

    whole = torch.from_numpy(np.concatenate([prompt, words[:, :1]], axis=1))
    truth = model.lm_head(model.model.language_model(inputs_embeds=whole).last_hidden_state)[0].numpy()
    return Deviation(feature_gap, distance(first, truth[-2]), distance(second, truth[-1]))


def distance(a: np.ndarray, b: np.ndarray) -> float:
    if a.shape != b.shape:
        raise RuntimeError(f"shapes differ: onnxruntime gives {a.shape}, transformers {b.shape}")
    return float(np.abs(a - b).max())
