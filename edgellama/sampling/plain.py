"""The chains that nearly every request has, as one compiled step: see `edgellama.draw`.

They are top_k and then some of top_p, min_p and temperature, in this order; or none at temperature
0. The choice is the same as link by link.
"""

import math

import numpy as np
from numpy.typing import NDArray

from edgellama.draw import MOST_KEPT, Draw

from .params import SamplingParams
from .temperature import COLDEST

_ORDER = ("top_k", "top_p", "min_p", "temperature")


def is_plain(chain: tuple[str, ...], params: SamplingParams) -> bool:
    """Whether `chain`, the links that act, can be had in one step."""
    if params.temperature == 0:
        return chain == ()
    in_order = tuple(name for name in _ORDER if name in chain)
    return (
        chain[:1] == ("top_k",)
        and chain == in_order
        and params.top_k <= MOST_KEPT
        and params.dynatemp_range == 0
    )


def plain_draw(
    chain: tuple[str, ...],
    params: SamplingParams,
    biased_ids: NDArray[np.int64],
    biases: NDArray[np.float32],
    wants_mass: bool,
) -> Draw:
    """That step for a chain which is plain."""
    return Draw(
        most=params.top_k if chain else 1,
        top_p=params.top_p if "top_p" in chain else 2.0,
        min_p=math.log(params.min_p) if "min_p" in chain else -math.inf,
        temperature=max(params.temperature, COLDEST) if "temperature" in chain else 1.0,
        biased_ids=biased_ids,
        biases=biases,
        wants_mass=wants_mass,
    )
