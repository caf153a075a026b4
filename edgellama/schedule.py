"""Who reads how much in the next step."""

from collections.abc import Sequence


def share_rows(pending: Sequence[int], n_rows: int) -> list[int]:
    """How many of its pending ids each request reads, `n_rows` in all if there are so many.

    One row each comes first, so that nobody who writes waits for one who reads a long prompt; what
    is left is shared out evenly among the rest. More requests than rows: the first ones, one each.
    """
    shares = [0] * len(pending)
    left = n_rows
    for i, n in enumerate(pending):
        shares[i] = min(n, 1, left)
        left -= shares[i]
    hungry = [i for i, n in enumerate(pending) if n > shares[i]]
    while left and hungry:
        each = max(1, left // len(hungry))
        for i in hungry:
            more = min(each, pending[i] - shares[i], left)
            shares[i] += more
            left -= more
        hungry = [i for i in hungry if pending[i] > shares[i]]
    return shares
