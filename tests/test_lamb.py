"""LAMB: golden numbers, zero gradients, checkpoints."""

import numpy as np
import torch

import lamb
from lamb import Lamb
from tests.conftest import golden_file


def test_steps_equal_golden():
    data = np.load(golden_file("lamb.npz"))
    names = [name for name in data.files if name.startswith("init/")]
    params = [torch.nn.Parameter(torch.from_numpy(data[name].copy())) for name in names]
    steps = sum(name.startswith("grad") for name in data.files) // len(params)
    assert steps
    optimizer = Lamb(
        params,
        lr=float(data["lr"]),
        weight_decay=float(data["weight_decay"]),
        eps=float(data["eps"]),
    )
    for step in range(steps):
        for i, p in enumerate(params):
            p.grad = torch.from_numpy(data[f"grad{step}/param{i}"].copy())
        optimizer.step()
        for i, p in enumerate(params):
            torch.testing.assert_close(
                p.detach(), torch.from_numpy(data[f"step{step}/param{i}"]), rtol=1e-5, atol=1e-6
            )


def test_a_zero_gradient_decays_and_none_skips():
    """With a zero gradient only the decay remains, which the trust ratio scales to lr * p."""
    skipped = torch.nn.Parameter(torch.ones(3))
    zero = torch.nn.Parameter(torch.full((3,), 2.0))
    optimizer = Lamb([skipped, zero], lr=0.1, weight_decay=0.01)
    zero.grad = torch.zeros(3)
    optimizer.step()
    assert torch.equal(skipped, torch.ones(3))
    torch.testing.assert_close(zero.detach(), torch.full((3,), 1.8))


def test_restored_state_continues_identically():
    def run(interrupted):
        torch.manual_seed(0)
        p = torch.nn.Parameter(torch.randn(4, 3))
        optimizer = Lamb([p], lr=0.01, weight_decay=0.1)
        for step in range(6):
            if interrupted and step == 3:
                state = optimizer.state_dict()
                optimizer = Lamb([p], lr=0.5)
                optimizer.load_state_dict(state)
            p.grad = torch.randn(4, 3)
            optimizer.step()
        return p.detach()

    assert torch.equal(run(False), run(True))


def test_updating_in_parts_changes_nothing(monkeypatch):
    """On the CPU, tensors are updated in groups that fit its cache."""
    results = []
    for cached in (1, 10**9):
        monkeypatch.setattr(lamb, "_CACHED_NUMBERS", cached)
        torch.manual_seed(0)
        params = [torch.randn(n, 3) for n in (1, 5, 2, 7)]
        optimizer = Lamb(params, lr=0.1, weight_decay=0.1)
        for _ in range(3):
            for p in params:
                p.grad = torch.randn_like(p)
            optimizer.step()
        results.append(params)
    assert optimizer.param_groups[0]["step"] == 3
    for a, b in zip(*results, strict=True):
        assert torch.equal(a, b)
