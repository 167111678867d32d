"""Reads a checkpoint of the LLaVA family, and refuses by name what cannot be exported.

A checkpoint is never loaded as a whole: `Tensors` reads one tensor at a time, and `Checkpoint.model`
is transformers' own model without weights, into whose parts they are filled when needed.
"""

import json
import math
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
import transformers
from transformers import AutoConfig, AutoModelForImageTextToText

ARCHITECTURES = {
    "LlavaForConditionalGeneration": "llava",
    "LlavaNextForConditionalGeneration": "llava_next",
    "LlavaOnevisionForConditionalGeneration": "llava_onevision",
}
TOWERS = ["clip_vision_model", "siglip_vision_model"]
LANGUAGE_MODELS = {"llama": "LlamaForCausalLM", "mistral": "MistralForCausalLM", "qwen2": "Qwen2ForCausalLM"}
ROPE_KINDS = ["default", "linear", "dynamic", "llama3", "yarn"]
# The authors' own layout: what transformers' converters take.
ORIGINALS = {
    "llava": "llava-hf/llava-1.5-7b-hf",
    "llava_llama": "llava-hf/llava-1.5-7b-hf or llava-hf/llava-v1.6-vicuna-7b-hf",
    "llava_mistral": "llava-hf/llava-v1.6-mistral-7b-hf",
    "llava_qwen": "llava-hf/llava-onevision-qwen2-7b-ov-hf",
}

# Copied into the package as the checkpoint has them. The first group must exist.
NEEDED_FILES = ["config.json", "tokenizer.json", "tokenizer_config.json"]
PICTURE_FILES = ["preprocessor_config.json", "processor_config.json"]
OPTIONAL_FILES = [
    "generation_config.json", "special_tokens_map.json", "added_tokens.json", "chat_template.json",
    "chat_template.jinja",
]  # fmt: skip


class Refusal(Exception):
    """The error of a checkpoint that cannot be exported. Its message is all that the user sees."""


