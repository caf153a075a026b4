"""From logits to the next token.

    logits (vocab_size,) --grammar--> --forbidden ids, logit_bias--> candidates (ids, logits)
        --penalties--> dry --> top_n_sigma --> top_k --> typ_p --> top_p --> min_p --> xtc
        --> temperature --> one id

Each link of the chain is a pure function of candidates. Names, defaults, order and results are
llama.cpp's, as the tests hold them to its own samplers, but for these:

    temperature 0   the largest logit wins, the lowest id among equals, whatever typ_p, xtc or
                    dynamic temperature would do to it
    mirostat        leaves the penalties in place; version 2 only
    random numbers  one for a token, xtc's included, from PCG64
    DRY's breakers  are found wherever tokens end, as they are looked for in the text
    odd numbers     are refused, where llama.cpp turns a link off (dry_base below 1) or keeps all
                    (top_k below 0)
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
