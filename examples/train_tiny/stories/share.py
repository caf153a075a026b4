"""Two friends want the same thing, and learn to take turns."""

from __future__ import annotations

from grammar import Skeleton

from .shared import ASK_WEATHER, COLOUR_QUESTIONS, FRIEND_QUESTIONS, WHO, WHO_QUESTIONS

SHARE = Skeleton(
    lines=(
        WHO,
        (
            "{name} had a friend named {friend}. {friend} was {a_friend_trait} {friend_kind}.",
            "{their} best friend was {friend}, {a_friend_trait} {friend_kind}.",
        ),
        (
            "One {weather} day, they found {a_colour} {thing} {at_place}.",
            "One {weather} morning, the two friends saw {a_colour} {thing} {at_place}.",
        ),
        (
            '"It is mine!" said {name}. "No, it is mine!" said {friend}.',
            '"I saw it first!" said {name}. "No, I did!" said {friend}.',
            "{name} wanted the {thing}, and {friend} wanted it too.",
        ),
        (
            "They pulled and pulled, and both were angry.",
            "They shouted at each other, and both were angry.",
            "Both of them were angry, and nobody could play.",
        ),
        (
            'Then {their} {adult} came. "You can take turns," said the {adult}.',
            "\"Why don't you take turns?\" asked {name}'s {adult}.",
            '{name}\'s {adult} heard them and said, "It is more fun to take turns."',
        ),
        (
            '"I am sorry," said {name}. "You can have it first."',
            "{name} thought about it and gave the {thing} to {friend}.",
            "{name} said sorry and let {friend} have the {thing} first.",
        ),
        (
            "So first {friend} had the {thing}, and then it was {name}'s turn.",
            "{friend} smiled. First it was {friend}'s turn, and then {name}'s.",
        ),
        (
            "They were both {happy} and played until the sun went down.",
            "Both were {happy} again and laughed all day.",
        ),
        (
            "They learned that it is good to share.",
            "It is good to share with a friend.",
            "From then on, they always shared.",
        ),
    ),
    about=(
        "two friends who learn to share",
        "{name} and {friend}",
        "sharing {a_thing}",
        "{a_kind} and {a_friend_kind} who both want {a_thing}",
        "friends who fight about {a_thing}",
    ),
    summary=("It is about {name} and {friend}, who learned to share {a_colour} {thing}.",),
    questions=(
        *WHO_QUESTIONS,
        *FRIEND_QUESTIONS,
        ASK_WEATHER,
        *COLOUR_QUESTIONS,
        (
            ("What did they find?", "What did both of them want?", "Why were they angry?"),
            ("They both wanted the {colour} {thing}.",),
        ),
        (
            ("Where did they find the {thing}?", "Where was the {thing}?"),
            ("The {thing} was {at_place}.", "They found it {at_place}."),
        ),
        (
            ("Who told them to take turns?", "Who helped them?"),
            ("{name}'s {adult} told them to take turns.",),
        ),
        (
            ("Who had the {thing} first?", "Whose turn was it first?"),
            ("{friend} had the {thing} first.",),
        ),
        (
            ("What did they learn?", "What can we learn from the story?"),
            ("They learned that it is good to share.",),
        ),
        (("Who was the friend of {name}?",), ("{friend} was the friend of {name}.",)),
    ),
)
