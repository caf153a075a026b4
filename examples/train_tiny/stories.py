"""The kinds of story: data for grammar.py, in {slots} of `grammar.draw_facts`.

A new kind of story is one more `Skeleton` in SKELETONS. Facts that a question asks about must
appear in every telling: the tests check it.
"""

from __future__ import annotations

from grammar import Skeleton

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

STUCK = Skeleton(
    lines=(
        WHO,
        WHERE,
        (
            "{they} had {a_colour} {thing} in {their} hands.",
            "{they} took {a_colour} {thing} along.",
            "{name} brought {a_colour} {thing}.",
        ),
        (
            "Suddenly a strong wind took the {thing} and put it up in a tall tree.",
            "{name} threw the {thing} too high, and it landed in a tall tree.",
            "A big bird took the {thing} and dropped it in a tall tree.",
        ),
        (
            "{name} jumped and jumped, but {they} was too small.",
            "{name} tried to climb the tree, but it was too hard.",
            "{name} shook the tree, but the {thing} did not fall.",
        ),
        MEET,
        FRIEND,
        (
            '"Can you help me?" asked {name}. "My {thing} is in the tree."',
            '"Please help me to get my {thing} down," said {name}.',
        ),
        (
            "{friend} had an idea and came back with a long ladder.",
            "{friend} thought for a moment and got a long ladder.",
            '"I have a long ladder," said {friend}, and went to get it.',
        ),
        (
            "{friend} climbed up and got the {thing} down.",
            "Up and up went {friend}, and down came the {thing}.",
        ),
        (
            '"You are a good friend!" said {name}. {they_} was very {happy}.',
            "{name} was very {happy} and thanked {friend}.",
        ),
        (
            "Then they played with the {thing} together.",
            "They shared the {thing} for the rest of the day.",
            "After that, {name} and {friend} played together every day.",
        ),
    ),
    about=(
        "{a_thing} in a tree",
        "{a_kind} whose {thing} is stuck in a tree",
        "{name} and {a_colour} {thing} in a tree",
        "a long ladder",
    ),
    summary=("It is about {name}, whose {colour} {thing} was stuck in a tall tree.",),
    questions=(
        *OPENING_QUESTIONS,
        *COLOUR_QUESTIONS,
        *FRIEND_QUESTIONS,
        (
            (
                "Where was the {thing} stuck?",
                "Where did the {thing} land?",
                "Where was the {thing}?",
            ),
            ("The {thing} was in a tall tree.",),
        ),
        (
            ("Who got the {thing} down?", "Who helped {name}?", "Who climbed up the tree?"),
            ("{friend} got the {thing} down.",),
        ),
        (
            ("How did {friend} get the {thing} down?", "What did {friend} bring?"),
            ("{friend} used a long ladder.",),
        ),
        (("What did {name} bring?",), ("{name} brought {a_colour} {thing}.",)),
        (("How did {name} feel at the end?",), ("{name} was very {happy}.",)),
    ),
    things=THROWN,
)

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

AFRAID = Skeleton(
    lines=(
        WHO,
        (
            "{name} was afraid of {fear}.",
            "{name} could do many things, but {they} was afraid of {fear}.",
            "There was only one problem: {name} was afraid of {fear}.",
        ),
        WHERE,
        (
            "{friend}, {a_friend_trait} {friend_kind}, came too.",
            "{their} friend {friend}, {a_friend_trait} {friend_kind}, came along.",
        ),
        (
            "Suddenly {name} stopped and began to shake.",
            "All at once, {name} stood still and did not want to go on.",
            "Then {name} closed {their} eyes and did not move.",
        ),
        (
            '"What is it?" asked {friend}. "I am afraid of {fear}," said {name}.',
            '"I am afraid," said {name}. "Everyone is afraid sometimes," said {friend}.',
        ),
        (
            '"Hold my hand," said {friend}. "We can do it together."',
            "{friend} did not laugh and took {name} by the hand.",
        ),
        (
            "So {name} {courage}.",
            "Slowly, {name} {courage}.",
            "With {friend} at {their} side, {name} {courage}.",
        ),
        (
            "It was not so bad at all!",
            "And nothing bad happened.",
            "After a while, it was even fun.",
        ),
        (
            '"I did it!" said {name}, and was very {happy}.',
            "{name} was very {happy} and danced around.",
        ),
        (
            "After that, {name} was not afraid of {fear} any more.",
            "From that day on, {fear} did not scare {name} any more.",
        ),
    ),
    about=(
        "{a_kind} who is afraid of {fear}",
        "{name} who was afraid of {fear}",
        "being brave",
        "being afraid of {fear}",
    ),
    summary=("It is about {name}, who was afraid of {fear} and became brave.",),
    questions=(
        *OPENING_QUESTIONS,
        *FRIEND_QUESTIONS,
        (
            ("What was {name} afraid of?", "What scared {name}?", "Why did {name} stop?"),
            ("{name} was afraid of {fear}.",),
        ),
        (
            ("Who helped {name}?", "Who came along?", "Who took {name} by the hand?"),
            ("{friend} helped {name}.",),
        ),
        (("What did {name} do to be brave?", "What did {name} do?"), ("{name} {courage}.",)),
        (
            ("How did {name} feel at the end?",),
            ("{name} was very {happy}.",),
        ),
        (
            ("Is {name} still afraid of {fear}?",),
            ("No, {name} is not afraid of {fear} any more.",),
        ),
    ),
)

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

