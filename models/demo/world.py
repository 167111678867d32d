"""The rendered yard: one background, a few actors, a light. Scenes in, pictures and captions out.

This is the only world which the demo model knows: it was trained on pictures drawn exactly so.
Sizes, colours and the order of random draws are therefore part of the model; change them and it
no longer understands what it sees. People and cars are left-right symmetric on purpose: which way
they go can be told from the order of frames only.
"""

import math
import random
from dataclasses import dataclass, field

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

WIDTH, HEIGHT = 192, 144
COLOURS = {
    "red": (205, 35, 30),
    "green": (35, 150, 55),
    "blue": (35, 70, 205),
    "yellow": (230, 200, 35),
    "white": (240, 240, 240),
}
HALF_WIDTH = {"person": 9, "car": 34, "dog": 17}
LEFT, RIGHT = -1, 1


@dataclass
class Looks:
    """What tells two actors of one kind and colour apart; drawn at random from a seed."""

    rgb: tuple
    skin: tuple
    trousers: tuple
    hair: tuple
    coat: tuple

    @staticmethod
    def random(r: random.Random, colour: str | None) -> "Looks":
        return Looks(
            # A dog has no colour to speak of: its coat is drawn below.
            rgb=tuple(int(min(255, max(0, c + r.uniform(-18, 18)))) for c in COLOURS[colour or "white"]),
            skin=r.choice([(224, 180, 150), (190, 140, 105), (120, 80, 55)]),
            trousers=r.choice([(40, 40, 48), (60, 55, 50), (30, 35, 60), (75, 70, 66)]),
            hair=r.choice([(40, 28, 20), (20, 18, 18), (110, 80, 40)]),
            coat=r.choice([(110, 72, 40), (58, 44, 36), (165, 125, 80), (35, 32, 32)]),
        )


@dataclass
class Actor:
    """Someone in a scene. Times are shares of the scene, 0 to 1; places are pixels.

    `event` is cross, enter, leave or stand; the actor moves from `start` to `end`. `rest_x` is where
    an entering actor stops, and where a leaving or standing one stands. `y` is the ground under it.
    """

    kind: str
    event: str
    direction: int
    looks: Looks
    colour: str | None = None
    start: float = 0.0
    end: float = 0.0
    rest_x: float = WIDTH / 2
    y: float = 120.0
    size: float = 1.0

    @property
    def half_width(self) -> float:
        return HALF_WIDTH[self.kind] * self.size

    def at(self, u: float) -> tuple[float, bool] | None:
        """Centre x and whether it is moving at time `u`; None before it came or after it went."""
        margin = self.half_width + 3
        first, last = (-margin, WIDTH + margin) if self.direction == RIGHT else (WIDTH + margin, -margin)
        if self.event == "stand":
            return self.rest_x, False
        done = (u - self.start) / (self.end - self.start)
        if self.event == "cross":
            return (first + (last - first) * done, True) if 0 <= done <= 1 else None
        if self.event == "enter":
            if done < 0:
                return None
            return (first + (self.rest_x - first) * done, True) if done < 1 else (self.rest_x, False)
        if done < 0:
            return self.rest_x, False
        return (self.rest_x + (last - self.rest_x) * done, True) if done <= 1 else None

    def share_visible(self, u: float) -> float:
        """How much of its width is inside the picture at time `u`."""
        place = self.at(u)
        if place is None:
            return 0.0
        inside = min(place[0] + self.half_width, WIDTH) - max(place[0] - self.half_width, 0)
        return max(0.0, inside / (2 * self.half_width))


@dataclass
class Scene:
    """`kind` is empty, single, both (two at once) or seq (one after the other, in order)."""

    kind: str
    actors: list[Actor] = field(default_factory=list)


@dataclass
class Light:
    """What lies over a drawn picture: brightness, a cast per channel, and a camera's noise."""

    brightness: float = 1.0
    cast: tuple = (1.0, 1.0, 1.0)
    noise: float = 0.0
    blur: float = 0.0

    def on(self, picture: Image.Image, noise: np.random.Generator) -> Image.Image:
        table = [int(min(255, v * self.brightness * c)) for c in self.cast for v in range(256)]
        picture = picture.point(table)
        if self.blur:
            picture = picture.filter(ImageFilter.GaussianBlur(self.blur))
        if self.noise:
            noisy = np.asarray(picture, np.float32) + noise.normal(0, self.noise, (HEIGHT, WIDTH, 3))
            picture = Image.fromarray(np.clip(noisy, 0, 255).astype(np.uint8))
        return picture


# ---- words -------------------------------------------------------------------------------------


def noun(actor: Actor) -> str:
    return {"person": f"a person in a {actor.colour} jacket", "car": f"a {actor.colour} car", "dog": "a dog"}[actor.kind]


