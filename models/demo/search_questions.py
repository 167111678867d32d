"""Writes search-questions.json: captions of rendered scenes, and twice 200 questions about them in other words, with
the captions that each question is about. The second 200 have rarer words.

    python models/demo/search_questions.py

The captions have the demo model's wording. The questions avoid it: what somebody is and does is named by synonyms
that no caption contains. Colours have their usual names, but in the group "colour synonym". Directions are not asked
about, and of two actors in one caption each is enough.
"""

import json
import random
from dataclasses import dataclass
from pathlib import Path

import scenes
import truth
import words

CAPTIONS = 400

# What is true of everybody who moves, also of those who stop or set off.
MOVES = {"{thing} moving along on foot", "{thing} in motion"}


@dataclass(frozen=True)
class Wording:
    """The words of a set of questions."""

    seed: int
    things: dict
    colours: dict
    # How somebody of a colour is named: people wear it.
    coloured: dict
    # What somebody does, by kind and event.
    does: dict
    empty: list


USUAL = Wording(
    seed=11,
    things={
        "person": ["a human", "somebody", "a pedestrian", "a visitor", "an individual"],
        "car": ["an automobile", "a vehicle", "a motor vehicle", "a motorcar"],
        "dog": ["a hound", "a canine", "a pooch", "a puppy", "an animal"],
    },
    colours={
        "red": ["crimson", "scarlet"],
        "green": ["emerald", "olive"],
        "blue": ["navy", "azure"],
        "yellow": ["golden", "amber"],
        "white": ["ivory", "pale"],
    },
    coloured={
        "person": ["{thing} wearing {article} {colour} coat", "{thing} dressed in {colour}", "{colour} clothing"],
        "car": ["{article} {colour} automobile", "{article} {colour} vehicle", "{thing} painted {colour}"],
    },
    does={
        ("person", truth.PASSES): ["{thing} strolling by", "{thing} moving along on foot"],
        ("person", truth.STANDS_STILL): ["{thing} waiting motionless", "{thing} not moving at all"],
        ("person", truth.STOPS): ["{thing} arriving and halting", "{thing} approaching and then pausing"],
        ("person", truth.SETS_OFF): ["{thing} departing", "{thing} going away"],
        ("car", truth.PASSES): ["{thing} travelling through", "{thing} in motion"],
        ("car", truth.STANDS_STILL): ["{thing} that is stationary", "{thing} left standing without moving"],
        ("car", truth.STOPS): ["{thing} arriving and halting", "{thing} pulling up"],
        ("car", truth.SETS_OFF): ["{thing} departing", "{thing} pulling away"],
        ("dog", truth.PASSES): ["{thing} sprinting", "{thing} dashing along"],
        ("dog", truth.STANDS_STILL): ["{thing} waiting motionless", "{thing} that does not move"],
        ("dog", truth.STOPS): ["{thing} arriving and halting", "{thing} approaching and then pausing"],
        ("dog", truth.SETS_OFF): ["{thing} departing", "{thing} going away"],
    },
    empty=["no people about", "the place is deserted", "nothing to see in the courtyard", "an abandoned courtyard"],
)
# Rarer words, for which nothing was tuned.
RARE = Wording(
    seed=23,
    things={
        "person": ["a man", "a woman", "someone", "a stranger", "a passer-by", "a walker"],
        "car": ["a sedan", "a van", "wheels", "a taxi", "an auto", "a hatchback"],
        "dog": ["a pup", "a mutt", "a stray", "a four-legged pet", "a terrier"],
    },
    colours={
        "red": ["ruby", "maroon", "cherry-coloured"],
        "green": ["lime", "jade", "grass-coloured"],
        "blue": ["sapphire", "indigo", "cobalt"],
        "yellow": ["lemon", "mustard", "gold"],
        "white": ["snowy", "cream", "milky"],
    },
    coloured={
        "person": ["{thing} with {article} {colour} top", "{thing} clad in {colour}", "{article} {colour} anorak"],
        "car": ["{article} {colour} sedan", "{article} {colour} van", "{thing} with {colour} paintwork"],
    },
    does={
        ("person", truth.PASSES): ["{thing} going past", "{thing} crossing the yard"],
        ("person", truth.STANDS_STILL): ["{thing} lingering in one spot", "{thing} loitering"],
        ("person", truth.STOPS): ["{thing} showing up and staying", "{thing} coming to a halt"],
        ("person", truth.SETS_OFF): ["{thing} heading away", "{thing} starting to move"],
        ("car", truth.PASSES): ["{thing} going past", "{thing} rolling by"],
        ("car", truth.STANDS_STILL): ["{thing} standing idle", "{thing} that stays put"],
        ("car", truth.STOPS): ["{thing} coming to a halt", "{thing} drawing up"],
        ("car", truth.SETS_OFF): ["{thing} heading away", "{thing} starting to move"],
        ("dog", truth.PASSES): ["{thing} racing past", "{thing} scampering by"],
        ("dog", truth.STANDS_STILL): ["{thing} staying put", "{thing} lingering in one spot"],
        ("dog", truth.STOPS): ["{thing} coming to a halt", "{thing} showing up and staying"],
        ("dog", truth.SETS_OFF): ["{thing} heading away", "{thing} starting to move"],
    },
    empty=["nobody around", "no activity", "a vacant yard", "no one and no vehicle"],
)
# How many questions there are of each group.
GROUPS = {"thing": 20, "coloured": 70, "colour synonym": 40, "doing": 35, "coloured and doing": 31, "empty": 4}


