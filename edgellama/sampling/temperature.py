"""Links that make the choice bolder or safer: temperature, fixed or by how sure the model is."""

import math

import numpy as np

from .candidates import Candidates, largest, log_softmax

COLDEST = 1e-8  # less would not be greedier, but overflow float32


def scale(candidates: Candidates, temperature: float) -> Candidates:
    """Logits, less the largest, over the temperature."""
    logits = candidates.logits
    coldness = np.float32(max(temperature, COLDEST))
    return Candidates(candidates.ids, (logits - largest(logits)) / coldness)


def scale_by_entropy(
    candidates: Candidates, temperature: float, range: float, exponent: float
) -> Candidates:
    """Scale by a temperature within `range` of the given one, 0 at least (arXiv:2309.02772).

    It rises with (entropy / largest possible entropy) ** exponent: 0 for a model that is sure, 1
    for one that finds all candidates alike.
    """
    n = len(candidates.ids)
    if n < 2:
        return candidates
    log_probabilities = log_softmax(candidates.logits)
    entropy = -float(np.exp(log_probabilities) @ log_probabilities)
    doubt = min(max(entropy / math.log(n), 0.0), 1.0)  # rounding may pass the limits
    lowest, highest = max(0.0, temperature - range), temperature + range
    return scale(candidates, lowest + (highest - lowest) * doubt**exponent)
