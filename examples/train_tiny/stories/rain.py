"""Rain spoils a plan, and it becomes a good day at home."""

from __future__ import annotations

from grammar import Skeleton

from .shared import FRIEND, FRIEND_QUESTIONS, WHO, WHO_QUESTIONS

RAIN = Skeleton(
    lines=(
        WHO,
        (
            "{name} and {friend} wanted to go to {place} to {activity}.",
            "One day, {name} and {friend} made a plan: they would go to {place} to {activity}.",
        ),
        FRIEND,
        (
            "But then it began to rain.",
            "But when they opened the door, it began to rain.",
            "But big clouds came, and it began to rain.",
        ),
        (
            '"Now we cannot go," said {name}, and was very {sad}.',
            "{name} looked out of the window and was very {sad}.",
        ),
        (
            '"I have an idea," said {friend}. "Let us play {game}!"',
            '"Do not be {sad}," said {friend}. "We can play {game} at home."',
        ),
        (
            "So they stayed inside and played {game}.",
            "They played {game} for a long time.",
        ),
        (
            "Then {name}'s {adult} brought them some {food}.",
            "Later, {name}'s {adult} came with some {food}.",
        ),
        (
            "They laughed and laughed, and soon {name} was {happy}.",
            "It was so much fun that {name} was {happy} again.",
        ),
        (
            "When the rain stopped, they saw a rainbow in the sky.",
            "In the evening, there was a rainbow in the sky.",
        ),
        (
            '"Rain is not so bad," said {name}.',
            '"This was a good day," said {name}.',
            '"Tomorrow we can go to {place}," said {friend}.',
        ),
    ),
    about=(
        "a day of rain",
        "two friends who play {game}",
        "{name} and {friend} in the rain",
        "{name} who plays {game}",
        "a rainbow",
    ),
    summary=("It is about {name} and {friend}, who played {game} because of the rain.",),
    questions=(
        *WHO_QUESTIONS,
        *FRIEND_QUESTIONS,
        (
            ("Where did they want to go?", "What was the plan?"),
            ("They wanted to go to {place}.",),
        ),
        (
            ("What did they want to do {at_place}?", "Why did they want to go to {place}?"),
            ("They wanted to {activity}.",),
        ),
        (
            ("Why did they stay inside?", "Why was {name} {sad}?", "What was the weather like?"),
            ("It began to rain.",),
        ),
        (("What did they play?", "Which game did they play?"), ("They played {game}.",)),
        (("Did they play {other_game}?",), ("No, they played {game}.",)),
        (("Did they play {game}?",), ("Yes, they played {game}.",)),
        (
            ("What did they eat?", "What did the {adult} bring?"),
            ("{name}'s {adult} brought some {food}.",),
        ),
        (("Who had the idea?", "Who had an idea?"), ("{friend} had the idea.",)),
        (("What did they see in the sky?",), ("They saw a rainbow.",)),
        (("How did {name} feel at the end?",), ("{name} was {happy}.",)),
    ),
)
