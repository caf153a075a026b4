"""Continue a text and show each token as it comes: `python examples/stream.py [MODEL.gguf]`."""

import sys

from edgellama import Llama

model = sys.argv[1] if len(sys.argv) > 1 else None  # None: the model that ships

with Llama(model) as llm:
    continuation = llm.generate("Once upon a time", max_tokens=64, temperature=0.0)
    print("Once upon a time", end="")
    for token in continuation:
        print(token.text, end="", flush=True)
    timings = continuation.read().timings
    print(f"\n[{timings.predicted_n} tokens, {timings.predicted_per_second:.0f} a second]")
