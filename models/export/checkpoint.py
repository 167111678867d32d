"""Reads a Hugging Face LLaVA checkpoint and refuses, by name, what the exporter cannot carry over."""

import json
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import LlavaForConditionalGeneration

# Copied into the package as the checkpoint has them. The first group must exist.
NEEDED_FILES = ["config.json", "preprocessor_config.json", "tokenizer.json", "tokenizer_config.json"]
OPTIONAL_FILES = ["generation_config.json", "special_tokens_map.json", "added_tokens.json"]

# The kinds that the decoder builder writes into its graph, and those that it leaves out
# and the runtime must add by replacing the rotary tables.
ROPE_IN_GRAPH = {"default", "llama3"}
ROPE_BY_TABLE = {"linear", "dynamic"}


class Refusal(Exception):
    """This checkpoint cannot be exported; the message is the one sentence the user sees."""


@dataclass
class Checkpoint:
    """A loaded model with its config.json as written, before transformers fills in defaults."""

    folder: Path
    config: dict
    model: LlavaForConditionalGeneration

    @property
    def feature_layer(self) -> int:
        """The CLIP hidden state that feeds the projector, -2 being the last but one."""
        return self.config.get("vision_feature_layer", -2)

    @property
    def rope_kind(self) -> str:
        return rope_kind(self.config["text_config"])


def rope_kind(text_config: dict) -> str:
    # Older checkpoints write rope_scaling.type, newer rope_scaling.rope_type, the newest rope_parameters.
    scaling = text_config.get("rope_scaling") or text_config.get("rope_parameters") or {}
    return scaling.get("rope_type") or scaling.get("type") or "default"


def refuse_unless_supported(folder: Path, config: dict) -> None:
    architecture = (config.get("architectures") or ["none named"])[0]
    if architecture != "LlavaForConditionalGeneration":
        raise Refusal(f"{folder}: architecture is {architecture}; only LlavaForConditionalGeneration can be exported.")
    tower = config.get("vision_config", {}).get("model_type")
    if tower != "clip_vision_model":
        raise Refusal(f"{folder}: the vision tower is {tower}; only clip_vision_model can be exported.")
    text = config.get("text_config", {}).get("model_type")
    if text != "llama":
        raise Refusal(f"{folder}: the language model is {text}; only llama can be exported.")
    rope = rope_kind(config["text_config"])
    if rope not in ROPE_IN_GRAPH | ROPE_BY_TABLE:
        raise Refusal(f"{folder}: RoPE scaling is {rope}; only linear, dynamic and llama3 can be exported.")
    layer = config.get("vision_feature_layer", -2)
    if not isinstance(layer, int):
        raise Refusal(f"{folder}: vision_feature_layer is {layer}; only one layer, a number, can be exported.")
    strategy = config.get("vision_feature_select_strategy", "default")
    if strategy != "default":
        raise Refusal(f"{folder}: vision_feature_select_strategy is {strategy}; only default (no CLS token) can be exported.")


def load(folder: Path, device: str) -> Checkpoint:
    """Loads in float32, for evaluation, with plain attention (which exports to few, common operators)."""
    missing = [name for name in NEEDED_FILES if not (folder / name).is_file()]
    if missing:
        raise Refusal(f"{folder}: {', '.join(missing)} not found; a Hugging Face checkpoint folder is wanted.")
    config = json.loads((folder / "config.json").read_text())
    refuse_unless_supported(folder, config)
    model = LlavaForConditionalGeneration.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager", local_files_only=True
    )
    return Checkpoint(folder, config, model.eval().to(device))
