"""Counts how many alerts of six rules are right, on scenes that were never used before.

    python models/demo/rules_score.py [--lookout FILE] [--clips DIR] [--seconds N] [--text N] [--svg FILE]

Runs the whole daemon with the clips as RTSP cameras. Once its buffer holds N seconds of every camera, each rule is
tried on each camera with `lookout rule try --against`, and the counts are added up. Every `--text`-th window is also
asked about in words, to count how often an answer that begins with "yes" is right.

A clip's sidecar says from when to when each actor is visible, and moves. A window is true for a rule if that holds for
at least a second of it, false if it holds at no moment, and not judged in between.
"""

import argparse
import json
import subprocess
import tempfile
import time
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path

HERE = Path(__file__).resolve().parent
LEAST_SECONDS = 1.0
BINS = 10


def of(kind, colour=None):
    return lambda actor: [actor] if actor["kind"] == kind and colour in (None, actor.get("colour")) else []


# Each question, with the spans of an actor in which the answer is yes.
RULES = [
    ("Is there a person?", of("person")),
    ("Is there a car?", of("car")),
    ("Is there a dog?", of("dog")),
    ("Is there a red car?", of("car", "red")),
    ("Is there a person in a blue jacket?", of("person", "blue")),
    ("Is anything moving?", lambda actor: actor["moves"]),
]


