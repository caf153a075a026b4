"""An answer that is JSON of a given shape, always: `python examples/structured.py [MODEL.gguf]`."""

import json
import sys

from edgellama import Grammar, Llama

model = sys.argv[1] if len(sys.argv) > 1 else None  # None: the model that ships
animal = Grammar.json_schema(
    {
        "type": "object",
        "properties": {
            "name": {"type": "string", "maxLength": 20},
            "kind": {"enum": ["fox", "cat", "dog", "bird"]},
            "age": {"type": "integer", "minimum": 0, "maximum": 30},
        },
        "required": ["name", "kind", "age"],
        "additionalProperties": False,
    }
)

with Llama(model) as llm:
    question = [{"role": "user", "content": "Tell me a story about a fox named Pip."}]
    answer = llm.chat(question, grammar=animal, max_tokens=100, temperature=0.0)
    pip = json.loads(answer.text)
    print(f"{pip['name']!r} is a {pip['kind']} of {pip['age']} years")
