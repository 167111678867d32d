"""Asks the demo package about windows of held-out clips, cut anywhere, and counts what is right.

    python models/demo/evaluate.py [--package DIR] [--clips DIR] [--windows N] [--rough] [--any] [--verbose]

Eight seconds at two frames a second; with --any six to ten seconds at 1.5 to 2.5; with --rough 20 % of the frames
are lost and each is up to 0.3 s late or early. This is a second, independent implementation of what the daemon does;
it needs onnxruntime and no torch. `make demo-score` is the same through the whole daemon.
"""

import argparse
import itertools
import json
import random
import sys
from collections import Counter
from pathlib import Path

import numpy as np
from PIL import Image
from tokenizers import Tokenizer

import truth
import video

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "export"))
from runtime import Decoder, graph_file, session

FRAMES, SLOW_FRAMES, FAST_ROWS, FAST_COLUMNS = 16, 4, 2, 4


class Package:
    """Runs the demo model: images to tokens, tokens and a question to an answer."""

    def __init__(self, folder: Path):
        config = json.loads((folder / "config.json").read_text())
        pictures = json.loads((folder / "preprocessor_config.json").read_text())
        words, seen = config["text_config"], config["vision_config"]
        self.size = (pictures["size"]["width"], pictures["size"]["height"])
        self.mean, self.std = (np.array(pictures[k], np.float32) for k in ("image_mean", "image_std"))
        self.side = seen["image_size"] // seen["patch_size"]
        self.bos, self.eos = words["bos_token_id"], words["eos_token_id"]
        self.tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self.vision = session(graph_file(folder, "vision_encoder"))
        self.embed = session(graph_file(folder, "embed_tokens"))
        heads = words["num_attention_heads"]
        width = words.get("head_dim") or words["hidden_size"] // heads
        self.decoder = Decoder(graph_file(folder, "decoder_model_merged"), words["num_key_value_heads"], width)

    def look(self, picture: Image.Image) -> np.ndarray:
        """Returns `[N, D]`: the image stretched to the model's size, encoded and projected."""
        pixels = np.asarray(picture.resize(self.size, Image.BICUBIC), np.float32) / 255
        pixels = ((pixels - self.mean) / self.std).transpose(2, 0, 1)[None]
        return self.vision.run(None, {"pixel_values": pixels})[0][0]

    def slow_fast(self, frames: np.ndarray) -> np.ndarray:
        """Converts `[T, N, D]` to `[S*N/2 + T*8, D]`: few frames with many tokens, then all frames with few."""
        t, _n, d = frames.shape
        slow = frames[np.linspace(0, t, SLOW_FRAMES + 1)[:-1].astype(int)]
        rows, columns = self.side // FAST_ROWS, self.side // FAST_COLUMNS
        fast = frames.reshape(t, FAST_ROWS, rows, FAST_COLUMNS, columns, d).mean((2, 4))
        return np.concatenate([slow.reshape(-1, 2, d).max(1), fast.reshape(-1, d)])

    def words(self, ids: list[int]) -> np.ndarray:
        return self.embed.run(None, {"input_ids": np.array([ids], np.int64)})[0]

    def ids(self, text: str) -> list[int]:
        return self.tokenizer.encode(text, add_special_tokens=False).ids

    def ask(self, frames: np.ndarray, questions: list[str]) -> list[str]:
        """Reads the window once, then answers each question on a copy of its cache."""
        self.decoder.reset()
        tokens = self.slow_fast(frames).astype(np.float32)[None]
        self.decoder(np.concatenate([self.words([self.bos, *self.ids("USER: ")]), tokens], axis=1))
        prefix, answers = dict(self.decoder.cache), []
        for question in questions:
            self.decoder.cache = dict(prefix)
            answers.append(self.answer(self.ids(f"\n{question} ASSISTANT:")))
        return answers

    def answer(self, prompt: list[int], limit: int = 64) -> str:
        ids = []
        logits = self.decoder(self.words(prompt))
        while len(ids) < limit and (token := int(logits.argmax())) != self.eos:
            ids.append(token)
            logits = self.decoder(self.words([token]))
        return self.tokenizer.decode(ids).strip()


