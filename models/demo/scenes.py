"""What the three demo cameras see: eight scenes each, twelve seconds a scene, then from the start again.

Scenes are written by hand, so that neighbours differ, every colour and kind of actor occurs, and who
stops in one scene may drive off in the next. They were chosen among scenes which the model reads well
in windows cut anywhere: it was trained on whole clips, and is weak where one actor follows another.
"""

import random
from dataclasses import dataclass

from world import LEFT, RIGHT, Actor, Light, Looks, Scene

SCENE_SECONDS = 12
FPS = 24


@dataclass
class Camera:
    name: str
    background: int  # the seed of its background
    light: Light
    scenes: list[Scene]

    @property
    def seconds(self) -> int:
        return SCENE_SECONDS * len(self.scenes)


def actor(kind, colour, event, direction, times=(0, 0), rest=96, y=122, looks=0) -> Actor:
    """`times` in shares of the scene; the same `looks` number makes it the same person or car again."""
    return Actor(
        kind=kind,
        event=event,
        direction=direction,
        looks=Looks.random(random.Random(f"{kind} {colour} {looks}"), colour),
        colour=colour,
        start=times[0],
        end=times[1],
        rest_x=rest,
        y=y,
        size=0.85 + 0.3 * (y - 94) / 44,  # nearer is lower in the picture, and larger
    )


def person(colour, event, direction, times=(0, 0), **more):
    return actor("person", colour, event, direction, times, **more)


def car(colour, event, direction, times=(0, 0), **more):
    return actor("car", colour, event, direction, times, **{"y": 108, **more})


def dog(event, direction, times=(0, 0), **more):
    return actor("dog", None, event, direction, times, **more)


def empty():
    return Scene("empty")


def single(a):
    return Scene("single", [a])


def both(a, b):
    return Scene("both", [a, b])


def seq(a, b):
    return Scene("seq", [a, b])


CAMERAS = [
    Camera("gate", 11, Light(), [
        single(person("red", "cross", RIGHT, (0.03, 0.97))),
        single(car("blue", "enter", RIGHT, (0.03, 0.45), rest=110)),
        single(car("blue", "leave", RIGHT, (0.4, 0.9), rest=110)),
        single(dog("cross", RIGHT, (0.03, 0.97))),
        seq(person("yellow", "cross", LEFT, (0.0, 0.48), y=118), car("white", "cross", RIGHT, (0.44, 1.0), y=112)),
        single(car("yellow", "cross", LEFT, (0.03, 0.97))),
        empty(),
        both(person("green", "stand", RIGHT, rest=45), car("red", "stand", LEFT, rest=135)),
    ]),
    Camera("yard", 23, Light(), [
        single(dog("enter", LEFT, (0.0, 0.4), rest=80)),
        single(dog("leave", LEFT, (0.4, 0.8), rest=80)),
        single(car("red", "cross", RIGHT, (0.03, 0.97))),
        seq(person("green", "cross", RIGHT, (0.0, 0.42), y=118), car("yellow", "cross", LEFT, (0.38, 1.0), y=112)),
        single(person("white", "enter", RIGHT, (0.0, 0.4), rest=120)),
        single(person("white", "leave", RIGHT, (0.4, 0.8), rest=120)),
        empty(),
        both(person("red", "stand", RIGHT, rest=40), car("green", "stand", RIGHT, rest=130)),
    ]),
    Camera("drive", 37, Light(brightness=0.62, cast=(0.92, 0.95, 1.0), noise=2.0), [
        single(car("white", "cross", LEFT, (0.03, 0.97))),
        single(person("yellow", "cross", RIGHT, (0.03, 0.97))),
        single(car("red", "enter", LEFT, (0.03, 0.45), rest=120)),
        both(person("blue", "cross", RIGHT, (0.03, 0.97), y=130), car("red", "stand", LEFT, rest=120)),
        single(car("red", "leave", LEFT, (0.4, 0.9), rest=120)),
        seq(dog("cross", LEFT, (0.0, 0.45), y=118), person("red", "cross", RIGHT, (0.45, 0.92), y=112)),
        empty(),
        single(person("green", "stand", LEFT, rest=100)),
    ]),
]  # fmt: skip
