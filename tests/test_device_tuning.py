"""Device set-up: float32 accuracy on a CPU, kept memory, rejected flags, compilation."""

from dataclasses import replace

import pytest
import torch
from torch._dynamo.utils import counters

from build_networks import make_actor, slow_copy
from fast_cpu import device_tuning
from fast_cpu.device_tuning import keep_freed_memory, product_error, tune_device, use_fast_products
from get_args import Settings
from main import main
from tasks import TASKS

CPU = torch.device("cpu")


@pytest.fixture
def own_precision():
    before = torch.get_float32_matmul_precision()
    yield
    torch.set_float32_matmul_precision(before)


def test_products_stay_float32(own_precision):
    tune_device(CPU)
    assert product_error() < 2e-6


def test_bfloat16_products_are_reverted(own_precision, monkeypatch):
    """As on a CPU where oneDNN computes in bfloat16 when allowed to."""
    product = torch.Tensor.__matmul__

    def rounding(a, b):
        if a.dtype == torch.float32 and torch.get_float32_matmul_precision() == "medium":
            return product(a.bfloat16(), b.bfloat16()).float()
        return product(a, b)

    monkeypatch.setattr(torch.Tensor, "__matmul__", rounding)
    assert not use_fast_products()
    assert torch.get_float32_matmul_precision() == "highest"
    assert product_error() < 2e-6


def test_freed_memory_is_kept_with_glibc_only(monkeypatch):
    assert keep_freed_memory() == hasattr(device_tuning.ctypes.CDLL(None), "mallopt")
    monkeypatch.setattr(device_tuning.sys, "platform", "darwin")
    assert not keep_freed_memory()


@pytest.mark.parametrize("flag", ["--precision tf32", "--compile 1"])
def test_flags_for_gpus_are_rejected_on_the_cpu(flag, capsys):
    assert main([*flag.split(), "--device", "cpu"]) == 2
    message = capsys.readouterr().err
    assert message.startswith(f"error: {flag}")
    assert "needs a CUDA device" in message
    assert message.count("\n") == 1


@pytest.mark.parametrize(("precision", "stoc"), [("fp32", 0), ("bf16", 1)])
def test_the_policy_compiles_as_one_graph(precision, stoc):
    """Traces the same code as `--compile 1`, for a backend that needs no GPU."""
    settings = replace(Settings(), embed_dim=16, n_layer=1, n_head=2, stoc=stoc, ordering=1)
    actor = make_actor(replace(settings, precision=precision), TASKS["maze2d-umaze-v1"]).eval()
    compiled = slow_copy(actor).requires_grad_(True)
    counters.clear()
    compiled.compile(backend="aot_eager", fullgraph=True)
    states, actions = torch.randn(3, 4, 4), torch.rand(3, 4, 2)
    mask = torch.ones(3, 4, dtype=torch.bool)
    batch = (states, actions, torch.randn(3, 4, 1), torch.arange(4).expand(3, 4), mask)
    tolerance = 1e-5 if precision == "fp32" else 3e-2
    expected, got = actor(*batch).mean, compiled(*batch).mean
    assert counters["stats"]["unique_graphs"] >= 1
    torch.testing.assert_close(got, expected, rtol=tolerance, atol=tolerance)
    got.sum().backward()
    expected.sum().backward()
    for ours, theirs in zip(compiled.parameters(), actor.parameters(), strict=True):
        if theirs.grad is not None:
            torch.testing.assert_close(ours.grad, theirs.grad, rtol=tolerance, atol=tolerance)
    # acting in between, with its packed weights, does not trigger a recompilation
    graphs = counters["stats"]["unique_graphs"]
    for _ in range(2):
        with torch.inference_mode():
            compiled.act(*batch[:4])
        again = compiled(*batch).mean
    assert counters["stats"]["unique_graphs"] == graphs
    torch.testing.assert_close(again, got, rtol=tolerance, atol=tolerance)