@dataclass
class Checkpoint:
    folder: Path
    # config.json as transformers completes it; the package gets the file itself.
    config: transformers.PretrainedConfig
    tensors: "Tensors"

    @property
    def family(self) -> str:
        return self.config.model_type

    @property
    def text(self) -> transformers.PretrainedConfig:
        return self.config.text_config

    @property
    def head_dim(self) -> int:
        return getattr(self.text, "head_dim", None) or self.text.hidden_size // self.text.num_attention_heads

    @property
    def window(self) -> int | None:
        """The number of tokens back that Mistral's attention sees."""
        return getattr(self.text, "sliding_window", None)

    @property
    def rope_kind(self) -> str:
        return self.text.rope_parameters["rope_type"]

    @property
    def tied(self) -> bool:
        """True if the checkpoint has no table for the logits: they come from the embedding table."""
        return "lm_head.weight" not in self.tensors

    @property
    def feature_layers(self) -> list[int]:
        """The indices of the hidden states that the projector gets. 0 is the embeddings."""
        layers, depth = self.config.vision_feature_layer, self.config.vision_config.num_hidden_layers
        return [n if n >= 0 else depth + 1 + n for n in ([layers] if isinstance(layers, int) else layers)]

    @cached_property
    def model(self) -> transformers.PreTrainedModel:
        """The model of transformers without weights, with plain attention (few, common operators)."""
        with torch.device("meta"):
            model = AutoModelForImageTextToText.from_config(self.config, attn_implementation="eager")
        return model.eval()

    def vision(self) -> torch.nn.Module:
        """Returns tower and projector in float32, without the layers after the last hidden state that is used."""
        tower, projector = self.model.model.vision_tower, self.model.model.multi_modal_projector
        tower.encoder.layers = tower.encoder.layers[: max(self.feature_layers)]
        # What comes after the hidden states is not used, and some checkpoints leave it out.
        tower.post_layernorm = torch.nn.Identity()
        if hasattr(tower, "head"):
            tower.use_head, tower.head = False, None
        fill(tower, self.tensors, "model.vision_tower.")
        fill(projector, self.tensors, "model.multi_modal_projector.")
        # Not in the file: transformers makes it anew.
        positions = torch.arange(tower.embeddings.position_embedding.weight.shape[0])
        tower.embeddings.register_buffer("position_ids", positions[None], persistent=False)
        return VisionEncoder(tower, projector, self.feature_layers, self.config.vision_feature_select_strategy)

    def language(self) -> torch.nn.Module:
        """Returns the language model without weights, but with its rotary tables."""
        language = self.model.model.language_model
        language.rotary_emb = type(language.rotary_emb)(config=self.text)
        return language

    def rotary_tables(self, length: int) -> tuple[np.ndarray, np.ndarray]:
        """Returns cos and sin `[length, head_dim / 2]` as transformers computes them for a sequence of that length.

        With dynamic scaling the table depends on the length, where that is above the trained one.
        """
        rotary = self.language().rotary_emb
        # Both halves of a head turn by the same angles; the tables hold them once.
        cos, sin = (t[0, :, : self.head_dim // 2].numpy() for t in rotary(torch.zeros(1), torch.arange(length)[None]))
        return cos, sin


class VisionEncoder(torch.nn.Module):
    """`[B, 3, H, W]` pixels to `[B, N, D]`: hidden states of the tower, without CLS where the family
    drops it, projected to the language model's width. The base picture only: no tiles, no newlines."""

    def __init__(self, tower, projector, layers: list[int], strategy: str):
        super().__init__()
        self.tower, self.projector, self.layers, self.strategy = tower, projector, layers, strategy

    def forward(self, pixel_values):
        states = self.tower(pixel_values, output_hidden_states=True).hidden_states
        chosen = torch.cat([states[layer] for layer in self.layers], dim=-1)
        return self.projector(chosen[:, 1:] if self.strategy == "default" else chosen)


def fill(module: torch.nn.Module, tensors: "Tensors", prefix: str, dtype: torch.dtype = torch.float32) -> None:
    """Fills a module with its weights."""
    weights = {name: tensors.get(prefix + name).to(dtype) for name in module.state_dict()}
    module.load_state_dict(weights, assign=True)


def open_checkpoint(folder: Path) -> Checkpoint:
    """Reads configs and the tensors' names and shapes; refuses what cannot become a package."""
    if not folder.is_dir():
        raise Refusal(f"{folder}: no such folder; a Hugging Face checkpoint folder is wanted.")
    if not (folder / "config.json").is_file():
        raise Refusal(f"{folder}: config.json not found; a Hugging Face checkpoint folder is wanted.")
    raw = json.loads((folder / "config.json").read_text())
    refuse_other_architectures(folder, raw)
    missing = [name for name in NEEDED_FILES if not (folder / name).is_file()]
    if missing:
        raise Refusal(f"{folder}: {', '.join(missing)} not found; the package needs them as they are.")
    if not any((folder / name).is_file() for name in PICTURE_FILES):
        raise Refusal(f"{folder}: neither {' nor '.join(PICTURE_FILES)} found; one must say how pictures are prepared.")
    refuse_unknown_parts(folder, raw)
    try:
        config = AutoConfig.from_pretrained(folder, local_files_only=True)
    except Exception as error:
        raise Refusal(f"{folder}/config.json: transformers cannot read it: {error}") from error
    refuse_settings(folder, config)
    checkpoint = Checkpoint(folder, config, Tensors(folder))
    refuse_wrong_tensors(checkpoint)
    return checkpoint


def refuse_other_architectures(folder: Path, raw: dict) -> None:
    architecture = (raw.get("architectures") or ["none named"])[0]
    if architecture in ARCHITECTURES:
        return
    kind = raw.get("model_type")
    if kind in ORIGINALS and architecture.endswith("ForCausalLM"):
        raise Refusal(
            f"{folder}: {architecture} (model_type {kind}) is the authors' own layout. Take a checkpoint in the layout "
            f"of transformers, like {ORIGINALS[kind]}, or convert this one with transformers' "
            "convert_llava*_weights_to_hf.py."
        )
    raise Refusal(f"{folder}: architecture is {architecture}; {', '.join(ARCHITECTURES)} can be exported.")


def refuse_unknown_parts(folder: Path, raw: dict) -> None:
    """Refuses unknown parts by their names in config.json, because transformers names only Python classes."""
    if method := raw.get("quantization_config"):
        method = method.get("quant_method", "of an unnamed kind")
        raise Refusal(f"{folder}: the weights are already quantised ({method}); take the original checkpoint.")
    tower = raw.get("vision_config", {}).get("model_type", "clip_vision_model")
    if tower not in TOWERS:
        raise Refusal(f"{folder}: the vision tower is {tower}; {' and '.join(TOWERS)} can be exported.")
    text = raw.get("text_config", {})
    language = text.get("model_type", "llama")
    if language not in LANGUAGE_MODELS:
        raise Refusal(f"{folder}: the language model is {language}; {', '.join(LANGUAGE_MODELS)} can be exported.")
    # Older checkpoints write rope_scaling.type, newer rope_scaling.rope_type, the newest rope_parameters.
    scaling = text.get("rope_scaling") or text.get("rope_parameters") or {}
    rope = scaling.get("rope_type") or scaling.get("type") or "default"
    if rope not in ROPE_KINDS:
        raise Refusal(f"{folder}: RoPE scaling is {rope}; {', '.join(ROPE_KINDS)} can be exported.")


def refuse_settings(folder: Path, config) -> None:
    if config.text_config.rope_parameters.get("partial_rotary_factor", 1.0) != 1.0:
        raise Refusal(f"{folder}: partial_rotary_factor is not 1; only whole heads that turn can be exported.")
    if getattr(config.text_config, "use_sliding_window", False):
        raise Refusal(f"{folder}: use_sliding_window is true; a window in some layers only cannot be exported.")
    depth = config.vision_config.num_hidden_layers
    layers = config.vision_feature_layer
    for layer in [layers] if isinstance(layers, int) else layers:
        if not -depth - 1 <= layer <= depth:
            raise Refusal(f"{folder}: vision_feature_layer is {layer}; the tower has {depth} layers.")
    if config.vision_config.model_type == "siglip_vision_model" and config.vision_feature_select_strategy != "full":
        raise Refusal(
            f"{folder}: vision_feature_select_strategy is {config.vision_feature_select_strategy}; "
            "a SigLIP tower has no CLS token to drop, full is wanted."
        )


def refuse_wrong_tensors(checkpoint: Checkpoint) -> None:
    """Refuses a checkpoint that lacks a tensor, or has it in another shape than config.json asks for."""
    depth = max(checkpoint.feature_layers)
    for name, wanted in checkpoint.model.state_dict().items():
        part = name.removeprefix("model.vision_tower.")
        unused = part != name and (
            part.startswith(("post_layernorm.", "head."))
            or (part.startswith("encoder.layers.") and int(part.split(".")[2]) >= depth)
        )
        if unused or name == "model.image_newline":
            continue
        if name == "lm_head.weight" and checkpoint.tied and checkpoint.config.tie_word_embeddings:
            continue
        if name not in checkpoint.tensors:
            raise Refusal(f"{checkpoint.folder}: tensor {name} is missing.")
        found, wanted = checkpoint.tensors.shape(name), list(wanted.shape)
        if found != wanted:
            raise Refusal(f"{checkpoint.folder}: tensor {name} is {found}; config.json asks for {wanted}.")


DTYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}


@dataclass
class Stored:
    """The place of a tensor in a safetensors file."""

    file: Path
    dtype: torch.dtype | None
    shape: list[int]
    offset: int


class Tensors:
    """The tensors of a checkpoint under the names of transformers 5, read from the file when requested.

    Files are read, not mapped, so that a tensor takes memory only while somebody holds it.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self.files = weight_files(folder)
        self.stored: dict[str, Stored | torch.Tensor] = {}
        for file in self.files:
            found = pickled(file) if file.suffix == ".bin" else safetensors_header(file)
            self.stored |= {modern_name(name): value for name, value in found.items()}

    def __contains__(self, name: str) -> bool:
        return name in self.stored

    def __iter__(self) -> Iterator[str]:
        return iter(self.stored)

    def shape(self, name: str) -> list[int]:
        return list(self.stored[name].shape)

    def dtype(self, name: str) -> torch.dtype:
        dtype = self.stored[name].dtype
        if dtype is None or not dtype.is_floating_point:
            raise Refusal(f"{self.folder}: tensor {name} holds no floating-point numbers.")
        return dtype

    def get(self, name: str) -> torch.Tensor:
        """Returns a tensor in the checkpoint's dtype."""
        self.dtype(name)  # refuses what holds no floats
        place = self.stored[name]
        if isinstance(place, torch.Tensor):
            return place
        return read(place, 0, math.prod(place.shape)).reshape(place.shape)

    def rows(self, name: str, first: int, count: int) -> torch.Tensor:
        """Returns some rows of a matrix."""
        self.dtype(name)
        place = self.stored[name]
        if isinstance(place, torch.Tensor):
            return place[first : first + count]
        width = math.prod(place.shape[1:])
        return read(place, first * width, count * width).reshape(-1, *place.shape[1:])


def read(place: Stored, first: int, count: int) -> torch.Tensor:
    size = place.dtype.itemsize
    data = bytearray(count * size)
    with place.file.open("rb", buffering=0) as file:
        file.seek(place.offset + first * size)
        view = memoryview(data)
        while view and (got := file.readinto(view)):
            view = view[got:]
    return torch.frombuffer(data, dtype=place.dtype)


def weight_files(folder: Path) -> list[Path]:
    """Returns the shards that an index names, or the one file without an index."""
    for stem in ("model.safetensors", "pytorch_model.bin"):
        index = folder / f"{stem}.index.json"
        if index.is_file():
            names = sorted(set(json.loads(index.read_text())["weight_map"].values()))
            missing = [name for name in names if not (folder / name).is_file()]
            if missing:
                raise Refusal(f"{folder}: {', '.join(missing)} not found, which {index.name} names.")
            return [folder / name for name in names]
        if (folder / stem).is_file():
            return [folder / stem]
    raise Refusal(f"{folder}: no weights found; model.safetensors, pytorch_model.bin or an index of shards is wanted.")


def safetensors_header(file: Path) -> dict[str, Stored]:
    found = file.stat().st_size
    with file.open("rb") as handle:
        start = handle.read(8)
        length = struct.unpack("<Q", start)[0] if len(start) == 8 else found
        if 8 + length > found:
            raise Refusal(f"{file}: cut short within its header; {found} bytes found.")
        header = json.loads(handle.read(length))
    header.pop("__metadata__", None)
    wanted = 8 + length + max((entry["data_offsets"][1] for entry in header.values()), default=0)
    if found != wanted:
        raise Refusal(f"{file}: {wanted} bytes wanted, {found} found; the download was cut short.")
    return {
        name: Stored(file, DTYPES.get(entry["dtype"]), entry["shape"], 8 + length + entry["data_offsets"][0])
        for name, entry in header.items()
    }


def pickled(file: Path) -> dict[str, torch.Tensor]:
    """Maps a pickled file, which only torch's newer, zipped format allows."""
    try:
        return torch.load(file, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:
        raise Refusal(f"{file}: torch cannot read it: {error}") from error


def modern_name(name: str) -> str:
    """Converts a name of transformers before 4.52 to that of version 5, as transformers does."""
    for old, new in (
        ("language_model.lm_head.", "lm_head."),
        ("language_model.model.", "model.language_model."),
        ("vision_tower.", "model.vision_tower."),
        ("multi_modal_projector.", "model.multi_modal_projector."),
        ("image_newline", "model.image_newline"),
    ):
        if name.startswith(old):
            name = new + name.removeprefix(old)
    return name.replace("model.vision_tower.vision_model.", "model.vision_tower.", 1)
