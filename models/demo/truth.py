"""Computes what a window of a clip shows, by its sidecar, and judges texts about the window.

A sidecar records for each actor when it is in the image, and when it moves which way. An actor is
judged only if the window shows enough of it: one that is seen for less than a second may be named or
not; one that moves or stands only for a moment may be described as doing so or not. `daemon/demo/score/truth.rs`
is the same in Rust; `truth-cases.json` holds the two to each other.
"""

import json
from dataclasses import dataclass
from pathlib import Path

COLOURS = ["red", "green", "blue", "yellow", "white"]
LEFT, RIGHT = "left", "right"
OTHER_WAY = {LEFT: RIGHT, RIGHT: LEFT}

# Seconds of a window. An actor that is seen for this long must be named.
SEEN = 1.0
# An actor that moves for the second of these times must be described as moving; for less than the first, not.
MOVES = (0.25, 1.0)
STANDS = (0.35, 1.25)
# If the second actor comes this long after the first has gone, they are one after the other; if before, together.
AFTER, TOGETHER = 0.25, -0.75

# The events of an actor: it passes, comes and stops, sets off after standing, or stands.
PASSES, STOPS, SETS_OFF, STANDS_STILL = "passes", "stops", "sets off", "stands"

# The subjects that are counted, in the order of the table.
SUBJECTS = ["objects", "colours", "direction", "events", "count", "order", "emptiness", "movement", "caption"]


@dataclass(frozen=True)
class Actor:
    kind: str
    colour: str | None
    seen: tuple[float, float]
    moves: tuple[tuple[float, float, str], ...]

    def shifted(self, by: float) -> "Actor":
        moves = tuple((a + by, b + by, way) for a, b, way in self.moves)
        return Actor(self.kind, self.colour, (self.seen[0] + by, self.seen[1] + by), moves)


def actors_of(sidecar: dict) -> list[Actor]:
    moves = lambda a: tuple((m["from"], m["to"], m["direction"]) for m in a["moves"])
    return [Actor(a["kind"], a.get("colour"), (a["from"], a["to"]), moves(a)) for a in sidecar["actors"]]


@dataclass(frozen=True)
class Part:
    """The part of a window that shows one actor."""

    kind: str
    colour: str | None
    since: float
    until: float
    # Long enough to be named.
    sure: bool
    # Acceptable pairs of event and direction; the first is the likeliest.
    events: tuple[tuple[str, str | None], ...]

    @property
    def name(self) -> tuple[str, str | None]:
        return self.kind, self.colour


