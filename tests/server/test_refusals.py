"""What is wrong with a request is said in OpenAI's shape, by the field's name, and harms nobody."""

from contextlib import suppress
from dataclasses import fields
from typing import Any

import openai
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from running_server import Running, request

from edgellama.errors import InvalidRequest
from edgellama.sampling import SamplingParams
from edgellama.server import completions, embeddings, responses, strict_json
from edgellama.server.chat_completions import parse
from edgellama.server.failures import FieldError
from edgellama.server.fields import HARMLESS, NOT_OFFERED

HELLO: Any = [{"role": "user", "content": "Hello"}]
CHAT = "/v1/chat/completions"
PARSERS = [parse, completions.parse, responses.parse, embeddings.parse]


def refused(server: Running, body: object, path: str = CHAT) -> dict[str, Any]:
    status, answer = server.post(path, body)
    assert status == 400, answer
    return answer["error"]  # type: ignore[no-any-return]


def sane(server: Running) -> str:
    status, answer = server.post(CHAT, {"messages": HELLO, "temperature": 0, "max_tokens": 8})
    assert status == 200
    return answer["choices"][0]["message"]["content"]  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("n", 0),
        ("n", 1_000_000),
        ("n", True),
        ("max_tokens", -1),
        ("max_tokens", 0),
        ("max_tokens", 1.5),
        ("temperature", -1),
        ("temperature", "hot"),
        ("temperature", 1e308),
        ("top_p", 2),
        ("top_k", 2**80),
        ("seed", 2**80),
        ("seed", -7),
        ("stop", [""]),
        ("stop", 5),
        ("stop", ["x"] * 10_000),
        ("logit_bias", {"999999": 1}),
        ("logit_bias", {"a": 1}),
        ("logit_bias", {"5": 1000}),
        ("logit_bias", [1, 2]),
        ("top_logprobs", 3),
        ("stream", "yes"),
        ("stream_options", {"include_usage": True}),
        ("context_policy", "forget"),
        ("mirostat", 1),
        ("samplers", ["magic"]),
        ("banned_strings", [""]),
        ("dry_sequence_breakers", "x"),
        ("messages", []),
        ("messages", "Hello"),
        ("messages", [{"role": "wizard", "content": "x"}]),
        ("messages", [{"role": "user"}]),
        ("messages", [{"role": "user", "content": [{"type": "image_url", "image_url": "x"}]}]),
        ("messages", [{"role": "user", "content": "\ud800"}]),
        ("tools", {"type": "function"}),
        ("tools", [{"type": "magic"}]),
        ("tool_choice", "required"),
        ("response_format", "json"),
        ("response_format", {"type": "xml"}),
        ("response_format", {"type": "json_schema"}),
        ("model", 5),
    ],
)
def test_a_field_out_of_its_range_is_refused(server: Running, field: str, value: Any) -> None:
    error = refused(server, {"messages": HELLO, "max_tokens": 4, field: value})
    assert error["type"] == "invalid_request_error"
    assert str(error["param"]).split(".")[0] == field


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "object", "unevaluatedProperties": False},
        {"$ref": "https://example.org/schema.json"},
        {"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/a"}}},
        {"type": "string", "pattern": "(?<=a)b"},
        {"type": "string", "minLength": -1},
        {"type": "thing"},
        "no schema",
    ],
)
def test_a_schema_that_cannot_be_enforced_is_refused(server: Running, schema: Any) -> None:
    format = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    error = refused(server, {"messages": HELLO, "response_format": format, "max_tokens": 4})
    assert error["message"]


@pytest.mark.parametrize(
    ("field", "text"), [("regex", "("), ("grammar", "root ::= ("), ("lark", "(")]
)
def test_a_grammar_with_a_mistake_is_refused(server: Running, field: str, text: str) -> None:
    refused(server, {"messages": HELLO, field: text, "max_tokens": 4})


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False)
    | st.text(max_size=8)
    | st.sampled_from(["user", "text", "auto", "type", "function", "json_schema"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner),
    max_leaves=6,
)
FIELDS = sorted(
    {
        *(option.name for option in fields(SamplingParams)),
        *HARMLESS,
        *NOT_OFFERED,
        *("messages", "model", "n", "stop", "stream", "stream_options", "max_tokens", "tools"),
        *("tool_choice", "response_format", "logprobs", "top_logprobs", "context_policy", "prompt"),
        *("input", "text", "include", "truncation", "encoding_format", "dimensions", "echo"),
    }
)


@settings(max_examples=150, deadline=None, derandomize=True, database=None)
@given(st.dictionaries(st.sampled_from(FIELDS), JSON, max_size=4), st.sampled_from(PARSERS))
def test_whatever_a_body_holds_is_read_or_refused(body: Any, parser: Any) -> None:
    usual = {parse: "messages", completions.parse: "prompt"}.get(parser, "input")
    with suppress(InvalidRequest):
        parser({usual: HELLO if usual == "messages" else "Hello", **body})
    with suppress(InvalidRequest):
        parser(body)


