"""Something is missing for a cake, and a friend has enough of it."""

from __future__ import annotations

from grammar import Skeleton

from .shared import ASK_WEATHER, FRIEND_QUESTIONS, WHO, WHO_QUESTIONS

BAKE = Skeleton(
    lines=(
        WHO,
        (
            "One {weather} day, {name} wanted to make {food} for {their} {adult}.",
            "It was a {weather} day, and {name} wanted to make {food} for {their} {adult}.",
            "One {weather} morning, {they} wanted to surprise {their} {adult} with some {food}.",
        ),
        (
            "But {they} had no {missing} in the kitchen.",
            "But {they} had no {missing} at home.",
            'But the box was empty. "We have no {missing}!" said {name}.',
        ),
        (
            "So {name} went to {place} to look for some {missing}.",
            "So {they} walked to {place} to find some {missing}.",
        ),
        (
            "There {they} met {friend}, {a_friend_trait} {friend_kind}.",
            "{at_place} {they} met {a_friend_trait} {friend_kind} named {friend}.",
        ),
        (
            '"Do you have any {missing}?" asked {name}.',
            '"I need {missing} for my {food}," said {name}.',
        ),
        (
            '"Yes, I have a lot," said {friend}, and gave {them} a full basket.',
            '"You can have mine," said {friend}, and gave {them} a full basket.',
            "{friend} smiled and gave {them} a full basket.",
        ),
        (
            '"Come and help me," said {name}, and they made the {food} together.',
            "They went home and made the {food} together.",
        ),
        (
            "It smelled so good!",
            "Soon the whole house smelled of {food}.",
            "It was a little burned, but it was very good.",
        ),
        (
            "The {adult} was very {happy} and gave everyone a big piece.",
            "When the {adult} came home, there was a big surprise. The {adult} was very {happy}.",
        ),
        (
            "They all ate together.",
            "It was the best {food} ever.",
            "{name} and {friend} ate until they were full.",
        ),
    ),
    about=(
        "{a_kind} who makes {food}",
        "{name} and {friend} who make {food}",
        "making {food} for {adult}",
        "{food}",
        "{name} in the kitchen",
    ),
    summary=("It is about {name}, who made {food} with {friend}.",),
    questions=(
        *WHO_QUESTIONS,
        *FRIEND_QUESTIONS,
        ASK_WEATHER,
        (
            ("What did {name} want to make?", "What did {name} make?", "What did they make?"),
            ("{name} made {food}.", "They made {food}."),
        ),
        (("Who was the {food} for?",), ("The {food} was for {name}'s {adult}.",)),
        (
            ("What was missing?", "What did {name} need?", "What did {name} not have?"),
            ("{name} had no {missing}.",),
        ),
        (
            ("Where did {name} go?", "Where did {name} meet {friend}?"),
            ("{name} went to {place}.",),
        ),
        (
            ("Who gave {name} the {missing}?", "Who helped {name}?", "Who had {missing}?"),
            ("{friend} gave {name} the {missing}.",),
        ),
        (("How did the {adult} feel?",), ("The {adult} was very {happy}.",)),
    ),
)
