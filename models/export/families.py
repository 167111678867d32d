"""Makes a small checkpoint of every family, its packages, and transformers' answers for the daemon's tests.

    python models/export/families.py OUT_DIR [NAME ...]

Writes OUT_DIR/NAME/ for each family, anew only when this file or the exporter changed:

    checkpoint/          random weights, in the layout in which the family is published
    fp32/ int8/ int4/    packages; of KINDS_TOO also fp16/ plain/ plain-fp16/, external/ (fp32 with weights beside
                         the graphs) and ready-made/ (tools/ready_made.py)
    reference.json       what transformers alone says: the video's tokens, the first logits, 64 token ids

Every fp32 package, and the plain and fp16 ones, are run here too and must give the same ids.

OUT_DIR/demo/int8 and int4 are the demo's own package, which has trained weights, quantised.
"""

import argparse
import hashlib
import json
import shutil
import sys
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
GOLDEN = ROOT / "tests/golden"
FRAMES = [f"tests/golden/e2e/frames/f{i:02}.png" for i in range(12)]
ANSWER_TOKENS, SLOW_FRAMES = 64, 4
KINDS_TOO = ["llava-vicuna", "llava-onevision-qwen"]
# Below it, two correct programs may choose different words: the daemon keeps the video's tokens in float16.
MIN_MARGIN = 0.05

CLIP = {
    "model_type": "clip_vision_model", "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 3,
    "num_attention_heads": 4, "image_size": 112, "patch_size": 14, "projection_dim": 32,
}  # fmt: skip
# A grid of 7 x 7, odd as that of SigLIP so400m 384/14.
SIGLIP = {
    "model_type": "siglip_vision_model", "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 3,
    "num_attention_heads": 4, "image_size": 112, "patch_size": 16, "vision_use_head": False,
}  # fmt: skip
SIZE = {
    "hidden_size": 64, "intermediate_size": 128, "num_attention_heads": 4, "num_hidden_layers": 2, "vocab_size": 800,
}  # fmt: skip
LLAMA = SIZE | {"model_type": "llama", "max_position_embeddings": 512, "rms_norm_eps": 1e-5}
MISTRAL = SIZE | {
    "model_type": "mistral", "max_position_embeddings": 1024, "num_key_value_heads": 2, "rms_norm_eps": 1e-5,
    "rope_theta": 1e6, "sliding_window": None,
}  # fmt: skip
YI = LLAMA | {"num_key_value_heads": 2, "rope_theta": 5e6, "eos_token_id": 769, "bos_token_id": 1}
QWEN = SIZE | {
    "model_type": "qwen2", "max_position_embeddings": 1024, "num_key_value_heads": 2, "num_hidden_layers": 3,
    "rope_theta": 1e6, "vocab_size": 408,
}  # fmt: skip
PINPOINTS = [[112, 224], [224, 112], [224, 224]]
LLAVA = {"architectures": ["LlavaForConditionalGeneration"], "model_type": "llava", "vision_config": CLIP}
NEXT = {
    "architectures": ["LlavaNextForConditionalGeneration"], "model_type": "llava_next", "vision_config": CLIP,
    "image_grid_pinpoints": PINPOINTS, "vision_feature_layer": -2, "vision_feature_select_strategy": "default",
}  # fmt: skip
ONEVISION = {
    "architectures": ["LlavaOnevisionForConditionalGeneration"], "model_type": "llava_onevision",
    "vision_config": SIGLIP, "image_grid_pinpoints": PINPOINTS, "vision_aspect_ratio": "anyres_max_9",
    "vision_feature_layer": -1, "vision_feature_select_strategy": "full",
}  # fmt: skip

# The text around a question, as chat templates have it: images first, then text.
USER = (
    "{% for message in messages %}{% if message['role'] == 'user' %}BEFORE"
    "{% for part in message['content'] | selectattr('type', 'equalto', 'image') %}{{ '<image>\n' }}{% endfor %}"
    "{% for part in message['content'] | selectattr('type', 'equalto', 'text') %}{{ part['text'] }}{% endfor %}AFTER"
    "{% else %}{{ message['content'][0]['text'] + 'END' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'PROMPT' }}{% endif %}"
)


