"""Trains a small LLaVA that names the colours of plain frames, for the tests with a real llama-server.

    python models/export/colours.py OUT

OUT gets a checkpoint in the layout of transformers, 2 MB, after four minutes on two cores. The model reads
prompts as lookout sends them: frames, each after its time, and then one of the questions of `question`. It answers
about all frames together.

The training fails if fewer than 99 of 100 answers about new windows are right.
"""

import argparse
import json
import random
import sys
from pathlib import Path

SIDE, PATCH = 28, 14
TOKENS_PER_FRAME = (SIDE // PATCH) ** 2
MOST_FRAMES = 8
STEPS, BATCH, RATE = 1000, 32, 2e-3
TOKENS = 384
SPECIAL = ["<s>", "</s>", "<pad>", "<image>", "<system>", "<user>", "<assistant>"]
# Red, green and blue, from 0 to 1. The order is that of the answers.
PALETTE = {
    "red": (1, 0, 0), "green": (0, 1, 0), "blue": (0, 0, 1), "white": (1, 1, 1), "black": (0, 0, 0),
}  # fmt: skip
MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)

COLOUR = "What colour is this picture? Answer with one word."
YES_OR_NO = "Answer only yes or no."
WITHOUT_END = "Say the colours again and again."
DESCRIBE = ["What is happening?", "What do you see?", "What was there?", "Who is there?", "And now?"]
AS_JSON = "Is there red, and is there blue?"
TEMPLATE = (
    "<s>{% for message in messages %}<{{ message['role'] }}>{{ message['content'] }}"
    "{% if message['role'] == 'assistant' %}</s>{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("out", type=Path, metavar="OUT")
    args = parser.parse_args()
    # Loading torch takes seconds, so it is not loaded for --help.
    import torch

    torch.manual_seed(1)
    draw = random.Random(1)
    tokenizer = make_tokenizer(draw)
    model = make_model(tokenizer)
    train(model, tokenizer, draw)
    save(model, tokenizer, args.out)
    right = share_of_right_answers(model, tokenizer, draw)
    print(f"{right:.1%} of the answers about new windows are right")
    return 0 if right >= 0.99 else 1


# Windows and questions


class Window:
    """A prompt and its answer. `colours` are those of the frames, in their order."""

    def __init__(self, draw: random.Random):
        some = draw.sample(sorted(PALETTE), draw.choice([1, 1, 2, 3]))
        frames = draw.choice([0, 1, 1, *range(1, MOST_FRAMES + 1)])
        self.colours = [draw.choice(some) for _ in range(frames)]
        times = [f"{draw.randrange(24):02}:{draw.randrange(60):02}:{draw.randrange(60):02} UTC" for _ in self.colours]
        # A proof of lookout sends one frame without a time.
        if frames == 1 and draw.random() < 0.3:
            times = [""]
        instruction = draw.choice(["", "", "<system>Be brief."])
        asked, answer = question(draw, self.colours, is_last=True)
        turns = ""
        if frames and draw.random() < 0.2:
            before, said = question(draw, self.colours, is_last=False)
            turns = f"{before}<assistant>{said}</s><user>"
        # The texts before, between and after the frames.
        first = f"<s>{instruction}<user>"
        last = f"{turns}{asked}<assistant>"
        self.texts = [first + times[0], *times[1:], last] if frames else [first + last]
        self.answer = answer if asked == WITHOUT_END else answer + "</s>"


def question(draw: random.Random, colours: list[str], is_last: bool) -> tuple[str, str]:
    """Returns a question, and the right answer to it about frames of these colours.

    The answer to WITHOUT_END has no end, so only the last question is this one.
    """
    there = [colour for colour in PALETTE if colour in colours]
    kind = draw.random()
    if kind < 0.3 or not colours:
        word = draw.choice([f"Is it {c}?" for c in PALETTE] + [f"Is there {c}?" for c in PALETTE])
        if draw.random() < 0.3:
            word = f"Is this picture {draw.choice(list(PALETTE))}?"
        return f"{word} {YES_OR_NO}", "Yes." if word.split()[-1].rstrip("?") in there else "No."
    if kind < 0.45:
        return COLOUR, f"{there[0].capitalize()}."
    if kind < 0.6:
        return AS_JSON, json.dumps({"red": "red" in there, "blue": "blue" in there})
    if kind < 0.7 and is_last:
        return WITHOUT_END, " ".join(there * 12)
    return draw.choice(DESCRIBE), f"I see {', '.join(there)}."


def picture(draw: random.Random, colour: str):
    """Returns a frame of a colour as CLIP gets it, [3, 28, 28], often with bars above and below it."""
    import torch

    pixels = torch.empty(3, SIDE, SIDE)
    for channel, value in enumerate(PALETTE[colour]):
        pixels[channel] = abs(value - draw.uniform(0, 0.15))
    if draw.random() < 0.7:
        # llama-server makes a frame square: grey, black or of the frame's mean.
        bar, shade = draw.randrange(1, 5), draw.choice([0.0, 0.45, draw.random()])
        pixels[:, :bar], pixels[:, -bar:] = shade, shade
    pixels += torch.randn(3, SIDE, SIDE) * 0.02
    return (pixels - torch.tensor(MEAN)[:, None, None]) / torch.tensor(STD)[:, None, None]


# The model


def make_tokenizer(draw: random.Random):
    """Makes a byte-level tokenizer with GPT-2's rule of how texts are split."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

    texts = [text for _ in range(2000) for window in [Window(draw)] for text in [*window.texts, window.answer]]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in SPECIAL])
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=TOKENS, special_tokens=SPECIAL, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator((plain(text) for text in texts), trainer)
    return tokenizer


def plain(text: str) -> str:
    for token in SPECIAL:
        text = text.replace(token, "")
    return text


def make_model(tokenizer):
    from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

    vision = CLIPVisionConfig(
        hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2, image_size=SIDE,
        patch_size=PATCH, projection_dim=32,
    )  # fmt: skip
    language = LlamaConfig(
        hidden_size=64, intermediate_size=192, num_hidden_layers=3, num_attention_heads=2, vocab_size=TOKENS,
        max_position_embeddings=2048, bos_token_id=0, eos_token_id=1, pad_token_id=2, tie_word_embeddings=False,
    )  # fmt: skip
    return LlavaForConditionalGeneration(
        LlavaConfig(
            vision_config=vision, text_config=language, image_token_index=tokenizer.token_to_id("<image>"), image_seq_length=TOKENS_PER_FRAME,
        )
    )  # fmt: skip


def encode(tokenizer, window: Window) -> tuple[list[int], list[int]]:
    """Returns the tokens of the prompt, with those of frames, and the tokens of the answer."""
    image = [tokenizer.token_to_id("<image>")] * TOKENS_PER_FRAME
    prompt = []
    # llama-server encodes each text between two frames by itself.
    for at, text in enumerate(window.texts):
        prompt += (image if at else []) + tokenizer.encode(text).ids
    return prompt, tokenizer.encode(window.answer).ids


def batch(tokenizer, draw: random.Random, windows: list[Window]):
    """Returns the inputs [N, T], the labels [N, T] and the frames [F, 3, 28, 28] of windows."""
    import torch

    pairs = [encode(tokenizer, window) for window in windows]
    length = max(len(prompt) + len(answer) for prompt, answer in pairs)
    inputs = torch.full((len(pairs), length), SPECIAL.index("<pad>"))
    labels = torch.full((len(pairs), length), -100)
    for row, (prompt, answer) in enumerate(pairs):
        end = len(prompt) + len(answer)
        inputs[row, :end] = torch.tensor(prompt + answer)
        labels[row, len(prompt) : end] = torch.tensor(answer)
    frames = [picture(draw, colour) for window in windows for colour in window.colours]
    return inputs, labels, torch.stack(frames) if frames else None


def train(model, tokenizer, draw: random.Random) -> None:
    import torch

    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, betas=(0.9, 0.98), weight_decay=0.01)
    rate = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, total_steps=STEPS, pct_start=0.1)
    for step in range(STEPS):
        inputs, labels, frames = batch(tokenizer, draw, [Window(draw) for _ in range(BATCH)])
        loss = model(input_ids=inputs, pixel_values=frames, labels=labels).loss
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        rate.step()
        if step % 100 == 0:
            print(f"step {step}: loss {loss.item():.3f}", flush=True)


def share_of_right_answers(model, tokenizer, draw: random.Random) -> float:
    """Returns the share of new windows each of whose answer's tokens is the likeliest one."""
    import torch

    model.eval()
    right, windows = 0, [Window(draw) for _ in range(400)]
    with torch.no_grad():
        for start in range(0, len(windows), BATCH):
            inputs, labels, frames = batch(tokenizer, draw, windows[start : start + BATCH])
            found = model(input_ids=inputs, pixel_values=frames).logits[:, :-1].argmax(-1)
            labels = labels[:, 1:]
            is_right = ((found == labels) | (labels == -100)).all(dim=1).tolist()
            right += sum(is_right)
            for window in [w for w, r in zip(windows[start : start + BATCH], is_right) if not r]:
                print("wrong:", window.colours, window.texts[-1], window.answer)
    return right / len(windows)


def save(model, tokenizer, folder: Path) -> None:
    model.save_pretrained(folder)
    tokenizer.save(str(folder / "tokenizer.json"))
    dump(folder / "tokenizer_config.json", {
        "tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>",
        "chat_template": TEMPLATE,
    })  # fmt: skip
    square = {"height": SIDE, "width": SIDE}
    dump(folder / "preprocessor_config.json", {
        "image_processor_type": "CLIPImageProcessor", "crop_size": square, "size": square,
        "image_mean": MEAN, "image_std": STD,
    })  # fmt: skip


def dump(file: Path, value: dict) -> None:
    file.write_text(json.dumps(value, indent=2) + "\n")


if __name__ == "__main__":
    sys.exit(main())
