"""A model that calls a function: `python examples/tools.py [MODEL.gguf]`.

A model that was trained to call tools does so by itself ("auto"); the one that ships was not, so it
is told that it must.
"""

import json
import sys

from edgellama import Llama

model = sys.argv[1] if len(sys.argv) > 1 else None  # None: the model that ships
where = {
    "type": "object",
    "properties": {"city": {"enum": ["Paris", "Rome", "Oslo"]}},
    "required": ["city"],
    "additionalProperties": False,
}
weather = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "the weather of a city today",
        "parameters": where,
    },
}

with Llama(model) as llm:
    messages = [{"role": "user", "content": "How is the weather in Rome?"}]
    choice = "auto" if model else "required"
    answer = llm.chat(messages, tools=[weather], tool_choice=choice, max_tokens=100, seed=1)
    messages.append(answer.message)
    for call in answer.tool_calls:
        city = json.loads(call.arguments)["city"]
        print(f"the model asks for the weather of {city}")
        result = f"It is sunny in {city}."
        messages.append({"role": "tool", "tool_call_id": call.id, "content": result})
    print(llm.chat(messages, tools=[weather], max_tokens=60, seed=1).text)
