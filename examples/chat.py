"""A conversation of several turns: `python examples/chat.py [MODEL.gguf]`, then type; Ctrl-D ends.

Each turn sends the whole conversation, and only what is new is computed: the rest is in the cache.
"""

import sys

from edgellama import ContextFull, Llama

model = sys.argv[1] if len(sys.argv) > 1 else None  # None: the model that ships

with Llama(model) as llm:
    messages = []
    for line in sys.stdin:
        messages.append({"role": "user", "content": line.strip()})
        try:
            answer = llm.stream_chat(messages, max_tokens=128, temperature=0.0)
        except ContextFull as error:
            print(f"({error}; beginning anew)")
            messages.clear()
            continue
        for token in answer:
            print(token.text, end="", flush=True)
        whole = answer.read()
        print(f"\n({whole.timings.prompt_n} of {whole.prompt_tokens} prompt tokens were new)\n")
        messages.append({"role": "assistant", "content": whole.text})
