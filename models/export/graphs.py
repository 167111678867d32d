"""Writes the graphs of a package: vision encoder, token embedding, and the language model in two kinds.

`gqa`    onnxruntime-genai's builder: GroupQueryAttention with the rotation inside, one shared KV
         buffer, logits of the last position only. The kind to run.
`plain`  torch.onnx of transformers' model: ordinary operators, position_ids, a KV cache that grows
         by concatenation, logits of every position. Slower; ready-made exports look like this.

Vision and embedding take and give float32 whatever their weights are; the decoder's type is the plan's.
"""

import contextlib
import gc
import io
import json
import shutil
from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper
from transformers import DynamicCache

import attention
import quantise
from checkpoint import LANGUAGE_MODELS, Checkpoint, fill
from plan import Plan
from weights import overwrite

OPSET = 20
# Files of the language model's folder that the builder reads.
SHARD_BYTES = 2_000_000_000


class HalfVision(torch.nn.Module):
    def __init__(self, vision):
        super().__init__()
        self.vision = vision.half()

    def forward(self, pixel_values):
        return self.vision(pixel_values.half()).float()


class PlainDecoder(torch.nn.Module):
    """The language model on embeddings, with the KV cache as separate inputs and outputs."""

    def __init__(self, language, head):
        super().__init__()
        self.language, self.head = language, head

    def forward(self, inputs_embeds, attention_mask, position_ids, past):
        cache = DynamicCache()
        for layer in range(len(past) // 2):
            cache.update(past[2 * layer], past[2 * layer + 1], layer)
        out = self.language(
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
    """Returns `[B, 1, L, P+L]`: zero where a new token may attend, very negative elsewhere."""
    new, total = inputs_embeds.shape[1], attention_mask.shape[1]
    key = torch.arange(total, device=attention_mask.device)
    query = torch.arange(new, device=attention_mask.device) + (total - new)
    seen = (key[None, :] <= query[:, None])[None] & (attention_mask[:, None, :] > 0)
    lowest = torch.finfo(inputs_embeds.dtype).min
    return torch.where(seen[:, None], 0.0, lowest).to(inputs_embeds.dtype)


def write_vision_encoder(checkpoint: Checkpoint, path: Path, plan: Plan, work: Path, float32: Path | None) -> None:
    """Writes the vision encoder. `float32` is this encoder's float32 graph, if one exists already."""
    if float32 is None or plan.vision == "fp16":
        vision = checkpoint.config.vision_config
        pixels = torch.zeros(2, vision.num_channels, vision.image_size, vision.image_size)
        module = checkpoint.vision()
        module = HalfVision(module) if plan.vision == "fp16" else module
        float32 = work / "vision.onnx"
        torch_export(module, float32, (pixels,), ["pixel_values"], ["image_features"], ({0: "batch"},))
        module.to("meta")
    if plan.vision == "int8":
        quantise.vision_int8(float32, work / "vision_int8.onnx")
        float32 = work / "vision_int8.onnx"
    settle_weights(float32, path, plan.external_above)


def write_embed_tokens(checkpoint: Checkpoint, path: Path, plan: Plan) -> None:
    """Writes one Gather. A float16 table is cast after it, so that only the requested rows are converted."""
    name = "model.language_model.embed_tokens.weight"
    rows, width = checkpoint.tensors.shape(name)
    half = plan.embed == "fp16"
    kind, dtype = (TensorProto.FLOAT16, torch.float16) if half else (TensorProto.FLOAT, torch.float32)
    table = TensorProto(name="table", dims=[rows, width], data_type=kind)
    step = max(1, 64_000_000 // width)
    chunks = (
        checkpoint.tensors.rows(name, first, min(step, rows - first)).to(dtype).numpy().tobytes()
        for first in range(0, rows, step)
    )
    if rows * width * dtype.itemsize > plan.external_above:
        data = path.with_name(path.name + "_data")
        with data.open("wb") as file:
            for chunk in chunks:
                file.write(chunk)
        table.data_location = TensorProto.EXTERNAL
        for key, value in {"location": data.name, "offset": 0, "length": data.stat().st_size}.items():
            table.external_data.add(key=key, value=str(value))
    else:
        table.raw_data = b"".join(chunks)
    nodes = [helper.make_node("Gather", ["table", "input_ids"], ["rows" if half else "inputs_embeds"])]
    if half:
        nodes.append(helper.make_node("Cast", ["rows"], ["inputs_embeds"], to=TensorProto.FLOAT))
    ids = helper.make_tensor_value_info("input_ids", TensorProto.INT64, ["batch", "length"])
    embeds = helper.make_tensor_value_info("inputs_embeds", TensorProto.FLOAT, ["batch", "length", width])
    graph = helper.make_graph(nodes, "embed_tokens", [ids], [embeds], [table])
    opset = helper.make_opsetid("", OPSET)
    onnx.save_model(helper.make_model(graph, opset_imports=[opset], ir_version=10), path)


def write_plain_decoder(checkpoint: Checkpoint, path: Path, plan: Plan, work: Path) -> None:
    text, dtype = checkpoint.text, torch.float16 if plan.decoder_io == "fp16" else torch.float32
    language, head = checkpoint.language(), checkpoint.model.lm_head
    fill(language, checkpoint.tensors, "model.language_model.", dtype)
    if checkpoint.tied:
        head.weight = language.embed_tokens.weight
    else:
        fill(head, checkpoint.tensors, "lm_head.", dtype)
    batch, past, new = 2, 5, 3
    kv = [
        torch.zeros(batch, text.num_key_value_heads, past, checkpoint.head_dim, dtype=dtype)
        for _ in range(2 * text.num_hidden_layers)
    ]
    positions = torch.arange(past, past + new).expand(batch, new)
    mask = torch.ones(batch, past + new, dtype=torch.int64)
    embeds = torch.zeros(batch, new, text.hidden_size, dtype=dtype)
    names = [f"{layer}.{part}" for layer in range(text.num_hidden_layers) for part in ("key", "value")]
    rows = {0: "batch", 1: "length"}
    traced = work / "plain.onnx"
    torch_export(
        PlainDecoder(language, head),
        traced,
        (embeds, mask, positions, kv),
        inputs=["inputs_embeds", "attention_mask", "position_ids", *[f"past_key_values.{n}" for n in names]],
        outputs=["logits", *[f"present.{n}" for n in names]],
        dynamic=(rows, {0: "batch", 1: "total_length"}, rows, [{0: "batch", 2: "past_length"}] * len(kv)),
    )
    language.to("meta"), head.to("meta")
    settle_weights(traced, path, plan.external_above)


def write_language_model(checkpoint: Checkpoint, folder: Path) -> None:
    """Writes the language model to a folder that the builder reads: tensors renamed, types kept."""
    from safetensors.torch import save_file
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    folder.mkdir()
    tensors, weight_map, shard, size = checkpoint.tensors, {}, {}, 0

    def flush():
        file = f"model-{len(set(weight_map.values())) + 1:05}.safetensors"
        save_file(shard, folder / file, metadata={"format": "pt"})
        weight_map.update(dict.fromkeys(shard, file))
        shard.clear()

    for name in checkpoint.model.state_dict():
        plain = "model." + name.removeprefix("model.language_model.") if ".language_model." in name else name
        if plain == name and not (name == "lm_head.weight" and not checkpoint.tied):
            continue
        shard[plain] = tensors.get(name).contiguous()
        size += shard[plain].nbytes
        if size > SHARD_BYTES:
            flush()
            size = 0
    if shard:
        flush()
    index = {"metadata": {}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))

    text = checkpoint.text.to_dict()
    # The builder drops some kinds of scaling without a word and refuses others: it gets none, and
    # the tables that it computes are replaced by transformers' own in settle_weights.
    text["rope_parameters"] = {"rope_type": "default", "rope_theta": text["rope_parameters"]["rope_theta"]}
    text["architectures"] = [LANGUAGE_MODELS[text["model_type"]]]
    text["tie_word_embeddings"] = checkpoint.tied
    text["dtype"] = str(tensors.dtype("model.language_model.norm.weight")).removeprefix("torch.")
    (folder / "config.json").write_text(json.dumps(text))
    # The builder wants some tokenizer to copy; the package takes the checkpoint's.
    stand_in = Tokenizer(models.WordLevel({"x": 0}, unk_token="x"))
    PreTrainedTokenizerFast(tokenizer_object=stand_in).save_pretrained(folder)


def write_gqa_decoder(checkpoint: Checkpoint, path: Path, plan: Plan, language: Path, work: Path) -> None:
    """Runs the builder on the language model's folder.

    For float16 it is told CUDA: for a CPU it then knows no GroupQueryAttention, but onnxruntime does.
    """
    from onnxruntime_genai.models import builder

    built, cache = work / "built", work / "cache"
    shutil.rmtree(built, ignore_errors=True)
    options = ["exclude_embeds=true", "prune_lm_head=true", "hf_token=false", "windowed_kv_cache=false"]
    # Quantised later, matrix by matrix, because the builder would hold the whole model twice.
    kind = ("fp16", "cuda") if plan.decoder_io == "fp16" else ("fp32", "cpu")
    where = ("", str(language), str(built), *kind, str(cache))
    said = io.StringIO()
    try:
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
            builder.create_model(*where, **builder.parse_extra_options(*where, options))
    except Exception as error:
        raise RuntimeError(f"{path.name}: the decoder builder failed: {error}\n{said.getvalue()}") from error
    gc.collect()
    graph = built / "model.onnx"
    if "GroupQueryAttention" not in {n.op_type for n in onnx.load(graph, load_external_data=False).graph.node}:
        raise RuntimeError(f"{path.name}: the builder wrote no GroupQueryAttention:\n{said.getvalue()}")
    if plan.decoder_io == "fp32":
        attention.for_cpu(graph, checkpoint.head_dim)
    if plan.precision in ("int8", "int4"):
        quantise.decoder_blocks(graph, built / "blocks.onnx", plan.precision, 4 if plan.device == "cpu" else 0)
        graph = built / "blocks.onnx"
    cos, sin = checkpoint.rotary_tables(checkpoint.text.max_position_embeddings)
    tables = {"cos_cache": cos, "sin_cache": sin}
    settle_weights(graph, path, plan.external_above, tables, checkpoint.window)
    shutil.rmtree(built)


def torch_export(module, path: Path, example: tuple, inputs: list, outputs: list, dynamic: tuple) -> None:
    """Exports a module by torch. `dynamic` has one {axis: name} for each input, in the structure of `example`."""
    with torch.no_grad():
        program = torch.onnx.export(
            module.eval(),
            example,
            input_names=inputs,
            output_names=outputs,
            dynamic_shapes=dynamic,
            opset_version=OPSET,
            dynamo=True,
            verbose=False,
        )
        program.save(path, external_data=True)


def settle_weights(
    source: Path,
    path: Path,
    external_above: int,
    tables: dict[str, np.ndarray] | None = None,
    window: int | None = None,
) -> None:
    """Moves a built graph to `path`: one file if it is small, otherwise with its weights in `path`_data.

    `tables` replaces the values of initialisers of the same shape; `window` is how many tokens attention
    sees, which the builder leaves out for Mistral.
    """
    data = source.with_name(source.name + ".data")
    large = data.exists() and data.stat().st_size > external_above
    model = onnx.load(source, load_external_data=not large)
    strip_notes(model)
    initialisers = {tensor.name: tensor for tensor in model.graph.initializer}
    for name, table in (tables or {}).items():
        if name not in initialisers:
            raise RuntimeError(f"{path.name}: no initialiser {name}, which the daemon replaces")
        overwrite(initialisers[name], table, data)
    if window is not None:
        for attribute in (a for node in model.graph.node for a in node.attribute if a.name == "local_window_size"):
            attribute.i = window
    if large:
        for tensor in model.graph.initializer:
            for entry in tensor.external_data:
                if entry.key == "location":
                    entry.value = path.name + "_data"
        data.replace(path.with_name(path.name + "_data"))
    onnx.save_model(model, path)


def strip_notes(model: onnx.ModelProto) -> None:
    """Removes the exporters' debugging notes: stack traces with paths of the exporting machine."""
    graph = model.graph
    for part in (model, graph, *graph.node, *graph.initializer, *graph.value_info, *graph.input, *graph.output):
        del part.metadata_props[:]
        part.ClearField("doc_string")
