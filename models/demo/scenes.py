"""Schedules who comes when: endless scenes by seed, for training, for the held-out score and for the demo's cameras.

In any ten seconds at most two actors are in the image, at most one of them a car and one a dog; two of a
kind that come within ten seconds differ in colour. Who stops, stands for at least eleven seconds, so that
no window sees somebody come and go again. Everything follows from the seed.
"""

import random
from dataclasses import dataclass

from world import COLOURS, HEIGHT, LEFT, RIGHT, WIDTH, Light, Looks, Scene, Visit

# The longest window that the truth is made for, and a little more.
WINDOW_MAX = 10.5
# At the end nobody is there, as at the start: a clip is played in a loop.
QUIET_END = 9.0

GROUND = {"person": (74, 84), "car": (112, 122), "dog": (134, 142)}
SIZE = {"person": (0.8, 0.95), "car": (0.98, 1.15), "dog": (1.0, 1.2)}
SPEED = {"person": (26, 42), "car": (38, 68), "dog": (36, 60)}
SHARE = {"person": 0.45, "car": 0.35, "dog": 0.20}


@dataclass
class Camera:
    name: str
    seed: int
    night: bool
    codec: str
    seconds: int = 192


CAMERAS = [
    Camera("gate", 9_000_001, False, "h264"),
    Camera("yard", 9_000_002, False, "h265"),
    Camera("drive", 9_000_003, True, "h264"),
]


def held_out(number: int) -> Camera:
    """Returns a camera whose scene is neither in the training nor in the demo."""
    codec = ["h264", "h265"][number % 2]
    return Camera(f"held{number:02}", 8_600_000 + number, number % 3 == 2, codec, seconds=200)


def scene(seed: int, seconds: float, night: bool | None = None, quiet_end: float = 0.0) -> Scene:
    r = random.Random(seed)
    if night is None:
        night = r.random() < 0.35
    light = Light.drawn(r, night)
    return Scene(seconds, r.randrange(1 << 30), light, visits(r, seconds - quiet_end))


def visits(r: random.Random, seconds: float) -> list[Visit]:
    coming: list[Visit] = []
    while True:
        visit = next_visit(r, coming)
        if visit.seen[1] > seconds:
            return coming
        coming.append(visit)


def next_visit(r: random.Random, before: list[Visit]) -> Visit:
    """Schedules the next visit: after the last one has gone, after a pause, or while somebody is there."""
    while True:
        if not before:
            start = r.uniform(0.5, 3)
        else:
            gone = max(v.corners[-1][0] for v in before)
            newest = before[-1]
            how = r.choices(["after", "pause", "meanwhile"], [0.44, 0.14, 0.42])[0]
            start = {
                "after": gone + r.uniform(-0.5, 2.5),
                "pause": gone + r.uniform(8.5, 12),
                "meanwhile": r.uniform(newest.start + 0.5, max(newest.start + 1, newest.corners[-1][0] - 2)),
            }[how]
            start = max(start, newest.start + 0.3)
            while crowded(start, before):
                start += r.uniform(0.2, 1.0)
        visit = random_visit(r, start, before)
        if visit is not None and fits(visit, before):
            return visit


def random_visit(r: random.Random, start: float, before: list[Visit]) -> Visit | None:
    near = [v for v in before if v.seen[1] > start - WINDOW_MAX]
    kind = r.choices(list(SHARE), list(SHARE.values()))[0]
    colours = [c for c in COLOURS if c not in {v.colour for v in near if v.kind == kind}]
    colour = None if kind == "dog" else r.choice(colours)
    y = r.uniform(*GROUND[kind])
    low, high = GROUND[kind]
    size = SIZE[kind][0] + (SIZE[kind][1] - SIZE[kind][0]) * (y - low) / (high - low)
    comes = r.choice([LEFT, RIGHT])
    more = {}
    if r.random() < 0.5:
        stop = r.uniform(0.17, 0.83) * WIDTH
        taken = [v.stop_x for v in near if v.kind == kind and v.stop_x is not None]
        if any(abs(stop - x) < 45 for x in taken):
            return None
        goes = comes if r.random() < 0.6 else {LEFT: RIGHT, RIGHT: LEFT}[comes]
        more = dict(goes=goes, stop_x=stop, stop_seconds=r.uniform(11, 21))
    return Visit(kind, colour, Looks.drawn(r, colour), y, size, comes, start, r.uniform(*SPEED[kind]), **more)


def crowded(start: float, before: list[Visit]) -> bool:
    return sum(v.seen[1] > start - WINDOW_MAX for v in before) > 1


def fits(visit: Visit, before: list[Visit]) -> bool:
    there = [v for v in before if v.corners[-1][0] > visit.start]
    alone = visit.kind == "person" or all(v.kind != visit.kind for v in there)
    return alone and not crowded(visit.seen[0], before)


def sidecar(scene: Scene, name: str, fps: int) -> dict:
    """Returns the truth of a clip, for its sidecar. Times are in seconds of the clip."""

    def entry(v: Visit) -> dict:
        first, last = v.seen
        moves = [{"from": round(a, 2), "to": round(b, 2), "direction": way} for a, b, way in v.moves]
        named = {"kind": v.kind} | ({"colour": v.colour} if v.colour else {})
        return named | {"from": round(first, 2), "to": round(last, 2), "moves": moves}

    head = {"camera": name, "seconds": scene.seconds, "fps": fps, "width": WIDTH, "height": HEIGHT}
    return head | {"actors": [entry(v) for v in scene.visits]}