@dataclass(frozen=True)
class Window:
    """The parts in order of appearance."""

    parts: tuple[Part, ...]

    @staticmethod
    def of(actors: list[Actor], start: float, end: float, period: float | None = None) -> "Window":
        """`period`: the clip's length, after which it repeats."""
        if period is not None:
            rounds = range(int(start // period) - 1, int(end // period) + 2)
            actors = [actor.shifted(n * period) for n in rounds for actor in actors]
        parts = [part(a, start, end) for a in actors if a.seen[0] < end and a.seen[1] > start]
        return Window(tuple(sorted(parts, key=lambda p: p.since)))

    @property
    def doubtful(self) -> bool:
        return any(not p.sure or len(p.events) > 1 for p in self.parts) or (self.order is None and len(self.parts) == 2)

    @property
    def order(self) -> str | None:
        """Returns "after" or "together" for two actors, or None if both are acceptable or there are not two."""
        if len(self.parts) != 2:
            return None
        gap = self.parts[1].since - self.parts[0].until
        return "after" if gap >= AFTER else "together" if gap <= TOGETHER else None


def part(actor: Actor, start: float, end: float) -> Part:
    since, until = max(actor.seen[0], start), min(actor.seen[1], end)
    moves = [(min(b, until) - max(a, since), a, way) for a, b, way in actor.moves]
    moved, began, way = max((m for m in moves), default=(0.0, 0.0, None), key=lambda m: m[0])
    moved = max(0.0, moved)
    stood = max(0.0, until - since - sum(max(0.0, m[0]) for m in moves))
    # True if the motion comes before the rest: nobody both comes and goes within a window.
    first = began <= since or stood <= 0
    may_move = likely(moved, MOVES)
    may_stand = likely(stood, STANDS)
    events = []
    for moving in may_move:
        for standing in may_stand:
            if moving and standing:
                events.append((STOPS if first else SETS_OFF, way))
            elif moving:
                events.append((PASSES, way))
            elif standing:
                events.append((STANDS_STILL, None))
    # Too short for anything: whatever it does most.
    if not events:
        events.append((PASSES, way) if moved >= stood else (STANDS_STILL, None))
    return Part(actor.kind, actor.colour, since, until, until - since >= SEEN, tuple(events))


def likely(seconds: float, border: tuple[float, float]) -> list[bool]:
    """Returns if it counts, or both answers if either is acceptable, the likelier first."""
    if seconds >= border[1]:
        return [True]
    if seconds < border[0]:
        return [False]
    return [True, False] if seconds >= sum(border) / 2 else [False, True]


# ---- reading words -----------------------------------------------------------------------------


@dataclass(frozen=True)
class Said:
    kind: str
    colour: str | None
    event: str
    direction: str | None


def read(text: str) -> tuple[list[Said], bool]:
    """Returns the actors that a caption names, in its order, and True if it says that one came after the other."""
    text = text.lower()
    nouns = [(f"{c} jacket", "person", c) for c in COLOURS] + [(f"{c} car", "car", c) for c in COLOURS]
    found = []
    for noun, kind, colour in [*nouns, ("dog", "dog", None)]:
        at = text.find(noun)
        while at >= 0:
            found.append((at, at + len(noun), kind, colour))
            at = text.find(noun, at + len(noun))
    found.sort()
    ends = [f[0] for f in found[1:]] + [len(text)]
    said = [Said(kind, colour, *event(text[after:end])) for (_, after, kind, colour), end in zip(found, ends)]
    return said, any(mark in text for mark in ("first ", "after that", ", then "))


def event(clause: str) -> tuple[str, str | None]:
    if "stop" in clause:
        what = STOPS
    elif "sets off" in clause or "setting off" in clause or "leaves" in clause:
        what = SETS_OFF
    elif "stand" in clause or "parked" in clause:
        return STANDS_STILL, None
    else:
        what = PASSES
    return what, direction(clause)


def direction(clause: str) -> str | None:
    for words, way in [("left to right", RIGHT), ("right to left", LEFT), ("from the left", RIGHT),
                       ("from the right", LEFT), ("to the right", RIGHT), ("to the left", LEFT)]:  # fmt: skip
        if words in clause:
            return way
    return None


# ---- judging -----------------------------------------------------------------------------------

# A verdict is True, False, or None: not judged.
Verdict = bool | None


def judge_caption(window: Window, text: str) -> dict[str, Verdict]:
    """Returns a verdict for each subject of a caption; "caption" is right if none of them is wrong."""
    said, after = read(text)
    sure = [p for p in window.parts if p.sure]
    kinds = {s.kind for s in said}
    verdicts: dict[str, Verdict] = {}
    verdicts["objects"] = {p.kind for p in sure} <= kinds <= {p.kind for p in window.parts}
    coloured = lambda parts: {p.name for p in parts if p.kind != "dog"}
    verdicts["colours"] = None
    if coloured(window.parts) or coloured_said(said):
        verdicts["colours"] = coloured(sure) <= coloured_said(said) <= coloured(window.parts)
    verdicts["direction"], verdicts["events"] = judge_events(window, said)
    people = sum(s.kind == "person" for s in said)
    verdicts["count"] = number(sure, "person") <= people <= number(window.parts, "person")
    verdicts["order"] = judge_order(window, said, after)
    empty = "empty" in text.lower() or "nobody" in text.lower()
    verdicts["emptiness"] = not empty if sure else empty if not window.parts else None
    verdicts["caption"] = all(v is not False for v in verdicts.values()) and len(said) <= len(window.parts)
    return verdicts


def coloured_said(said: list[Said]) -> set:
    return {(s.kind, s.colour) for s in said if s.kind != "dog"}


def number(parts, kind: str) -> int:
    return sum(p.kind == kind for p in parts)


def judge_events(window: Window, said: list[Said]) -> tuple[Verdict, Verdict]:
    """Judges direction and event of the actors that are in the image and named."""
    ways, events = [], []
    for p in window.parts:
        same = [s for s in said if (s.kind, s.colour) == p.name]
        if not p.sure or len(same) != 1 or number_of(window.parts, p.name) != 1:
            continue
        events.append(any(same[0].event == event for event, _ in p.events))
        directions = {way for _, way in p.events}
        if len(directions) == 1 and None not in directions:
            ways.append(same[0].direction in directions)
    return (all(ways) if ways else None), (all(events) if events else None)


def number_of(parts, name) -> int:
    return sum(p.name == name for p in parts)


def judge_order(window: Window, said: list[Said], after: bool) -> Verdict:
    if window.order is None or not all(p.sure for p in window.parts):
        return None
    if window.order == "together":
        return not after
    return after and [(s.kind, s.colour) for s in said] == [p.name for p in window.parts]


@dataclass(frozen=True)
class Question:
    """A question of questions.json, with its {thing} or {colour} filled in."""

    about: str
    kind: str | None = None
    colour: str | None = None


SUBJECT_OF = {
    "present": "objects",
    "coloured": "colours",
    "colour": "colours",
    "direction": "direction",
    "count": "count",
    "first": "order",
    "last": "order",
    "empty": "emptiness",
    "moving": "movement",
}


def judge_answer(window: Window, question: Question, text: str) -> dict[str, Verdict]:
    if question.about == "happening":
        return judge_caption(window, text)
    verdict = {
        "present": judge_present,
        "coloured": judge_present,
        "colour": judge_colour,
        "direction": judge_direction,
        "count": judge_count,
        "first": judge_first,
        "last": judge_first,
        "empty": judge_empty,
        "moving": judge_moving,
    }[question.about](window, question, text.lower())
    return {SUBJECT_OF[question.about]: verdict}


def yes_or_no(text: str, wanted: bool | None) -> Verdict:
    return None if wanted is None else text.startswith("yes" if wanted else "no")


def judge_present(window, question, text) -> Verdict:
    there = [p for p in window.parts if p.kind == question.kind and question.colour in (None, p.colour)]
    return yes_or_no(text, True if any(p.sure for p in there) else False if not there else None)


def judge_colour(window, question, text) -> Verdict:
    there = [p for p in window.parts if p.kind == question.kind]
    if not all(p.sure for p in there):
        return None
    return {c for c in COLOURS if c in text} == {p.colour for p in there}


def judge_direction(window, question, text) -> Verdict:
    there = [p for p in window.parts if p.kind == question.kind]
    if not there:
        return "no " in text and direction(text) is None
    directions = {way for p in there for _, way in p.events}
    if len(there) > 1 or not there[0].sure or len(directions) > 1:
        return None
    wanted = directions.pop()
    return direction(text) == wanted and (wanted is not None or "not" in text)


def judge_count(window, question, text) -> Verdict:
    people = [p for p in window.parts if p.kind == "person"]
    if not all(p.sure for p in people):
        return None
    return text.startswith(["none", "one", "two", "three"][min(len(people), 3)])


def judge_first(window, question, text) -> Verdict:
    if window.order != "after" or not all(p.sure for p in window.parts):
        return None
    wanted = window.parts[0 if question.about == "first" else 1]
    said, _ = read(text)
    if [(s.kind, s.colour) for s in said] != [wanted.name]:
        return False
    return any((s.event, s.direction) == event for s in said for event in wanted.events)


def judge_empty(window, question, text) -> Verdict:
    sure = any(p.sure for p in window.parts)
    return yes_or_no(text, False if sure else True if not window.parts else None)


def judge_moving(window, question, text) -> Verdict:
    moving = lambda p: {way is not None for _, way in p.events}
    if any(p.sure and moving(p) == {True} for p in window.parts):
        return yes_or_no(text, True)
    return yes_or_no(text, None if any(True in moving(p) for p in window.parts) else False)


# ---- questions ---------------------------------------------------------------------------------

THINGS = {"person": "person", "car": "car", "dog": "dog"}


QUESTIONS = Path(__file__).with_name("questions.json")


def questions(path: Path = QUESTIONS) -> dict[str, dict[str, list[str]]]:
    """Returns the wordings of training ("trained") and the others ("held_out") by subject."""
    return json.loads(path.read_text())


def asks(about: str) -> list[Question]:
    """Returns every question about one subject."""
    if about in ("present", "direction"):
        return [Question(about, kind) for kind in THINGS]
    if about == "colour":
        return [Question(about, kind) for kind in ("person", "car")]
    if about == "coloured":
        return [Question(about, kind, colour) for kind in ("person", "car") for colour in COLOURS]
    return [Question(about)]


def worded(question: Question, wording: str) -> str:
    """`{thing}` is a person, car or dog; `{one}` one of a colour; `{wears}` what has the colour."""
    one = f"{question.colour} car" if question.kind == "car" else f"person in a {question.colour} jacket"
    wears = "car" if question.kind == "car" else "jacket"
    return wording.format(thing=question.kind, one=one, wears=wears)
