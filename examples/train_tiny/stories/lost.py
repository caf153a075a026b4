"""Something is lost, and a friend finds it."""

from __future__ import annotations

from grammar import Skeleton

from .shared import COLOUR_QUESTIONS, FRIEND, FRIEND_QUESTIONS, MEET, OPENING_QUESTIONS, WHERE, WHO

LOST = Skeleton(
    lines=(
        WHO,
        (
            "{name} had {a_colour} {thing} and loved to {use}.",
            "{their} favourite thing was {a_colour} {thing}, and {they} loved to {use}.",
        ),
        WHERE,
        (
            "But {at_place} {they} lost the {thing}.",
            "But when {they} wanted to go home, the {thing} was gone.",
            "After a while {they} looked around, and the {thing} was gone.",
        ),
        (
            "{name} was very {sad}.",
            '"Oh no! Where is my {thing}?" said {name}. {they_} was very {sad}.',
            "{name} was very {sad} and began to cry.",
        ),
        (
            "{name} looked {wrong_spot}, but the {thing} was not there.",
            "First {they} looked {wrong_spot}, but there was nothing.",
            "{they} looked {wrong_spot}, but could not find it.",
        ),
        MEET,
        FRIEND,
        (
            '"I can help you," said {friend}.',
            '"Do not cry," said {friend}. "Let us look together."',
            '"What is wrong?" asked {friend}. "I lost my {thing}," said {name}.',
        ),
        (
            "{friend} looked {spot}, and there was the {colour} {thing}!",
            "They looked everywhere. At last {friend} found the {colour} {thing} {spot}.",
            "{friend} found the {thing} {spot}.",
        ),
        (
            '"Thank you, {friend}!" said {name}. {they_} was {happy} again.',
            "{name} was so {happy} that {they} hugged {friend}.",
            "{name} was {happy} and said thank you to {friend}.",
        ),
        (
            "From that day on, {name} always took good care of the {thing}.",
            "After that, {name} and {friend} were best friends.",
            "Then they went home together.",
        ),
    ),
    about=(
        "{a_kind} who loses {a_thing}",
        "a lost {thing}",
        "{name} who lost {a_thing}",
        "{a_colour} {thing} that gets lost",
        "{name} and the lost {thing}",
    ),
    summary=("It is about {name}, who lost {a_colour} {thing} and got it back.",),
    questions=(
        *OPENING_QUESTIONS,
        *COLOUR_QUESTIONS,
        *FRIEND_QUESTIONS,
        (("Who lost the {thing}?", "Whose {thing} was it?"), ("{name} lost the {thing}.",)),
        (("What did {name} lose?", "What was lost?"), ("{name} lost the {colour} {thing}.",)),
        (
            ("Where was the {thing}?", "Where did {friend} find the {thing}?"),
            ("The {thing} was {spot}.", "It was {spot}."),
        ),
        (
            ("Who found the {thing}?", "Who helped {name}?"),
            ("{friend} found the {thing}.",),
        ),
        (("Where did {name} look first?",), ("{name} looked {wrong_spot}.",)),
        (
            ("How did {name} feel at the end?", "Was {name} happy at the end?"),
            ("{name} was {happy} at the end.",),
        ),
        (
            ("How did {name} feel when the {thing} was gone?", "Why was {name} {sad}?"),
            ("{name} was {sad} because the {thing} was gone.",),
        ),
    ),
)
