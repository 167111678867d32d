"""Writes search-questions.json: captions of rendered scenes, and 200 questions about them in other words, with the
captions that each question is about.

    python models/demo/search_questions.py

The captions have the demo model's wording. The questions avoid it: what somebody is and does is named by synonyms
that no caption contains. Colours have their usual names, but in the group "colour synonym". Directions are not asked
about, and of two actors in one caption each is enough.
"""

import json
import random
from pathlib import Path

import scenes
import truth
import words

CAPTIONS = 400

THINGS = {
    "person": ["a human", "somebody", "a pedestrian", "a visitor", "an individual"],
    "car": ["an automobile", "a vehicle", "a motor vehicle", "a motorcar"],
    "dog": ["a hound", "a canine", "a pooch", "a puppy", "an animal"],
}
COLOURS = {
    "red": ["crimson", "scarlet"],
    "green": ["emerald", "olive"],
    "blue": ["navy", "azure"],
    "yellow": ["golden", "amber"],
    "white": ["ivory", "pale"],
}
# How somebody of a colour is named: people wear it.
COLOURED = {
    "person": ["{thing} wearing {article} {colour} coat", "{thing} dressed in {colour}", "{colour} clothing"],
    "car": ["{article} {colour} automobile", "{article} {colour} vehicle", "{thing} painted {colour}"],
}
# What somebody does, by kind and event.
DOES = {
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
}
EMPTY = ["no people about", "the place is deserted", "nothing to see in the courtyard", "an abandoned courtyard"]
# How many questions there are of each group.
GROUPS = {"thing": 20, "coloured": 70, "colour synonym": 40, "doing": 35, "coloured and doing": 31, "empty": 4}


def captions(r: random.Random) -> list[tuple[str, words.Window]]:
    """Captions of windows of scenes that neither the trainer nor the demo uses."""
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


def named(r: random.Random, kind: str, colour: str | None, synonym: bool) -> str:
    thing = r.choice(THINGS[kind])
    if colour is None:
        return thing
    word = r.choice(COLOURS[colour]) if synonym else colour
    return r.choice(COLOURED[kind]).format(thing=thing, colour=word, article=article(word))


def question(r: random.Random, about: str, known: list[words.Window]):
    """A text, and the condition on a part of a caption that it is about. None: the caption of an empty window."""
    if about == "empty":
        return r.choice(EMPTY), None
    has_colour, has_event = about not in ("thing", "doing"), "doing" in about
    part = r.choice([p for window in known for p in window.parts[:2] if p.colour or not has_colour])
    colour = part.colour if has_colour else None
    event = part.events[0][0] if has_event else None
    text = named(r, part.kind, colour, about == "colour synonym")
    if has_event:
        text = r.choice(DOES[part.kind, event]).format(thing=text)
    return text, lambda p: p.kind == part.kind and colour in (None, p.colour) and event in (None, p.events[0][0])


def is_meant(window: words.Window, matches) -> bool:
    return not window.parts if matches is None else any(map(matches, window.parts[:2]))


def main() -> None:
    r = random.Random(11)
    all_captions = captions(r)
    questions, seen = [], set()
    for about, count in GROUPS.items():
        while sum(q["about"] == about for q in questions) < count:
            text, matches = question(r, about, [window for _, window in all_captions])
            if text in seen and about not in ("thing", "empty"):
                continue
            seen.add(text)
            relevant = [i for i, (_, window) in enumerate(all_captions) if is_meant(window, matches)]
            questions.append({"about": about, "text": text, "captions": relevant})
    rows = lambda values: ",\n".join(json.dumps(value) for value in values)
    text = f'{{"captions": [\n{rows(c for c, _ in all_captions)}\n],\n"questions": [\n{rows(questions)}\n]}}\n'
    Path(__file__).with_name("search-questions.json").write_text(text)
    print(f"{len(all_captions)} captions, {len({c for c, _ in all_captions})} different; {len(questions)} questions")


if __name__ == "__main__":
    main()
