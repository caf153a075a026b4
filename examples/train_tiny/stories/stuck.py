"""Something lands in a tree, and a friend has a ladder."""

from __future__ import annotations

from grammar import Skeleton

from .shared import (
    COLOUR_QUESTIONS,
    FRIEND,
    FRIEND_QUESTIONS,
    MEET,
    OPENING_QUESTIONS,
    THROWN,
    WHERE,
    WHO,
)

STUCK = Skeleton(
    lines=(
        WHO,
        WHERE,
        (
            "{they} had {a_colour} {thing} in {their} hands.",
            "{they} took {a_colour} {thing} along.",
            "{name} brought {a_colour} {thing}.",
        ),
        (
            "Suddenly a strong wind took the {thing} and put it up in a tall tree.",
            "{name} threw the {thing} too high, and it landed in a tall tree.",
            "A big bird took the {thing} and dropped it in a tall tree.",
        ),
        (
            "{name} jumped and jumped, but {they} was too small.",
            "{name} tried to climb the tree, but it was too hard.",
            "{name} shook the tree, but the {thing} did not fall.",
        ),
        MEET,
        FRIEND,
        (
            '"Can you help me?" asked {name}. "My {thing} is in the tree."',
            '"Please help me to get my {thing} down," said {name}.',
        ),
        (
            "{friend} had an idea and came back with a long ladder.",
            "{friend} thought for a moment and got a long ladder.",
            '"I have a long ladder," said {friend}, and went to get it.',
        ),
        (
            "{friend} climbed up and got the {thing} down.",
            "Up and up went {friend}, and down came the {thing}.",
        ),
        (
            '"You are a good friend!" said {name}. {they_} was very {happy}.',
            "{name} was very {happy} and thanked {friend}.",
        ),
        (
            "Then they played with the {thing} together.",
            "They shared the {thing} for the rest of the day.",
            "After that, {name} and {friend} played together every day.",
        ),
    ),
    about=(
        "{a_thing} in a tree",
        "{a_kind} whose {thing} is stuck in a tree",
        "{name} and {a_colour} {thing} in a tree",
        "a long ladder",
    ),
    summary=("It is about {name}, whose {colour} {thing} was stuck in a tall tree.",),
    questions=(
        *OPENING_QUESTIONS,
        *COLOUR_QUESTIONS,
        *FRIEND_QUESTIONS,
        (
            (
                "Where was the {thing} stuck?",
                "Where did the {thing} land?",
                "Where was the {thing}?",
            ),
            ("The {thing} was in a tall tree.",),
        ),
        (
            ("Who got the {thing} down?", "Who helped {name}?", "Who climbed up the tree?"),
            ("{friend} got the {thing} down.",),
        ),
        (
            ("How did {friend} get the {thing} down?", "What did {friend} bring?"),
            ("{friend} used a long ladder.",),
        ),
        (("What did {name} bring?",), ("{name} brought {a_colour} {thing}.",)),
        (("How did {name} feel at the end?",), ("{name} was very {happy}.",)),
    ),
    things=THROWN,
)
