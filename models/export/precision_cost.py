"""Measures what a precision costs a language model: the packages of one checkpoint compared with that in float32.

`smollm2.py` runs it on a trained model. For models of which a graph fits into one file (below 2 GB).
"""

import itertools
import json
import subprocess
import tempfile
from hashlib import sha256
from pathlib import Path

import numpy as np
import onnx
from tokenizers import Tokenizer

from runtime import Decoder, graph_file, session

ROOT = Path(__file__).resolve().parents[2]
# A text that cargo fetches with the daemon's crates: Project Gutenberg's book 103.
BOOK_CRATE, BOOK_FILE = "esaxx-rs", "data/eighty.txt"
BOOK_SHA256 = "f95647ced7981db2c1c7c50c77a1b89e3df569d9a20e8ad5c9e40ed2d2f4d268"
PASSAGES, PASSAGE_TOKENS, UNSCORED = 16, 320, 64
# What the daemon asks of a long range (daemon/engine/question/parts.rs).
NOTES = (
    "These notes tell of the video's parts in order, each with its time:\n{notes}Going by the notes and the video, "
    "answer briefly for the whole time: {question}"
)
QUESTIONS = ["What happened?", "Who was there?", "Which cars were there?", "Describe the video in one sentence."]
PROMPTS, NOTES_IN_PROMPT, ANSWER_TOKENS, PARITY_PROMPTS = 24, 5, 48, 6
SUBJECTS = ["person", "car", "dog"]
YES_NO, CAPTIONS_ASKED = "A camera notes: {caption}\nIs there a {subject}? Answer yes or no.", 20


class Language:
    """The language model of a package: tokens in, logits of the next one out."""

    def __init__(self, package: Path):
        text = json.loads((package / "config.json").read_text())["text_config"]
        heads, width = text["num_attention_heads"], text["hidden_size"]
        files = {kind: graph_file(package, kind) for kind in ("embed_tokens", "decoder_model_merged")}
        self.embed = session(files["embed_tokens"])
        kv_heads, head_dim = text.get("num_key_value_heads", heads), text.get("head_dim") or width // heads
        with tempfile.TemporaryDirectory() as folder:
            whole = Path(folder, "whole.onnx")
            write_with_all_logits(files["decoder_model_merged"], whole)
            self.decoder = Decoder(whole, kv_heads, head_dim)
        self.bytes = {kind: sum(f.stat().st_size for f in file.parent.glob(file.name + "*"))
                      for kind, file in files.items()}  # fmt: skip

    def begin(self, ids: list[int]) -> np.ndarray:
        self.decoder.reset()
        return self.next(ids)

    def next(self, ids: list[int]) -> np.ndarray:
        return self.decoder(self.words(ids))

    def words(self, ids: list[int]) -> np.ndarray:
        return self.embed.run(None, {"input_ids": np.array([ids], np.int64)})[0]

    def log_probabilities(self, ids: list[int]) -> np.ndarray:
        """Returns `[L, V]`: the logarithms of the probabilities of what follows each token."""
        self.decoder.reset()
        mask = np.ones((1, len(ids)), np.int64)
        feed = {"inputs_embeds": self.words(ids), "attention_mask": mask, **self.decoder.cache}
        return log_softmax(self.decoder.session.run(["logits"], feed)[0][0])

    def greedy(self, ids: list[int], end: int) -> list[int]:
        answer, logits = [], self.begin(ids)
        while len(answer) < ANSWER_TOKENS and (token := int(logits.argmax())) != end:
            answer.append(token)
            logits = self.next([token])
        return answer


def measure(checkpoint: Path, packages: dict[str, Path], text: str) -> dict:
    """Compares packages with the first, which is in float32, and that one with transformers."""
    tokenizer = Tokenizer.from_file(str(checkpoint / "tokenizer.json"))
    models = {name: Language(package) for name, package in packages.items()}
    end = json.loads((checkpoint / "generation_config.json").read_text())["eos_token_id"]
    chats = [chat(checkpoint, prompt) for prompt in summaries()]
    prompts = [tokenizer.encode(text, add_special_tokens=False).ids for text in chats]
    answers = {name: [model.greedy(ids, end) for ids in prompts] for name, model in models.items()}
    texts = {name: [tokenizer.decode(ids) for ids in said] for name, said in answers.items()}
    first, *_ = models
    return {
        "bytes": {name: model.bytes for name, model in models.items()},
        "text": on_text(models, tokenizer.encode(text, add_special_tokens=False).ids),
        "greedy": {name: agreement(said, answers[first]) for name, said in answers.items()},
        "yes_no": yes_no(models, tokenizer, checkpoint),
        "parity": parity(checkpoint, prompts[:PARITY_PROMPTS], answers[first], end),
        "answers": [{"prompt": prompt} | {name: said[at] for name, said in texts.items()}
                    for at, prompt in enumerate(summaries())],
    }  # fmt: skip


