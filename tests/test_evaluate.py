"""Perplexity and KL divergence, against transformers in float32, llama.cpp and algebra."""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgellama import evaluate as evaluation
from edgellama.backends import Backend, load_backend
from edgellama.config import ModelConfig
from edgellama.errors import InvalidRequest, ModelFormatError
from edgellama.evaluate import Losses, evaluate
from edgellama.gguf import GGUFFile
from edgellama.llama import shipped_model
from edgellama.text_chunks import cut_text
from edgellama.tokenizer import Tokenizer, load_tokenizer
from edgellama.weights import load_weights

N_CTX = 64
STORY = """\
Once there lived a funny fox whose name was Pip. One day, Pip and Luke made a plan: they would go \
to the school to paint a picture. But big clouds came, and it began to rain. "Now we cannot go," \
said Pip, and was very worried. "Do not be worried," said Luke. "We can play drums at home."
"""


@contextmanager
def opened(path: Path, backend: str = "cpu") -> Iterator[Backend]:
    with GGUFFile(path) as file:
        config = ModelConfig.from_gguf(file)
        weights = load_weights(file, config)
        machine = load_backend(backend, config, weights, n_ctx=256, n_threads=1)
        try:
            yield machine
        finally:
            machine.close()


def tokenizer_of(path: Path) -> Tokenizer:
    with GGUFFile(path) as file:
        return load_tokenizer(file.metadata)


@pytest.fixture(scope="module")
def chunks(tiny_llama: Path, tiny_text: str) -> np.ndarray:
    return cut_text(tokenizer_of(tiny_llama), tiny_text, N_CTX, 8)


# --- chunks


