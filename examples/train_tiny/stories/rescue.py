"""An animal needs help, and becomes a friend."""

from __future__ import annotations

from grammar import Skeleton

from .shared import OPENING_QUESTIONS, WHERE, WHO

RESCUE = Skeleton(
    lines=(
        WHO,
        WHERE,
        (
            "There {they} heard a small sound {spot}.",
            "Suddenly {name} heard something {spot}.",
            "Then {they} saw something move {spot}.",
        ),
        (
            "It was {an_animal}!",
            "{name} looked closer and saw {an_animal}.",
            "It was a little {animal}, all alone.",
        ),
        (
            "The {animal} {hurt}.",
            "The poor {animal} {hurt} and looked {sad}.",
            "It could not go home, because it {hurt}. Poor {animal}!",
        ),
        (
            '"Do not be afraid," said {name}. "I will help you."',
            '"Poor little {animal}," said {name}. "I will take care of you."',
            "{name} wanted to help the {animal}.",
        ),
        (
            "{they} took it home to {their} {adult}, and they gave it {cure}.",
            "{name} carried the {animal} home, and {their} {adult} gave it {cure}.",
            "At home, {name} and {their} {adult} gave the {animal} {cure}.",
        ),
        (
            "Soon the {animal} felt better.",
            "The next day, the {animal} was well again.",
        ),
        (
            "{name} called the {animal} {friend}.",
            '"I will call you {friend}," said {name}.',
            "{name} gave it a name: {friend}.",
        ),
        (
            "{friend} stayed with {name}, and they were {happy}.",
            "{name} was {happy}, and {friend} was {happy} too.",
            "{name} and {friend} were {happy} and played every day.",
        ),
    ),
    about=(
        "{a_kind} who helps {an_animal}",
        "{name} and the little {animal}",
        "{an_animal} that needs help",
        "{an_animal} called {friend}",
        "{a_trait} {kind} and {an_animal}",
    ),
    summary=("It is about {name}, who took care of {an_animal}.",),
    questions=(
        *OPENING_QUESTIONS,
        (
            ("What did {name} find?", "Which animal did {name} find?", "Who needed help?"),
            ("{name} found {an_animal}.",),
        ),
        (
            ("Where was the {animal}?", "Where did {name} find the {animal}?"),
            ("The {animal} was {spot}.",),
        ),
        (
            ("What was wrong with the {animal}?", "Why did the {animal} need help?"),
            ("The {animal} {hurt}.",),
        ),
        (
            ("What did they give the {animal}?", "What did the {animal} get?"),
            ("They gave it {cure}.",),
        ),
        (
            ("What was the {animal} called?", "What did {name} call the {animal}?"),
            ("The {animal} was called {friend}.",),
        ),
        (("Who was {friend}?",), ("{friend} was the {animal}.",)),
        (("Who helped {name}?",), ("{name}'s {adult} helped.",)),
        (("How did they feel at the end?",), ("They were {happy}.",)),
    ),
)