def clause(actor: Actor) -> str:
    moves = {"person": "walks", "car": "drives", "dog": "runs"}[actor.kind]
    rests = {"person": "stands still", "car": "is parked", "dog": "stands still"}[actor.kind]
    source, target = ("left", "right") if actor.direction == RIGHT else ("right", "left")
    return {
        "cross": f"{noun(actor)} {moves} from {source} to {target}",
        "enter": f"{noun(actor)} {moves} in from the {source} and stops",
        "leave": f"{noun(actor)} {rests}, then {moves} out to the {target}",
        "stand": f"{noun(actor)} {rests}",
    }[actor.event]


def caption(scene: Scene) -> str:
    if not scene.actors:
        return "The yard is empty."
    clauses = [clause(actor) for actor in scene.actors]
    text = f"first {clauses[0]}, then {clauses[1]}" if scene.kind == "seq" else " and ".join(clauses)
    return text[0].upper() + text[1:] + "."


# ---- pictures ----------------------------------------------------------------------------------


def background(seed: int) -> Image.Image:
    """Sky, ground, fence and gate, and by chance a house, a tree and a drive."""
    r, noise = random.Random(seed), np.random.default_rng(seed)
    horizon = r.randint(44, 60)
    picture, ground = sky_and_ground(r, noise, horizon)
    d = ImageDraw.Draw(picture)
    if r.random() < 0.6:
        house(d, r, horizon)
    fence_and_gate(d, r, horizon)
    if r.random() < 0.8:
        tree(d, r, horizon)
    if r.random() < 0.5:
        top = r.randint(96, 112)
        fill = tuple(int(v) for v in np.clip(ground - r.uniform(10, 25), 0, 255))
        d.rectangle([0, top, WIDTH, top + r.randint(14, 24)], fill=fill)
    return picture


def sky_and_ground(r, noise, horizon) -> tuple[Image.Image, np.ndarray]:
    skies = [(150, 175, 200), (185, 190, 195), (120, 140, 165), (200, 185, 165), (165, 160, 155)]
    grounds = [(118, 116, 110), (140, 128, 110), (100, 104, 92), (128, 122, 122), (112, 100, 86), (150, 146, 138)]
    sky = np.array(r.choice(skies), np.float32) + noise.uniform(-12, 12, 3)
    ground = np.array(r.choice(grounds), np.float32) + noise.uniform(-12, 12, 3)
    pixels = np.empty((HEIGHT, WIDTH, 3), np.float32)
    pixels[:horizon] = sky + np.linspace(20, -10, horizon)[:, None, None]
    pixels[horizon:] = ground + np.linspace(-14, 12, HEIGHT - horizon)[:, None, None]
    coarse = Image.fromarray(noise.normal(0, 1, (12, 16)).astype(np.float32))
    texture = np.asarray(coarse.resize((WIDTH, HEIGHT), Image.BICUBIC))
    pixels[horizon:] += texture[horizon:, :, None] * r.uniform(3, 8)
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)), ground


def house(d, r, horizon) -> None:
    x, width = r.randint(-30, 150), r.randint(40, 80)
    wall = r.choice([(165, 150, 135), (150, 150, 155), (135, 115, 100), (175, 170, 160)])
    d.rectangle([x, horizon - r.randint(22, 40), x + width, horizon + 4], fill=wall)
    window = x + width // 3
    d.rectangle([window, horizon - 16, window + 12, horizon - 5], fill=(70, 75, 85))


def fence_and_gate(d, r, horizon) -> None:
    fence = r.choice([(95, 80, 65), (120, 118, 115), (85, 85, 85), (140, 125, 105)])
    d.rectangle([0, horizon - 10, WIDTH, horizon - 8], fill=fence)
    d.rectangle([0, horizon, WIDTH, horizon + 2], fill=fence)
    for x in range(r.randint(0, 8), WIDTH, r.choice([7, 10, 14])):
        d.rectangle([x, horizon - 13, x + 2, horizon + 4], fill=fence)
    x, width = r.randint(10, WIDTH - 50), r.randint(26, 40)
    gate = tuple(max(0, c - 35) for c in fence)
    for post in (x, x + width):
        d.rectangle([post, horizon - 17, post + 4, horizon + 6], fill=gate)
    for y in (horizon - 12, horizon - 5, horizon + 1):
        d.rectangle([x, y, x + width, y + 1], fill=gate)


