"""A seed takes its time to become a plant."""

from __future__ import annotations

from grammar import Skeleton

from .shared import ASK_WEATHER, WHO, WHO_QUESTIONS

GROW = Skeleton(
    lines=(
        WHO,
        (
            "One {weather} day, {their} {adult} gave {name} a small seed.",
            "One {weather} morning, {name} got a small seed from {their} {adult}.",
        ),
        (
            '"What will it be?" asked {name}. "Wait and see," said the {adult}.',
            '"It is so small!" said {name}. "It will grow," said the {adult}.',
        ),
        (
            "{name} put the seed in {a_colour} pot.",
            "{they} took {a_colour} pot and put the seed into the earth.",
        ),
        (
            "Every day {they} gave it water and waited.",
            "{name} gave it water every morning.",
        ),
        (
            "For a long time nothing happened, and {name} was {sad}.",
            "Many days went by. {name} was {sad}, because nothing came up.",
        ),
        (
            '"Be patient," said {friend}, {their} friend. {friend} was {a_friend_kind}.',
            'But {their} friend {friend}, {a_friend_kind}, said, "Do not give up."',
        ),
        (
            "Then, one morning, there was a small green leaf!",
            "At last, a small green leaf came out.",
        ),
        (
            "It grew and grew, and in summer it was a big {plant}.",
            "It grew taller every day, and it became a big {plant}.",
        ),
        (
            "{name} was very {happy} and showed it to everyone.",
            '"Look, {friend}, it is a {plant}!" said {name}, and was very {happy}.',
        ),
        (
            "Good things take time.",
            "{name} had learned to wait.",
            "{name} gave a part of it to {friend}.",
        ),
    ),
    about=(
        "{a_kind} who grows {a_plant}",
        "a small seed",
        "{name} and the {plant}",
        "a seed that becomes {a_plant}",
        "waiting for {a_plant}",
    ),
    summary=("It is about {name}, who put a seed in a pot and got a big {plant}.",),
    questions=(
        *WHO_QUESTIONS,
        ASK_WEATHER,
        (
            ("What did the seed become?", "What grew in the pot?", "Which plant did {name} grow?"),
            ("The seed became a big {plant}.",),
        ),
        (
            ("Who gave {name} the seed?", "Where did the seed come from?"),
            ("{name}'s {adult} gave {them} the seed.",),
        ),
        (("What colour was the pot?",), ("The pot was {colour}.",)),
        (("Was the pot {other_colour}?",), ("No, the pot was {colour}.",)),
        (
            ("What did {name} do every day?", "What did the seed need?"),
            ("{name} gave it water.",),
        ),
        (("Who was {friend}?",), ("{friend} was {a_friend_kind}.",)),
        (
            ("Why was {name} {sad}?",),
            ("{name} was {sad} because nothing came up.",),
        ),
        (("How did {name} feel at the end?",), ("{name} was very {happy}.",)),
    ),
)
