"""The world and the rules by which a story is made.

A story is one `Skeleton` of stories/ filled with one set of facts. The facts are drawn once for
a story, so whatever is lost is what is found, and a question about the story has one answer. A
skeleton is a list of lines; each line is a tuple of paraphrases, of which one is taken.

Everything is drawn from a `random.Random`: one seed, one text.
"""

from __future__ import annotations

import random
import zlib
from dataclasses import dataclass

Facts = dict[str, str]
Paraphrases = tuple[str, ...]


def words(text: str) -> Paraphrases:
    return tuple(text.split())


GIRLS = words(
    "Mia Lily Anna Zoe Ruby Nora Ella Rosa Ida Maya Lucy Emma Sara Alice Clara Luna Hana Ines "
    "Molly Daisy"
)
BOYS = words(
    "Tom Ben Max Leo Sam Finn Omar Jack Noah Oscar Tim Hugo Paul Felix Adam Luke Jonas Theo "
    "Marco Peter"
)
CREATURE_NAMES = words(
    "Pip Dot Bo Coco Momo Bean Biscuit Pebble Nutty Fuzzy Kiki Patch Rusty Bubbles Sunny Tiko "
    "Pepper Mango Olly Whiskers"
)
CREATURES = words(
    "fox rabbit bear mouse cat dog owl frog duck hedgehog dragon robot squirrel pig turtle lion "
    "elephant penguin monkey bird"
)
TRAITS = words(
    "kind brave shy curious clever cheerful quiet patient funny careful gentle busy little young "
    "friendly sleepy"
)
COLOURS = words("red blue green yellow orange purple pink white black brown golden silver")
WEATHERS = words("sunny windy rainy cold warm cloudy snowy foggy bright stormy")
ADULTS = words("mom dad grandma grandpa aunt uncle")

# place, preposition, what one does there, where a thing can lie there
PLACES: tuple[tuple[str, str, str, Paraphrases], ...] = (
    ("park", "in", "play on the swings", ("under a bench", "behind a tree", "near the fountain")),
    ("beach", "at", "build a sand castle", ("under the pier", "behind a rock", "near the waves")),
    ("forest", "in", "look for mushrooms", ("under a bush", "behind a log", "in the leaves")),
    ("garden", "in", "pick flowers", ("under the roses", "behind the shed", "in the grass")),
    ("farm", "on", "see the cows", ("under a cart", "behind the barn", "in the hay")),
    ("lake", "at", "watch the fish", ("under the bridge", "behind a tree", "in the reeds")),
    ("market", "at", "buy some apples", ("under a table", "behind a basket", "next to a cart")),
    ("hill", "on", "look at the clouds", ("under an oak", "behind a bush", "next to a stone")),
    ("river", "at", "throw stones", ("under a branch", "behind a stone", "near the water")),
    ("meadow", "in", "chase butterflies", ("under a tree", "behind a fence", "in the tall grass")),
    ("school", "at", "paint a picture", ("under a desk", "behind the door", "in a corner")),
    ("library", "in", "read about the stars", ("under a chair", "behind a shelf", "on a sofa")),
)

# thing, what one loves to do with it
THINGS = {
    "kite": "fly it in the wind",
    "ball": "kick it high",
    "hat": "wear it every day",
    "book": "read it every night",
    "doll": "sing to it",
    "boat": "sail it on the water",
    "drum": "play it all day",
    "scarf": "wear it in the cold",
    "lantern": "carry it at night",
    "bell": "ring it in the morning",
    "blanket": "sleep under it",
    "car": "race it across the floor",
    "train": "push it along the floor",
    "cup": "drink from it",
    "umbrella": "walk with it in the rain",
    "flute": "play songs on it",
    "bucket": "fill it with sand",
    "bag": "carry it everywhere",
    "ring": "see it shine",
    "teddy bear": "hug it at night",
    "shell": "listen to it",
    "key": "keep it in a pocket",
    "balloon": "hold it by the string",
    "whistle": "blow it loudly",
}
ANIMALS = words("kitten puppy duckling bunny turtle lamb butterfly hedgehog sparrow snail pony")
HURTS = (
    ("was hungry", "some food"),
    ("was thirsty", "some water"),
    ("was cold", "a warm blanket"),
    ("had a hurt leg", "a soft bandage"),
    ("was tired", "a soft bed"),
)
FOODS = (
    ("cake", "eggs"),
    ("bread", "flour"),
    ("soup", "carrots"),
    ("pie", "apples"),
    ("pizza", "cheese"),
    ("jam", "sugar"),
    ("salad", "tomatoes"),
    ("pudding", "milk"),
    ("honey cake", "honey"),
)
PLANTS = words("sunflower pumpkin rose tomato cherry carrot tulip bean strawberry melon")
FEARS = (
    ("the dark", "turned on a small light"),
    ("thunder", "sang a loud song"),
    ("deep water", "started where the water was low"),
    ("big dogs", "spoke in a soft voice"),
    ("high places", "took one small step at a time"),
    ("spiders", "watched one from far away"),
    ("the wind", "listened to its song"),
    ("ghosts", "looked under the bed"),
)
GAMES = ("hide and seek", "tag", "chess", "cards", "catch", "pirates", "drums", "marbles")
PRIZES = ("race", "singing contest", "drawing contest", "swimming race", "dance contest")

INVENTED_NAMES = 0.2  # share of names made of syllables: they must be copied, not remembered
HELD_OUT = 12  # one pair of name and place in so many is never trained on


