"""What several kinds of story have in common: how they begin, and what can be asked of them."""

# How most stories begin: who, then where and in what weather.
WHO = (
    "Once upon a time there was {a_trait} {kind} named {name}.",
    "There once was {a_trait} {kind} called {name}.",
    "{name} was {a_trait} {kind}.",
    "Once there lived {a_trait} {kind} whose name was {name}.",
)
WHERE = (
    "One {weather} day, {name} went to {place} to {activity}.",
    "One {weather} morning, {name} went to {place} to {activity}.",
    "It was a {weather} day, and {name} went to {place} to {activity}.",
    "On a {weather} day, {they} went to {place} to {activity}.",
)
MEET = (
    "Then {friend} came by.",
    "Just then, {friend} came along.",
    "Soon {name} saw {friend}.",
)
FRIEND = (
    "{friend} was {a_friend_trait} {friend_kind}.",
    "{friend}, {a_friend_trait} {friend_kind}, was a good friend.",
)

# Questions that every story with these lines can answer.
ASK_KIND = (
    ("Who was {name}?", "What kind of character was {name}?", "Was {name} a girl or an animal?"),
    ("{name} was {a_trait} {kind}.",),
)
ASK_TRAIT = (
    ("What was {name} like?", "How would you describe {name}?"),
    ("{name} was {trait}.",),
)
ASK_HERO = (("Who is the story about?", "Who is it about?"), ("The story is about {name}.",))
ASK_NAME = (
    ("Who was the {trait} {kind}?", "What was the name of the {trait} {kind}?"),
    ("The {trait} {kind} was {name}.",),
)
ASK_FRIEND = (
    ("Who was {friend}?", "What was {friend} like?"),
    ("{friend} was {a_friend_trait} {friend_kind}.",),
)
ASK_FRIEND_NAME = (
    (
        "Who was the {friend_trait} {friend_kind}?",
        "What was the name of the {friend_trait} {friend_kind}?",
    ),
    ("The {friend_trait} {friend_kind} was {friend}.",),
)
ASK_PLACE = (("Where did {name} go?",), ("{name} went to {place}.",))
ASK_AT = (("Where does the story happen?", "Where was {name}?"), ("{name} was {at_place}.",))
ASK_WHY_PLACE = (
    ("Why did {name} go to {place}?", "What did {name} want to do {at_place}?"),
    ("{name} wanted to {activity}.",),
)
ASK_WEATHER = (
    ("What was the weather like?", "What kind of day was it?", "How was the weather?"),
    ("It was a {weather} day.", "It was {weather}."),
)
ASK_COLOUR = (
    ("What colour was the {thing}?", "Which colour did the {thing} have?"),
    ("The {thing} was {colour}.",),
)
ASK_YES_COLOUR = (("Was the {thing} {colour}?",), ("Yes, the {thing} was {colour}.",))
ASK_NO_COLOUR = (("Was the {thing} {other_colour}?",), ("No, the {thing} was {colour}.",))
WHO_QUESTIONS = (ASK_KIND, ASK_TRAIT, ASK_HERO, ASK_NAME)
FRIEND_QUESTIONS = (ASK_FRIEND, ASK_FRIEND_NAME)
OPENING_QUESTIONS = (*WHO_QUESTIONS, ASK_PLACE, ASK_AT, ASK_WHY_PLACE, ASK_WEATHER)
COLOUR_QUESTIONS = (ASK_COLOUR, ASK_YES_COLOUR, ASK_NO_COLOUR)

# Some stories need a thing of some sort.
THROWN = ("kite", "ball", "hat", "scarf", "balloon", "doll", "umbrella", "teddy bear", "bag")
WOODEN = ("doll", "boat", "drum", "car", "train", "flute", "whistle", "cup", "lantern")
