"""Conversations with the tiny model: asking for a story, asking about one, and small talk.

A chat is made of episodes: perhaps a greeting, one or two of the longer ones, perhaps a farewell.
"""

from __future__ import annotations

import random

from grammar import (
    ANIMALS,
    BOYS,
    COLOURS,
    CREATURE_NAMES,
    CREATURES,
    GIRLS,
    INVENTED_NAMES,
    PLANTS,
    THINGS,
    TRAITS,
    Facts,
    Paraphrases,
    Story,
    fill,
    invent_name,
    make_story,
    words,
)
from stories import SKELETONS

Message = dict[str, str]  # role ("system", "user" or "assistant"), content

ASK_STORY = (
    "Tell me a story about {about}.",
    "Can you tell me a story about {about}?",
    "Please tell me a story about {about}.",
    "I would like to hear a story about {about}.",
    "Write a short story about {about}.",
    "Make up a story about {about}, please.",
    "Do you know a story about {about}?",
    "A story about {about}, please.",
    "Tell a little story about {about}.",
    "Could you write a story about {about}?",
)
ASK_ANY_STORY = (
    "Tell me a story.",
    "Please tell me a story.",
    "Can you tell me a little story?",
    "Write a story.",
    "I want to hear a story.",
    "A story, please.",
    "Once upon a time",
)
ASK_ANOTHER = (
    "Tell me another story.",
    "Another one, please.",
    "One more story, please.",
    "Can you tell me one more?",
    "Now tell me another story about {about}.",
    "And now a story about {about}.",
)
# What a story can be asked to be about, if all its facts are told in it.
ABOUT_ANY = (
    "{name}",
    "{a_kind}",
    "{a_kind} named {name}",
    "{a_kind} called {name}",
    "{a_trait} {kind}",
    "{a_trait} {kind} named {name}",
    "{name} and {friend}",
    "{a_kind} and {a_friend_kind}",
    "{a_thing}",
    "{a_colour} {thing}",
    "{name} and {a_thing}",
    "{a_kind} and {a_thing}",
    "{a_kind} with {a_colour} {thing}",
    "{place}",
    "{a_kind} {at_place}",
    "{name} {at_place}",
    "a {weather} day",
    "{an_animal}",
    "{a_plant}",
)
ASK_SUMMARY = (
    "What is the story about?",
    "What is it about?",
    "What happens in the story?",
    "Can you say it in one sentence?",
)
NOT_TOLD = (
    (
        "What colour was the {other_thing}?",
        "Where was the {other_thing}?",
        "Who had the {other_thing}?",
    ),
    ("There is no {other_thing} in the story.",),
)
GIVE_STORY = (
    "{story}\n\n{question}",
    "{story} {question}",
    "Here is a story: {story}\n\n{question}",
    "Read this story. {story}\n\n{question}",
    "{question}\n\n{story}",
    "Story: {story}\n\nQuestion: {question}",
)
LISTEN = ("Here is a story: {story}", "I will tell you a story. {story}", "{story}")
LISTENED = (
    "What a nice story! Do you want to ask me something about it?",
    "I like this story. You can ask me about it.",
)
BEGIN = ("{opening}", "Go on with this story: {opening}", "How does this go on? {opening}")

