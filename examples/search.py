"""Which text is nearest in meaning: `python examples/search.py [MODEL.gguf] QUESTION`."""

import sys

from edgellama import Llama

*models, question = sys.argv[1:] or ["Who could not find the ball?"]
TEXTS = [
    "The fox lost its red ball in the garden, and looked for it all day.",
    "A bird sang in the tree every morning.",
    "It began to rain, and the two friends stayed inside and played drums.",
    "The dog was hungry, so it went home and ate some soup.",
]

with Llama(models[0] if models else None, n_parallel=4) as llm:
    vectors = llm.embed(TEXTS)  # (4, dim), each of length one
    nearness = vectors @ llm.embed(question)[0]
    for i in nearness.argsort()[::-1]:
        print(f"{nearness[i]:.3f}  {TEXTS[i]}")
