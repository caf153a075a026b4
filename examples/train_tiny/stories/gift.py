"""A gift for a birthday is made, as there is no money to buy it."""

from __future__ import annotations

from grammar import Skeleton

from .shared import COLOUR_QUESTIONS, FRIEND_QUESTIONS, WHO, WHO_QUESTIONS, WOODEN

GIFT = Skeleton(
    lines=(
        WHO,
        (
            "{their} friend {friend} had a birthday. {friend} was {a_friend_trait} {friend_kind}.",
            "It was the birthday of {friend}, {a_friend_trait} {friend_kind}.",
        ),
        (
            "{name} wanted to give {f_them} {a_thing}, but {they} had no money.",
            "{friend} wished for {a_thing}, but {name} had no money.",
        ),
        (
            '"What can I do?" {they} thought. {they_} was very {sad}.',
            "{name} was very {sad} and did not know what to do.",
        ),
        (
            "So {they} went to {place} to think.",
            "{they} walked to {place} to think.",
        ),
        (
            "There {they} found some wood and some {colour} paint {spot}.",
            "{spot} {they} found some wood and some {colour} paint.",
        ),
        (
            '"I can make one!" said {name}.',
            "Then {name} had an idea.",
        ),
        (
            "{they} worked all day and made {a_colour} {thing}.",
            "{name} worked until the evening, and then there was {a_colour} {thing}.",
        ),
        (
            "{friend} opened the box and jumped for joy.",
            '"Happy birthday!" said {name}. {friend} opened the box with big eyes.',
        ),
        (
            '"You made it yourself!" said {friend}. "It is the best gift of all."',
            '"Thank you, {name}!" said {friend}. "It is the best gift of all."',
        ),
        (
            "{name} was very {happy} too.",
            "{name} was very {happy}, and they ate {food} together.",
        ),
    ),
    about=(
        "a birthday",
        "a gift for {friend}",
        "{a_kind} who makes {a_thing}",
        "{name} who makes a gift for {friend}",
        "{a_thing} made of wood",
    ),
    summary=("It is about {name}, who made {a_colour} {thing} for {friend}.",),
    questions=(
        *WHO_QUESTIONS,
        *FRIEND_QUESTIONS,
        *COLOUR_QUESTIONS,
        (("Who had a birthday?", "Whose birthday was it?"), ("{friend} had a birthday.",)),
        (
            ("What did {name} make?", "What was the gift?", "What did {friend} get?"),
            ("{name} made {a_colour} {thing}.",),
        ),
        (
            ("Why was {name} {sad}?", "Why did {name} not buy {a_thing}?"),
            ("{name} had no money.",),
        ),
        (
            ("Where did {name} find the paint?", "Where was the wood?"),
            ("The wood and the paint were {spot}.",),
        ),
        (("Where did {name} go to think?", "Where did {name} go?"), ("{name} went to {place}.",)),
        (("Who made the {thing}?",), ("{name} made the {thing}.",)),
        (("How did {name} feel at the end?",), ("{name} was very {happy}.",)),
    ),
    things=WOODEN,
)
