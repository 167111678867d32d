"""Writes the captions and answers about a window from which the model learns."""

import random

import truth
from truth import COLOURS, OTHER_WAY, PASSES, SETS_OFF, STANDS_STILL, STOPS, Part, Question, Window

VERBS = {"person": ("walk", "stand"), "car": ("drive", "park"), "dog": ("run", "stand")}
NUMBERS = ["None.", "One.", "Two.", "Three."]


def noun(p: Part) -> str:
    return {"person": f"a person in a {p.colour} jacket", "car": f"a {p.colour} car", "dog": "a dog"}[p.kind]


# Three manners of speaking: plain, a reporter's, and a list of what is seen.
def clause(p: Part, manner: int) -> str:
    event, way = p.events[0]
    go, rest = VERBS[p.kind]
    side = OTHER_WAY.get(way)
    still = {
        "park": ["is parked", "is parked there", "parked"],
        "stand": ["stands still", "is standing there", "standing still"],
    }[rest]
    running = {"walk": "walking", "drive": "driving", "run": "running"}[go]
    return (
        f"{noun(p)}"
        + {
            PASSES: [
                f" {go}s from {side} to {way}",
                f" goes past, from {side} to {way}",
                f" {running} from {side} to {way}",
            ],
            STOPS: [
                f" {go}s in from the {side} and stops",
                f" comes from the {side} and stops",
                f" coming from the {side} and stopping",
            ],
            SETS_OFF: [f" sets off to the {way}", f" leaves to the {way}", f" setting off to the {way}"],
            STANDS_STILL: [f" {words}" for words in still],
        }[event][manner]
    )


def sentence(text: str) -> str:
    return text[0].upper() + text[1:] + "."


def caption(window: Window, manner: int) -> str:
    if not window.parts:
        return ["The yard is empty.", "Nobody is there, the yard is empty.", "There is an empty yard."][manner]
    clauses = [clause(p, manner) for p in window.parts[:2]]
    if len(clauses) == 1:
        return sentence(["", "", "there is "][manner] + clauses[0])
    a, b = clauses
    if comes_after(window):
        return sentence([f"first {a}, then {b}", f"{a}; after that {b}", f"first there is {a}, then {b}"][manner])
    return sentence([f"{a} and {b}", f"{a}, while {b}", f"there is {a}, and {b}"][manner])


def comes_after(window: Window) -> bool:
    a, b = sorted(window.parts[:2], key=lambda p: p.since)
    return b.since - a.until >= (truth.AFTER + truth.TOGETHER) / 2


def likeliest(window: Window) -> Window:
    """Leaves out actors that are seen too briefly. Of two at once, orders people before cars before dogs."""
    parts = [p for p in window.parts if p.until - p.since >= truth.SEEN / 2]
    if len(parts) == 2 and not comes_after(Window(tuple(parts))):
        parts.sort(key=lambda p: (list(VERBS).index(p.kind), COLOURS.index(p.colour) if p.colour else 0))
    return Window(tuple(parts))


def answer(window: Window, question: Question, manner: int) -> str | None:
    """Returns the answer, or None if the question has no single answer for this window."""
    parts = window.parts
    there = [p for p in parts if p.kind == question.kind and question.colour in (None, p.colour)]
    match question.about:
        case "happening":
            return caption(window, manner)
        case "present" | "coloured":
            return "Yes." if there else "No."
        case "colour":
            if not there:
                return f"There is no {question.kind}."
            return sentence(" and ".join(sorted((p.colour for p in there), key=COLOURS.index)))
        case "direction":
            if not there:
                return f"There is no {question.kind}."
            way = there[0].events[0][1]
            if len(there) > 1:
                return None
            return f"From {OTHER_WAY[way]} to {way}." if way else "It does not move."
        case "count":
            return NUMBERS[sum(p.kind == "person" for p in parts)]
        case "first" | "last":
            if not parts:
                return "Nothing, the yard is empty."
            if len(parts) > 1 and not comes_after(window):
                return None
            return sentence(clause(parts[0 if question.about == "first" else -1], 0))
        case "empty":
            return "No." if parts else "Yes."
        case "moving":
            return "Yes." if any(p.events[0][1] for p in parts) else "No."
    raise ValueError(question.about)


WORDINGS = truth.questions()


def wording(about: str, r: random.Random, held_out: bool = False) -> tuple[str, int]:
    """Returns a wording of the question, and the manner of its answer, which is mostly plain."""
    words = WORDINGS[about]["held_out" if held_out else "trained"]
    number = r.randrange(len(words))
    return words[number], MANNERS.get(words[number], 0)


# Which captions are not plain.
MANNERS = {"Describe the video.": 1, "Describe what happens.": 1, "Describe the scene.": 1, "Tell me what happens.": 1,
           "What does the camera see?": 2, "What can be seen?": 2, "What do you see?": 2, "Caption this video.": 1}  # fmt: skip


def lesson(window: Window, r: random.Random) -> list[tuple[str, str, str]]:
    """Returns (subject, question, answer) for one window: the caption, every colour that is there, and a few others."""
    window = likeliest(window)
    chosen = [Question("happening")]
    there = {p.kind for p in window.parts}
    # Every colour of one kind that is there, so that the one that is right stands out.
    every = r.choice(sorted(there & {"person", "car"}) or ["person", "car"])
    asked = truth.asks("coloured")
    chosen += [q for q in asked if q.kind == every] if every in there else []
    chosen += r.sample([q for q in asked if q not in chosen], 1)
    telling = [Question("colour", k) for k in ("person", "car") if k in there]
    telling += [Question("direction", k) for k in there]
    if len(window.parts) > 1 and comes_after(window):
        telling += [Question("first"), Question("last")]
    chosen += r.sample(telling, min(3, len(telling)))
    others = [q for about in truth.SUBJECT_OF if about != "coloured" for q in truth.asks(about) if q not in chosen]
    chosen += r.sample(others, 2)
    r.shuffle(chosen)
    out = []
    for q in chosen:
        words, manner = wording(q.about, r)
        said = answer(window, q, manner)
        if said is not None:
            out.append((q.about, loosely(truth.worded(q, words), r), said))
    return out


def loosely(question: str, r: random.Random) -> str:
    """Varies a question as people type it: sometimes with a please, without a capital or without a question mark."""
    if r.random() < 0.75:
        return question
    question = r.choice(["Please tell me: ", "Tell me, ", "Please: ", ""]) + question
    if r.random() < 0.5:
        question = question[0].lower() + question[1:]
    return question.rstrip("?.") if r.random() < 0.5 else question