def utc(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


def seconds(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()


def true_spans(sidecar: dict, spans_of, start: float, end: float) -> list[tuple[float, float]]:
    """Returns the spans from `start` to `end`, in seconds since 1970, in which the answer is yes, merged."""
    length = sidecar["seconds"]
    rounds = range(int(start // length) - 1, int(end // length) + 1)
    spans = sorted(
        (turn * length + span["from"], turn * length + span["to"])
        for turn in rounds
        for actor in sidecar["actors"]
        for span in spans_of(actor)
    )
    merged: list[tuple[float, float]] = []
    for begin, stop in spans:
        begin, stop = max(begin, start), min(stop, end)
        if begin >= stop:
            continue
        if merged and begin <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(stop, merged[-1][1]))
        else:
            merged.append((begin, stop))
    return merged


def labels(camera: str, spans, start: float, end: float) -> dict:
    """Returns the labels of a camera: true in the spans, false in between."""
    edges = [start, *(edge for span in spans for edge in span), end]
    parts = [(begin, stop, number % 2 == 1) for number, (begin, stop) in enumerate(pairwise(edges))]
    return {
        "least_seconds": LEAST_SECONDS,
        "labels": [
            {"camera": camera, "from": utc(begin), "to": utc(stop), "value": value}
            for begin, stop, value in parts
            if begin < stop
        ],
    }


def truth(spans, begin: float, end: float) -> bool | None:
    inside = sum(max(0.0, min(stop, end) - max(start, begin)) for start, stop in spans)
    return True if inside >= LEAST_SECONDS else False if inside == 0 else None


class Counts:
    """Right, wrong and missed decisions."""

    def __init__(self):
        self.right = self.wrong = self.missed = 0

    def add(self, counts: dict) -> None:
        self.right += counts["right"]
        self.wrong += counts["wrong"]
        self.missed += counts["missed"]

    def judge(self, said: bool, wanted: bool) -> None:
        self.right += said and wanted
        self.wrong += said and not wanted
        self.missed += wanted and not said

    def rates(self) -> str:
        share = lambda rest: f"{self.right / (self.right + rest):.3f}" if self.right + rest else "–"
        return f"{share(self.wrong)} | {share(self.missed)}"


def diagram(bins: list[list[float]]) -> str:
    """Draws the reliability diagram. A bin has the number of windows, and the sums of scores and of true ones."""
    size, margin = 320, 40
    place = lambda score, share: (margin + score * size, margin + (1 - share) * size)
    whole = size + 2 * margin
    svg = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {whole} {whole}" font-family="sans-serif" font-size="11">',
        f'<rect width="{whole}" height="{whole}" fill="white"/>',
        f'<rect x="{margin}" y="{margin}" width="{size}" height="{size}" fill="none" stroke="black"/>',
        f'<path d="M{margin} {margin + size}L{margin + size} {margin}" stroke="#888888" stroke-dasharray="4 3"/>',
        f'<text x="{margin}" y="{whole - 12}">mean score of the windows in a bin: 0 to 1</text>',
        f'<text x="{margin}" y="24">share of them that are true: 0 to 1</text>',
    ]
    for count, score_sum, true_sum in bins:
        if count:
            x, y = place(score_sum / count, true_sum / count)
            svg.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4" fill="#1f77b4"/>')
            svg.append(f'<text x="{x + 6:.1f}" y="{y + 4:.1f}">{count:.0f}</text>')
    return "\n".join([*svg, "</svg>", ""])


class Daemon:
    """The demo, with the clips of a folder as cameras."""

    def __init__(self, lookout: Path, clips: Path, port: int):
        self.lookout, self.server = lookout, f"127.0.0.1:{port}"
        command = [lookout, "demo", "--json", "--clips", clips, "--port", str(port)]
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL)

    def client(self, *arguments: str) -> list[dict]:
        command = [self.lookout, *arguments, "--json", "--server", self.server]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(done.stderr.strip())
        return [json.loads(line) for line in done.stdout.splitlines()]

    def fill(self, cameras: list[str], length: float) -> tuple[float, float]:
        """Waits until the buffer holds `length` seconds of every camera. Returns the common span."""
        while True:
            time.sleep(1)
            if self.process.poll() is not None:
                raise RuntimeError("the demo ended")
            try:
                listed = {camera["name"]: camera for camera in self.client("cameras")}
            except RuntimeError:
                continue
            oldest = [listed[name]["oldest_frame_at"] for name in cameras if listed[name]["oldest_frame_at"]]
            if len(oldest) == len(cameras):
                start = max(map(seconds, oldest))
                if time.time() > start + length + 2:
                    return start, start + length

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    repository = HERE.parent.parent
    parser.add_argument("--lookout", type=Path, default=repository / "target/debug/lookout")
    parser.add_argument("--clips", type=Path, default=repository / "target/held-out")
    parser.add_argument("--seconds", type=float, default=200)
    parser.add_argument("--text", type=int, default=4, metavar="N", help="ask in words about every Nth window; 0: none")
    parser.add_argument("--svg", type=Path, help="file for the reliability diagram")
    parser.add_argument("--port", type=int, default=50061)
    args = parser.parse_args()
    sidecars = {path.stem: json.loads(path.read_text()) for path in sorted(args.clips.glob("*.json"))}
    daemon = Daemon(args.lookout, args.clips, args.port)
    try:
        score(daemon, sidecars, args)
    finally:
        daemon.stop()


def score(daemon: Daemon, sidecars: dict, args) -> None:
    start, end = daemon.fill(list(sidecars), args.seconds)
    hours = len(sidecars) * (end - start) / 3600
    between = ["--from", utc(start), "--to", utc(end)]
    bins = [[0.0, 0.0, 0.0] for _ in range(BINS)]
    all_windows, all_alerts, all_text = Counts(), Counts(), Counts()
    scored = unknown = 0
    print(
        "| rule | windows: precision | recall | alerts: right | wrong | missed | precision | recall | text: precision | recall |"
    )
    print("|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|")
    for question, spans_of in RULES:
        of_windows, of_alerts, of_text = Counts(), Counts(), Counts()
        for camera, sidecar in sidecars.items():
            spans = true_spans(sidecar, spans_of, start, end)
            with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
                json.dump(labels(camera, spans, start, end), file)
                file.flush()
                rule = ["--question", question, "--camera", camera, "--cooldown", "0s", "--against", file.name]
                items = daemon.client("rule", "try", *rule, *between)
            kinds = {item["kind"]: item for item in items}
            found, summary = kinds["trial_evaluation"], kinds["trial_summary"]
            scored += summary["scored"]
            unknown += sum(summary["unknown"].values())
            for total in (of_windows, all_windows):
                total.add(found["windows"])
            for total in (of_alerts, all_alerts):
                total.add(found["alerts"])
            for entry in found["reliability"]:
                total = bins[round(entry["from"] * BINS)]
                total[0] += entry["windows"]
                total[1] += entry["windows"] * entry["mean_score"]
                total[2] += entry["windows"] * entry["share_true"]
            tried = [item["window"] for item in items if item["kind"] == "tried_window"]
            for window in tried[:: args.text] if args.text else []:
                wanted = truth(spans, seconds(window["from"]), seconds(window["to"]))
                if wanted is None:
                    continue
                [answer] = daemon.client("ask", camera, question, "--from", window["from"], "--to", window["to"])
                for total in (of_text, all_text):
                    total.judge(answer["text"].lower().startswith("yes"), wanted)
        row(question, of_windows, of_alerts, of_text)
    row("all", all_windows, all_alerts, all_text)
    count = sum(total[0] for total in bins)
    error = sum(abs(total[1] - total[2]) for total in bins) / max(count, 1)
    print(f"\n{len(sidecars)} scenes, {hours:.2f} camera-hours, {scored} windows scored, {unknown} unknown")
    print(f"false alerts per camera-hour and rule: {all_alerts.wrong / (hours * len(RULES)):.3f}")
    print(f"expected calibration error: {error:.4f}, of {count:.0f} windows")
    if args.svg:
        args.svg.write_text(diagram(bins))


def row(name: str, windows: Counts, alerts: Counts, text: Counts) -> None:
    of_alerts = f"{alerts.right} | {alerts.wrong} | {alerts.missed} | {alerts.rates()}"
    print(f"| {name} | {windows.rates()} | {of_alerts} | {text.rates()} |", flush=True)


if __name__ == "__main__":
    main()
