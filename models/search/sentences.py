"""Makes sentences about what cameras see, and questions about it, with what each of them says.

Things, colours and what somebody does have many names here. Words by which the labelled questions of
models/demo/search_questions.py name things, colours and events are left out, so that these questions measure what the
model makes of words that it was not trained on: `held_out` checks it.
"""

import random
import re
from dataclasses import dataclass

PEOPLE = [
    "person", "adult", "boy", "girl", "child", "worker", "guard", "guy", "lady", "gentleman", "figure", "teenager",
    "intruder", "neighbour", "customer", "mailman", "courier", "policeman", "jogger",
]  # fmt: skip
# The names of every thing, the first one is the usual one, and what else it is.
NAMES = {
    "person": PEOPLE,
    "car": ["car", "coupe", "convertible", "cab", "SUV", "jeep", "limousine", "station wagon", "sports car"],
    "truck": ["truck", "lorry", "pickup", "delivery truck", "dump truck", "garbage truck", "fire engine"],
    "bus": ["bus", "coach", "minibus", "school bus", "city bus"],
    "motorcycle": ["motorcycle", "motorbike", "scooter", "moped"],
    "bicycle": ["bicycle", "bike", "cycle", "mountain bike"],
    "dog": ["dog", "mongrel", "poodle", "retriever", "bulldog", "sheepdog", "beagle", "doggy"],
    "cat": ["cat", "kitten", "tomcat", "kitty", "house cat"],
    "bird": ["bird", "pigeon", "crow", "sparrow", "seagull", "magpie"],
    "horse": ["horse", "pony", "mare", "stallion"],
    "fox": ["fox", "red fox"],
    "deer": ["deer", "stag", "doe"],
    "package": ["package", "parcel", "box", "carton"],
    "trolley": ["trolley", "cart", "handcart", "wheelbarrow"],
    "suitcase": ["suitcase", "bag", "backpack", "luggage"],
}
ANIMALS = {"dog", "cat", "bird", "horse", "fox", "deer"}
VEHICLES = {"car", "truck", "bus", "motorcycle", "bicycle", "trolley"}
# A wider word, and the things that it names.
WIDER = {"beast": ANIMALS, "creature": ANIMALS, "means of transport": VEHICLES}

# Names of colours besides the usual one.
COLOURS = {
    "red": ["carmine", "vermilion", "burgundy", "claret", "cerise"],
    "orange": ["tangerine"],
    "yellow": ["saffron", "canary", "ochre"],
    "green": ["chartreuse", "sea green", "bottle green", "teal"],
    "blue": ["cerulean", "turquoise", "ultramarine", "steel blue", "royal blue"],
    "purple": ["violet", "mauve", "lavender"],
    "pink": ["rose"],
    "brown": ["chestnut", "chocolate"],
    "black": ["ebony", "jet black"],
    "white": ["pearl", "alabaster", "off-white"],
    "grey": ["gray", "charcoal", "silver"],
}
WORN = [
    "{who} in {a} {colour} jacket", "{who} in {a} {colour} shirt", "{who} with {a} {colour} hoodie",
    "{who} in {colour}", "{who} with {a} {colour} jacket", "{who} in {colour} clothes", "{who} with {a} {colour} vest",
    "{who} with {a} {colour} sweater",
]  # fmt: skip
GARMENTS = ["jacket", "shirt", "hoodie", "vest", "sweater", "outfit"]

