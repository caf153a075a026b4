"""Completions, embeddings, models and tokens, asked with OpenAI's own client."""

from typing import Any

import numpy as np
import openai
import pytest
from running_server import Running

from edgellama import Llama


def test_a_text_is_continued_as_the_library_does(client: openai.OpenAI) -> None:
    answer = client.completions.create(
        model="tiny", prompt="Once upon a time", temperature=0, max_tokens=20
    )
    with Llama(n_ctx=1024, deterministic=True) as llm:
        expected = llm.generate("Once upon a time", temperature=0, max_tokens=20).read()
    assert answer.choices[0].text == expected.text
    assert answer.choices[0].finish_reason == "length"


def test_sixteen_tokens_unless_asked_otherwise(client: openai.OpenAI) -> None:
    answer = client.completions.create(model="tiny", prompt="Once upon a time", temperature=0)
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 16


def test_several_prompts_and_several_answers_to_each(client: openai.OpenAI) -> None:
    prompts = ["Once", "The cat"]
    asked: Any = {"model": "tiny", "max_tokens": 6, "seed": 1}
    four = client.completions.create(prompt=prompts, n=2, **asked)
    assert [choice.index for choice in four.choices] == [0, 1, 2, 3]
    alone = client.completions.create(prompt="The cat", **asked)
    assert four.choices[2].text == alone.choices[0].text
    streamed = [""] * 4
    for chunk in client.completions.create(prompt=prompts, n=2, stream=True, **asked):
        streamed[chunk.choices[0].index] += chunk.choices[0].text
    assert streamed == [choice.text for choice in four.choices]


def test_token_ids_are_a_prompt(client: openai.OpenAI) -> None:
    with Llama(n_ctx=1024, deterministic=True) as llm:
        ids = llm.tokenize("Once upon a time", bos=llm.tokenizer.add_bos)
    asked: Any = {"model": "tiny", "max_tokens": 6, "temperature": 0}
    by_ids = client.completions.create(prompt=ids, **asked)
    by_text = client.completions.create(prompt="Once upon a time", **asked)
    assert by_ids.choices[0].text == by_text.choices[0].text


def test_echo_begins_with_the_prompt(client: openai.OpenAI) -> None:
    asked: Any = {"model": "tiny", "prompt": "Once upon", "max_tokens": 6, "temperature": 0}
    plain = client.completions.create(**asked).choices[0].text
    assert client.completions.create(echo=True, **asked).choices[0].text == "Once upon" + plain
    chunks = client.completions.create(echo=True, stream=True, **asked)
    assert "".join(chunk.choices[0].text for chunk in chunks) == "Once upon" + plain


def test_logprobs_lie_side_by_side(client: openai.OpenAI) -> None:
    choice = client.completions.create(
        model="tiny", prompt="Once upon", max_tokens=6, temperature=0, logprobs=2
    ).choices[0]
    assert choice.logprobs is not None
    assert "".join(choice.logprobs.tokens or []) == choice.text
    offsets = choice.logprobs.text_offset or []
    tokens = choice.logprobs.tokens or []
    assert [choice.text[at : at + len(token)] for at, token in zip(offsets, tokens, strict=True)]
    best = [max(top.values()) for top in choice.logprobs.top_logprobs or []]
    assert best == choice.logprobs.token_logprobs  # greedy


def test_control_tokens_in_a_prompt_are_text_unless_asked_for(server: Running) -> None:
    counts = []
    for special in (False, True):
        body = {"prompt": "<|eot_id|>", "max_tokens": 1, "special": special}
        _, answer = server.post("/v1/completions", body)
        counts.append(answer["usage"]["prompt_tokens"])
    assert counts[1] == 2  # begin of text, eot
    assert counts[0] > 2


@pytest.mark.parametrize("encoding", ["float", "base64"])
def test_embeddings_are_those_of_the_library(client: openai.OpenAI, encoding: Any) -> None:
    texts = ["A cat sat.", "Rain in the town", "The sun", "A dog", "five"]
    answer = client.embeddings.create(model="tiny", input=texts, encoding_format=encoding)
    with Llama(n_ctx=1024, deterministic=True) as llm:
        expected = llm.embed(texts)
        n_tokens = sum(len(llm.tokenize(text, bos=llm.tokenizer.add_bos)) for text in texts)
    got = np.array(
        [
            np.frombuffer(__import__("base64").b64decode(item.embedding), "<f4")
            if isinstance(item.embedding, str)
            else item.embedding
            for item in answer.data
        ]
    )
    assert got.shape == expected.shape
    # the same kernels in batches of another size: float32 rounding of a vector of length one
    np.testing.assert_allclose(got, expected, atol=1e-5)
    assert answer.usage.prompt_tokens == n_tokens
    assert [item.index for item in answer.data] == list(range(5))


def test_pooling_and_length_can_be_chosen(server: Running) -> None:
    lengths = {}
    for normalize in (True, False):
        body = {"input": "A cat sat.", "pooling": "last", "normalize": normalize}
        status, answer = server.post("/v1/embeddings", body)
        assert status == 200
        lengths[normalize] = float(np.linalg.norm(answer["data"][0]["embedding"]))
    assert lengths[True] == pytest.approx(1, abs=1e-6)
    assert lengths[False] != pytest.approx(1, abs=1e-2)


def test_models_are_listed_with_what_they_can_hold(client: openai.OpenAI) -> None:
    (model,) = client.models.list().data
    assert model.id == "tiny"
    assert client.models.retrieve("tiny").id == "tiny"
    assert model.model_dump()["meta"]["n_ctx"] == 1024
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("gpt-4")


def test_tokens_go_and_come_back(server: Running) -> None:
    _, ids = server.post("/tokenize", {"content": "Hello, wörld"})
    _, text = server.post("/detokenize", ids)
    assert text == {"content": "Hello, wörld"}
    _, special = server.post("/tokenize", {"content": "<|eot_id|>"})
    assert len(special["tokens"]) == 1
    _, plain = server.post("/tokenize", {"content": "<|eot_id|>", "parse_special": False})
    assert len(plain["tokens"]) > 1
    _, pieces = server.post("/tokenize", {"content": "é€", "with_pieces": True})
    joined = b"".join(
        bytes(t["piece"]) if isinstance(t["piece"], list) else t["piece"].encode()
        for t in pieces["tokens"]
    )
    assert joined == "é€".encode()


def test_a_template_is_shown_as_the_model_reads_it(server: Running) -> None:
    status, answer = server.post(
        "/apply-template", {"messages": [{"role": "user", "content": "Hello <|eot_id|>"}]}
    )
    assert status == 200
    assert answer["prompt"].startswith("<|begin_of_text|><|start_header_id|>user<|end_header_id|>")
    assert answer["prompt"].endswith("<|start_header_id|>assistant<|end_header_id|>\n\n")
    assert answer["n_tokens"] > 10
