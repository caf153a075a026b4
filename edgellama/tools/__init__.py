"""Tool calls: what callers offer, what models write, and how to make them write it.

check_tools(tools) -> Tool ...          OpenAI's list of functions, checked
ToolReader(tokenizer, tools)            tokens -> text and calls, while they stream
parse_calls(text, tools)                the same for a whole text
tool_grammar(tools, tool_choice, ...)   the grammar that makes a model call
"""

from .calls import CallArguments, CallStart, Delta, TextDelta, ToolCall
from .choice import ToolChoice, check_tool_choice, shown_tools, tool_grammar
from .definitions import Tool, Tools, check_tools
from .reader import ToolReader, parse_calls, text_of

__all__ = [
    "CallArguments",
    "CallStart",
    "Delta",
    "TextDelta",
    "Tool",
    "ToolCall",
    "ToolChoice",
    "ToolReader",
    "Tools",
    "check_tool_choice",
    "check_tools",
    "parse_calls",
    "shown_tools",
    "text_of",
    "tool_grammar",
]