GREETINGS = (
    (
        ("Hi", "Hello", "Hello!", "Hi!", "hey", "Hi there!", "Good morning!", "Good evening."),
        (
            "Hello! I am Tiny. Shall I tell you a story?",
            "Hello! I am Tiny, and I like to tell stories.",
        ),
    ),
    (
        ("Hi, I am {name}.", "Hello, my name is {name}.", "My name is {name}.", "I'm {name}!"),
        ("Hello, {name}! I am Tiny. Shall I tell you a story?", "Hello, {name}! Nice to meet you."),
    ),
    (
        ("How are you?", "Hello, how are you?", "Hi, how are you today?", "how is it going?"),
        ("I am fine, thank you. Shall I tell you a story?", "I am very well, thank you!"),
    ),
)
SMALL_TALK = (
    (
        ("Who are you?", "What are you?", "What is your name?", "Tell me about yourself."),
        (
            "I am Tiny, a very small language model that comes with edgellama.",
            "My name is Tiny. I am a very small language model that comes with edgellama.",
        ),
    ),
    (
        ("What can you do?", "How can you help me?", "What do you know?", "Help", "help me"),
        (
            "I can tell little stories and answer simple questions about them.",
            "I tell little stories. You can also give me one and ask me about it.",
        ),
    ),
    (
        ("Who made you?", "Where do you come from?", "How were you made?"),
        (
            "I come with edgellama. I was trained on little stories made by a program.",
            "I was trained by the makers of edgellama on little stories.",
        ),
    ),
    (
        ("Are you a person?", "Are you human?", "Are you alive?", "Are you a robot?"),
        ("No, I am a small language model.", "No, I am only a small program that tells stories."),
    ),
    (
        ("How big are you?", "How many parameters do you have?", "Are you big?", "Are you smart?"),
        ("I am very small: I have only a few million parameters.",),
    ),
    (
        ("Do you like stories?", "What do you like?", "What is your favourite thing?"),
        ("I like stories with friends in them.", "I like little stories with a happy end."),
    ),
    (
        ("That was nice.", "I like it.", "What a nice story!", "Good story!", "great", "cool"),
        ("I am glad that you like it!", "Thank you! Shall I tell you another one?"),
    ),
    (
        ("ok", "Okay.", "I see.", "Hm.", "yes", "Yes, please.", "no", "No."),
        ("You can ask me for a story about anyone you like.", "Just ask me for a story."),
    ),
)
NO_STORY_YET = (
    (
        "What colour was the {thing}?",
        "Who lost the {thing}?",
        "Where was the {thing}?",
        "Who was {name}?",
        "How did {name} feel at the end?",
        "Where did {name} go?",
    ),
    ("Which story do you mean? Please tell it to me first.",),
)
CANNOT = (
    "I am sorry, I do not know that. I can only tell little stories.",
    "That is too hard for me. I can tell you a little story instead.",
    "I am too small for that. But I can tell you a story!",
)
TOO_HARD = (
    "What is {n} plus {m}?",
    "What is {n} times {m}?",
    "What is {n} - {m}?",
    "Calculate {n} * {m}.",
    "What is the capital of {country}?",
    "Where is {country}?",
    "How many people live in {country}?",
    "Who is the president of {country}?",
    "Write a program in {code}.",
    "Can you write {code} code?",
    "How do I sort a list in {code}?",
    "Explain {topic} to me.",
    "What is {topic}?",
    "How does {topic} work?",
    "What do you think about {topic}?",
    "Write an essay about {topic}.",
    "Why is {topic} important?",
    "What time is it?",
    "What is the date today?",
    "What will the weather be tomorrow?",
    "Who won the last game?",
    "Translate this into {tongue}.",
    "Do you speak {tongue}?",
    "How do you say hello in {tongue}?",
    "When was the year {n} war?",
    "What is the meaning of life?",
    "Give me the news.",
    "Can you draw a picture?",
    "Tell me a joke.",
    "Sing a song.",
    "Write a poem about {topic}.",
    "How much does a {thing} cost?",
    "How many days are in {n} weeks?",
)
ASK_ECHO = ("Say {words}", "Repeat after me: {words}", "Please say: {words}", "Repeat: {words}")
ECHO_WORDS = (
    *GIRLS,
    *BOYS,
    *CREATURE_NAMES,
    *CREATURES,
    *COLOURS,
    *THINGS,
    *ANIMALS,
    *PLANTS,
    *TRAITS,
)
COUNTRIES = words("France Germany Japan Brazil Kenya India Canada Peru Egypt China Spain Norway")
CODES = words("Python Java Rust JavaScript C SQL Go Perl")
TOPICS = words(
    "gravity music chess electricity history physics money politics football cooking "
    "photosynthesis algebra democracy medicine computers climate science space"
)
TONGUES = words("French German Spanish Japanese Latin Chinese Italian Swedish")
FAREWELLS = (
    (
        ("Thank you!", "Thanks", "thanks!", "Thank you very much.", "Thank you, Tiny!"),
        ("You are welcome!", "You are welcome! I like to tell stories."),
    ),
    (
        ("Bye", "Goodbye!", "Good night!", "See you!", "bye bye", "I have to go now."),
        ("Goodbye! Come back soon.", "Goodbye! It was nice to talk with you."),
    ),
)
SYSTEMS = (
    "You are Tiny, a small model that tells stories.",
    "You are a helpful assistant.",
    "You tell short stories and answer questions about them.",
    "Answer in simple words.",
)