# What somebody does: who can do it (person, vehicle, animal, object), and its wordings. "stands still|standing still"
# has the form after "is" too. Those of one event mean the same.
EVENTS = {
    "still": {
        "pva": "stands still|standing still/is immobile/is standing there|standing there/is at rest/remains still|"
        "remaining still/remains in position/is static/keeps still|keeping still/remains where it is/is frozen/rests|"
        "resting/is inactive/makes no move|making no move/hangs around|hanging around/is standing/is unmoving",
        "v": "is parked|parked/is parked there|parked there/has been parked|parked/stands parked/is not driving/"
        "stands there empty/is standing at the kerb/remains in its parking space/occupies a parking space",
        "pa": "sits still|sitting still/stands around|standing around",
    },
    "stops": {
        "pva": "comes in and stops|coming in and stopping/comes from {d} and stops|coming from {d} and stopping/"
        "comes to a standstill|coming to a standstill/enters and stops|entering and stopping/slows down and stops|"
        "slowing down and stopping/comes near, then rests/comes closer and stands still|"
        "coming closer and standing still/stops|stopping/stops moving|stopping/moves in and then stands still",
        "v": "drives in and stops|driving in and stopping/drives in from {d} and stops|driving in and stopping/"
        "brakes to a stop|braking to a stop/glides in and parks|gliding in and parking/drives up and parks/parks|"
        "parking/comes in and parks",
        "p": "walks in and stops|walking in and stopping/walks in from {d} and stops|walking in from {d} and stopping/"
        "walks up and stands there",
        "a": "runs in and stops|running in and stopping/runs in from {d} and stops|running in from {d} and stopping/"
        "trots up and sits down",
    },
    "leaves": {
        "pva": "leaves|leaving/sets off|setting off/sets off to {d}|setting off to {d}/leaves to {d}|leaving to {d}/"
        "goes off|going off/exits|exiting/takes off|taking off/gets going|getting going/moves off|moving off/"
        "disappears from view|disappearing/moves out of the picture/withdraws|withdrawing/makes off|making off",
        "v": "drives off|driving off/drives away|driving away/speeds off|speeding off/backs out and leaves/"
        "leaves its parking space|leaving its parking space",
        "p": "walks off|walking off/walks away|walking away/hurries off|hurrying off",
        "a": "runs off|running off/runs away|running away/trots off|trotting off",
    },
    "passes": {
        "pva": "passes|passing/passes by|passing by/goes by|going by/traverses the scene|traversing the scene/"
        "passes through|passing through/goes past, from {d} to {e}|going past, from {d} to {e}/comes through|"
        "coming through/moves from {d} to {e}|moving from {d} to {e}/moves across|moving across",
        "v": "drives by|driving by/drives from {d} to {e}|driving from {d} to {e}/drives through|driving through/"
        "drives along|driving along/cruises past|cruising past/is driving|driving",
        "p": "walks by|walking by/walks from {d} to {e}|walking from {d} to {e}/walks across|walking across/"
        "walks along|walking along/marches through|marching through/paces along|pacing along/wanders by|"
        "wandering by/is walking|walking",
        "a": "runs by|running by/runs from {d} to {e}|running from {d} to {e}/runs across|running across/trots past|"
        "trotting past/gallops by|galloping by/runs along|running along/rushes past|rushing past/is running|running",
    },
    "falls": {
        "p": "falls down|falling down/falls to the ground|falling to the ground/tumbles|tumbling/trips and falls"
    },
    "enters": {"p": "enters the building|entering the building/goes inside|going inside/walks through the door"},
    "comes out": {"p": "comes out of the building|coming out of the building/steps outside|stepping outside"},
    "carries": {"p": "carries a box|carrying a box/holds a parcel|holding a parcel/lugs a package|lugging a package"},
    "phones": {"p": "talks on the phone|talking on the phone/makes a call|making a call/uses a telephone"},
    "climbs": {"p": "climbs over the fence|climbing over the fence/scales the wall|scaling the wall"},
    "fights": {"p": "fights with another|fighting/brawls|brawling/hits another|hitting another/attacks a victim"},
    "sits": {"pa": "sits down|sitting down/is seated|seated/sits on the ground|sitting on the ground"},
    "lies": {"pa": "lies on the ground|lying on the ground/is stretched out on the floor/lies down|lying down"},
    "waves": {"p": "waves|waving/raises a hand|raising a hand/greets with the hand/signals with the arm"},
    "gets out": {"p": "gets out of a car|getting out of a car/climbs out of a truck/steps out of a bus"},
    "gets in": {"p": "gets into a car|getting into a car/climbs into a truck/boards a bus|boarding a bus"},
    "turns": {"v": "turns around|turning around/makes a U-turn|making a U-turn/goes round the corner"},
    "reverses": {"v": "reverses|reversing/backs up|backing up/drives backwards|driving backwards"},
    "crashes": {"v": "crashes|crashing/hits a wall|hitting a wall/collides with a pole|colliding/has an accident"},
    "burns": {"vo": "is on fire/burns|burning/is ablaze/goes up in flames"},
    "eats": {"pa": "eats|eating/feeds|feeding/has a meal/chews something|chewing something"},
    "digs": {"pa": "digs a hole|digging a hole/burrows in the ground"},
    "jumps": {"pa": "jumps|jumping/leaps|leaping/hops|hopping/springs up"},
    "runs": {"p": "runs|running/jogs|jogging/hurries|hurrying/rushes by|rushing by"},
    "looks": {"pa": "looks around|looking around/watches|watching/looks into the camera/gazes about"},
    "lies there": {"o": "lies there|lying there/is on the ground/was left behind|left behind/is unattended"},
    "is taken": {"o": "is taken away/is picked up|picked up/disappears/is removed|removed"},
    "is brought": {"o": "is delivered|delivered/is dropped off|dropped off/is put down|put down"},
}
# What is said of an empty picture.
NOBODY = [
    "nobody is there", "nobody is there, the street is empty", "the driveway is empty", "an empty lot",
    "the scene is empty", "there is nobody", "nobody", "all is quiet",
    "nothing happens", "nothing is happening", "without any persons", "a lifeless car park", "an unoccupied room",
]  # fmt: skip
# What the events of most captions are.
USUAL_EVENTS = ["still", "stops", "leaves", "passes"]
SIDES = [("the left", "the right"), ("the right", "the left")]


