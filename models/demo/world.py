"""Renders the yard: converts visits to images.

The demo model is trained on this world only. People and cars are left-right symmetric on purpose:
which way they go can be told from the order of frames only. People walk along the fence, cars use the
drive in the middle of the ground, dogs run in front.
"""

import math
import random
from dataclasses import dataclass, field

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

WIDTH, HEIGHT = 192, 144
RGB = {
    "red": (205, 35, 30),
    "green": (35, 150, 55),
    "blue": (35, 70, 205),
    "yellow": (230, 200, 35),
    "white": (240, 240, 240),
}
COLOURS = list(RGB)
KINDS = ["person", "car", "dog"]
HALF_WIDTH = {"person": 9, "car": 34, "dog": 17}
LEFT, RIGHT = "left", "right"

# An actor counts as visible while this share of its width is in the picture.
VISIBLE_SHARE = 0.4


@dataclass
class Looks:
    """The features that distinguish two actors of one kind and colour."""

    rgb: tuple
    skin: tuple
    trousers: tuple
    hair: tuple
    coat: tuple

    @staticmethod
    def drawn(r: random.Random, colour: str | None) -> "Looks":
        return Looks(
            # A dog has no colour to speak of: its coat is drawn below.
            rgb=tuple(int(min(255, max(0, c + r.uniform(-18, 18)))) for c in RGB[colour or "white"]),
            skin=r.choice([(224, 180, 150), (190, 140, 105), (120, 80, 55)]),
            trousers=r.choice([(40, 40, 48), (60, 55, 50), (30, 35, 60), (75, 70, 66)]),
            hair=r.choice([(40, 28, 20), (20, 18, 18), (110, 80, 40)]),
            coat=r.choice([(110, 72, 40), (58, 44, 36), (165, 125, 80), (35, 32, 32)]),
        )


@dataclass
class Visit:
    """Someone comes into the image from one side and leaves it, passing through or stopping between.

    Times are seconds of the scene, places pixels, speed pixels a second. `comes` and `goes` are the
    directions of its motion before and after the stop; who passes has no stop and one direction.
    `y` is the ground under it.
    """

    kind: str
    colour: str | None
    looks: Looks
    y: float
    size: float
    comes: str
    start: float
    speed: float
    goes: str = ""
    stop_x: float | None = None
    stop_seconds: float = 0.0
    corners: list = field(default_factory=list)  # (time, x): it moves evenly from one to the next

    def __post_init__(self):
        out = self.half_width + 3
        sides = {LEFT: -out, RIGHT: WIDTH + out}
        first = sides[LEFT if self.comes == RIGHT else RIGHT]
        if self.stop_x is None:
            self.goes = self.comes
            self.corners = [(self.start, first), (self.start + (WIDTH + 2 * out) / self.speed, sides[self.goes])]
            return
        stops = self.start + abs(self.stop_x - first) / self.speed
        sets_off = stops + self.stop_seconds
        leaves = sets_off + abs(sides[self.goes] - self.stop_x) / self.speed
        self.corners = [(self.start, first), (stops, self.stop_x), (sets_off, self.stop_x), (leaves, sides[self.goes])]

    @property
    def half_width(self) -> float:
        return HALF_WIDTH[self.kind] * self.size

    def at(self, t: float) -> tuple[float, str | None] | None:
        """Returns the centre's x and the direction of motion, or None before it comes and after it goes."""
        if not self.corners[0][0] <= t <= self.corners[-1][0]:
            return None
        for (t0, x0), (t1, x1) in zip(self.corners, self.corners[1:]):
            if t <= t1:
                moving = None if x0 == x1 else (RIGHT if x1 > x0 else LEFT)
                return x0 + (x1 - x0) * (t - t0) / (t1 - t0), moving
        return None

    def is_visible(self, x: float) -> bool:
        beyond = (1 - 2 * VISIBLE_SHARE) * self.half_width
        return -beyond <= x <= WIDTH + beyond

    @property
    def seen(self) -> tuple[float, float]:
        """Returns the first and the last moment at which enough of it is in the image."""
        hidden = (3 + 2 * VISIBLE_SHARE * self.half_width) / self.speed
        return self.corners[0][0] + hidden, self.corners[-1][0] - hidden

    @property
    def moves(self) -> list[tuple[float, float, str]]:
        """Returns when it moves within sight, and which way."""
        first, last = self.seen
        if self.stop_x is None:
            return [(first, last, self.comes)]
        return [(first, self.corners[1][0], self.comes), (self.corners[2][0], last, self.goes)]


