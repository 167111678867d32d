"""Makes images for training: scenes by seed and single images, as the model sees them, with a label for each patch.

Each single image has a place and a light of its own. With a few hundred scenes alone, the tower would take trees and
gates of other places for people.
"""

import random
from pathlib import Path

import numpy as np
from PIL import Image

import render
import scenes
import video
from world import COLOURS, HEIGHT, KINDS, WIDTH, Scene

SIZE, GRID = 112, 8
FPS, SECONDS = 6, 64
FIRST_SEED, FIRST_SINGLE = 1_000_000, 2_000_000
# Single pictures in one file.
SINGLES = 200
# What a patch is not asked about: half in, half out.
UNSURE = 255

# Boxes of each kind at size 1, around the place where it stands: whole, and what has the colour.
WHOLE = {"person": (-8, -50, 8, 0), "car": (-33, -31, 33, 0), "dog": (-18, -25, 18, 0)}
COLOURED = {"person": (-7, -38, 7, -17), "car": (-33, -27, 33, -5)}


def make(number: int, folder: Path) -> Path:
    """Renders scene `number` once: SIZE×SIZE images [F, 112, 112, 3], and labels [F, 64] of three sorts."""
    file = folder / f"scene{number:04}.npz"
    if not file.exists():
        scene = scenes.scene(FIRST_SEED + number, SECONDS)
        labels = [label(scene, i / FPS) for i in range(FPS * SECONDS)]
        write(file, pixels(render.pictures(scene, FPS, number), number), labels)
    return file


def make_singles(number: int, folder: Path) -> Path:
    """Renders SINGLES images, each of another scene, in the form of `make`."""
    file = folder / f"singles{number:04}.npz"
    if not file.exists():
        r = random.Random(number)
        made = [single(FIRST_SINGLE + number * SINGLES + i, r) for i in range(SINGLES)]
        write(file, np.stack([picture for picture, _ in made]), [labels for _, labels in made])
    return file


def single(seed: int, r: random.Random) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Renders a random moment of a scene, preferably one at which somebody is there."""
    scene = scenes.scene(seed, 40)
    times = [r.uniform(1, 39) for _ in range(4)]
    t = next((t for t in times if any(v.at(t) for v in scene.visits)), times[0])
    shown = pixels(render.pictures(scene, FPS, seed, [t - 1 / FPS, t]), seed)
    return shown[-1], label(scene, t)


def write(file: Path, shown: np.ndarray, labels: list[dict]) -> None:
    new = file.with_suffix(".new.npz")
    np.savez(new, pixels=shown, **{k: np.stack([label[k] for label in labels]) for k in labels[0]})
    new.rename(file)


def pixels(shown, seed: int) -> np.ndarray:
    """Encodes and decodes images as a camera's codec does. Returns `[F, 112, 112, 3]`."""
    r = random.Random(seed)
    how = r.choices(["h264", "h265", "jpeg", "clean"], [0.6, 0.12, 0.1, 0.18])[0]
    if how in ("h264", "h265"):
        shown = video.through(shown, how, FPS, r.randint(20, 33))
    elif how == "jpeg":
        quality = r.randint(30, 90)
        shown = (video.jpeg(picture, quality) for picture in shown)
    return np.stack([np.asarray(picture.resize((SIZE, SIZE), Image.BICUBIC)) for picture in shown])


def label(scene: Scene, t: float) -> dict[str, np.ndarray]:
    """Labels each patch with its kind (1 to 3; 0 none), its colour (1 to 5), and the actor's centre, 0 to 250."""
    kind, colour, centre = (np.zeros(GRID * GRID, np.uint8) for _ in range(3))
    for visit in sorted(scene.visits, key=lambda v: v.y):
        place = visit.at(t)
        if place is None:
            continue
        x = place[0]
        share = covered(WHOLE[visit.kind], x, visit)
        kind[share > 0.03] = UNSURE
        kind[share > 0.12] = KINDS.index(visit.kind) + 1
        centre[share > 0.12] = np.clip((x + 40) / (WIDTH + 80) * 250, 0, 250)
        colour[share > 0.3] = 0
        if visit.colour:
            share = covered(COLOURED[visit.kind], x, visit)
            colour[share > 0.03] = UNSURE
            colour[share > 0.12] = COLOURS.index(visit.colour) + 1
    return {"kind": kind, "colour": colour, "centre": centre}


def covered(box: tuple, x: float, visit) -> np.ndarray:
    """Returns the share of each patch that the box covers, [64]."""

    def along(low, high, length):
        edges = np.arange(GRID + 1) * length / GRID
        return np.clip(np.minimum(high, edges[1:]) - np.maximum(low, edges[:-1]), 0, None) / (length / GRID)

    left, top, right, bottom = (v * visit.size for v in box)
    return np.outer(along(visit.y + top, visit.y + bottom, HEIGHT), along(x + left, x + right, WIDTH)).ravel()