def template(first: str, before: str, after: str, end: str, prompt: str) -> str:
    filled = USER.replace("BEFORE", before).replace("AFTER", after).replace("END", end).replace("PROMPT", prompt)
    return first + filled


VICUNA_CHAT = template("", "USER: ", " ", "</s>", "ASSISTANT:")
VICUNA_16_CHAT = template(
    "A chat between a curious human and an assistant. The assistant gives polite answers. ", "USER: ", " ", "</s>",
    "ASSISTANT:",
)  # fmt: skip
MISTRAL_CHAT = template("", "[INST] ", " [/INST]", "</s>", "")
YI_CHAT = template(
    "<|im_start|>system\nAnswer the questions.<|im_end|>", "<|im_start|>user\n", "<|im_end|>", "<|im_end|>",
    "<|im_start|>assistant\n",
)  # fmt: skip
QWEN_CHAT = template("", "<|im_start|>user ", "<|im_end|>", "<|im_end|>", "<|im_start|>assistant\n")

MAX_1D = f"slowfast-slow_{SLOW_FRAMES}frms_spatial_1d_max_pool-fast_2x2"
MAX_2D = f"slowfast-slow_{SLOW_FRAMES}frms_spatial_2d_max_pool-fast_2x2"
AVG_2D = f"slowfast-slow_{SLOW_FRAMES}frms_spatial_2d_avg_pool-fast_4x4"


def scaled(text: dict, trained: int, scaling: dict) -> dict:
    return text | {"max_position_embeddings": trained, "rope_scaling": scaling}


# name: (config.json, tokenizer, chat template, aggregation, names of tensors)
FAMILIES = {
    "llava-vicuna": (LLAVA | {"text_config": LLAMA}, "llama", VICUNA_CHAT, MAX_1D, "old"),
    "llava-tinyllama": (
        LLAVA | {"text_config": LLAMA | {"num_key_value_heads": 2, "head_dim": 32}}, "llama", VICUNA_CHAT, MAX_1D,
        "save_pretrained",
    ),
    "llava-interleave-qwen": (
        LLAVA | {"vision_config": SIGLIP, "text_config": QWEN, "vision_feature_select_strategy": "full"}, "qwen",
        QWEN_CHAT, MAX_1D, "old",
    ),
    "llava-next-vicuna": (NEXT | {"text_config": LLAMA}, "llama", VICUNA_16_CHAT, MAX_1D, "new"),
    "llava-next-mistral": (NEXT | {"text_config": MISTRAL}, "llama", MISTRAL_CHAT, AVG_2D, "old"),
    "llava-next-yi": (NEXT | {"text_config": YI}, "yi", YI_CHAT, MAX_1D, "old"),
    "llava-onevision-qwen": (
        ONEVISION | {"text_config": QWEN | {"tie_word_embeddings": True}, "tie_word_embeddings": True}, "qwen",
        QWEN_CHAT, MAX_2D, "old",
    ),
    "llava-linear2": (
        LLAVA | {"text_config": scaled(LLAMA, 160, {"type": "linear", "factor": 2.0})}, "llama", VICUNA_CHAT, MAX_1D,
        "old",
    ),
    "llava-llama3": (
        LLAVA | {"text_config": scaled(LLAMA | {"num_key_value_heads": 2, "rope_theta": 5e5}, 512, {
            "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
            "original_max_position_embeddings": 64,
        })}, "llama", VICUNA_CHAT, MAX_1D, "new",
    ),
    "onevision-yarn": (
        ONEVISION | {"text_config": scaled(QWEN, 256, {
            "type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64,
        })}, "qwen", QWEN_CHAT, MAX_1D, "old",
    ),
    "llava-dynamic2-within": (
        LLAVA | {"text_config": scaled(LLAMA, 512, {"type": "dynamic", "factor": 2.0})}, "llama", VICUNA_CHAT, MAX_1D,
        "old",
    ),
    "llava-dynamic2-beyond": (
        LLAVA | {"text_config": scaled(LLAMA, 160, {"type": "dynamic", "factor": 2.0})}, "llama", VICUNA_CHAT, MAX_1D,
        "old",
    ),
}  # fmt: skip
QUESTION = "What does the camera show?"
CORPUS = [
    "What does the camera show? What happened at the gate? Describe the video in one sentence.",
    "A person in a red jacket walks from left to right. A blue car drives in and stops. A dog runs out.",
    "user assistant system: Answer the questions. Yes, there is a person. No, there is no car.",
]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("names", nargs="*", metavar="NAME", help="default: all of them")
    args = parser.parse_args()
    for name in args.names or [*FAMILIES, "demo"]:
        code = make_demo(args.out / name) if name == "demo" else make_if_changed(name, args.out / name)
        if code != 0:
            return code
    return 0


