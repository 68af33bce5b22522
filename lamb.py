"""LAMB (You et al. 2019, arXiv 1904.00962) with multi-tensor operations and no host sync."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.optim import Optimizer

# number of parameters updated together on the CPU
_CACHED_NUMBERS = 2**18
# elements per row of the buffer of updates; each row belongs to one tensor
_ROW = 64


class Lamb(Optimizer):
    """Layer-wise adaptive large-batch optimiser.

    For each tensor p with gradient g at step t, after clipping the global gradient norm to
    `max_grad_norm`:

        m = b1 m + (1 - b1) g,   v = b2 v + (1 - b2) g^2,   both bias-corrected
        u = m / (sqrt(v) + eps) + weight_decay p
        p = p - lr ||p|| / ||u|| u        (ratio 1 where either norm is 0)

    Weight decay applies to all tensors, including biases and LayerNorm. Tensors whose gradient is
    None are skipped; those with a zero gradient still decay.

    Args:
        params: Tensors or parameter groups.
        lr: Learning rate.
        betas: Decay rates of the first and second moment.
        eps: Added to the root of the second moment.
        weight_decay: Decay, added to the update before the trust ratio.
        max_grad_norm: Maximum global gradient norm; 0 disables clipping.
        capturable: A CUDA graph can replay `step`. Call `prepare` before each step, also before
            each replay.
    """

    def __init__(
        self,
        params: Iterable[Tensor] | Iterable[dict[str, Any]],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        max_grad_norm: float = 1.0,
        capturable: bool = False,
    ) -> None:
        defaults = {
            "lr": lr,
            "betas": betas,
            "eps": eps,
            "weight_decay": weight_decay,
            "max_grad_norm": max_grad_norm,
            "step": 0,
        }
        super().__init__(params, defaults)
        self.capturable = capturable
        # by group: step number and negative learning rate, 0-d tensors that CUDA graphs read
        self._numbers: dict[int, Sequence[Tensor]] = {}
        # by the tensors' numbers of rows: the tensor that each row belongs to
        self._owners: dict[tuple[int, ...], Tensor] = {}

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Update all tensors that have a gradient, clipping the gradients in place."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        self._clip()
        if not self.capturable:
            self.prepare()
        for i, group in enumerate(self.param_groups):
            params = [p for p in group["params"] if p.grad is not None]
            for part in _parts(params):
                self._update(group, part, *self._numbers[i])
        return loss

    @torch.no_grad()
    def prepare(self) -> None:
        """Advance the step count and set the tensors that `step` reads."""
        for i, group in enumerate(self.param_groups):
            group["step"] += 1
            if i not in self._numbers:
                self._numbers[i] = group["params"][0].new_empty(2).unbind()
            step, minus_lr = self._numbers[i]
            step.fill_(group["step"])
            minus_lr.fill_(-group["lr"])

    def _clip(self) -> None:
        """Scale the gradients of each group down to its maximum global norm."""
        every = [p.grad for group in self.param_groups for p in group["params"]]
        grads = [grad for grad in every if grad is not None]
        bounded = [group for group in self.param_groups if group["max_grad_norm"]]
        norm = global_norm(grads) if grads and bounded else None
        for group in bounded:
            own = [p.grad for p in group["params"] if p.grad is not None]
            if norm is not None and own:
                torch._foreach_div_(own, (norm / group["max_grad_norm"]).clamp(min=1.0))

    def _update(
        self, group: dict[str, Any], params: list[Tensor], step: Tensor, minus_lr: Tensor
    ) -> None:
        for p in params:
            if not self.state[p]:
                self.state[p]["exp_avg"] = torch.zeros_like(p)
                self.state[p]["exp_avg_sq"] = torch.zeros_like(p)
        grads = [p.grad for p in params if p.grad is not None]
        first = [self.state[p]["exp_avg"] for p in params]
        second = [self.state[p]["exp_avg_sq"] for p in params]

        # the update u of each tensor, a view of its own rows of one buffer
        rows = [-(-p.numel() // _ROW) for p in params]
        flat = params[0].new_empty(sum(rows), _ROW)
        pieces = zip(flat.split(rows), params, strict=True)
        update = [x.view(-1)[: p.numel()].view_as(p) for x, p in pieces]
        torch._foreach_copy_(update, params)
        torch._foreach_mul_(update, group["weight_decay"])
        # Adam's kernel updates both moments; with the learning rate -1 it adds the bias-corrected
        # m / (sqrt(v) + eps)
        beta1, beta2 = group["betas"]
        torch._fused_adam_(
            update, grads, first, second, [], [step] * len(params), lr=-1.0, beta1=beta1,
            beta2=beta2, weight_decay=0.0, eps=group["eps"], amsgrad=False, maximize=False,
        )  # fmt: skip

        param_norm = torch.stack(torch._foreach_norm(params))
        update_norm = torch.stack(torch._foreach_norm(update))
        usable = (param_norm > 0) & (update_norm > 0)
        trust = torch.where(usable, param_norm / update_norm.clamp(min=1e-38), 1.0)
        # in one operation, as a launch per tensor would take longer on a GPU
        flat.mul_((minus_lr * trust)[self._owner(rows, flat.device)][:, None])
        torch._foreach_add_(params, update)

    def _owner(self, rows: list[int], device: torch.device) -> Tensor:
        """The number of the tensor that each row belongs to."""
        key = tuple(rows)
        if key not in self._owners:
            owners = np.repeat(np.arange(len(rows)), rows)
            self._owners[key] = torch.from_numpy(owners).to(device)
        return self._owners[key]


def _parts(params: list[Tensor]) -> list[list[Tensor]]:
    """All tensors at once; on the CPU in parts that fit its cache."""
    if not params or params[0].device.type != "cpu":
        return [params] if params else []
    parts: list[list[Tensor]] = [[]]
    for p in params:
        if sum(q.numel() for q in parts[-1]) >= _CACHED_NUMBERS:
            parts.append([])
        parts[-1].append(p)
    return parts


def global_norm(tensors: list[Tensor]) -> Tensor:
    """The 2-norm over all elements of the tensors, as a 0-d tensor on their device."""
    return torch.linalg.vector_norm(torch.stack(torch._foreach_norm(tensors)))
