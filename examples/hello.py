"""The shortest program: one question to the model that ships with edgellama."""

from edgellama import Llama

with Llama() as llm:
    print(llm.chat([{"role": "user", "content": "Tell me a story."}], max_tokens=128, seed=1).text)
