"""Vectors of texts: what transformers makes of the same weights, pooled in three ways."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgellama import ContextFull, InvalidRequest, Llama
from edgellama.embedding import POOLINGS, pool

TEXTS = ["hello world", "the little cat was here", "Hello", "once upon a time the dog said hello"]


@pytest.fixture(scope="module")
def llm(tiny_llama: Path) -> Iterator[Llama]:
    with Llama(tiny_llama, n_parallel=3) as llm:
        yield llm


@pytest.mark.parametrize("pooling", POOLINGS)
def test_vectors_equal_those_of_transformers(
    llm: Llama, tiny_llama: Path, as_transformers: Callable[[Path], Any], pooling: str
) -> None:
    torch = pytest.importorskip("torch", reason="needs the extra `oracles`: torch")
    model = as_transformers(tiny_llama).model
    for text, ours in zip(TEXTS, llm.embed(TEXTS, pooling=pooling), strict=True):
        ids = torch.tensor([llm.tokenize(text, bos=True)])
        with torch.no_grad():
            hidden = model(ids).last_hidden_state[0].numpy().astype(np.float64)
        vector = {"mean": hidden.mean(0), "last": hidden[-1], "cls": hidden[0]}[pooling]
        # float32 on both sides; the sums of the layers run in another order
        np.testing.assert_allclose(ours, vector / np.linalg.norm(vector), atol=2e-6)


def test_the_backends_agree(llm: Llama, tiny_llama: Path) -> None:
    with Llama(tiny_llama, backend="reference") as reference:
        np.testing.assert_allclose(llm.embed(TEXTS), reference.embed(TEXTS), atol=2e-6)


def test_company_changes_no_bit(llm: Llama) -> None:
    together = llm.embed(TEXTS * 3)
    alone = np.concatenate([llm.embed(text) for text in TEXTS * 3])
    np.testing.assert_array_equal(together, alone)


def test_vectors_have_length_one_unless_told_otherwise(llm: Llama) -> None:
    assert np.linalg.norm(llm.embed(TEXTS), axis=1) == pytest.approx(1, abs=1e-6)
    raw = llm.embed(TEXTS, normalize=False)
    assert (np.linalg.norm(raw, axis=1) > 1.5).all()
    assert raw.shape == (4, llm.config.dim)
    assert raw.dtype == np.float32


def test_a_text_longer_than_a_step_is_one_text(llm: Llama) -> None:
    ids = [1, *np.random.default_rng(1).integers(10, 300, 400).tolist()]
    rows = llm._engine.hidden([ids])[0]
    assert rows.shape == (401, llm.config.dim)
    np.testing.assert_array_equal(llm.embed([ids], pooling="mean")[0], pool(rows, "mean"))
    np.testing.assert_array_equal(llm._engine.hidden([ids[:7]])[0], rows[:7])


def test_answers_and_vectors_are_made_side_by_side(llm: Llama) -> None:
    expected = llm.generate("hello", max_tokens=30, temperature=0.0).read().tokens
    vectors = llm.embed(TEXTS)
    generation = llm.generate("hello", max_tokens=30, temperature=0.0)
    np.testing.assert_array_equal(llm.embed(TEXTS), vectors)
    assert generation.read().tokens == expected


def test_nothing_gives_no_vectors(llm: Llama) -> None:
    assert llm.embed([]).shape == (0, llm.config.dim)


def test_what_cannot_be_embedded_is_refused(llm: Llama) -> None:
    with pytest.raises(InvalidRequest, match="pooling 'sum' is unknown; known are mean, last, cls"):
        llm.embed("hello", pooling="sum")
    with pytest.raises(ContextFull, match="600 tokens"):
        llm.embed([[70] * 600])
    with pytest.raises(InvalidRequest, match="outside the vocabulary"):
        llm.embed([[10**6]])