def test_an_unknown_field_is_named(server: Running) -> None:
    error = refused(server, {"messages": HELLO, "temprature": 0.5})
    assert error["param"] == "temprature"
    assert error["code"] == "unknown_parameter"


def test_a_field_that_is_not_offered_says_what_to_do() -> None:
    with pytest.raises(FieldError, match="max_tokens") as caught:
        parse({"messages": HELLO, "n_predict": 5})
    assert caught.value.code == "unsupported_parameter"


def test_harmless_fields_pass_and_null_is_as_good_as_absent() -> None:
    asked = parse(
        {
            "messages": HELLO,
            "user": "me",
            "metadata": {"a": "b"},
            "store": False,
            "service_tier": "auto",
            "temperature": None,
            "tools": None,
        }
    )
    assert asked.options.sampling == {}
    with pytest.raises(FieldError, match="store"):
        parse({"messages": HELLO, "store": True})


def test_formats_cannot_be_combined() -> None:
    with pytest.raises(FieldError, match="cannot be combined"):
        parse({"messages": HELLO, "regex": "a", "grammar": 'root ::= "a"'})


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"{", "not JSON"),
        (b"", "not JSON"),
        (b'{"a": NaN}', "NaN"),
        (b'{"a": Infinity}', "Infinity"),
        (b'{"a": 1e999}', "too large"),
        (b'{"a": ' + b"9" * 5000 + b"}", "too many digits"),
        (b'{"a": 1, "a": 2}', "twice"),
        (b'{"a": "\xff"}', "UTF-8"),
        (b"[" * 1_000_000, "nests deeper"),
        (b"[" * 200 + b"]" * 200, "nests deeper"),
        (b'"text"', "JSON object"),
    ],
)
def test_a_body_that_is_no_honest_json_is_refused(server: Running, body: bytes, words: str) -> None:
    assert words in refused(server, body or b" ")["message"]


def test_json_as_deep_as_allowed_is_read() -> None:
    depth = strict_json.MAX_DEPTH
    assert strict_json.parse(b"[" * depth + b"]" * depth) is not None
    assert strict_json.dump({"a": "\ud800é"}) == b'{"a":"\\ud800\xc3\xa9"}'


def test_a_prompt_longer_than_the_context_says_both_lengths(client: openai.OpenAI) -> None:
    long: Any = [{"role": "user", "content": "cat " * 3000}]
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(model="tiny", messages=long)
    assert caught.value.code == "context_length_exceeded"
    body: Any = caught.value.body
    assert body["n_ctx"] == 1024
    assert body["n_prompt_tokens"] > 3000


def test_a_prompt_fits_up_to_the_last_token(server: Running) -> None:
    # one more than n_ctx - 1: the last token of an answer needs no place of its own
    for n, expected in ((1023, 200), (1024, 200), (1025, 400)):
        status, answer = server.post("/v1/completions", {"prompt": [5] * n, "max_tokens": 9})
        assert status == expected, answer
        if status == 200:
            assert answer["usage"]["completion_tokens"] <= 1024 - n + 1


def test_an_unknown_model_is_answered_with_those_there_are(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError, match="choose tiny") as caught:
        client.chat.completions.create(model="gpt-4", messages=HELLO)
    assert caught.value.code == "model_not_found"


@pytest.mark.parametrize("ids", [[5, 999_999], [-1], [2**70]])
def test_ids_outside_the_vocabulary_are_refused_everywhere(server: Running, ids: Any) -> None:
    refused(server, {"prompt": ids, "max_tokens": 1}, "/v1/completions")
    refused(server, {"input": ids}, "/v1/embeddings")
    refused(server, {"tokens": ids}, "/detokenize")


@pytest.mark.parametrize("value", ["", [], [""], [[]], [1.5], {"a": 1}, None, [["a"]], [True]])
def test_inputs_of_embeddings_are_checked(server: Running, value: Any) -> None:
    refused(server, {"input": value}, "/v1/embeddings")


def test_paths_and_methods_that_are_not_there(server: Running) -> None:
    for path in ("/v2/magic", "/..%2fapp.py", "/__init__.py", "/v1/chat/completions/"):
        status, answer = server.ask(request("GET", path))
        assert status == 404, path
        assert answer["error"]["code"] == "not_found"
    status, answer = server.ask(request("GET", CHAT))
    assert status == 405
    status, answer = server.post("/health", {})
    assert status == 405


def test_after_all_of_this_the_server_says_what_it_said(server: Running) -> None:
    before = sane(server)
    for bad in ({"messages": HELLO, "logit_bias": {"1535": 100.5}}, b"[" * 100_000):
        refused(server, bad)
    assert sane(server) == before
    server.wait_until_idle()
