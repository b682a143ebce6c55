"""Muon: weight matrices move along the orthogonalised mean of their gradients; the rest is AdamW's."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.optim import AdamW

from vlv.training.precision import cpu_has_bf16

MOMENTUM = 0.95
# Of an odd polynomial of degree 5 that brings singular values from (0, 1] near to 1 in five rounds. Steep at 0 rather
# than exact: what comes out lies between about 0.7 and 1.2, which trains as well (arXiv 2502.16982).
COEFFICIENTS = (3.4445, -4.7750, 2.0315)
ROUNDS = 5


class Muon(AdamW):
    """AdamW, but for groups with `matrices: True`.

    torch's own Muon takes two-dimensional weights only, and leaves the rest to a second optimizer; here convolutions
    count too, as [out, in * height * width], and there is one optimizer for the trainer to step and to save. A step is
    as large as AdamW's usual ones (0.2 in the root mean square), so that one learning rate serves both.
    """

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Move what has a gradient. The trainer gives no closure."""
        assert closure is None
        gradients: dict[nn.Parameter, Tensor] = {}
        for group in self.param_groups:
            if group["matrices"]:
                for parameter in group["params"]:
                    if parameter.grad is not None:
                        gradients[parameter] = parameter.grad
                        self._move(parameter, parameter.grad, group["lr"], group["weight_decay"])
                        parameter.grad = None  # so that AdamW passes it over
        super().step()
        for parameter, gradient in gradients.items():
            parameter.grad = gradient

    def _move(self, parameter: nn.Parameter, gradient: Tensor, lr: float, weight_decay: float) -> None:
        state = self.state[parameter]
        if not state:
            state["step"] = torch.tensor(0.0)  # AdamW looks for it in what a checkpoint brings back
            state["momentum"] = torch.zeros_like(gradient)
        state["step"] += 1
        mean = state["momentum"].lerp_(gradient, 1 - MOMENTUM)
        step = orthogonalise(gradient.lerp(mean, MOMENTUM).flatten(1))  # [rows, columns]; the mean looks one step ahead
        parameter.mul_(1 - lr * weight_decay)
        parameter.add_(step.view_as(parameter), alpha=-0.2 * lr * max(step.shape) ** 0.5)


def orthogonalise(matrix: Tensor) -> Tensor:
    """Bring the singular values of a matrix [rows, columns], about, to 1: U S V^T to U V^T, by Newton-Schulz steps."""
    tall = matrix.shape[0] > matrix.shape[1]
    # In bf16 where the machine multiplies it faster, as is usual: what comes out is coarse anyway.
    fast = matrix.is_cuda or cpu_has_bf16()
    wide = (matrix.T if tall else matrix).to(torch.bfloat16 if fast else matrix.dtype)
    wide = wide / (wide.norm() + 1e-7)
    a, b, c = COEFFICIENTS
    for _ in range(ROUNDS):
        gram = wide @ wide.T  # [smaller side, smaller side]
        wide = a * wide + (b * gram + c * gram @ gram) @ wide
    return (wide.T if tall else wide).to(matrix.dtype)


def weight_matrices(module: nn.Module) -> set[nn.Parameter]:
    """Weights of the linear maps and full convolutions in a module.

    Not those of embeddings, nor of a linear map tied to one: each of their rows is a vector of its own. Not those of
    depthwise convolutions, which are one small filter a channel.
    """
    matrices, tables = set[nn.Parameter](), set[nn.Parameter]()
    for part in module.modules():
        if isinstance(part, nn.Embedding):
            tables.add(part.weight)  # type: ignore[arg-type]
        elif isinstance(part, nn.Linear) or (isinstance(part, nn.Conv2d) and part.groups == 1):
            matrices.add(part.weight)  # type: ignore[arg-type]
    return matrices - tables
