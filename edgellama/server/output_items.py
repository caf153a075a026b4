"""The output of a response as it grows: messages, function calls, and the events that tell of it.

message: item added, part added, text delta ..., text done, part done, item done
call:    item added, arguments delta ..., arguments done, item done
"""

from collections.abc import Sequence
from typing import Any

from edgellama.tools import CallArguments, CallStart, Delta, TextDelta

from .exchange import new_id

Event = dict[str, Any]


class OutputItems:
    """`items` are OpenAI's output items; each change of them gives events."""

    def __init__(self) -> None:
        self.items: list[dict[str, Any]] = []
        self._open = False  # whether the last one still grows

    def push(self, deltas: Sequence[Delta], logprobs: list[dict[str, Any]]) -> list[Event]:
        """Events for more of the answer; log probabilities go with the text."""
        events: list[Event] = []
        for delta in deltas:
            if isinstance(delta, TextDelta):
                if delta.text:
                    events += self._text(delta.text, logprobs)
                    logprobs = []
            elif isinstance(delta, CallStart):
                events += self._call(delta)
            else:
                events.append(self._arguments(delta))
        return events

    def finish(self, status: str = "completed") -> list[Event]:
        """Events for the end of the item that is open, if one is."""
        if not self._open:
            return []
        self._open = False
        item = self.items[-1]
        item["status"] = status
        if item["type"] == "function_call":
            ended = [
                self._event(
                    "response.function_call_arguments.done",
                    arguments=item["arguments"],
                    name=item["name"],
                )
            ]
        else:
            part = item["content"][0]
            ended = [
                self._event(
                    "response.output_text.done",
                    content_index=0,
                    text=part["text"],
                    logprobs=part["logprobs"],
                ),
                self._event("response.content_part.done", content_index=0, part=part),
            ]
        return [*ended, self._item_event("response.output_item.done")]

    def _text(self, text: str, logprobs: list[dict[str, Any]]) -> list[Event]:
        events: list[Event] = []
        if not self._open or self.items[-1]["type"] != "message":
            events += self.finish()
            events += self._add({"type": "message", "role": "assistant", "content": []}, "msg_")
            part = {"type": "output_text", "text": "", "annotations": [], "logprobs": []}
            events.append(
                self._event("response.content_part.added", content_index=0, part=dict(part))
            )
            self.items[-1]["content"].append(part)
        part = self.items[-1]["content"][0]
        part["text"] += text
        part["logprobs"] = [*part["logprobs"], *logprobs]
        events.append(
            self._event(
                "response.output_text.delta", content_index=0, delta=text, logprobs=logprobs
            )
        )
        return events

    def _call(self, start: CallStart) -> list[Event]:
        call = {"type": "function_call", "call_id": start.id, "name": start.name, "arguments": ""}
        return [*self.finish(), *self._add(call, "fc_")]

    def _arguments(self, more: CallArguments) -> Event:
        self.items[-1]["arguments"] += more.fragment
        return self._event("response.function_call_arguments.delta", delta=more.fragment)

    def _add(self, item: dict[str, Any], kind: str) -> list[Event]:
        self.items.append({"id": new_id(kind), **item, "status": "in_progress"})
        self._open = True
        return [self._item_event("response.output_item.added")]

    def _item_event(self, type: str) -> Event:
        item = dict(self.items[-1])
        if "content" in item:
            item["content"] = list(item["content"])
        return {"type": type, "output_index": len(self.items) - 1, "item": item}

    def _event(self, type: str, **more: Any) -> Event:
        index = len(self.items) - 1
        return {"type": type, "item_id": self.items[-1]["id"], "output_index": index, **more}
