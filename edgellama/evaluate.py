"""How well a model predicts a text, and how far it has moved from a reference model.

Every token in the second half of a chunk is predicted from all before it, so that each has context;
its loss is v = -ln p(token). Over the n predictions, as llama.cpp's perplexity tool has it:

    perplexity            exp(mean v), its standard error exp(mean v) * se(v)
    se(v)                 sqrt((mean v² - (mean v)²) / (n - 1))
    KL divergence         sum over the vocabulary of p_ref * ln(p_ref / p), for each prediction
    log ratio             mean (v - v_ref) = ln(perplexity / perplexity of the reference)
    same top              the share of predictions whose likeliest token is the reference's

llama.cpp stores the reference's ln p in 16 bits and leaves out tokens below exp(-16); here nothing
is stored and nothing left out: all models run on the same few rows in turn.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from .backends import Backend, Batch
from .errors import ModelFormatError

LOGITS_AT_ONCE = 1 << 23  # of one model: 32 MiB of float32, and twice that of ln p
ROWS_AT_ONCE = 16, 256  # least and most; products of fewer rows are slow

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean over predictions, or what follows from it, and its standard error."""

    value: float
    error: float


@dataclass(frozen=True, slots=True)
class Divergence:
    """How far the predictions lie from the reference's; in nats."""

    mean: Estimate
    percentile_90: float
    percentile_99: float
    percentile_99_9: float
    maximum: float
    log_ratio: Estimate  # ln(perplexity / the reference's), of the paired losses
    same_top: Estimate  # 0 to 1


@dataclass(slots=True)
class Losses:
    """What is kept of each prediction of one model, in the order of the text."""

    nll: list[float] = field(default_factory=list)  # -ln p of the token that came
    kl: list[float] = field(default_factory=list)  # empty without a reference
    same_top: list[bool] = field(default_factory=list)

    @property
    def perplexity(self) -> Estimate:
        mean = _mean(self.nll)
        value = math.exp(mean.value)
        return Estimate(value, value * mean.error)

    def divergence(self, reference: "Losses") -> Divergence:
        """Percentiles are interpolated between neighbours."""
        p90, p99, p99_9 = np.quantile(self.kl, (0.9, 0.99, 0.999))
        return Divergence(
            mean=_mean(self.kl),
            percentile_90=float(p90),
            percentile_99=float(p99),
            percentile_99_9=float(p99_9),
            maximum=max(self.kl),
            log_ratio=_mean(np.subtract(self.nll, reference.nll)),
            same_top=_mean(self.same_top),
        )


def evaluate(
    models: Mapping[str, Backend],
    chunks: npt.NDArray[np.int32],
    reference: Backend | None = None,
    progress: Callable[[Mapping[str, Losses]], object] | None = None,
) -> tuple[dict[str, Losses], Losses | None]:
    """The losses of each model, under its name, and of the reference, if there is one.

    chunks: (n, n_ctx) ids, n_ctx at most what every model was loaded for. All models must have one
    vocabulary, and their sequence 0 empty. progress is told the losses so far behind each chunk.
    Raises ModelFormatError, with the name of the model, when logits are not numbers.
    """
    losses = {name: Losses() for name in models}
    reference_losses = None if reference is None else Losses()
    for chunk in chunks:
        for batch, targets in _steps(chunk, next(iter(models.values())).config.vocab_size):
            expected = None
            if reference is not None and reference_losses is not None:
                expected = _log_probabilities(reference, batch, "the reference")
                _add(reference_losses, expected, targets, None)
            for name, model in models.items():
                predicted = _log_probabilities(model, batch, name)
                _add(losses[name], predicted, targets, expected)
        for backend in (*models.values(), *([] if reference is None else [reference])):
            backend.drop(0)
        if progress is not None:
            progress(losses)
    return losses, reference_losses


def _steps(
    chunk: npt.NDArray[np.int32], vocab_size: int
) -> Iterator[tuple[Batch, npt.NDArray[np.int32]]]:
    """A chunk in batches, each with the ids that its wanted rows should predict.

    Rows n_ctx // 2 to n_ctx - 2 count: the last id is only predicted.
    """
    first, last = len(chunk) // 2, len(chunk) - 1
    least, most = ROWS_AT_ONCE
    for start in range(0, first, most):
        stop = min(start + most, first)
        yield Batch.of(chunk[start:stop], start=start, wanted="none"), chunk[:0]
    step = min(max(LOGITS_AT_ONCE // vocab_size, least), most)
    for start in range(first, last, step):
        stop = min(start + step, last)
        yield Batch.of(chunk[start:stop], start=start, wanted="all"), chunk[start + 1 : stop + 1]


def _log_probabilities(backend: Backend, batch: Batch, name: str) -> Floats:
    """(n_wanted, vocab_size) float64: ln of the softmax of the logits."""
    logits = backend.forward(batch)
    if not np.isfinite(logits).all():
        raise ModelFormatError(f"{name}: its logits are not numbers; the file is damaged")
    found = np.empty(logits.shape, np.float64)
    for row, z in zip(found, logits, strict=True):  # one at a time: it stays in the cache
        np.subtract(z, z.max(), out=row, dtype=np.float64)
        row -= math.log(np.exp(row).sum())
    return found


def _add(
    losses: Losses, predicted: Floats, targets: npt.NDArray[np.int32], expected: Floats | None
) -> None:
    """Append what counts of some predictions, ln p (n, vocab_size)."""
    losses.nll += (-predicted[np.arange(len(targets)), targets]).tolist()
    if expected is None:
        return
    for p, q in zip(expected, predicted, strict=True):
        kl = float((np.exp(p) * (p - q)).sum())
        losses.kl.append(max(0.0, kl))  # below 0 only by rounding
    losses.same_top += (expected.argmax(axis=1) == predicted.argmax(axis=1)).tolist()


def _mean(values: npt.ArrayLike) -> Estimate:
    """The mean and sqrt(variance / (n - 1)), the variance that of the sample."""
    v = np.asarray(values, np.float64)
    return Estimate(float(v.mean()), float(np.sqrt(v.var() / max(1, len(v) - 1))))
