"""Several conversations at once in an event loop: `python examples/async_chats.py [MODEL.gguf]`."""

import asyncio
import sys

from edgellama import Llama

model = sys.argv[1] if len(sys.argv) > 1 else None  # None: the model that ships


async def story(llm: Llama, animal: str) -> str:
    messages = [{"role": "user", "content": f"Tell me a story about a {animal}."}]
    text = ""
    async for token in llm.stream_chat(messages, max_tokens=60, seed=1):
        text += token.text
    return text


async def main() -> None:
    with Llama(model, n_parallel=4) as llm:  # four share every step, others wait their turn
        stories = await asyncio.gather(*[story(llm, name) for name in ("fox", "cat", "dog")])
    for text in stories:
        print(f"- {text}")


asyncio.run(main())
