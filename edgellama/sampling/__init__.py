"""From logits to the next token.

    logits (vocab_size,) --grammar--> --forbidden ids, logit_bias--> candidates (ids, logits)
        --penalties--> dry --> top_n_sigma --> top_k --> typ_p --> top_p --> min_p --> xtc
        --> temperature --> one id

Each link of the chain is a pure function of candidates; order, names and defaults are llama.cpp's.
At temperature 0 the largest logit wins, the lowest id among equals.
"""

from .candidates import Candidates, softmax_weights
from .filters import min_p, top_k, top_n_sigma, top_p, typical, xtc
from .params import SAMPLERS, LogitsFunction, SamplingOptions, SamplingParams
from .penalties import penalize
from .probabilities import check_finite, log_probability, top_logprobs
from .sampler import Constraint, Sampler
from .temperature import scale, scale_by_entropy

__all__ = [
    "SAMPLERS",
    "Candidates",
    "Constraint",
    "LogitsFunction",
    "Sampler",
    "SamplingOptions",
    "SamplingParams",
    "check_finite",
    "log_probability",
    "min_p",
    "penalize",
    "scale",
    "scale_by_entropy",
    "softmax_weights",
    "top_k",
    "top_logprobs",
    "top_n_sigma",
    "top_p",
    "typical",
    "xtc",
]
