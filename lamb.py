"""LAMB (You et al. 2019, arXiv 1904.00962) with multi-tensor operations and no host sync."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

# number of parameters updated together on the CPU
_CACHED_NUMBERS = 2**18


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
        # by group, what differs from step to step: scale and offset of the second moment's root,
        # and the negative learning rate; 0-d tensors that stay in place if capturable
        self._numbers: dict[int, Sequence[Any]] = {}
        # by the sizes of tensors, the number of the tensor that each element belongs to
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
        """Count a step and set its bias corrections and learning rate."""
        for i, group in enumerate(self.param_groups):
            group["step"] += 1
            beta1, beta2 = group["betas"]
            correction1 = 1.0 - beta1 ** group["step"]
            correction2 = math.sqrt(1.0 - beta2 ** group["step"])
            numbers = correction1 / correction2, group["eps"] * correction1, -group["lr"]
            if not self.capturable:
                self._numbers[i] = numbers
                continue
            stored = self._numbers.setdefault(i, group["params"][0].new_empty(3).unbind())
            for tensor, number in zip(stored, numbers, strict=True):
                tensor.fill_(number)

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
        self,
        group: dict[str, Any],
        params: list[Tensor],
        scale: float | Tensor,
        offset: float | Tensor,
        minus_lr: float | Tensor,
    ) -> None:
        for p in params:
            if not self.state[p]:
                self.state[p]["exp_avg"] = torch.zeros_like(p)
                self.state[p]["exp_avg_sq"] = torch.zeros_like(p)
        first = [self.state[p]["exp_avg"] for p in params]
        second = [self.state[p]["exp_avg_sq"] for p in params]
        beta1, beta2 = group["betas"]

        grads = [p.grad for p in params if p.grad is not None]
        torch._foreach_lerp_(first, grads, 1.0 - beta1)
        torch._foreach_mul_(second, beta2)
        torch._foreach_addcmul_(second, grads, grads, 1.0 - beta2)
        # (m / correction1) / (sqrt(v) / correction2 + eps) with few in-place passes over memory
        flat = params[0].new_empty(sum(p.numel() for p in params))
        pieces = flat.split([p.numel() for p in params])
        update = [x.view_as(p) for x, p in zip(pieces, params, strict=True)]
        torch._foreach_copy_(update, second)
        flat.sqrt_().mul_(scale).add_(offset).reciprocal_()
        torch._foreach_mul_(update, first)
        if group["weight_decay"]:
            torch._foreach_add_(update, params, alpha=group["weight_decay"])

        param_norm = torch.stack(torch._foreach_norm(params))
        update_norm = torch.stack(torch._foreach_norm(update))
        usable = (param_norm > 0) & (update_norm > 0)
        trust = torch.where(usable, param_norm / update_norm.clamp(min=1e-38), 1.0)
        factors = minus_lr * trust
        if flat.is_cuda:
            # one launch instead of one per tensor
            flat.mul_(factors[self._owner(params)])
        else:
            torch._foreach_mul_(update, list(factors.unbind()))
        torch._foreach_add_(params, update)

    def _owner(self, params: list[Tensor]) -> Tensor:
        """The number of the tensor that each element belongs to, as int32."""
        sizes = tuple(p.numel() for p in params)
        if sizes not in self._owners:
            numbers = torch.arange(len(sizes), dtype=torch.int32, device=params[0].device)
            repeats = torch.tensor(sizes, device=params[0].device)
            self._owners[sizes] = numbers.repeat_interleave(repeats)
        return self._owners[sizes]


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
