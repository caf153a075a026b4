"""The link that steers the surprise of a text: mirostat, version 2 (arXiv:2007.14966)."""

import math

from .candidates import Candidates, log_softmax


def mirostat(candidates: Candidates, mu: float) -> Candidates:
    """The tokens that surprise by mu bits at most, -log2(probability); the likeliest at least."""
    log_probabilities = log_softmax(candidates.logits)
    limit = min(-mu * math.log(2), float(log_probabilities.max()))
    return candidates.at(log_probabilities >= limit)


class Mirostat:
    """mu over time: it begins at twice `tau` and moves by `eta` of each error."""

    def __init__(self, tau: float, eta: float) -> None:
        self._tau = tau
        self._eta = eta
        self._mus = [2 * tau]

    @property
    def mu(self) -> float:
        return self._mus[-1]

    def learn(self, probability: float) -> None:
        """A token was chosen that had this probability among those that `mirostat` kept."""
        surprise = -math.log2(probability)
        self._mus.append(self.mu - self._eta * (surprise - self._tau))

    def undo(self, n: int) -> None:
        """Forget the last n choices."""
        del self._mus[max(1, len(self._mus) - n) :]