def eighty_days() -> str:
    """Returns the book without Project Gutenberg's words and the contents, a line for each paragraph."""
    command = ["cargo", "metadata", "--format-version", "1", "--locked", "--quiet"]
    found = json.loads(subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE).stdout)
    crate = next(package for package in found["packages"] if package["name"] == BOOK_CRATE)
    whole = (Path(crate["manifest_path"]).parent / BOOK_FILE).read_bytes()
    if (hash := sha256(whole).hexdigest()) != BOOK_SHA256:
        raise SystemExit(f"{BOOK_FILE} of {BOOK_CRATE}: SHA-256 {BOOK_SHA256} wanted, {hash} found.")
    book = whole.decode("utf-8-sig").replace("\r\n", "\n").split("\n*** ")[1]
    paragraphs = [" ".join(lines.split()) for lines in book.split("\n\n")]
    # The contents name each chapter, too.
    begin = next(at for at, line in enumerate(paragraphs) if line.startswith("Chapter I"))
    end = next(at for at, line in enumerate(paragraphs) if line.startswith("End of Project Gutenberg"))
    return "\n".join(line for line in paragraphs[begin:end] if line)


def summaries() -> list[str]:
    """Returns prompts about true captions of the demo's scenes, in the daemon's words."""
    captions = demo_captions()
    prompts = []
    for number in range(PROMPTS):
        own = captions[number * NOTES_IN_PROMPT : (number + 1) * NOTES_IN_PROMPT]
        notes = "".join(f"14:0{at}:00–14:0{at + 1}:00: {caption}\n" for at, caption in enumerate(own))
        prompts.append(NOTES.format(notes=notes, question=QUESTIONS[number % len(QUESTIONS)]))
    return prompts


def demo_captions() -> list[str]:
    return json.loads((ROOT / "models/demo/search-questions.json").read_text())["captions"]


def chat(checkpoint: Path, prompt: str) -> str:
    from transformers import AutoTokenizer

    message = {"role": "user", "content": prompt}
    return AutoTokenizer.from_pretrained(checkpoint).apply_chat_template(
        [message], tokenize=False, add_generation_prompt=True
    )


def on_text(models: dict[str, Language], ids: list[int]) -> dict:
    """Reads passages of a text and scores each next token."""
    losses, divergence, same = ({name: [] for name in models} for _ in range(3))
    for start in np.linspace(0, len(ids) - PASSAGE_TOKENS, PASSAGES).astype(int):
        passage = ids[start : start + PASSAGE_TOKENS]
        exact = None
        for name, model in models.items():
            rows = model.log_probabilities(passage)[UNSCORED - 1 : -1]
            exact = rows if exact is None else exact
            losses[name] += [-row[token] for row, token in zip(rows, passage[UNSCORED:])]
            divergence[name] += list((np.exp(exact) * (exact - rows)).sum(axis=1))
            same[name] += list(rows.argmax(axis=1) == exact.argmax(axis=1))
    return {
        name: {
            "tokens": len(losses[name]), "perplexity": float(np.exp(np.mean(losses[name]))),
            "divergence": float(np.mean(divergence[name])), "same_word": float(np.mean(same[name])),
        }
        for name in models
    }  # fmt: skip


def write_with_all_logits(source: Path, path: Path) -> None:
    """Writes a decoder that gives the logits of every position: the exporter's cuts off all but the last."""
    model = onnx.load(source)
    cut = next(node for node in model.graph.node if node.name == "/lm_head/prune/Gather")
    next(node for node in model.graph.node if "logits" in node.output).input[0] = cut.input[0]
    onnx.save_model(model, path)


def log_softmax(logits: np.ndarray) -> np.ndarray:
    logits = logits.astype(np.float64)
    logits -= logits.max(axis=-1, keepdims=True)
    return logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))


def agreement(found: list[list[int]], wanted: list[list[int]]) -> dict:
    """Counts the equal answers, and in the others the tokens before the first difference."""
    common = [sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], zip(a, b)))
              for a, b in zip(found, wanted)]  # fmt: skip
    differ = [n for n, a, b in zip(common, found, wanted) if a != b]
    return {"same": len(found) - len(differ), "prompts": len(found), "common": float(np.median(differ or [np.nan]))}


