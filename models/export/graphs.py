"""Writes the graphs of a package: vision encoder, token embedding, and the language model in two kinds.

`gqa`    onnxruntime-genai's builder: GroupQueryAttention with the rotation inside, one shared KV
         buffer, logits of the last position only. The kind to run.
`plain`  torch.onnx of transformers' Llama: ordinary operators, position_ids, a KV cache that grows
         by concatenation, logits of every position. Slower; ready-made exports look like this.
"""

import subprocess
import sys
import tempfile
from pathlib import Path

import onnx
import torch
from transformers import AutoTokenizer, DynamicCache

from checkpoint import Checkpoint

# One protobuf file ends at 2 GB; well below it the weights move to a file beside the graph.
EXTERNAL_DATA_ABOVE = 1_500_000_000
OPSET = 20


class VisionEncoder(torch.nn.Module):
    """`[B, 3, H, W]` pixels to `[B, N, D]`: one CLIP hidden state without its CLS token, projected."""

    def __init__(self, checkpoint: Checkpoint):
        super().__init__()
        self.tower = checkpoint.model.model.vision_tower
        self.projector = checkpoint.model.model.multi_modal_projector
        self.layer = checkpoint.feature_layer

    def forward(self, pixel_values):
        hidden = self.tower(pixel_values, output_hidden_states=True).hidden_states[self.layer]
        return self.projector(hidden[:, 1:])


