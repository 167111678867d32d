"""Muon: steps of a matrix made orthogonal, so that no direction of it learns much faster than another.

Jordan, Jin, Boza, You, Cesista, Newhouse, Bernstein: Muon (2024); the step's size as Liu et al. (arXiv 2502.16982),
so that it is of AdamW's. torch's own computes in bfloat16, which processors without it do ten times slower.
"""

import torch


class Muon(torch.optim.Optimizer):
    """For matrices only; those of one shape are stepped together."""

    def __init__(self, matrices, lr: float, momentum: float = 0.95, weight_decay: float = 0.02):
        super().__init__(list(matrices), {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            shapes: dict[tuple, list] = {}
            for p in group["params"]:
                shapes.setdefault(tuple(p.shape), []).append(p)
            for matrices in shapes.values():
                self.together(matrices, group["lr"], group["momentum"], group["weight_decay"])

    def together(self, matrices: list, lr: float, momentum: float, decay: float) -> None:
        ahead = []
        for p in matrices:
            mean = self.state[p].setdefault("mean", torch.zeros_like(p))
            mean.lerp_(p.grad, 1 - momentum)
            ahead.append(p.grad.lerp(mean, momentum))
        size = 0.2 * max(matrices[0].shape) ** 0.5
        for p, step in zip(matrices, orthogonal(torch.stack(ahead))):
            p.mul_(1 - lr * decay).add_(step, alpha=-lr * size)


def orthogonal(x: torch.Tensor) -> torch.Tensor:
    """`[n, a, b]`, singular values pressed to about 1 by five Newton-Schulz iterations."""
    if x.shape[1] > x.shape[2]:
        return orthogonal(x.mT).mT
    x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
    for _ in range(5):
        square = x @ x.mT
        x = 3.4445 * x + (-4.7750 * square + 2.0315 * square @ square) @ x
    return x