def make_if_changed(name: str, folder: Path) -> int:
    wanted, stamp = fingerprint(name), folder / "fingerprint"
    if stamp.is_file() and stamp.read_text() == wanted:
        print(f"{folder}: up to date")
        return 0
    started = time.monotonic()
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    # Loading torch takes seconds, so it is loaded only if there is something to do.
    import torch

    import export
    from plan import Plan

    export.quiet()
    torch.set_num_threads(1)
    reference = Family(name, folder / "checkpoint").write()
    kinds = {"fp32": Plan("fp32", "cpu"), "int8": Plan("int8", "cpu"), "int4": Plan("int4", "cpu")}
    if name in KINDS_TOO:
        kinds["fp16"] = Plan("fp16", "cpu")
        kinds["plain"], kinds["plain-fp16"] = Plan("fp32", "cpu", "plain"), Plan("fp16", "cpu", "plain")
        kinds["external"] = Plan("fp32", "cpu", external_above=10_000)
    for kind, plan in kinds.items():
        vision = None if kind in ("fp32", "external") else folder / "fp32/onnx/vision_encoder.onnx"
        if (code := export.export(folder / "checkpoint", folder / kind, plan, vision)) != 0:
            return code
        first, ids = run_package(folder, kind, plan, reference)
        close = cosine_with(folder / "first_logits.npy", first)
        same = next((i for i, (a, b) in enumerate(zip(ids, reference["ids"])) if a != b), len(ids))
        print(f"{name}/{kind}: first logits' cosine {close:.6f}, {same} of {len(ids)} ids as transformers")
        if plan.precision in ("int8", "int4"):
            reference[f"{plan.precision}_cosine"] = close
        elif same != len(ids):
            print(f"{name}/{kind}: wanted {reference['ids']}, found {ids}", file=sys.stderr)
            return 1
    if name in KINDS_TOO:
        from tools import ready_made

        ready_made.write(folder / "plain", folder / "ready-made")
    (folder / "reference.json").write_text(json.dumps(reference, indent=1) + "\n")
    stamp.write_text(wanted)
    print(f"{folder}: made in {time.monotonic() - started:.0f} s")
    return 0


def make_demo(folder: Path) -> int:
    package = ROOT / "models/demo/package"
    files = [path for path in sorted(package.rglob("*")) if path.is_file()]
    wanted = digest(
        "demo", files + [HERE / name for name in ("tools/requantise.py", "quantise.py", "requirements.txt")]
    )
    stamp = folder / "fingerprint"
    if stamp.is_file() and stamp.read_text() == wanted:
        print(f"{folder}: up to date")
        return 0
    import export
    from tools import requantise

    export.quiet()
    shutil.rmtree(folder, ignore_errors=True)
    for precision in ("int8", "int4"):
        requantise.requantise(package, folder / precision, precision)
        print(f"{folder / precision}: made of {package.relative_to(ROOT)}")
    stamp.write_text(wanted)
    return 0


def fingerprint(name: str) -> str:
    from export import SOURCES

    tokenizers = sorted((GOLDEN / "tokenizers").rglob("tokenizer.json"))
    sources = [HERE / source for source in [*SOURCES, "families.py", "tools/ready_made.py"]]
    return digest(name, sources + tokenizers + [ROOT / frame for frame in FRAMES])


def digest(name: str, files: list[Path]) -> str:
    found = hashlib.sha256(name.encode())
    for path in files:
        found.update(f"\0{path.name}\0".encode())
        found.update(path.read_bytes())
    return found.hexdigest()


