"""Asks the demo package about windows of the demo cameras' clips and counts right answers.

    python models/demo/evaluate.py [--package DIR] [--cameras DIR] [--dense] [--verbose]

Windows are 8 s long and cut every second (--dense: every eighth of a second); frames are decoded from the clips, 2 a second. An actor
which is visible for at least a second of the window must be named, one which is never visible
must not be; what lies between is not judged. This is a second, independent implementation of what
the daemon does; it needs onnxruntime and no torch.
"""

import argparse
import json
import re
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np
from PIL import Image
from tokenizers import Tokenizer

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "export"))
from runtime import Decoder, graph_file, session  # noqa: E402

WINDOW, SAMPLE_FPS = 8, 2
SLOW_FRAMES, FAST_SIDE = 4, 2
MUST_BE_SEEN = 1.0


class Package:
    """The demo model: pictures to tokens, tokens and a question to an answer."""

    def __init__(self, folder: Path):
        config = json.loads((folder / "config.json").read_text())
        pictures = json.loads((folder / "preprocessor_config.json").read_text())
        text = config["text_config"]
        self.size = (pictures["size"]["width"], pictures["size"]["height"])
        self.mean, self.std = (np.array(pictures[k], np.float32) for k in ("image_mean", "image_std"))
        self.side = config["vision_config"]["image_size"] // config["vision_config"]["patch_size"]
        self.bos, self.eos = text["bos_token_id"], text["eos_token_id"]
        self.tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self.vision = session(graph_file(folder, "vision_encoder"))
        self.embed = session(graph_file(folder, "embed_tokens"))
        decoder = graph_file(folder, "decoder_model_merged")
        self.decoder = Decoder(decoder, text["num_key_value_heads"], text["head_dim"])

    def look(self, picture: Image.Image) -> np.ndarray:
        """`[N, D]`: the picture squashed to the model's size, encoded and projected."""
        pixels = np.asarray(picture.resize(self.size, Image.BICUBIC), np.float32) / 255
        pixels = ((pixels - self.mean) / self.std).transpose(2, 0, 1)[None]
        return self.vision.run(None, {"pixel_values": pixels})[0][0]

    def slow_fast(self, frames: np.ndarray) -> np.ndarray:
        """`[T, N, D]` to `[S*N/2 + T*4, D]`: few frames with many tokens, then all frames with few."""
        t, n, d = frames.shape
        slow = frames[np.linspace(0, t, SLOW_FRAMES + 1)[:-1].astype(int)]
        slow = slow.reshape(-1, 2, d).max(1)
        step = self.side // FAST_SIDE
        fast = frames.reshape(t, FAST_SIDE, step, FAST_SIDE, step, d).mean((2, 4)).reshape(-1, d)
        return np.concatenate([slow, fast])

    def words(self, ids: list[int]) -> np.ndarray:
        return self.embed.run(None, {"input_ids": np.array([ids], np.int64)})[0]

    def ids(self, text: str) -> list[int]:
        return self.tokenizer.encode(text, add_special_tokens=False).ids

    def ask(self, frames: np.ndarray, questions: list[str]) -> list[str]:
        """One prefill of the window, then each question on a copy of its cache."""
        self.decoder.reset()
        video = self.slow_fast(frames).astype(np.float32)[None]
        self.decoder(np.concatenate([self.words([self.bos] + self.ids("USER: ")), video], axis=1))
        prefix, answers = dict(self.decoder.cache), []
        for question in questions:
            self.decoder.cache = dict(prefix)
            answers.append(self.answer(self.ids(f"\n{question} ASSISTANT:")))
        return answers

    def answer(self, prompt: list[int], limit: int = 48) -> str:
        ids = []
        logits = self.decoder(self.words(prompt))
        while len(ids) < limit and (token := int(logits.argmax())) != self.eos:
            ids.append(token)
            logits = self.decoder(self.words([token]))
        return self.tokenizer.decode(ids).strip()


@dataclass
class Window:
    """What a window of a clip holds: seconds of visibility of each (type, colour)."""

    start: float
    seconds: dict

    @property
    def must(self) -> set:
        return {actor for actor, seconds in self.seconds.items() if seconds >= MUST_BE_SEEN}

    @property
    def may(self) -> set:
        return {actor for actor, seconds in self.seconds.items() if seconds > 0}