GROW = Skeleton(
    lines=(
        WHO,
        (
            "One {weather} day, {their} {adult} gave {name} a small seed.",
            "One {weather} morning, {name} got a small seed from {their} {adult}.",
        ),
        (
            '"What will it be?" asked {name}. "Wait and see," said the {adult}.',
            '"It is so small!" said {name}. "It will grow," said the {adult}.',
        ),
        (
            "{name} put the seed in {a_colour} pot.",
            "{they} took {a_colour} pot and put the seed into the earth.",
        ),
        (
            "Every day {they} gave it water and waited.",
            "{name} gave it water every morning.",
        ),
        (
            "For a long time nothing happened, and {name} was {sad}.",
            "Many days went by. {name} was {sad}, because nothing came up.",
        ),
        (
            '"Be patient," said {friend}, {their} friend. {friend} was {a_friend_kind}.',
            'But {their} friend {friend}, {a_friend_kind}, said, "Do not give up."',
        ),
        (
            "Then, one morning, there was a small green leaf!",
            "At last, a small green leaf came out.",
        ),
        (
            "It grew and grew, and in summer it was a big {plant}.",
            "It grew taller every day, and it became a big {plant}.",
        ),
        (
            "{name} was very {happy} and showed it to everyone.",
            '"Look, {friend}, it is a {plant}!" said {name}, and was very {happy}.',
        ),
        (
            "Good things take time.",
            "{name} had learned to wait.",
            "{name} gave a part of it to {friend}.",
        ),
    ),
    about=(
        "{a_kind} who grows {a_plant}",
        "a small seed",
        "{name} and the {plant}",
        "a seed that becomes {a_plant}",
        "waiting for {a_plant}",
    ),
    summary=("It is about {name}, who put a seed in a pot and got a big {plant}.",),
    questions=(
        *WHO_QUESTIONS,
        ASK_WEATHER,
        (
            ("What did the seed become?", "What grew in the pot?", "Which plant did {name} grow?"),
            ("The seed became a big {plant}.",),
        ),
        (
            ("Who gave {name} the seed?", "Where did the seed come from?"),
            ("{name}'s {adult} gave {them} the seed.",),
        ),
        (("What colour was the pot?",), ("The pot was {colour}.",)),
        (("Was the pot {other_colour}?",), ("No, the pot was {colour}.",)),
        (
            ("What did {name} do every day?", "What did the seed need?"),
            ("{name} gave it water.",),
        ),
        (("Who was {friend}?",), ("{friend} was {a_friend_kind}.",)),
        (
            ("Why was {name} {sad}?",),
            ("{name} was {sad} because nothing came up.",),
        ),
        (("How did {name} feel at the end?",), ("{name} was very {happy}.",)),
    ),
)

NEWCOMER = Skeleton(
    lines=(
        WHO,
        WHERE,
        (
            "There {they} saw {a_friend_kind} sitting alone {spot}.",
            "{a_friend_kind} was sitting alone {spot}.",
        ),
        (
            "{name} had never seen the {friend_kind} before.",
            "The {friend_kind} looked very {sad}.",
        ),
        (
            '"Hello, I am {name}. What is your name?" asked {name}.',
            '"What is your name?" asked {name}.',
        ),
        (
            '"My name is {friend}," said the {friend_kind}. "I am new here and have no friends."',
            '"I am {friend}," said the {friend_kind}. "I do not know anyone here."',
        ),
        (
            '"I will be your friend," said {name}. "Do you like {game}?"',
            '"Then come with me," said {name}. "Let us play {game}."',
        ),
        (
            "{friend} smiled, and they played {game} all day.",
            '"Yes!" said {friend}, and they played {game} until the evening.',
        ),
        (
            "{name} shared {their} {food} with {friend}.",
            "When they were hungry, {name} shared some {food} with {friend}.",
        ),
        (
            "{friend} was not alone any more and was very {happy}.",
            "{friend} was very {happy} to have a friend.",
        ),
        (
            "The next day, they met again {at_place}.",
            "From that day on, they were best friends.",
        ),
    ),
    about=(
        "a new friend",
        "{a_friend_kind} who has no friends",
        "{name} who finds a new friend",
        "{a_kind} and {a_friend_kind} who become friends",
        "{name} and {friend} who play {game}",
    ),
    summary=("It is about {name}, who found a new friend, {friend}.",),
    questions=(
        *OPENING_QUESTIONS,
        (
            ("Who was sitting alone?", "Who was new?", "Who had no friends?"),
            ("{friend} was sitting alone.",),
        ),
        (("Where was {friend} sitting?", "Where was {friend}?"), ("{friend} was sitting {spot}.",)),
        (("What did they play?", "Which game did they play?"), ("They played {game}.",)),
        (("Did they play {other_game}?",), ("No, they played {game}.",)),
        (
            ("What did {name} share?", "What did they eat?"),
            ("{name} shared some {food}.",),
        ),
        (("Who was {friend}?", "What was {friend}?"), ("{friend} was {a_friend_kind}.",)),
        (("How did {friend} feel at the end?",), ("{friend} was very {happy}.",)),
    ),
)

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

SKELETONS = (
    LOST,
    STUCK,
    SHARE,
    RESCUE,
    BAKE,
    AFRAID,
    RAIN,
    GROW,
    NEWCOMER,
    GIFT,
    BROKEN,
    CONTEST,
)