class Family:
    """The checkpoint folder of a family, and transformers' answers with it."""

    def __init__(self, name: str, folder: Path):
        self.name, self.folder = name, folder
        self.config, self.tokenizer_kind, self.chat, self.aggregation, self.layout = FAMILIES[name]

    def write(self) -> dict:
        """Tries seeds until two correct programs must agree on the answer."""
        self.folder.mkdir()
        self.write_tokenizer()
        self.write_pictures_config()
        for seed in range(1, 200):
            self.write_weights(seed)
            if (reference := self.answer()) is not None:
                return reference | {"seed": seed}
        raise RuntimeError(f"{self.name}: no seed gives a clear answer")

    def write_tokenizer(self) -> None:
        from tokenizers import AddedToken, Tokenizer

        golden = {"llama": "llama_bos", "yi": "chatml_nobos_legacy"}
        if self.tokenizer_kind == "qwen":
            tokenizer = byte_level_tokenizer()
        else:
            tokenizer = Tokenizer.from_file(str(GOLDEN / "tokenizers" / golden[self.tokenizer_kind] / "tokenizer.json"))
        video = ["<video>"] if self.config["model_type"] == "llava_onevision" else []
        tokenizer.add_special_tokens([AddedToken(t, normalized=False, special=True) for t in ["<image>", *video]])
        tokenizer.save(str(self.folder / "tokenizer.json"))
        end = {"llama": "</s>", "yi": "<|im_end|>", "qwen": "<|im_end|>"}[self.tokenizer_kind]
        settings = {
            "added_tokens_decoder": {
                str(i): {
                    "content": t.content, "lstrip": t.lstrip, "normalized": t.normalized, "rstrip": t.rstrip,
                    "single_word": t.single_word, "special": t.special,
                }
                for i, t in sorted(tokenizer.get_added_tokens_decoder().items())
            },
            "bos_token": None if self.tokenizer_kind == "qwen" else "<s>", "eos_token": end,
            "clean_up_tokenization_spaces": False, "model_max_length": 32768,
            "tokenizer_class": "PreTrainedTokenizerFast",
        }  # fmt: skip
        # Published checkpoints keep the template in one of three places.
        if self.config["model_type"] == "llava":
            self.dump("chat_template.json", {"chat_template": self.chat})
        elif self.config["model_type"] == "llava_next":
            settings["chat_template"] = self.chat
        else:
            (self.folder / "chat_template.jinja").write_text(self.chat)
        self.dump("tokenizer_config.json", settings)
        self.image_token, self.end_token = tokenizer.token_to_id("<image>"), tokenizer.token_to_id(end)
        eos = self.end_token
        if self.tokenizer_kind == "qwen":
            eos = [eos, tokenizer.token_to_id("<|endoftext|>")]
        self.dump("generation_config.json", {"eos_token_id": eos, "do_sample": False})

    def write_pictures_config(self) -> None:
        clip = self.config["vision_config"]["model_type"] == CLIP["model_type"]
        side = self.config["vision_config"]["image_size"]
        square = {"height": side, "width": side}
        common = {"do_normalize": True, "do_rescale": True, "do_resize": True, "resample": 3, "rescale_factor": 1 / 255}
        mean = [0.48145466, 0.4578275, 0.40821073] if clip else [0.5] * 3
        std = [0.26862954, 0.26130258, 0.27577711] if clip else [0.5] * 3
        names = {
            "llava": "CLIPImageProcessor" if clip else "SiglipImageProcessor",
            "llava_next": "LlavaNextImageProcessor", "llava_onevision": "LlavaOnevisionImageProcessor",
        }  # fmt: skip
        kind = {"image_processor_type": names[self.config["model_type"]], "image_mean": mean, "image_std": std}
        if clip:
            kind |= {"size": {"shortest_edge": side}, "crop_size": square, "do_center_crop": True}
        else:
            kind |= {"size": square}
        if self.config["model_type"] != "llava":
            kind |= {"image_grid_pinpoints": PINPOINTS, "do_pad": True}
        self.pictures = common | kind
        self.dump("preprocessor_config.json", self.pictures)

    def write_weights(self, seed: int) -> None:
        from safetensors.torch import save_file
        from transformers import AutoConfig, AutoModelForImageTextToText

        config = self.config | {"image_token_index": self.image_token, "torch_dtype": "float32"}
        self.dump("config.json", config)
        model = AutoModelForImageTextToText.from_config(AutoConfig.from_pretrained(self.folder))
        randomise(model, seed)
        if self.layout == "save_pretrained":
            for old in self.folder.glob("model*"):
                old.unlink()
            model.save_pretrained(self.folder, max_shard_size="300KB")
            model.generation_config.save_pretrained(self.folder)
            self.dump("generation_config.json", {"eos_token_id": self.end_token, "do_sample": False})
            return
        state = model.state_dict()
        if model.config.tie_word_embeddings:
            del state["lm_head.weight"]
        if self.layout == "old":
            state = {older_name(name): tensor for name, tensor in state.items()}
        state = {name: tensor.contiguous() for name, tensor in state.items()}
        save_file(state, self.folder / "model.safetensors", {"format": "pt"})

    def answer(self) -> dict | None:
        """Returns transformers' answer about the video, or None if a token was not chosen clearly."""
        import numpy as np
        import torch
        from PIL import Image
        from transformers import AutoModelForImageTextToText, AutoTokenizer

        model, info = AutoModelForImageTextToText.from_pretrained(
            self.folder, dtype=torch.float32, attn_implementation="eager", output_loading_info=True
        )
        if info["missing_keys"] or info["unexpected_keys"]:
            raise RuntimeError(f"{self.name}: transformers does not find its way in this checkpoint: {info}")
        vision = self.config["vision_config"]
        side = vision["image_size"]
        frames = [Image.open(ROOT / f).convert("RGB").resize((side, side), Image.BICUBIC) for f in FRAMES]
        pixels = np.stack([np.asarray(f, np.float32) for f in frames]) / 255
        mean, std = (np.array(self.pictures[k], np.float32) for k in ("image_mean", "image_std"))
        pixels = torch.from_numpy(((pixels - mean) / std).transpose(0, 3, 1, 2).copy())
        tokenizer = AutoTokenizer.from_pretrained(self.folder)
        question = {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": QUESTION}]}
        prompt = tokenizer.apply_chat_template(
            [question], chat_template=self.chat, tokenize=False, add_generation_prompt=True
        )
        ids = with_marker(tokenizer, prompt)
        with torch.no_grad():
            video = slow_fast(image_features(model, pixels), self.aggregation)
            at, words = ids.index(-200), model.get_input_embeddings()
            before, after = words(torch.tensor(ids[:at])), words(torch.tensor(ids[at + 1 :]))
            embeds, halved = (torch.cat([before, v, after])[None] for v in (video, video.half().float()))
            length = embeds.shape[1] + ANSWER_TOKENS
            planned = -(-length // 8) * 8
            logits, answer = greedy(model, embeds, planned)
            unclear = any(token in (self.end_token, self.image_token) for token in answer) or len(set(answer)) < 8
            top = logits.topk(2).values
            margin = float((top[:, 0] - top[:, 1]).min())
            if unclear or margin < MIN_MARGIN or greedy(model, halved, planned)[1] != answer:
                return None
            if (other := greedy_uncached(model, embeds, planned)) != answer:
                raise RuntimeError(f"{self.name}: with the cache {answer}, without it {other}")
            unscaled = unscaled_matters(model, embeds, planned, answer)
        if self.config["text_config"].get("rope_scaling") and self.name != "llava-dynamic2-within" and not unscaled:
            return None
        np.save(self.folder.parent / "first_logits.npy", logits[0].numpy())
        np.save(self.folder.parent / "video_tokens.npy", video.numpy())
        grid = (side // vision["patch_size"]) ** 2
        return {
            "name": self.name, "family": self.config["model_type"], "frames": FRAMES, "image_size": side,
            "grid_tokens": grid, "aggregation": self.aggregation, "plan_frames": len(FRAMES), "question": QUESTION,
            "prompt": prompt, "input_ids_with_marker": ids, "planned_length": planned, "ids": answer,
            "text": tokenizer.decode(answer, skip_special_tokens=True), "first_logits": "first_logits.npy",
            "video_tokens": "video_tokens.npy", "min_margin": margin,
        }  # fmt: skip

    def dump(self, name: str, value: dict) -> None:
        (self.folder / name).write_text(json.dumps(value, indent=2) + "\n")


def byte_level_tokenizer():
    """Returns a tokenizer of bytes and a few merges, with the special tokens of Qwen2."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    tokenizer.add_special_tokens([AddedToken(t, normalized=False, special=True) for t in special])
    return tokenizer


def older_name(name: str) -> str:
    """Converts a name of transformers 5 to the one that most published checkpoints have."""
    name = name.replace("model.vision_tower.", "vision_tower.vision_model.")
    name = name.replace("lm_head.", "language_model.lm_head.")
    return name.replace("model.language_model.", "language_model.model.").removeprefix("model.")


def randomise(model, seed: int) -> None:
    """Sets random weights that keep the scale of the activations, so that every part changes the answer."""
    import torch

    random = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, tensor in model.named_parameters():
            noise = torch.randn(tensor.shape, generator=random)
            if "norm" in name:
                tensor.copy_(1 + 0.2 * noise if name.endswith("weight") else 0.1 * noise)
            elif name.endswith("bias"):
                tensor.copy_(0.2 * noise)
            elif "embed_tokens" in name:
                tensor.copy_(0.6 * noise)
            elif "embedding" in name or "newline" in name:
                tensor.copy_(0.3 * noise if tensor.dim() < 4 else noise / tensor[0].numel() ** 0.5)
            else:
                gain = 1.6 if any(part in name for part in ("q_proj", "k_proj")) else 0.8
                tensor.copy_(gain * noise / tensor.shape[1] ** 0.5)
        if model.config.tie_word_embeddings:
            # Otherwise the model repeats its last token.
            norm = model.model.language_model.norm.weight
            norm.mul_(torch.randint(0, 2, norm.shape, generator=random) * 4 - 2)
        else:
            model.lm_head.weight.mul_(4)


def image_features(model, pixels):
    """Returns `[T, N, D]` of the base image: the tower's hidden states, projected, without CLS where configured."""
    import torch

    states = model.model.vision_tower(pixels, output_hidden_states=True).hidden_states
    layer = model.config.vision_feature_layer
    chosen = torch.cat([states[i] for i in ([layer] if isinstance(layer, int) else layer)], dim=-1)
    if model.config.vision_feature_select_strategy == "default":
        chosen = chosen[:, 1:]
    return model.model.multi_modal_projector(chosen)


def slow_fast(features, aggregation: str):
    """Converts `[T, N, D]` to `[M, D]`: slow rows first, then fast ones. Notation: daemon/slowfast/aggregation.rs."""
    import torch
    from torch.nn import functional

    slow, fast = aggregation.removeprefix(f"slowfast-slow_{SLOW_FRAMES}frms_").split("-fast_")
    count, tokens, dim = features.shape
    side = int(tokens**0.5)
    chosen = features[torch.linspace(0, count, SLOW_FRAMES + 1)[:-1].long()]
    flat, plane = chosen.transpose(1, 2), lambda f: f.transpose(1, 2).reshape(len(f), dim, side, side)
    pooled = {
        "spatial_1d_max_pool": lambda: functional.max_pool1d(flat, 2),
        "spatial_2d_max_pool": lambda: functional.max_pool2d(plane(chosen), 2).flatten(2),
        "spatial_2d_avg_pool": lambda: functional.avg_pool2d(plane(chosen), 2).flatten(2),
    }[slow]()
    rows, columns = map(int, fast.split("x"))
    averaged = functional.adaptive_avg_pool2d(plane(features), (rows, columns)).flatten(2)
    return torch.cat([part.transpose(1, 2).reshape(-1, dim) for part in (pooled, averaged)])


def with_marker(tokenizer, prompt: str) -> list[int]:
    """Tokenises each text around <image> by itself, with -200 between them and one BOS at the front."""
    first, second = (tokenizer(piece).input_ids for piece in prompt.split("<image>"))
    bos = tokenizer.bos_token_id
    starts = bos is not None and first[:1] == [bos]
    return first + [-200] + (second[1:] if starts and second[:1] == [bos] else second)


def plan_rope(model, planned: int) -> None:
    """Sets one rotary table for the whole sequence, because dynamic scaling changes it with the length."""
    import torch

    model.model.language_model.rotary_emb(torch.zeros(1), torch.tensor([[planned - 1]]))


def greedy(model, embeds, planned: int):
    """Returns logits `[64, V]` and ids. Each new token uses the cache."""
    import torch
    from transformers import DynamicCache

    plan_rope(model, planned)
    cache, logits, step = DynamicCache(), [], embeds
    while len(logits) < ANSWER_TOKENS:
        out = model.model.language_model(inputs_embeds=step, past_key_values=cache, use_cache=True)
        logits.append(model.lm_head(out.last_hidden_state[0, -1]))
        step = model.get_input_embeddings()(logits[-1].argmax()[None, None])
    return torch.stack(logits), [int(row.argmax()) for row in logits]


def greedy_uncached(model, embeds, planned: int) -> list[int]:
    import torch

    plan_rope(model, planned)
    ids = []
    while len(ids) < ANSWER_TOKENS:
        out = model.model.language_model(inputs_embeds=embeds, use_cache=False)
        ids.append(int(model.lm_head(out.last_hidden_state[0, -1]).argmax()))
        embeds = torch.cat([embeds, model.get_input_embeddings()(torch.tensor([[ids[-1]]]))], dim=1)
    return ids


def unscaled_matters(model, embeds, planned: int, answer: list[int]) -> bool:
    """Returns true if the answer changes without the scaling. Otherwise it proves nothing about the scaling."""
    import copy

    language = model.model.language_model
    kept, plain = language.rotary_emb, copy.deepcopy(model.config.text_config)
    plain.rope_parameters = {"rope_type": "default", "rope_theta": plain.rope_parameters["rope_theta"]}
    language.rotary_emb = type(kept)(config=plain)
    _, other = greedy(model, embeds, planned)
    language.rotary_emb = kept
    return other != answer


def run_package(folder: Path, kind: str, plan, reference: dict):
    """Returns the first logits and the greedy ids of a package, with its own vision encoder."""
    import numpy as np
    import torch
    from PIL import Image

    import checkpoint
    import runtime

    source, onnx_dir = checkpoint.open_checkpoint(folder / "checkpoint"), folder / kind / "onnx"
    pictures = json.loads((folder / kind / "preprocessor_config.json").read_text())
    mean, std = (np.array(pictures[k], np.float32) for k in ("image_mean", "image_std"))
    side = (reference["image_size"],) * 2
    frames = [np.asarray(Image.open(ROOT / f).convert("RGB").resize(side, Image.BICUBIC), np.float32) for f in FRAMES]
    pixels = ((np.stack(frames) / 255 - mean) / std).transpose(0, 3, 1, 2)
    vision = runtime.session(onnx_dir / plan.vision_file)
    # One by one, as the daemon does: quantised activations depend on what else is in the batch.
    features = np.concatenate([vision.run(None, {"pixel_values": frame[None]})[0] for frame in pixels])
    video = slow_fast(torch.from_numpy(features), reference["aggregation"]).numpy()
    embed = runtime.session(onnx_dir / plan.embed_file)
    words = lambda ids: embed.run(None, {"input_ids": np.array([ids], np.int64)})[0]
    ids = reference["input_ids_with_marker"]
    at = ids.index(-200)
    prompt = np.concatenate([words(ids[:at]), video[None], words(ids[at + 1 :])], axis=1)
    tables = source.rotary_tables(reference["planned_length"]) if plan.decoder == "gqa" else None
    decoder = runtime.Decoder(
        onnx_dir / plan.decoder_file, source.text.num_key_value_heads, source.head_dim, tables
    )  # fmt: skip
    logits = [decoder(prompt)]
    while len(logits) < ANSWER_TOKENS:
        logits.append(decoder(words([int(logits[-1].argmax())])))
    return logits[0], [int(row.argmax()) for row in logits]


def cosine_with(file: Path, found) -> float:
    import numpy as np

    import check

    return check.cosine(np.load(file), found)


if __name__ == "__main__":
    sys.exit(main())
