"""From the hidden states of a text's tokens to one vector."""

import numpy as np
from numpy.typing import NDArray

POOLINGS = ("mean", "last", "cls")


def pool(rows: NDArray[np.float32], pooling: str, normalize: bool = True) -> NDArray[np.float32]:
    """(n, dim) -> (dim,): the mean, the last or the first row, of length one if `normalize`."""
    vector: NDArray[np.float64]
    if pooling == "mean":
        vector = rows.mean(axis=0, dtype=np.float64)
    else:
        vector = rows[-1 if pooling == "last" else 0].astype(np.float64)
    if normalize:
        vector /= max(float(np.linalg.norm(vector)), 1e-12)
    pooled: NDArray[np.float32] = vector.astype(np.float32)
    return pooled
