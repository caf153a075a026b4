"""Someone is new and alone, and is asked to play."""

from __future__ import annotations

from grammar import Skeleton

from .shared import OPENING_QUESTIONS, WHERE, WHO

NEWCOMER = Skeleton(
    lines=(
        WHO,
        WHERE,
        (
            "There {they} saw {a_friend_kind} sitting alone {spot}.",
            "{a_friend_kind} was sitting alone {spot}.",
        ),
        (
            "{name} had never seen the {friend_kind} before.",
            "The {friend_kind} looked very {sad}.",
        ),
        (
            '"Hello, I am {name}. What is your name?" asked {name}.',
            '"What is your name?" asked {name}.',
        ),
        (
            '"My name is {friend}," said the {friend_kind}. "I am new here and have no friends."',
            '"I am {friend}," said the {friend_kind}. "I do not know anyone here."',
        ),
        (
            '"I will be your friend," said {name}. "Do you like {game}?"',
            '"Then come with me," said {name}. "Let us play {game}."',
        ),
        (
            "{friend} smiled, and they played {game} all day.",
            '"Yes!" said {friend}, and they played {game} until the evening.',
        ),
        (
            "{name} shared {their} {food} with {friend}.",
            "When they were hungry, {name} shared some {food} with {friend}.",
        ),
        (
            "{friend} was not alone any more and was very {happy}.",
            "{friend} was very {happy} to have a friend.",
        ),
        (
            "The next day, they met again {at_place}.",
            "From that day on, they were best friends.",
        ),
    ),
    about=(
        "a new friend",
        "{a_friend_kind} who has no friends",
        "{name} who finds a new friend",
        "{a_kind} and {a_friend_kind} who become friends",
        "{name} and {friend} who play {game}",
    ),
    summary=("It is about {name}, who found a new friend, {friend}.",),
    questions=(
        *OPENING_QUESTIONS,
        (
            ("Who was sitting alone?", "Who was new?", "Who had no friends?"),
            ("{friend} was sitting alone.",),
        ),
        (("Where was {friend} sitting?", "Where was {friend}?"), ("{friend} was sitting {spot}.",)),
        (("What did they play?", "Which game did they play?"), ("They played {game}.",)),
        (("Did they play {other_game}?",), ("No, they played {game}.",)),
        (
            ("What did {name} share?", "What did they eat?"),
            ("{name} shared some {food}.",),
        ),
        (("Who was {friend}?", "What was {friend}?"), ("{friend} was {a_friend_kind}.",)),
        (("How did {friend} feel at the end?",), ("{friend} was very {happy}.",)),
    ),
)