def yes_no(models: dict[str, Language], tokenizer: Tokenizer, checkpoint: Path) -> dict:
    """Scores questions as the daemon does: the share of yes in the probability of yes and no."""
    words = {word: spellings(tokenizer, word) for word in ("yes", "no")}
    captions = list(dict.fromkeys(demo_captions()))[:CAPTIONS_ASKED]
    asked = [(caption, subject) for caption in captions for subject in SUBJECTS]
    truth = np.array([subject in caption for caption, subject in asked])
    result, exact = {}, None
    for name, model in models.items():
        scores, mass = [], []
        for caption, subject in asked:
            text = chat(checkpoint, YES_NO.format(caption=caption, subject=subject))
            row = np.exp(log_softmax(model.begin(tokenizer.encode(text, add_special_tokens=False).ids)))
            yes, no = (row[words[word]].sum() for word in ("yes", "no"))
            scores.append(yes / (yes + no))
            mass.append(yes + no)
        scores = np.array(scores)
        exact = scores if exact is None else exact
        # The share of pairs of a true and a false question of which the true one has the higher score.
        order = (scores[truth][:, None] > scores[~truth][None]).mean()
        result[name] = {
            "questions": len(asked), "mean_difference": float(np.abs(scores - exact).mean()),
            "largest_difference": float(np.abs(scores - exact).max()),
            "changed": int(((scores > 0.5) != (exact > 0.5)).sum()), "ordered": float(order),
            "right": int(((scores > 0.5) == truth).sum()), "mass": float(np.mean(mass)), "scores": scores.tolist(),
        }  # fmt: skip
    return result


def spellings(tokenizer: Tokenizer, word: str) -> list[int]:
    found = [tokenizer.encode(space + spelled, add_special_tokens=False).ids
             for space in ("", " ") for spelled in (word, word.capitalize(), word.upper())]  # fmt: skip
    return sorted({ids[0] for ids in found if len(ids) == 1})


def parity(checkpoint: Path, prompts: list[list[int]], answers: list[list[int]], end: int) -> dict:
    """Compares the answers in float32 with transformers'."""
    import torch
    from transformers import AutoModelForImageTextToText

    model = AutoModelForImageTextToText.from_pretrained(checkpoint, dtype=torch.float32)
    same = 0
    for ids, answer in zip(prompts, answers):
        out = model.generate(input_ids=torch.tensor([ids]), max_new_tokens=ANSWER_TOKENS, do_sample=False)
        same += [token for token in out[0, len(ids) :].tolist() if token != end] == answer
    return {"same": same, "prompts": len(prompts)}


def table(cost: dict) -> str:
    """Returns the measurements as a table in Markdown, a column for each precision."""
    names = list(cost["bytes"])
    first = names[0]
    row = lambda title, cell: f"| {title} | " + " | ".join(cell(name) for name in names) + " |"
    against = lambda cell: lambda name: "" if name == first else cell(name)
    text, greedy, yes = cost["text"], cost["greedy"], cost["yes_no"]
    tokens, prompts, questions = text[first]["tokens"], greedy[first]["prompts"], yes[first]["questions"]
    differ = lambda name: "" if greedy[name]["same"] == prompts else f"{greedy[name]['common']:.0f} tokens"
    lines = [
        f"| | {' | '.join(names)} |",
        "|---|" + "--:|" * len(names),
        row("decoder", lambda n: f"{cost['bytes'][n]['decoder_model_merged'] / 1e6:.1f} MB"),
        row("embedding", lambda n: f"{cost['bytes'][n]['embed_tokens'] / 1e6:.1f} MB"),
        row(f"perplexity over {tokens:,} tokens", lambda n: f"{text[n]['perplexity']:.2f}"),
        row(f"divergence from {first}, nats a token", against(lambda n: f"{text[n]['divergence']:.4f}")),
        row(f"the same likeliest next token as {first}", against(lambda n: f"{100 * text[n]['same_word']:.1f} %")),
        row(f"greedy answers equal to {first}'s, of {prompts}", against(lambda n: str(greedy[n]["same"]))),
        row("the others differ after (median)", against(differ)),
        row(f"score of yes, {questions} questions: mean difference", against(lambda n: f"{yes[n]['mean_difference']:.4f}")),
        row("largest difference", against(lambda n: f"{yes[n]['largest_difference']:.4f}")),
        row("on the other side of 0.5", against(lambda n: str(yes[n]["changed"]))),
        row("right at 0.5", lambda n: str(yes[n]["right"])),
        row("true ones scored above false ones", lambda n: f"{100 * yes[n]['ordered']:.1f} %"),
        row("probability of all spellings of yes and no", lambda n: f"{100 * yes[n]['mass']:.1f} %"),
    ]  # fmt: skip
    return "\n".join(lines)
