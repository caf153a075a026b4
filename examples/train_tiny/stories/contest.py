"""A contest is lost to a friend, who shares the prize."""

from __future__ import annotations

from grammar import Skeleton

from .shared import ASK_WEATHER, COLOUR_QUESTIONS, FRIEND_QUESTIONS, WHO, WHO_QUESTIONS

CONTEST = Skeleton(
    lines=(
        WHO,
        (
            "One {weather} day, there was a {prize} {at_place}.",
            "One {weather} morning, there was a big {prize} {at_place}.",
        ),
        (
            '"I want to win," said {name}.',
            "{name} wanted to win so much!",
        ),
        (
            "{friend}, {a_friend_trait} {friend_kind}, wanted to win too.",
            "But {friend}, {a_friend_trait} {friend_kind}, was very good.",
        ),
        (
            "The prize was {a_colour} {thing}.",
            "The winner would get {a_colour} {thing}.",
        ),
        (
            "{name} had practised every day with {their} {adult}.",
            "{their} {adult} had helped {name} to practise every day.",
        ),
        (
            "Then it began, and everyone clapped.",
            "At last it began. {name} did {their} best.",
        ),
        (
            "In the end, {friend} won, and {name} came second.",
            "It was very close, but {friend} won. {name} came second.",
        ),
        (
            "At first {name} was {sad}.",
            "{name} was {sad} for a moment.",
        ),
        (
            'Then {they} went to {friend} and said, "Well done!"',
            '"Well done, {friend}!" said {name} after a while.',
        ),
        (
            '"You were very good too," said {friend}. "Let us share the {thing}."',
            '{friend} smiled and said, "We can share the {thing}."',
        ),
        (
            "Now both of them were {happy}.",
            "So both were {happy}, and they practised together from then on.",
        ),
    ),
    about=(
        "a {prize}",
        "{a_kind} who wants to win a {prize}",
        "{name} and {friend} in a {prize}",
        "{a_kind} who does not win",
        "winning {a_thing}",
    ),
    summary=("It is about a {prize}. {friend} won, and {name} came second.",),
    questions=(
        *WHO_QUESTIONS,
        *FRIEND_QUESTIONS,
        ASK_WEATHER,
        *COLOUR_QUESTIONS,
        (("Who won?", "Who won the {prize}?"), ("{friend} won the {prize}.",)),
        (("Who came second?",), ("{name} came second.",)),
        (("What was the prize?", "What did {friend} win?"), ("The prize was {a_colour} {thing}.",)),
        (("Where was the {prize}?", "Where did it happen?"), ("The {prize} was {at_place}.",)),
        (("Who helped {name} to practise?",), ("{name}'s {adult} helped {them}.",)),
        (("Did {name} win?",), ("No, {friend} won.",)),
        (("What kind of contest was it?", "What happened {at_place}?"), ("It was a {prize}.",)),
        (("How did they feel at the end?",), ("Both of them were {happy}.",)),
    ),
)
