"""From logits to the next token."""

from .params import SAMPLERS as SAMPLERS
from .params import LogitsFunction as LogitsFunction
from .params import SamplingOptions as SamplingOptions
from .params import SamplingParams as SamplingParams
from .sampler import Candidates as Candidates
from .sampler import Sampler as Sampler
from .sampler import check_finite as check_finite
from .sampler import log_probability as log_probability
from .sampler import min_p as min_p
from .sampler import penalize_repeats as penalize_repeats
from .sampler import softmax_weights as softmax_weights
from .sampler import top_k as top_k
from .sampler import top_logprobs as top_logprobs
from .sampler import top_p as top_p