class Clip:
    """A held-out clip: its truth and its frames. Each frame is encoded once."""

    def __init__(self, path: Path, package: Package):
        self.name, self.package = path.stem, package
        self.sidecar = json.loads(path.with_suffix(".json").read_text())
        self.actors = truth.actors_of(self.sidecar)
        self.pictures = list(video.decode(str(path)))
        self.seen: dict[int, np.ndarray] = {}

    def frame(self, t: float) -> np.ndarray:
        number = min(max(round(t * self.sidecar["fps"]), 0), len(self.pictures) - 1)
        if number not in self.seen:
            self.seen[number] = self.package.look(self.pictures[number])
        return self.seen[number]


def cut(clip: Clip, r: random.Random, life: random.Random, args) -> tuple[truth.Window, np.ndarray, float, float]:
    length, fps = (r.uniform(6, 10), r.uniform(1.5, 2.5)) if args.any else (8.0, 2.0)
    start = r.uniform(0, clip.sidecar["seconds"] - length)
    times = list(np.arange(start + r.random() / fps, start + length, 1 / fps))
    if args.rough:
        kept = [t for t in times if life.random() >= 0.2]
        # By time of capture, as the daemon has them.
        times = sorted(t + life.uniform(-0.3, 0.3) for t in kept)
    if len(times) > FRAMES:
        border = np.round((len(times) - 1) / FRAMES * np.arange(FRAMES + 1)).astype(int)
        times = [times[(a + b) // 2] for a, b in itertools.pairwise(border)]
    frames = np.stack([clip.frame(t) for t in times])
    return truth.Window.of(clip.actors, start, start + length), frames, start, start + length


def questions_of(r: random.Random) -> list[tuple[truth.Question, str, str]]:
    """Returns one question of each sort, in wordings of training and in others, and the daemon's caption prompt."""
    asked = [(truth.Question("happening"), "What is happening?", "captions")]
    wordings = truth.questions()
    for about in wordings:
        for source, name in (("trained", "answers"), ("held_out", "other words")):
            question = r.choice(truth.asks(about))
            asked.append((question, truth.worded(question, r.choice(wordings[about][source])), name))
    return asked


def table(counts: Counter) -> str:
    sources = ["captions", "answers", "other words"]
    rows = [f"| {'of windows':13} | right | wrong | not judged |   share | captions | answers | other words |"]
    rows.append("|---------------|------:|------:|-----------:|--------:|---------:|--------:|------------:|")
    for subject in truth.SUBJECTS:
        right, wrong, unjudged = (sum(counts[subject, s, v] for s in sources) for v in (True, False, None))
        share = lambda r, w: f"{100 * r / (r + w):.1f} %" if r + w else "–"
        cells = [share(counts[subject, s, True], counts[subject, s, False]) for s in sources]
        name = "whole caption" if subject == "caption" else subject
        rows.append(f"| {name:13} | {right:5} | {wrong:5} | {unjudged:10} | {share(right, wrong):>7} "
                    f"| {cells[0]:>8} | {cells[1]:>7} | {cells[2]:>11} |")  # fmt: skip
    return "\n".join(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--package", type=Path, default=HERE / "package")
    parser.add_argument("--clips", type=Path, default=HERE.parents[1] / "target/held-out")
    parser.add_argument("--windows", type=int, default=300)
    parser.add_argument("--rough", action="store_true", help="frames are lost, late and early")
    parser.add_argument("--any", action="store_true", help="other lengths and rates of frames")
    parser.add_argument("--verbose", action="store_true", help="print every wrong answer")
    args = parser.parse_args()
    package = Package(args.package)
    clips = [Clip(p.with_suffix(".mp4"), package) for p in sorted(args.clips.glob("*.json"))]
    # What happens to frames is drawn apart, so that windows and questions are the same with --rough.
    r, life, counts = random.Random(11), random.Random(12), Counter()
    for _ in range(args.windows):
        clip = r.choice(clips)
        window, frames, start, end = cut(clip, r, life, args)
        asked = questions_of(r)
        for (question, text, source), said in zip(asked, package.ask(frames, [a[1] for a in asked])):
            verdicts = truth.judge_answer(window, question, said)
            for subject, verdict in verdicts.items():
                counts[subject, source, verdict] += 1
            if args.verbose and (wrong := [s for s, v in verdicts.items() if v is False]):
                print(f"{clip.name} {start:.1f}-{end:.1f} {', '.join(wrong)}: {text} -> {said}  {window.parts}")
    print(f"{args.windows} windows")
    print(table(counts))


if __name__ == "__main__":
    main()
