"""The demo model: a LLaVA of CLIP and Llama by transformers' own classes, small enough to train on two cores.

Windows become tokens by the daemon's rules (daemon/slowfast, daemon/timeline/clip.rs).
"""

import itertools
import math
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from torch import nn
from transformers import (
    CLIPImageProcessor,
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    PreTrainedTokenizerFast,
)

PICTURE, PATCH, GRID = 112, 14, 8
TOWER, TOWER_LAYERS = 128, 4  # the last layer but one is what LLaVA looks at
WORDS, WORDS_LAYERS = 160, 4
VOCABULARY = 512

# The plan 16:slowfast-slow_4frms_spatial_1d_max_pool-fast_2x4.
PLAN = "16:slowfast-slow_4frms_spatial_1d_max_pool-fast_2x4"
FRAMES, SLOW = 16, 4
FAST_ROWS, FAST_COLUMNS = 2, 4
SLOW_TOKENS, FAST_TOKENS = GRID * GRID // 2, FAST_ROWS * FAST_COLUMNS

MEAN = torch.tensor([0.48145466, 0.4578275, 0.40821073])
STD = torch.tensor([0.26862954, 0.26130258, 0.27577711])


def vision_config() -> CLIPVisionConfig:
    return CLIPVisionConfig(
        hidden_size=TOWER, intermediate_size=2 * TOWER, num_hidden_layers=TOWER_LAYERS, num_attention_heads=4,
        image_size=PICTURE, patch_size=PATCH, projection_dim=TOWER,
    )  # fmt: skip


def build(tokenizer: PreTrainedTokenizerFast) -> LlavaForConditionalGeneration:
    text = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=WORDS, intermediate_size=320, num_hidden_layers=WORDS_LAYERS,
        num_attention_heads=5, num_key_value_heads=5, max_position_embeddings=1024, tie_word_embeddings=False,
        bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    config = LlavaConfig(
        vision_config=vision_config(), text_config=text, image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        vision_feature_layer=-2, vision_feature_select_strategy="default", projector_hidden_act="gelu",
        image_seq_length=GRID * GRID,
    )  # fmt: skip
    model = LlavaForConditionalGeneration(config)
    # Small models learn faster from larger weights than transformers begins with.
    for weight in model.model.language_model.parameters():
        if weight.dim() == 2:
            nn.init.normal_(weight, std=0.04)
    for weight in model.model.multi_modal_projector.parameters():
        if weight.dim() == 2:
            nn.init.normal_(weight, std=1 / math.sqrt(weight.shape[1]))
    return model


def pixels(pictures: torch.Tensor) -> torch.Tensor:
    """Converts `[F, 112, 112, 3]` bytes to `[F, 3, 112, 112]`, normalised for CLIP."""
    return ((pictures.float() / 255 - MEAN) / STD).permute(0, 3, 1, 2).contiguous()


def features(tower, pictures: torch.Tensor) -> torch.Tensor:
    """`[F, 64, TOWER]`: the last hidden state but one, without CLS."""
    hidden = tower.pre_layrnorm(tower.embeddings(pictures))
    for layer in tower.encoder.layers[: TOWER_LAYERS - 1]:
        hidden = layer(hidden, None)
    return hidden[:, 1:]


# ---- the daemon's rules ------------------------------------------------------------------------


def pick(total: int) -> list[int]:
    """Picks the frames of a window that the model sees: all, or the middle of each of 16 segments."""
    if total <= FRAMES:
        return list(range(total))
    border = [round((total - 1) / FRAMES * i) for i in range(FRAMES + 1)]  # half to even, as numpy
    return [(a + b) // 2 for a, b in itertools.pairwise(border)]


def slow(frames: int) -> list[int]:
    """Picks the slow frames."""
    return torch.linspace(0, frames, SLOW + 1).to(torch.int32).tolist()[:-1]


def video_tokens(frames: torch.Tensor) -> torch.Tensor:
    """Converts projected frames `[T, 64, D]` of one window to `[4·32 + T·8, D]`, slow rows first."""
    t, _, d = frames.shape
    few = frames[slow(t)].reshape(-1, 2, d).amax(1)
    rows, columns = GRID // FAST_ROWS, GRID // FAST_COLUMNS
    many = frames.reshape(t, FAST_ROWS, rows, FAST_COLUMNS, columns, d).mean((2, 4)).reshape(-1, d)
    return torch.cat([few, many])


# ---- words -------------------------------------------------------------------------------------


def train_tokenizer(texts: list[str], to: Path) -> None:
    """Trains a byte-level BPE with 512 tokens. The model's own texts take few tokens, any other text more."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    special = ["<s>", "</s>", "<pad>", "<image>"]
    bpe.train_from_iterator(
        texts,
        trainers.BpeTrainer(
            vocab_size=VOCABULARY, special_tokens=special, show_progress=False,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        ),
    )  # fmt: skip
    bpe.post_processor = processors.TemplateProcessing(single="<s> $A", pair="<s> $A $B", special_tokens=[("<s>", 0)])
    PreTrainedTokenizerFast(
        tokenizer_object=bpe, bos_token="<s>", eos_token="</s>", pad_token="<pad>",
        extra_special_tokens={"image_token": "<image>"},
    ).save_pretrained(to)  # fmt: skip


def image_processor() -> CLIPImageProcessor:
    size = {"height": PICTURE, "width": PICTURE}
    return CLIPImageProcessor(size=size, do_center_crop=False, crop_size=size)
