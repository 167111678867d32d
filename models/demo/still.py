"""Measures the change of windows with and without an event, to choose `camera.unchanged_threshold`.

    python models/demo/still.py [--package DIR] [--clips DIR] [--footage FILE]

As daemon/engine/caption/change.rs: 8 s at two frames a second, each window beside the one that begins 4 s before it; the largest
squared distance of a fast token from the same of the first frame, in mean squares of that frame's tokens. In the
footage something moves all the time.
"""

import argparse
from pathlib import Path

import av
import numpy as np

from evaluate import FAST_COLUMNS, FAST_ROWS, HERE, Clip, Package

FPS, WINDOW, EVERY, LIMITS = 2, 8, 4, (0.25, 0.5, 0.75, 1.0, 1.25)


def fast(package: Package, grid: np.ndarray) -> np.ndarray:
    rows, columns = package.side // FAST_ROWS, package.side // FAST_COLUMNS
    return grid.reshape(FAST_ROWS, rows, FAST_COLUMNS, columns, -1).mean((1, 3)).reshape(FAST_ROWS * FAST_COLUMNS, -1)


def change(frames: np.ndarray) -> float:
    first = frames[0]
    return float((((frames - first) ** 2).sum(-1) / (first**2).sum(-1).mean()).max())


def changes(frames: np.ndarray):
    """Returns begin, end and change of each window compared with the one before it."""
    for start in range(0, len(frames) - (WINDOW + EVERY) * FPS + 1, 2 * FPS):
        yield start / FPS, start / FPS + WINDOW + EVERY, change(frames[start : start + (WINDOW + EVERY) * FPS])


def moving(clip: Clip, start: float, end: float) -> float | None:
    """Returns the seconds of motion, or None if somebody is half in the image or just outside it."""
    near = [a for a in clip.actors if a.seen[0] - 1.5 < end and a.seen[1] + 1.5 > start]
    seconds = sum(max(0.0, min(b, end) - max(a, start)) for actor in near for a, b, _ in actor.moves)
    whole = all(a.seen[0] <= start and a.seen[1] >= end for a in near)
    return seconds if seconds >= 1 or (seconds == 0 and whole) else None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--package", type=Path, default=HERE / "package")
    parser.add_argument("--clips", type=Path, default=HERE.parents[1] / "target/held-out")
    parser.add_argument("--footage", type=Path, default=HERE.parents[1] / "target/footage/vtest.avi")
    args = parser.parse_args()
    package = Package(args.package)
    still, busy = [], []
    for path in sorted(args.clips.glob("*.json")):
        clip = Clip(path.with_suffix(".mp4"), package)
        times = np.arange(0.5 / FPS, clip.sidecar["seconds"], 1 / FPS)
        frames = np.stack([fast(package, clip.frame(t)) for t in times])
        for start, end, found in changes(frames):
            seconds = moving(clip, start, end)
            if seconds is not None:
                (busy if seconds else still).append(found)
    with av.open(str(args.footage)) as video:
        rate = round(float(video.streams.video[0].average_rate) / FPS)
        pictures = [f.to_image() for n, f in enumerate(video.decode(video=0)) if n % rate == 0]
    footage = [found for _, _, found in changes(np.stack([fast(package, package.look(p)) for p in pictures]))]
    print(f"nothing happens: {len(still)} windows, at most {max(still):.2f}")
    print(
        f"something does: {len(busy)} windows, at least {min(busy):.2f}; footage: {len(footage)}, at least {min(footage):.2f}"
    )
    for limit in LIMITS:
        wrong = [
            np.mean(np.array(still) > limit),
            np.mean(np.array(busy) <= limit),
            np.mean(np.array(footage) <= limit),
        ]
        print(
            f"limit {limit}: described in vain {wrong[0]:.1%}, not described {wrong[1]:.1%}, of the footage {wrong[2]:.1%}"
        )


if __name__ == "__main__":
    main()