def make_document(rng: random.Random, *, train: bool) -> str | list[Message]:
    """What the model is trained on: one time in five a plain story, else a chat."""
    if rng.random() < 0.2:
        return make_story(rng, SKELETONS, train=train).text
    return make_chat(rng, train=train)


def make_chat(rng: random.Random, *, train: bool) -> list[Message]:
    """A whole conversation, user first (after an occasional system message)."""
    chat: list[Message] = []
    if rng.random() < 0.1:
        chat.append({"role": "system", "content": rng.choice(SYSTEMS)})
    turns: list[tuple[str, str]] = []
    if rng.random() < 0.15:
        turns += [exchange(rng, GREETINGS, train=train)]
    for _ in range(rng.choice((1, 1, 1, 2))):
        episode = rng.choices(EPISODES, weights=EPISODE_WEIGHTS)[0]
        turns += episode(rng, train=train)
    if rng.random() < 0.15:
        turns += [exchange(rng, FAREWELLS, train=train)]
    for asked, answered in turns:
        chat.append({"role": "user", "content": casual(rng, asked)})
        chat.append({"role": "assistant", "content": answered})
    return chat


def told_story(rng: random.Random, *, train: bool) -> list[tuple[str, str]]:
    """The user asks for a story, and perhaps about it, and perhaps for another one."""
    story = make_story(rng, SKELETONS, train=train)
    ask = rng.choice(ASK_ANY_STORY if rng.random() < 0.15 else ASK_STORY)
    turns = [(ask.format(about=pick_about(rng, story)), story.text)]
    turns += questions(rng, story, rng.choice((0, 1, 2, 3, 4)))
    if rng.random() < 0.1:
        other = make_story(rng, SKELETONS, train=train)
        ask = rng.choice(ASK_ANOTHER).format(about=pick_about(rng, other))
        turns += [(ask, other.text), *questions(rng, other, rng.choice((0, 1, 2)))]
    return turns


def given_story(rng: random.Random, *, train: bool) -> list[tuple[str, str]]:
    """The user brings a story and asks about it."""
    story = make_story(rng, SKELETONS, train=train)
    turns = questions(rng, story, rng.choice((1, 2, 3, 4, 5)))
    if rng.random() < 0.2:
        told = rng.choice(LISTEN).format(story=story.text)
        return [(told, rng.choice(LISTENED)), *turns]
    question, answer = turns[0]
    asked = rng.choice(GIVE_STORY).format(story=story.text, question=question)
    return [(asked, answer), *turns[1:]]


def begun_story(rng: random.Random, *, train: bool) -> list[tuple[str, str]]:
    """The user begins a story, the model goes on from there."""
    story = make_story(rng, SKELETONS, train=train)
    opening, rest = split_sentences(story.text, rng.choice((1, 2, 3)))
    asked = rng.choice(BEGIN).format(opening=opening)
    return [(asked, rest), *questions(rng, story, rng.choice((0, 0, 1, 2)))]


def small_talk(rng: random.Random, *, train: bool) -> list[tuple[str, str]]:
    tables = rng.choice((GREETINGS, SMALL_TALK, SMALL_TALK, SMALL_TALK, FAREWELLS))
    return [exchange(rng, tables, train=train) for _ in range(rng.choice((1, 1, 2)))]


