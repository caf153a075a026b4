"""Muon: momentum whose directions are all made equally long (https://kellerjordan.github.io/posts/muon).

A layer that has to copy a hundred names needs a hundred directions, each rarely asked for. Adam
learns the frequent ones first; here a rare one moves as far as a frequent one.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor


class Muon(torch.optim.Optimizer):
    """For matrices inside the model; embeddings and norms are AdamW's."""

    def __init__(
        self, matrices: Iterable[Tensor], lr: float, momentum: float = 0.95, decay: float = 0.5
    ) -> None:
        super().__init__(matrices, {"lr": lr, "momentum": momentum, "decay": decay})

    @torch.no_grad()
    def step(self) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for weight in group["params"]:
                state = self.state[weight]
                momentum = state.setdefault("momentum", torch.zeros_like(weight))
                momentum.lerp_(weight.grad, 1 - group["momentum"])
                update = orthogonalize(weight.grad.lerp(momentum, group["momentum"]))
                rows, cols = weight.shape
                weight.mul_(1 - group["lr"] * group["decay"])
                weight.add_(update, alpha=-group["lr"] * max(1.0, rows / cols) ** 0.5)


def orthogonalize(x: Tensor) -> Tensor:
    """About U V^T of x = U S V^T: five steps of a quintic that pulls singular values near 1."""
    a, b, c = 3.4445, -4.7750, 2.0315  # the post's: steep at 0, and within 0.7 .. 1.2 after five
    wide = x.T if x.shape[0] > x.shape[1] else x
    wide = wide / (wide.norm() + 1e-7)
    for _ in range(5):
        gram = wide @ wide.T
        wide = torch.addmm(wide, torch.addmm(gram, gram, gram, beta=b, alpha=c), wide, beta=a)
    return wide.T if x.shape[0] > x.shape[1] else wide