class PlainDecoder(torch.nn.Module):
    """The language model on embeddings, the KV cache going in and out as separate tensors."""

    def __init__(self, checkpoint: Checkpoint):
        super().__init__()
        self.llama = checkpoint.model.model.language_model
        self.head = checkpoint.model.lm_head

    def forward(self, inputs_embeds, attention_mask, position_ids, past):
        cache = DynamicCache()
        for layer in range(len(past) // 2):
            cache.update(past[2 * layer], past[2 * layer + 1], layer)
        out = self.llama(
            inputs_embeds=inputs_embeds,
            attention_mask=causal_mask(inputs_embeds, attention_mask),
            position_ids=position_ids,
            past_key_values=cache,
            use_cache=True,
        )
        present = []
        for layer in out.past_key_values.layers:
            present += [layer.keys, layer.values]
        return (self.head(out.last_hidden_state), *present)


def causal_mask(inputs_embeds, attention_mask):
    """`[B, 1, L, P+L]`: zero where a new token may look, very negative elsewhere."""
    new, total = inputs_embeds.shape[1], attention_mask.shape[1]
    key = torch.arange(total, device=attention_mask.device)
    query = torch.arange(new, device=attention_mask.device) + (total - new)
    seen = (key[None, :] <= query[:, None])[None] & (attention_mask[:, None, :] > 0)
    return torch.where(seen[:, None], 0.0, torch.finfo(inputs_embeds.dtype).min)


def write_vision_encoder(checkpoint: Checkpoint, path: Path) -> None:
    vision = checkpoint.config["vision_config"]
    side = vision.get("image_size", 224)
    pixels = torch.zeros(2, vision.get("num_channels", 3), side, side, device=checkpoint.model.device)
    torch_export(
        VisionEncoder(checkpoint), path, (pixels,),
        inputs=["pixel_values"], outputs=["image_features"], dynamic=({0: "batch"},),
    )


def write_embed_tokens(checkpoint: Checkpoint, path: Path) -> None:
    ids = torch.zeros(2, 3, dtype=torch.int64, device=checkpoint.model.device)
    torch_export(
        checkpoint.model.get_input_embeddings(), path, (ids,),
        inputs=["input_ids"], outputs=["inputs_embeds"], dynamic=({0: "batch", 1: "length"},),
    )


def write_plain_decoder(checkpoint: Checkpoint, path: Path) -> None:
    text = checkpoint.model.config.text_config
    batch, past, new = 2, 5, 3
    device = checkpoint.model.device
    kv = [
        torch.zeros(batch, text.num_key_value_heads, past, text.head_dim, device=device)
        for _ in range(2 * text.num_hidden_layers)
    ]
    positions = torch.arange(past, past + new, device=device).expand(batch, new)
    mask = torch.ones(batch, past + new, dtype=torch.int64, device=device)
    embeds = torch.zeros(batch, new, text.hidden_size, device=device)
    names = [f"{layer}.{part}" for layer in range(text.num_hidden_layers) for part in ("key", "value")]
    rows = {0: "batch", 1: "length"}
    torch_export(
        PlainDecoder(checkpoint), path, (embeds, mask, positions, kv),
        inputs=["inputs_embeds", "attention_mask", "position_ids", *[f"past_key_values.{n}" for n in names]],
        outputs=["logits", *[f"present.{n}" for n in names]],
        dynamic=(rows, {0: "batch", 1: "total_length"}, rows, [{0: "batch", 2: "past_length"}] * len(kv)),
    )


def write_gqa_decoder(checkpoint: Checkpoint, path: Path, device: str) -> None:
    """Saves the language model as a plain Llama folder and runs the builder on it."""
    with tempfile.TemporaryDirectory(dir=path.parent) as work:
        llama, built, cache = Path(work, "llama"), Path(work, "built"), Path(work, "cache")
        save_language_model(checkpoint, llama)
        command = [
            sys.executable, "-m", "onnxruntime_genai.models.builder",
            "-i", str(llama), "-o", str(built), "-p", "fp32", "-e", device, "-c", str(cache),
            "--extra_options", "exclude_embeds=true", "prune_lm_head=true", "hf_token=false",
        ]  # fmt: skip
        run = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        if run.returncode != 0:
            raise RuntimeError(f"{path.name}: the decoder builder failed with code {run.returncode}:\n{run.stdout}")
        settle_weights(built / "model.onnx", path)


def save_language_model(checkpoint: Checkpoint, folder: Path) -> None:
    """The text half of a LLaVA checkpoint as a LlamaForCausalLM folder, which the builder reads."""
    from transformers import LlamaForCausalLM

    config = checkpoint.model.config.text_config
    with torch.device("meta"):
        llama = LlamaForCausalLM(config)
    weights = {f"model.{k}": v for k, v in checkpoint.model.model.language_model.state_dict().items()}
    weights["lm_head.weight"] = checkpoint.model.lm_head.weight
    llama.load_state_dict(weights, assign=True)
    llama.config.architectures = ["LlamaForCausalLM"]
    llama.save_pretrained(folder)
    AutoTokenizer.from_pretrained(checkpoint.folder, local_files_only=True).save_pretrained(folder)


def torch_export(module, path: Path, example: tuple, inputs: list, outputs: list, dynamic: tuple) -> None:
    """`dynamic` has one {axis: name} for each input, in the structure of `example`."""
    large = sum(p.numel() * p.element_size() for p in module.parameters()) > EXTERNAL_DATA_ABOVE
    with tempfile.TemporaryDirectory(dir=path.parent) as work, torch.no_grad():
        traced = Path(work, "model.onnx")
        program = torch.onnx.export(
            module.eval(), example, input_names=inputs, output_names=outputs, dynamic_shapes=dynamic,
            opset_version=OPSET, dynamo=True, verbose=False,
        )
        program.save(traced, external_data=large)
        settle_weights(traced, path)


def settle_weights(source: Path, path: Path) -> None:
    """Moves a built graph to `path`: one file if it is small, else the weights in `path`_data beside it."""
    data = source.with_name(source.name + ".data")
    large = data.exists() and data.stat().st_size > EXTERNAL_DATA_ABOVE
    model = onnx.load(source, load_external_data=not large)
    strip_notes(model)
    if large:
        for tensor in model.graph.initializer:
            for entry in tensor.external_data:
                if entry.key == "location":
                    entry.value = path.name + "_data"
        data.replace(path.with_name(path.name + "_data"))
    onnx.save_model(model, path)


def strip_notes(model: onnx.ModelProto) -> None:
    """Drops what the exporters note for debugging: stack traces, with paths of the exporting machine."""
    graph = model.graph
    for part in (model, graph, *graph.node, *graph.initializer, *graph.value_info, *graph.input, *graph.output):
        del part.metadata_props[:]
        part.ClearField("doc_string")