@dataclass(frozen=True)
class Fact:
    """Somebody or something, its colour and what it does. In a question, None is what is not asked about."""

    things: frozenset
    colour: str | None
    event: str | None

    def is_answer_to(self, asked: "Fact") -> bool:
        return self.things <= asked.things and asked.colour in (None, self.colour) and asked.event in (None, self.event)


def group(thing: str) -> str:
    return "p" if thing == "person" else "v" if thing in VEHICLES else "a" if thing in ANIMALS else "o"


def wordings(event: str, thing: str) -> list[str]:
    return [w for who, text in EVENTS[event].items() if group(thing) in who for w in text.split("/")]


def fact(r: random.Random) -> Fact:
    if r.random() < 0.04:
        return Fact(frozenset(["nobody"]), None, "nobody")
    thing = r.choices(["person", "car", r.choice(list(NAMES))], [0.3, 0.25, 0.45])[0]
    possible = [event for event in EVENTS if wordings(event, thing)]
    usual = [event for event in USUAL_EVENTS if event in possible]
    event = r.choice(usual if usual and r.random() < 0.6 else possible)
    return Fact(frozenset([thing]), r.choice(list(COLOURS)) if r.random() < 0.8 else None, event)


def with_article(words: str) -> str:
    return f"{'an' if words[0].lower() in 'aeiou' else 'a'} {words}"


def named(r: random.Random, thing: str, colour: str | None, rare: float) -> str:
    """Names somebody or something. `rare`: how often by another than the usual word."""
    name = r.choice(NAMES[thing]) if r.random() < rare else thing
    if colour is None:
        return with_article(name)
    if r.random() < rare:
        # As lookout does: the usual colour follows a rarer one.
        name_of_it = r.choice(COLOURS[colour])
        colour = name_of_it if colour in name_of_it.split() else f"{name_of_it} {colour}"
    if thing == "person":
        a = with_article(colour).split()[0]
        return r.choice(WORN).format(who=with_article(name), a=a, colour=colour)
    return with_article(f"{colour} {name}")


def statement(r: random.Random, said: Fact) -> str:
    """Says a fact as a caption does."""
    (thing,) = said.things
    if thing == "nobody":
        return r.choice(NOBODY)
    who = named(r, thing, said.colour, 0.2)
    third, _, participle = r.choice(wordings(said.event, thing)).partition("|")
    if participle and r.random() < 0.5:
        text = f"{r.choice(['there is ', ''])}{who} {participle}"
    else:
        text = f"{who} {third}"
    if r.random() < 0.5:
        text = text[0].upper() + text[1:] + r.choice(["", "."])
    return placed(r, text)


def question(r: random.Random, about: Fact) -> tuple[str, Fact]:
    """Asks about a part of a fact. Returns the question's text, and what it asks about."""
    (thing,) = things = about.things
    if thing == "nobody":
        return r.choice(NOBODY), about
    asks = r.choice([" ", "c", "c", "e", "e", "ce", "ce"])
    colour = about.colour if "c" in asks else None
    wider = [word for word, meant in WIDER.items() if thing in meant]
    if colour and thing == "person" and r.random() < 0.2:
        who = with_article(f"{colour} {r.choice(GARMENTS)}")
    elif wider and r.random() < 0.15:
        word = r.choice(wider)
        things, who = frozenset(WIDER[word]), with_article(f"{colour} {word}" if colour else word)
    else:
        who = named(r, thing, colour, 0.6)
    if "e" not in asks:
        return who, Fact(things, colour, None)
    third, _, participle = r.choice(wordings(about.event, thing)).partition("|")
    text = f"{who} {participle}" if participle and r.random() < 0.7 else f"{who} {r.choice(['', 'that '])}{third}"
    return placed(r, text), Fact(things, colour, about.event)


def placed(r: random.Random, text: str) -> str:
    one, other = r.choice(SIDES)
    return re.sub("from the (left|right) to the", r"from \1 to", text.format(d=one, e=other))


def held_out(words: set) -> set:
    """Returns the words of a set that a sentence or question can contain."""
    texts = [*NOBODY, *COLOURS, *WIDER, *(n for names in [*NAMES.values(), *COLOURS.values()] for n in names)]
    texts += [w for by in EVENTS.values() for text in by.values() for w in re.split(r"[/|]", text)]
    return words & {word for text in texts for word in re.findall("[a-z]+", text.lower())}