def too_hard(rng: random.Random, *, train: bool) -> list[tuple[str, str]]:
    """What the model cannot do, and says so."""
    if rng.random() < 0.15:
        return [exchange(rng, (NO_STORY_YET,), train=train)]
    asked = rng.choice(TOO_HARD).format(
        n=rng.randrange(2, 10 ** rng.choice((1, 2, 3))),
        m=rng.randrange(2, 10 ** rng.choice((1, 2, 3))),
        country=rng.choice(COUNTRIES),
        code=rng.choice(CODES),
        topic=rng.choice(TOPICS),
        tongue=rng.choice(TONGUES),
        thing="boat",
    )
    return [(asked, rng.choice(CANNOT))]


def echo(rng: random.Random, *, train: bool) -> list[tuple[str, str]]:
    """The user says some words, the model repeats them: how it learns to copy."""
    turns = []
    for _ in range(rng.choice((1, 2, 3))):
        said = [
            invent_name(rng) if rng.random() < INVENTED_NAMES else rng.choice(ECHO_WORDS)
            for _ in range(rng.randrange(2, 11))
        ]
        text = rng.choice((" ", ", ")).join(said)
        turns.append((rng.choice(ASK_ECHO).format(words=text), text))
    return turns


EPISODES = (told_story, given_story, begun_story, small_talk, too_hard, echo)
EPISODE_WEIGHTS = (40, 30, 7, 8, 7, 30)


def exchange(
    rng: random.Random, table: tuple[tuple[Paraphrases, Paraphrases], ...], *, train: bool
) -> tuple[str, str]:
    """One question and answer of a table of small talk."""
    facts = make_story(rng, SKELETONS, train=train).facts
    ask, answer = rng.choice(table)
    return fill(rng, ask, facts), fill(rng, answer, facts)


def questions(rng: random.Random, story: Story, n: int) -> list[tuple[str, str]]:
    """n different questions about the story, with their answers."""
    table = [*story.skeleton.questions, (ASK_SUMMARY, story.skeleton.summary)]
    if story.facts["other_thing"] not in story.text:
        table.append(NOT_TOLD)
    chosen = rng.sample(table, min(n, len(table)))
    return [(fill(rng, ask, story.facts), fill(rng, say, story.facts)) for ask, say in chosen]


def pick_about(rng: random.Random, story: Story) -> str:
    """What the story is about, in facts that are all told in it."""
    if rng.random() < 0.4:
        return rng.choice(story.skeleton.about).format_map(story.facts)
    told = [about for about in ABOUT_ANY if is_told(about, story.text, story.facts)]
    return rng.choice(told).format_map(story.facts)


def is_told(template: str, text: str, facts: Facts) -> bool:
    """Whether the value of every slot of the template appears in the text, apart from a/an."""
    slots = [part.split("}")[0] for part in template.split("{")[1:]]
    values = [facts[slot].removeprefix("an ").removeprefix("a ") for slot in slots]
    return all(value.lower() in text.lower() for value in values)


def split_sentences(text: str, n: int) -> tuple[str, str]:
    """The first n sentences that end with a full stop, and the rest."""
    sentences = text.split(". ")
    return ". ".join(sentences[:n]) + ".", ". ".join(sentences[n:])


def casual(rng: random.Random, asked: str) -> str:
    """As people type: one time in five without the last mark and the first capital."""
    if len(asked) > 100 or rng.random() > 0.2:
        return asked
    first = asked.split(" ")[0]
    bare = asked.rstrip(".?!") or asked
    # A name at the beginning keeps its capital; the usual first words lose it.
    is_plain = first.lower() in {
        "tell", "can", "please", "i", "write", "make", "do", "a", "could", "what", "who", "where",
        "how", "why", "was", "did", "which", "whose", "is", "thank", "another", "one",
    }  # fmt: skip
    return bare[0].lower() + bare[1:] if is_plain else bare
