"""Cuts windows out of the encoded scenes, with their truth. The language model learns from them.

A window has any start, six to ten seconds, and 1.5 to 2.5 frames per second. Frames come late, early, twice or not at
all. A window may be mirrored or reversed; its truth is changed accordingly.
"""

import random
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

import frames
import model
import scenes
import truth
import words
from world import COLOURS, KINDS, RIGHT, WIDTH

BINS = 12
# What is told of each frame beside the words: how many of each kind (0, 1, 2), how they move, their colour.
PER_KIND = 3 + 4 + 6


@dataclass
class Recorded:
    """One scene: its encoded frames, plain and mirrored, and what is true of it."""

    features: list[np.ndarray]
    actors: list[truth.Actor]
    # [F, kind, 3]: how many; none, still, left, right; colour.
    states: np.ndarray
    # [F, kind, BINS]: in which column somebody is centred.
    places: np.ndarray

    @staticmethod
    def load(number: int, folder: Path) -> "Recorded":
        scene = scenes.scene(frames.FIRST_SEED + number, frames.SECONDS)
        count = frames.SECONDS * frames.FPS
        states = np.zeros((count, len(KINDS), 3), np.int64)
        places = np.zeros((count, len(KINDS), BINS), np.float32)
        for visit in scene.visits:
            kind = KINDS.index(visit.kind)
            for i in range(count):
                place = visit.at(i / frames.FPS)
                if place is None:
                    continue
                x, way = place
                places[i, kind, int(np.clip((x + 40) / (WIDTH + 80) * BINS, 0, BINS - 1))] = 1
                if visit.is_visible(x):
                    states[i, kind, 0] = min(2, states[i, kind, 0] + 1)
                    states[i, kind, 1] = 1 if way is None else 3 if way == RIGHT else 2
                    states[i, kind, 2] = COLOURS.index(visit.colour) + 1 if visit.colour else 0
        load = lambda kind: np.load(folder / f"scene{number:04}.{kind}.npy", mmap_mode="r")
        actors = truth.actors_of(scenes.sidecar(scene, "", frames.FPS))
        return Recorded([load("plain"), load("mirrored")], actors, states, places)


@dataclass
class Cut:
    """A window as the model sees it, and its truth."""

    features: torch.Tensor  # [T, 64, TOWER]
    states: torch.Tensor
    places: torch.Tensor
    window: truth.Window


def cut(scene: Recorded, r: random.Random, crisp: float = 0.7, usual: float = 0.5, rough: float = 0.65) -> Cut:
    """`crisp`: how often a window with something doubtful is left out; `usual`: 8 s at 2 fps;
    `rough`: how often frames come as they do in life."""
    for _ in range(6):
        plain = r.random() < usual
        length = 8.0 if plain else r.uniform(6, 10)
        fps = 2.0 if plain else r.uniform(1.5, 2.5)
        start = r.uniform(0, frames.SECONDS - length)
        window = truth.Window.of(scene.actors, start, start + length)
        # One after the other, or two at once, is what needs most practice.
        dull = len(window.parts) < 2 and r.random() < 0.65
        if not dull and not (window.doubtful and r.random() < crisp):
            break
    times = [start + r.random() * 0.999 / fps]
    while times[-1] + 1 / fps < start + length:
        times.append(times[-1] + 1 / fps)
    if r.random() < rough:
        times = roughly(times, r)
    shown = [min(max(round(times[i] * frames.FPS), 0), len(scene.states) - 1) for i in model.pick(len(times))]
    mirrored, backwards = r.random() < 0.5, r.random() < 0.4
    states, places = scene.states[shown].copy(), scene.places[shown].copy()
    if mirrored:
        places = places[..., ::-1].copy()
    if backwards:
        shown, states, places = shown[::-1], states[::-1].copy(), places[::-1].copy()
    if mirrored != backwards:
        way = states[..., 1]
        states[..., 1] = np.where(way == 2, 3, np.where(way == 3, 2, way))
    seen = torch.from_numpy(scene.features[mirrored][shown]).float()
    window = turned(scene.actors, start, start + length, mirrored, backwards)
    return Cut(seen, torch.from_numpy(states), torch.from_numpy(places), window)


def roughly(times: list[float], r: random.Random) -> list[float]:
    """Loses up to a quarter of the frames, moves them by up to 0.35 s and repeats some, in the order of capture."""
    lost, late, twice = r.uniform(0, 0.25), r.uniform(0, 0.35), r.choice([0, 0, 0.1])
    kept = [t for t in times if r.random() >= lost]
    times = sorted(t + r.uniform(-late, late) for t in (kept if len(kept) >= 4 else times))
    return [times[i - 1] if i and r.random() < twice else t for i, t in enumerate(times)]


def turned(actors, start: float, end: float, mirrored: bool, backwards: bool) -> truth.Window:
    """Returns the truth of a mirrored or reversed window."""

    def turn(t: float) -> float:
        return start + end - t if backwards else t

    def actor(a: truth.Actor) -> truth.Actor:
        other = mirrored != backwards
        moves = [(*sorted((turn(f), turn(t))), truth.OTHER_WAY[way] if other else way) for f, t, way in a.moves]
        return truth.Actor(a.kind, a.colour, tuple(sorted(map(turn, a.seen))), tuple(moves))

    return truth.Window.of([actor(a) for a in actors], start, end)


def texts(count: int) -> list[str]:
    """Returns the texts of training and some English, from which the tokenizer learns its tokens."""
    r = random.Random(1)
    said = []
    for number in range(count):
        actors = truth.actors_of(scenes.sidecar(scenes.scene(number, 60), "", 1))
        for _ in range(8):
            start = r.uniform(0, 50)
            for _, question, answer in words.lesson(truth.Window.of(actors, start, start + 8), r):
                said.append(f"USER: \n{question} ASSISTANT: {answer}")
    english = ("Please describe the scene in one sentence. Tell me if someone is at the gate or near the tree. When did "
               "the car arrive? Where is the dog now? Has the person left? Alert me if anyone enters the yard.")  # fmt: skip
    return said + [english] * 40
