"""A fear is overcome at the hand of a friend."""

from __future__ import annotations

from grammar import Skeleton

from .shared import FRIEND_QUESTIONS, OPENING_QUESTIONS, WHERE, WHO

AFRAID = Skeleton(
    lines=(
        WHO,
        (
            "{name} was afraid of {fear}.",
            "{name} could do many things, but {they} was afraid of {fear}.",
            "There was only one problem: {name} was afraid of {fear}.",
        ),
        WHERE,
        (
            "{friend}, {a_friend_trait} {friend_kind}, came too.",
            "{their} friend {friend}, {a_friend_trait} {friend_kind}, came along.",
        ),
        (
            "Suddenly {name} stopped and began to shake.",
            "All at once, {name} stood still and did not want to go on.",
            "Then {name} closed {their} eyes and did not move.",
        ),
        (
            '"What is it?" asked {friend}. "I am afraid of {fear}," said {name}.',
            '"I am afraid," said {name}. "Everyone is afraid sometimes," said {friend}.',
        ),
        (
            '"Hold my hand," said {friend}. "We can do it together."',
            "{friend} did not laugh and took {name} by the hand.",
        ),
        (
            "So {name} {courage}.",
            "Slowly, {name} {courage}.",
            "With {friend} at {their} side, {name} {courage}.",
        ),
        (
            "It was not so bad at all!",
            "And nothing bad happened.",
            "After a while, it was even fun.",
        ),
        (
            '"I did it!" said {name}, and was very {happy}.',
            "{name} was very {happy} and danced around.",
        ),
        (
            "After that, {name} was not afraid of {fear} any more.",
            "From that day on, {fear} did not scare {name} any more.",
        ),
    ),
    about=(
        "{a_kind} who is afraid of {fear}",
        "{name} who was afraid of {fear}",
        "being brave",
        "being afraid of {fear}",
    ),
    summary=("It is about {name}, who was afraid of {fear} and became brave.",),
    questions=(
        *OPENING_QUESTIONS,
        *FRIEND_QUESTIONS,
        (
            ("What was {name} afraid of?", "What scared {name}?", "Why did {name} stop?"),
            ("{name} was afraid of {fear}.",),
        ),
        (
            ("Who helped {name}?", "Who came along?", "Who took {name} by the hand?"),
            ("{friend} helped {name}.",),
        ),
        (("What did {name} do to be brave?", "What did {name} do?"), ("{name} {courage}.",)),
        (
            ("How did {name} feel at the end?",),
            ("{name} was very {happy}.",),
        ),
        (
            ("Is {name} still afraid of {fear}?",),
            ("No, {name} is not afraid of {fear} any more.",),
        ),
    ),
)