def windows(sidecar: dict, across_scenes: bool, every: float) -> list[Window]:
    out = []
    scenes = sidecar["scenes"]
    for start in np.arange(0, sidecar["period_seconds"] - WINDOW + every, every).tolist():
        inside = any(s["from"] <= start and start + WINDOW <= s["to"] for s in scenes)
        if inside == across_scenes:
            continue
        seconds = Counter()
        for a in (a for s in scenes for a in s["actors"]):
            overlap = min(a["visible"][1], start + WINDOW) - max(a["visible"][0], start)
            seconds[a["type"], a["colour"]] += max(0.0, overlap)
        out.append(Window(start, seconds))
    return out


def named(caption: str) -> set:
    """The (type, colour) pairs which a caption names."""
    found = {("person", c) for c in re.findall(r"\bperson in a (\w+) jacket", caption)}
    found |= {("car", c) for c in re.findall(r"\ba (\w+) car\b", caption.lower())}
    return found | ({("dog", None)} if "dog" in caption else set())


def caption_is_right(window: Window, caption: str) -> bool:
    return window.must <= named(caption) <= window.may


def person_is_right(window: Window, answer: str) -> bool | None:
    """None where a person was in the picture too briefly to judge."""
    if any(kind == "person" for kind, _ in window.must):
        return answer == "Yes."
    return None if any(kind == "person" for kind, _ in window.may) else answer == "No."


def colour_is_right(window: Window, answer: str) -> bool | None:
    """Judged where there is no car at all, or one car for long enough."""
    must, may = ({c for kind, c in cars if kind == "car"} for cars in (window.must, window.may))
    if not may:
        return answer == "There is no car."
    return answer == f"{must.pop().capitalize()}." if len(may) == len(must) == 1 else None


QUESTIONS = {
    "What is happening?": caption_is_right,
    "Is there a person?": person_is_right,
    "What colour is the car?": colour_is_right,
}


def evaluate(package: Package, clip: Path, across_scenes: bool, dense: bool, verbose: bool) -> dict[str, list[bool]]:
    sidecar = json.loads(clip.with_suffix(".json").read_text())
    # Frames a second that are encoded; a window takes every rate/2-th of them from its start on.
    rate, every = (8, 1 / 8) if dense else (SAMPLE_FPS, 1)
    tokens = [package.look(picture) for picture in sampled(clip, sidecar["fps"] // rate)]
    results = {question: [] for question in QUESTIONS}
    for window in windows(sidecar, across_scenes, every):
        first, last = round(window.start * rate), round((window.start + WINDOW) * rate)
        answers = package.ask(np.stack(tokens[first : last : rate // SAMPLE_FPS]), list(QUESTIONS))
        for (question, judge), answer in zip(QUESTIONS.items(), answers):
            right = judge(window, answer)
            if right is not None:
                results[question].append(right)
            if verbose and right is False:
                seen = ", ".join(f"{c or ''} {k} {s:.1f} s".strip() for (k, c), s in window.seconds.items() if s)
                print(f"  {clip.stem} {window.start:g}-{window.start + WINDOW:g} s [{seen}] {question} {answer}")
    return results


def sampled(clip: Path, step: int):
    with av.open(str(clip)) as file:
        for number, frame in enumerate(file.decode(video=0)):
            if number % step == 0:
                yield frame.to_image()


def table(package: Package, clips: list[Path], across_scenes: bool, dense: bool, verbose: bool) -> float:
    """Prints right answers over judged windows; the share of right captions."""
    print(f"{'':10}" + "".join(f"{q:>26}" for q in QUESTIONS))
    total = {question: [] for question in QUESTIONS}
    for clip in clips:
        results = evaluate(package, clip, across_scenes, dense, verbose)
        print(row(clip.stem, results), flush=True)
        for question, rights in results.items():
            total[question] += rights
    print(row("all", total))
    return float(np.mean(total["What is happening?"]))


def row(name: str, results: dict) -> str:
    cells = [f"{sum(r)}/{len(r)} = {100 * np.mean(r):.1f} %" for r in results.values()]
    return f"{name:10}" + "".join(f"{c:>26}" for c in cells)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--package", type=Path, default=HERE / "package")
    parser.add_argument("--cameras", type=Path, default=HERE / "cameras")
    parser.add_argument("--dense", action="store_true", help="a window every eighth of a second")
    parser.add_argument("--verbose", action="store_true", help="print every wrong answer")
    args = parser.parse_args()
    package = Package(args.package)
    clips = sorted(p.with_suffix(".mp4") for p in args.cameras.glob("*.json"))
    print("windows inside one scene")
    share = table(package, clips, False, args.dense, args.verbose)
    print("windows across a change of scene")
    table(package, clips, True, args.dense, args.verbose)
    return 0 if share >= 0.85 else 1


if __name__ == "__main__":
    sys.exit(main())