def captions(r: random.Random) -> list[tuple[str, words.Window]]:
    """Returns captions of windows of scenes that neither the trainer nor the demo uses."""
    found = []
    for number in range(CAPTIONS // 8):
        camera = scenes.held_out(number)
        scene = scenes.scene(camera.seed, camera.seconds)
        actors = truth.actors_of(scenes.sidecar(scene, camera.name, 12))
        for _ in range(8):
            start = r.uniform(0, camera.seconds - 8)
            window = words.likeliest(truth.Window.of(actors, start, start + 8))
            found.append((words.caption(window, r.choice([0, 0, 1, 2])), window))
    return found


def article(word: str) -> str:
    return "an" if word[0] in "aeiou" else "a"


def named(r: random.Random, said: Wording, kind: str, colour: str | None, synonym: bool) -> str:
    thing = r.choice(said.things[kind])
    if colour is None:
        return thing
    word = r.choice(said.colours[colour]) if synonym else colour
    return r.choice(said.coloured[kind]).format(thing=thing, colour=word, article=article(word))


def question(r: random.Random, said: Wording, about: str, known: list[words.Window]):
    """Returns a text, and the condition on a part of a caption. None: the caption of an empty window."""
    if about == "empty":
        return r.choice(said.empty), None
    has_colour, has_event = about not in ("thing", "doing"), "doing" in about
    part = r.choice([p for window in known for p in window.parts[:2] if p.colour or not has_colour])
    colour = part.colour if has_colour else None
    event = part.events[0][0] if has_event else None
    text = named(r, said, part.kind, colour, about == "colour synonym")
    does = lambda p: True
    if has_event:
        doing = r.choice(said.does[part.kind, event])
        text = doing.format(thing=text)
        does = lambda p: p.events[0][0] != truth.STANDS_STILL if doing in MOVES else p.events[0][0] == event
    return text, lambda p: p.kind == part.kind and colour in (None, p.colour) and does(p)


def is_meant(window: words.Window, matches) -> bool:
    return not window.parts if matches is None else any(map(matches, window.parts[:2]))


def questions(r: random.Random, said: Wording, windows: list[words.Window]) -> list[dict]:
    """Returns 200 questions with the indices of their captions."""
    found, seen = [], set()
    for about, count in GROUPS.items():
        while sum(q["about"] == about for q in found) < count:
            text, matches = question(r, said, about, windows)
            if text in seen and about not in ("thing", "empty"):
                continue
            seen.add(text)
            relevant = [i for i, window in enumerate(windows) if is_meant(window, matches)]
            found.append({"about": about, "text": text, "captions": relevant})
    return found


def main() -> None:
    r = random.Random(USUAL.seed)
    all_captions = captions(r)
    windows = [window for _, window in all_captions]
    sets = {
        "captions": [c for c, _ in all_captions],
        "questions": questions(r, USUAL, windows),
        "rare_questions": questions(random.Random(RARE.seed), RARE, windows),
    }
    rows = lambda values: ",\n".join(json.dumps(value) for value in values)
    text = ",\n".join(f"{json.dumps(name)}: [\n{rows(values)}\n]" for name, values in sets.items())
    Path(__file__).with_name("search-questions.json").write_text(f"{{{text}}}\n")
    print(f"{len(all_captions)} captions, {len(set(sets['captions']))} different; 2 times 200 questions")


if __name__ == "__main__":
    main()
