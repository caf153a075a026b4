"""Something breaks, is hidden, and the truth is told."""

from __future__ import annotations

from grammar import Skeleton

from .shared import ASK_WEATHER, COLOUR_QUESTIONS, FRIEND_QUESTIONS, WHO, WHO_QUESTIONS, WOODEN

BROKEN = Skeleton(
    lines=(
        WHO,
        (
            "{their} {adult} had {a_colour} {thing} at home.",
            "In the house there was {a_colour} {thing}. It was the {thing} of {their} {adult}.",
        ),
        (
            "One {weather} day, {name} played with the {thing}, and it fell down and broke.",
            "One {weather} morning, {name} ran through the house, and the {thing} fell and broke.",
        ),
        (
            '"Oh no!" said {name}, and was very {sad}.',
            "{name} was very {sad} and did not know what to do.",
        ),
        (
            "{they} took the {thing} and ran to {place}.",
            "{name} put the {thing} in a bag and ran to {place}.",
        ),
        (
            "There {they} hid it {spot}.",
            "{they} hid it {spot}, so that nobody could see it.",
        ),
        (
            "But {friend}, {a_friend_trait} {friend_kind}, had seen it.",
            "{friend}, {a_friend_trait} {friend_kind}, saw {name}.",
        ),
        (
            '"You should tell the truth," said {friend}.',
            '"It is better to tell the truth," said {friend}.',
        ),
        (
            'So {name} went home and told the truth. "I am sorry," {they} said.',
            '"You are right," said {name}. {they_} went home and told the truth.',
        ),
        (
            "The {adult} was not angry.",
            '"Thank you for telling me," said the {adult}.',
        ),
        (
            "Together they mended the {thing} with glue.",
            "They took some glue and mended the {thing} together.",
        ),
        (
            "{name} was {happy} again.",
            "Then {name} was {happy}, and the {thing} looked almost like new.",
        ),
    ),
    about=(
        "a broken {thing}",
        "{a_kind} who breaks {a_thing}",
        "{name} who tells the truth",
        "telling the truth",
        "{a_kind} who hides a broken {thing}",
    ),
    summary=("It is about {name}, who broke {a_colour} {thing} and told the truth.",),
    questions=(
        *WHO_QUESTIONS,
        *FRIEND_QUESTIONS,
        ASK_WEATHER,
        *COLOUR_QUESTIONS,
        (("What broke?", "What did {name} break?"), ("The {colour} {thing} broke.",)),
        (("Who broke the {thing}?",), ("{name} broke the {thing}.",)),
        (("Whose {thing} was it?",), ("It was the {thing} of {name}'s {adult}.",)),
        (
            ("Where did {name} hide the {thing}?", "Where was the {thing} hidden?"),
            ("{name} hid the {thing} {spot}.",),
        ),
        (("Who saw {name}?", "Who told {name} to tell the truth?"), ("{friend} did.",)),
        (("How did they mend the {thing}?",), ("They mended it with glue.",)),
        (("Where did {name} run?", "Where did {name} go?"), ("{name} ran to {place}.",)),
        (("How did {name} feel at the end?",), ("{name} was {happy} again.",)),
    ),
    things=WOODEN,
)