def tree(d, r, horizon) -> None:
    x, y, crown = r.randint(8, WIDTH - 8), horizon + r.randint(-2, 10), r.randint(13, 22)
    d.rectangle([x - 3, y - 34, x + 3, y], fill=(88, 66, 48))
    green = r.choice([(70, 88, 58), (84, 92, 60), (92, 84, 56), (62, 78, 62)])
    d.ellipse([x - crown, y - 34 - crown, x + crown, y - 34 + crown * 0.7], fill=green)
    lighter = tuple(c + 8 for c in green)
    d.ellipse([x - crown * 0.6, y - 40 - crown * 1.1, x + crown * 0.8, y - 36], fill=lighter)


def draw(scenery: Image.Image, scene: Scene, u: float) -> Image.Image:
    """The scene at time `u`, before any light; who stands nearer is drawn over who stands farther."""
    picture = scenery.copy()
    d = ImageDraw.Draw(picture)
    for actor in sorted(scene.actors, key=lambda a: a.y):
        place = actor.at(u)
        if place is None:
            continue
        x, moving = place
        phase = x * 0.32 if moving else 0.15
        y = actor.y + (abs(math.sin(phase)) if moving and actor.kind != "car" else 0)
        shadow = actor.half_width * 0.9
        d.ellipse([x - shadow, y - 2, x + shadow, y + 2.5], fill=(70, 68, 64))
        {"person": person, "car": car, "dog": dog}[actor.kind](d, actor, x, y, phase)
    return picture


def person(d, a, x, y, phase) -> None:
    s, swing, jacket = a.size, math.sin(phase) * 5 * a.size, a.looks.rgb
    leg, arm = max(2, round(5 * s)), max(2, round(4 * s))
    d.line([x - 2 * s, y - 18 * s, x - 2 * s - swing, y], fill=a.looks.trousers, width=leg)
    d.line([x + 2 * s, y - 18 * s, x + 2 * s + swing, y], fill=a.looks.trousers, width=leg)
    d.line([x - 6 * s, y - 35 * s, x - 8 * s + swing * 0.5, y - 20 * s], fill=jacket, width=arm)
    d.line([x + 6 * s, y - 35 * s, x + 8 * s - swing * 0.5, y - 20 * s], fill=jacket, width=arm)
    d.rectangle([x - 7 * s, y - 38 * s, x + 7 * s, y - 17 * s], fill=jacket)
    d.ellipse([x - 5 * s, y - 49 * s, x + 5 * s, y - 38 * s], fill=a.looks.skin)
    d.pieslice([x - 5 * s, y - 50 * s, x + 5 * s, y - 40 * s], 180, 360, fill=a.looks.hair)


def car(d, a, x, y, _phase) -> None:
    s, paint, glass = a.size, a.looks.rgb, (60, 70, 80)
    cabin = [(-19, -18), (-13, -31), (13, -31), (19, -18)]
    d.polygon([(x + i * s, y + j * s) for i, j in cabin], fill=paint)
    for side in (-1, 1):
        window = [(15, -19), (10.5, -28.5), (1.5, -28.5), (1.5, -19)]
        d.polygon([(x + side * i * s, y + j * s) for i, j in window], fill=glass)
    d.rounded_rectangle([x - 33 * s, y - 19 * s, x + 33 * s, y - 5 * s], radius=4 * s, fill=paint)
    for wheel in (-20, 20):
        tyre = [x + (wheel - 6.5) * s, y - 12 * s, x + (wheel + 6.5) * s, y + 1 * s]
        hub = [x + (wheel - 2.5) * s, y - 8 * s, x + (wheel + 2.5) * s, y - 3 * s]
        d.ellipse(tyre, fill=(22, 22, 24))
        d.ellipse(hub, fill=(130, 130, 135))


def dog(d, a, x, y, phase) -> None:
    s, ahead, coat, swing = a.size, a.direction, a.looks.coat, math.sin(phase) * 4 * a.size
    for leg, step in ((-8, swing), (-5, -swing), (6, swing), (9, -swing)):
        d.line([x + leg * s, y - 9 * s, x + leg * s + step, y], fill=coat, width=max(2, round(2.6 * s)))
    d.ellipse([x - 12 * s, y - 17 * s, x + 12 * s, y - 6 * s], fill=coat)
    head = x + 14 * s * ahead
    muzzle = head + 2 * s * ahead
    d.ellipse([head - 5 * s, y - 24 * s, head + 5 * s, y - 13 * s], fill=coat)
    d.ellipse([muzzle - 4 * s, y - 19 * s, muzzle + 4 * s, y - 14 * s], fill=coat)
    d.polygon([(head - 4 * s, y - 22 * s), (head - 2 * s, y - 27 * s), (head, y - 22 * s)], fill=coat)
    tail = [x - 11 * s * ahead, y - 14 * s, x - 18 * s * ahead, y - 22 * s]
    d.line(tail, fill=coat, width=max(2, round(2.4 * s)))