@dataclass(frozen=True, slots=True)
class Skeleton:
    """One kind of story: what is told, what it is about, what can be asked about it."""

    lines: tuple[Paraphrases, ...]
    about: Paraphrases  # completes "Tell me a story about ..."
    summary: Paraphrases
    questions: tuple[tuple[Paraphrases, Paraphrases], ...]  # (ways to ask, ways to answer)
    things: Paraphrases = tuple(THINGS)  # what its {thing} can be


@dataclass(frozen=True, slots=True)
class Story:
    """A story with the facts that it was made from."""

    text: str
    facts: Facts
    skeleton: Skeleton


def held_out(name: str, place: str) -> bool:
    """Whether this name at this place belongs to the held-out split."""
    return zlib.crc32(f"{name} {place}".encode()) % HELD_OUT == 0


def make_story(rng: random.Random, skeletons: tuple[Skeleton, ...], *, train: bool) -> Story:
    """Draw a skeleton and facts of the asked split, and tell the story."""
    skeleton = rng.choice(skeletons)
    facts = draw_facts(rng, skeleton.things)
    while held_out(facts["name"], facts["place"]) == train:
        facts = draw_facts(rng, skeleton.things)
    sentences = (fill(rng, line, facts) for line in skeleton.lines)
    return Story(" ".join(s for s in sentences if s), facts, skeleton)


def fill(rng: random.Random, paraphrases: Paraphrases, facts: Facts) -> str:
    """One paraphrase with its {slots} filled; the first letter of a sentence is upper case."""
    return capitalize(rng.choice(paraphrases).format_map(facts))


def capitalize(text: str) -> str:
    return text[:1].upper() + text[1:]


def article(noun: str) -> str:
    """ "an owl", "a fox"."""
    return f"{'an' if noun[0].lower() in 'aeiou' else 'a'} {noun}"


def draw_facts(rng: random.Random, things: Paraphrases) -> Facts:
    """Every fact that any skeleton may use, by slot name; its thing is one of `things`."""
    name, kind, pronouns = draw_character(rng)
    friend, friend_kind, friend_pronouns = draw_character(rng)
    while friend == name:
        friend, friend_kind, friend_pronouns = draw_character(rng)
    trait, friend_trait = rng.sample(TRAITS, 2)
    place, preposition, activity, spots = rng.choice(PLACES)
    spot, wrong_spot = rng.sample(spots, 2)
    colour, other_colour = rng.sample(COLOURS, 2)
    thing = rng.choice(things)
    other_thing = rng.choice([other for other in THINGS if other != thing])
    hurt, cure = rng.choice(HURTS)
    food, missing = rng.choice(FOODS)
    fear, courage = rng.choice(FEARS)
    game, other_game = rng.sample(GAMES, 2)
    animal = rng.choice(ANIMALS)
    plant = rng.choice(PLANTS)
    they, them, their = pronouns
    f_they, f_them, f_their = friend_pronouns
    return {
        "name": name,
        "kind": kind,
        "a_kind": article(kind),
        "trait": trait,
        "a_trait": article(trait),
        "they": they,
        "they_": capitalize(they),
        "them": them,
        "their": their,
        "friend": friend,
        "friend_kind": friend_kind,
        "a_friend_kind": article(friend_kind),
        "friend_trait": friend_trait,
        "a_friend_trait": article(friend_trait),
        "f_they": f_they,
        "f_them": f_them,
        "f_their": f_their,
        "place": f"the {place}",
        "at_place": f"{preposition} the {place}",
        "activity": activity,
        "spot": spot,
        "wrong_spot": wrong_spot,
        "colour": colour,
        "a_colour": article(colour),
        "other_colour": other_colour,
        "thing": thing,
        "a_thing": article(thing),
        "other_thing": other_thing,
        "use": THINGS[thing],
        "weather": rng.choice(WEATHERS),
        "adult": rng.choice(ADULTS),
        "animal": animal,
        "an_animal": article(animal),
        "hurt": hurt,
        "cure": cure,
        "food": food,
        "missing": missing,
        "fear": fear,
        "courage": courage,
        "game": game,
        "other_game": other_game,
        "plant": plant,
        "a_plant": article(plant),
        "prize": rng.choice(PRIZES),
        "happy": rng.choice(("happy", "glad", "merry")),
        "sad": rng.choice(("sad", "worried", "upset")),
    }


def draw_character(rng: random.Random) -> tuple[str, str, tuple[str, str, str]]:
    """A name, a kind ("girl", "fox"), and the pronouns they, them, their."""
    she, he = ("she", "her", "her"), ("he", "him", "his")
    who = rng.random()
    if who < 0.3:
        names, kind, pronouns = GIRLS, "girl", she
    elif who < 0.6:
        names, kind, pronouns = BOYS, "boy", he
    else:
        names, kind, pronouns = CREATURE_NAMES, rng.choice(CREATURES), rng.choice((she, he))
        if rng.random() < 0.3:
            names = GIRLS if pronouns is she else BOYS
    if rng.random() < INVENTED_NAMES:
        return invent_name(rng), kind, pronouns
    return rng.choice(names), kind, pronouns


def invent_name(rng: random.Random) -> str:
    """Two or three syllables, such as "Zubo" or "Kalimu"."""
    syllables = (
        rng.choice("bcdfghjklmnprstvwz") + rng.choice("aeiou") + rng.choice(("", "", "", "l", "n"))
        for _ in range(rng.choice((2, 2, 3)))
    )
    return capitalize("".join(syllables))
