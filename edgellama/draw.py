"""Choosing the next token of many requests at once: one call of an entry that loads without numba.

A request that samples as most do (top_k, top_p, min_p and temperature, in this order, or greedily)
keeps a record of what it wants. A call is given such records, looks at the logits of each, which
are left as they are, and writes into each what it chose.
"""

from array import array
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from .quant.entry import Entry

MOST_KEPT = 128  # candidates: their places are found by insertion
_LANES = 16  # of a vector: rows of scratch are read in whole ones
_ROOM = MOST_KEPT + _LANES

DRAW = np.dtype(
    [
        # the row: (n,) float32, to which a bias is added where there is one
        ("logits", np.int64),
        ("n", np.int64),
        ("n_biases", np.int64),
        ("biased_ids", np.int64),  # (n_biases,) int64, rising
        ("biases", np.int64),  # (n_biases,) float32
        # the chain
        ("most", np.int64),  # candidates that top_k keeps, 1 to MOST_KEPT; 1 is greedy
        ("top_p", np.float64),  # 2: none
        ("min_p", np.float32),  # its natural logarithm; -inf: none
        ("temperature", np.float32),
        ("chance", np.float64),  # 0 <= chance < 1
        ("wants_mass", np.int64),
        # what came of it
        ("id", np.int64),  # -1: all logits are -inf
        ("finite", np.int64),  # whether all logits are
        ("logit", np.float32),  # of the id, without its bias
        ("best", np.float32),  # largest logit, without biases
        ("mass", np.float64),  # sum of exp(logit - best) over all, without biases
        # scratch
        ("kept", np.float32, _ROOM),
        ("ids", np.int64, _ROOM),
        ("weights", np.float32, _ROOM),
    ]
)

draw = Entry("edgellama.draw_kernels", "draw")


class Draw:
    """The record of one request."""

    def __init__(
        self,
        *,
        most: int,
        top_p: float = 2.0,
        min_p: float = -np.inf,
        temperature: float = 1.0,
        biased_ids: NDArray[np.int64],
        biases: NDArray[np.float32],
        wants_mass: bool,
    ) -> None:
        """The arguments are those of `DRAW`."""
        record = np.zeros(1, DRAW)
        record["most"], record["wants_mass"] = most, wants_mass
        record["top_p"], record["min_p"], record["temperature"] = top_p, min_p, temperature
        record["n_biases"] = len(biased_ids)
        record["biased_ids"], record["biases"] = biased_ids.ctypes.data, biases.ctypes.data
        self.address = record.ctypes.data
        self._kept_alive = record, biased_ids, biases
        self._asked = record["logits"], record["n"], record["chance"]
        self._told = record["id"], record["finite"], record["logit"], record["best"], record["mass"]

    def ask(self, logits: int, n: int, chance: float) -> None:
        """Of the n float32 at the address `logits`, which must stay until the answer is read."""
        row, size, fraction = self._asked
        row[0], size[0], fraction[0] = logits, n, chance

    @property
    def id(self) -> int:
        return int(self._told[0].item())

    @property
    def finite(self) -> bool:
        return bool(self._told[1].item())

    @property
    def mass(self) -> tuple[float, float, float]:
        """(logit of the id, largest logit, sum of exp(logit - largest) over all)."""
        _, _, logit, best, mass = self._told
        return logit.item(), best.item(), mass.item()


def draw_all(draws: Sequence[Draw]) -> None:
    """Answer what was asked of each, without the interpreter lock."""
    addresses = array("q", [each.address for each in draws])
    draw.call(addresses.buffer_info()[0], len(draws))