@dataclass
class Light:
    """The changes to a drawn image: brightness, a cast per channel, a camera's noise, blur and shake."""

    brightness: float = 1.0
    cast: tuple = (1.0, 1.0, 1.0)
    noise: float = 0.0
    blur: float = 0.0
    shake: int = 0

    @staticmethod
    def drawn(r: random.Random, night: bool) -> "Light":
        return Light(
            brightness=r.uniform(0.45, 0.75) if night else r.uniform(0.85, 1.1),
            cast=(r.uniform(0.88, 1), r.uniform(0.92, 1), 1.0) if night else (1.0, 1.0, 1.0),
            noise=r.choice([0, 2, 4, 6]) * r.uniform(0.6, 1.2),
            blur=r.choice([0, 0, 0.5, 0.9]),
            shake=int(r.random() < 0.25),
        )

    def on(self, picture: Image.Image, r: random.Random) -> Image.Image:
        table = [int(min(255, v * self.brightness * c)) for c in self.cast for v in range(256)]
        picture = picture.point(table)
        if self.blur:
            picture = picture.filter(ImageFilter.GaussianBlur(self.blur))
        if self.shake:
            dx, dy = r.randint(-self.shake, self.shake), r.randint(-self.shake, self.shake)
            # Enlarged a little, so that no black border shows.
            picture = picture.transform((WIDTH, HEIGHT), Image.AFFINE, (0.98, 0, 2 + dx, 0, 0.98, 1.5 + dy))
        if self.noise:
            x, y, grain = r.randrange(64), r.randrange(64), NOISE[r.randrange(len(NOISE))]
            noisy = np.asarray(picture, np.float32) + grain[y : y + HEIGHT, x : x + WIDTH] * self.noise
            picture = Image.fromarray(np.clip(noisy, 0, 255).astype(np.uint8))
        return picture


# Drawing new noise for every picture would cost more than the picture.
NOISE = np.random.default_rng(0).normal(0, 1, (8, HEIGHT + 64, WIDTH + 64, 3)).astype(np.float32)


@dataclass
class Scene:
    """The view of one camera for `seconds`: one place, one light, and who comes when."""

    seconds: float
    place: int  # the seed of its background
    light: Light
    visits: list[Visit]


# ---- pictures ----------------------------------------------------------------------------------


def background(seed: int) -> Image.Image:
    """Draws sky, ground, fence and gate, and by chance a house, a tree and a drive."""
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


def draw(scenery: Image.Image, visits: list[Visit], t: float) -> Image.Image:
    """Draws the scene at second `t`, without light. Nearer actors are drawn over farther ones."""
    picture = scenery.copy()
    d = ImageDraw.Draw(picture)
    for visit in sorted(visits, key=lambda v: v.y):
        place = visit.at(t)
        if place is None:
            continue
        x, moving = place
        phase = x * 0.32 if moving else 0.15
        y = visit.y + (abs(math.sin(phase)) if moving and visit.kind != "car" else 0)
        shadow = visit.half_width * 0.9
        d.ellipse([x - shadow, y - 2, x + shadow, y + 2.5], fill=(70, 68, 64))
        ahead = 1 if (moving or visit.comes) == RIGHT else -1
        {"person": person, "car": car, "dog": dog}[visit.kind](d, visit, x, y, phase, ahead)
    return picture


def person(d, a, x, y, phase, _ahead) -> None:
    s, swing, jacket = a.size, math.sin(phase) * 5 * a.size, a.looks.rgb
    leg, arm = max(2, round(5 * s)), max(2, round(4 * s))
    d.line([x - 2 * s, y - 18 * s, x - 2 * s - swing, y], fill=a.looks.trousers, width=leg)
    d.line([x + 2 * s, y - 18 * s, x + 2 * s + swing, y], fill=a.looks.trousers, width=leg)
    d.line([x - 6 * s, y - 35 * s, x - 8 * s + swing * 0.5, y - 20 * s], fill=jacket, width=arm)
    d.line([x + 6 * s, y - 35 * s, x + 8 * s - swing * 0.5, y - 20 * s], fill=jacket, width=arm)
    d.rectangle([x - 7 * s, y - 38 * s, x + 7 * s, y - 17 * s], fill=jacket)
    d.ellipse([x - 5 * s, y - 49 * s, x + 5 * s, y - 38 * s], fill=a.looks.skin)
    d.pieslice([x - 5 * s, y - 50 * s, x + 5 * s, y - 40 * s], 180, 360, fill=a.looks.hair)


def car(d, a, x, y, _phase, _ahead) -> None:
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


def dog(d, a, x, y, phase, ahead) -> None:
    s, coat, swing = a.size, a.looks.coat, math.sin(phase) * 4 * a.size
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