def test_a_text_is_cut_into_whole_chunks_that_each_begin_anew(
    tiny_llama: Path, tiny_text: str
) -> None:
    tokenizer = tokenizer_of(tiny_llama)
    ids = tokenizer.encode(tiny_text, bos=True)
    found = cut_text(tokenizer, tiny_text, 100)
    assert found.shape == (len(ids) // 100, 100)
    for i, chunk in enumerate(found.tolist()):
        assert chunk == [tokenizer.bos_id, *ids[i * 100 + 1 : (i + 1) * 100]]


def test_a_vocabulary_without_a_beginning_token_keeps_the_first_id_of_a_chunk(
    tmp_path: Path, write_tiny_llama: Callable[..., Path], tiny_text: str
) -> None:
    path = write_tiny_llama(
        tmp_path / "m.gguf", metadata={"tokenizer.ggml.add_bos_token": False}, n_layers=1
    )
    tokenizer = tokenizer_of(path)
    ids = tokenizer.encode(tiny_text)
    assert cut_text(tokenizer, tiny_text, 100, 3).reshape(-1).tolist() == ids[:300]


def test_one_newline_at_the_end_of_a_text_does_not_count(tiny_llama: Path) -> None:
    tokenizer = tokenizer_of(tiny_llama)
    n = len(tokenizer.encode("the little cat said hello world dog", bos=True))
    assert cut_text(tokenizer, "the little cat said hello world dog\n", n).shape == (1, n)
    with pytest.raises(InvalidRequest, match=f"{n} tokens long, a chunk is {n + 1}"):
        cut_text(tokenizer, "the little cat said hello world dog\n", n + 1)


@pytest.mark.parametrize(
    ("n_ctx", "n_chunks", "words"),
    [(7, None, "context of 7"), (64, 0, "chunks is 0"), (10**6, None, "take a longer text")],
)
def test_chunks_out_of_range_are_refused(
    tiny_llama: Path, tiny_text: str, n_ctx: int, n_chunks: int | None, words: str
) -> None:
    with pytest.raises(InvalidRequest, match=words):
        cut_text(tokenizer_of(tiny_llama), tiny_text, n_ctx, n_chunks)


# --- against transformers


def log_softmax_of_the_second_halves(model: Any, chunks: np.ndarray) -> tuple[Any, Any]:
    """ln p (n, vocab_size) in float64 for each counted prediction, and the ids that came."""
    import torch

    ids = torch.tensor(chunks, dtype=torch.int64)
    with torch.no_grad():
        logits = model(ids).logits
    half = chunks.shape[1] // 2
    predictions = logits[:, half:-1].reshape(-1, logits.shape[-1])
    return torch.log_softmax(predictions.double(), -1), ids[:, half + 1 :].reshape(-1)


def test_perplexity_and_its_error_are_those_of_transformers(
    tiny_llama: Path, chunks: np.ndarray, as_transformers: Callable[[Path], Any]
) -> None:
    import torch

    log_p, targets = log_softmax_of_the_second_halves(as_transformers(tiny_llama), chunks)
    nll = torch.nn.functional.nll_loss(log_p, targets, reduction="none")
    expected = nll.mean().exp().item()
    with opened(tiny_llama) as model:
        losses, _ = evaluate({"tiny": model}, chunks)
    found = losses["tiny"].perplexity
    assert len(nll) == len(losses["tiny"].nll) == len(chunks) * (N_CTX // 2 - 1)
    # Two float32 programs: 1e-6 of logits around ten, and exp passes it on.
    assert found.value == pytest.approx(expected, rel=1e-5)
    error = expected * nll.std(correction=0).item() / math.sqrt(len(nll) - 1)
    assert found.error == pytest.approx(error, rel=1e-5)


def test_divergence_is_that_of_torch(
    tmp_path: Path,
    tiny_llama: Path,
    write_tiny_llama: Callable[..., Path],
    chunks: np.ndarray,
    as_transformers: Callable[[Path], Any],
) -> None:
    import torch

    rounded = write_tiny_llama(tmp_path / "q4.gguf", format="Q4_0")
    log_p, _ = log_softmax_of_the_second_halves(as_transformers(tiny_llama), chunks)
    log_q, _ = log_softmax_of_the_second_halves(as_transformers(rounded), chunks)
    kl = torch.nn.functional.kl_div(log_q, log_p, log_target=True, reduction="none").sum(-1)
    with opened(tiny_llama, "reference") as reference, opened(rounded, "reference") as model:
        losses, reference_losses = evaluate({"q4": model}, chunks, reference)
    assert reference_losses is not None
    found = losses["q4"].divergence(reference_losses)
    # Differences of 1e-6 in logits change a divergence of 0.1 by about 1e-6 of it and 1e-6.
    np.testing.assert_allclose(losses["q4"].kl, kl.numpy(), rtol=1e-4, atol=1e-6)
    assert found.mean.value == pytest.approx(kl.mean().item(), rel=1e-5)
    assert found.maximum == pytest.approx(kl.max().item(), rel=1e-4)
    assert found.percentile_99 == pytest.approx(torch.quantile(kl, 0.99).item(), rel=1e-4)
    same = (log_p.argmax(-1) == log_q.argmax(-1)).double().mean().item()
    assert 0.1 < found.same_top.value < 1
    assert found.same_top.value == pytest.approx(same, abs=1 / len(kl))  # a tie may fall elsewhere
    assert found.log_ratio.value == pytest.approx(
        math.log(losses["q4"].perplexity.value / reference_losses.perplexity.value)
    )


# --- against llama.cpp


@pytest.mark.parametrize("name", ["tiny that ships", "random"])
def test_perplexity_is_that_of_llama_cpp_on_the_same_file(
    tmp_path: Path, write_tiny_llama: Callable[..., Path], tiny_text: str, name: str
) -> None:
    llama_cpp = pytest.importorskip("llama_cpp", reason="compares with llama.cpp where it is")
    with shipped_model() as path:
        if name == "random":  # of a head size that llama.cpp can run
            shape = {"dim": 128, "hidden_dim": 192, "head_dim": 32}
            path = write_tiny_llama(tmp_path / "m.gguf", format="F16", **shape)
        text = tiny_text if name == "random" else STORY * 8
        tokenizer = tokenizer_of(path)
        chunks = cut_text(tokenizer, text, N_CTX, 8)
        theirs = llama_cpp.Llama(str(path), n_ctx=N_CTX, logits_all=True, verbose=False)
        ids = theirs.tokenize(text.removesuffix("\n").encode(), add_bos=True)
        nll = []
        for i in range(len(chunks)):  # as tools/perplexity does
            chunk = ids[i * N_CTX : (i + 1) * N_CTX]
            theirs.reset()
            theirs.eval([theirs.token_bos(), *chunk[1:]])
            for j in range(N_CTX // 2, N_CTX - 1):
                z = theirs.scores[j].astype(np.float64)
                nll.append(np.log(np.exp(z - z.max()).sum()) + z.max() - z[chunk[j + 1]])
        theirs.close()
        with opened(path) as model:
            found = evaluate({"ours": model}, chunks)[0]["ours"]
    assert len(found.nll) == len(nll)
    # Both round activations and the cache in their own way, which moves single predictions by a
    # hundredth and their mean by far less than its error.
    assert abs(math.exp(np.mean(nll)) - found.perplexity.value) < 0.1 * found.perplexity.error


# --- truths of any model


def test_a_model_is_at_no_distance_from_itself(tiny_llama: Path, chunks: np.ndarray) -> None:
    with opened(tiny_llama) as model, opened(tiny_llama) as reference:
        losses, reference_losses = evaluate({"tiny": model}, chunks, reference)
    assert reference_losses is not None
    found = losses["tiny"].divergence(reference_losses)
    assert (found.mean.value, found.mean.error, found.maximum) == (0, 0, 0)
    assert (found.log_ratio.value, found.same_top.value, found.same_top.error) == (0, 1, 0)


def test_figures_do_not_depend_on_how_many_rows_run_at_once(
    tiny_llama: Path, chunks: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = []
    for rows in ((256, 256), (5, 5), (1, 1)):
        monkeypatch.setattr(evaluation, "ROWS_AT_ONCE", rows)
        with opened(tiny_llama) as model:
            found.append(evaluate({"tiny": model}, chunks[:2])[0]["tiny"].nll)
    assert found[0] == found[1] == found[2]


def test_several_models_at_once_are_each_as_if_alone(
    tmp_path: Path, tiny_llama: Path, write_tiny_llama: Callable[..., Path], chunks: np.ndarray
) -> None:
    other = write_tiny_llama(tmp_path / "other.gguf", seed=1)
    with opened(tiny_llama) as a, opened(other) as b:
        together, _ = evaluate({"a": a, "b": b}, chunks[:2])
        alone, _ = evaluate({"b": b}, chunks[:2])
    assert together["b"].nll == alone["b"].nll != together["a"].nll


def test_every_chunk_is_told(tiny_llama: Path, chunks: np.ndarray) -> None:
    told: list[int] = []
    with opened(tiny_llama) as model:
        evaluate(
            {"m": model}, chunks[:3], progress=lambda losses: told.append(len(losses["m"].nll))
        )
    assert told == [31, 62, 93]


def test_a_model_whose_logits_are_not_numbers_is_named(
    tmp_path: Path, write_tiny_llama: Callable[..., Path], chunks: np.ndarray
) -> None:
    path = write_tiny_llama(tmp_path / "broken.gguf")
    with GGUFFile(path) as file:
        info = file.tensors["blk.1.ffn_down.weight"]
    with open(path, "r+b") as broken:
        broken.seek(info.offset)
        broken.write(np.full(info.n_bytes // 4, np.nan, np.float32).tobytes())
    with opened(path) as model, pytest.raises(ModelFormatError, match="broken: its logits"):
        evaluate({"broken": model}, chunks)


def test_figures_of_known_losses() -> None:
    losses = Losses(
        nll=[1.0, 2.0, 3.0],
        kl=[float(i) for i in range(1001)],
        same_top=[True, True, True, False],
    )
    # variance 2/3 of three, so the mean's error is sqrt(2/3 / 2)
    assert losses.perplexity.value == pytest.approx(math.e**2)
    assert losses.perplexity.error == pytest.approx(math.e**2 / math.sqrt(3))
    found = losses.divergence(Losses(nll=[1.0, 1.0, 1.0]))
    assert (found.log_ratio.value, found.mean.value, found.maximum) == (1.0, 500.0, 1000.0)
    percentiles = (found.percentile_90, found.percentile_99, found.percentile_99_9)
    assert percentiles == pytest.approx((900, 990, 999))
    assert found.same_top.value == 0.75
    assert found.same_top.error == pytest.approx(math.sqrt(0.75 * 0.25 / 3))
