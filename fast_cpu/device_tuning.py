"""How a device computes: float32 products, and on a CPU also what becomes of freed memory.

Both of the CPU's settings change no number and together double the speed of training.

Products: PyTorch multiplies float32 matrices through MKL, which is slow on processors that are not
Intel's; `set_float32_matmul_precision("medium")` sends them to oneDNN. That setting allows oneDNN
to compute in bfloat16, and on some processors it does. So the error is measured against float64,
and where it is not that of float32 the setting is taken back.

Memory: glibc hands large blocks back to the system when they are freed and takes new ones, page by
page, for the next tensor, which costs a quarter of an update. It can be told to keep them.
"""

from __future__ import annotations

import ctypes
import sys

import torch
from torch import Tensor

from fast_cpu.linear import linear
from utils import UserError

# glibc's names of what mallopt sets (malloc.h)
_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4
# relative error of a product of 512 terms: 1e-6 in float32, 2e-3 in bfloat16, 2e-4 in TF32
_FLOAT32_ERROR = 1e-5


def check_device(device: torch.device, precision: str, compiled: bool) -> None:
    """Refuse what this device cannot do.

    Args:
        device: Where everything is computed.
        precision, compiled: `--precision` and `--compile`.

    Raises:
        UserError: names the flag.
    """
    if device.type == "cuda":
        return
    for asked, flag, instead in (
        (compiled, "--compile 1", "leave it out"),
        (precision == "tf32", "--precision tf32", "use fp32 or bf16"),
    ):
        if asked:
            raise UserError(f"{flag}: needs a CUDA device and this run is on {device}; {instead}")


def tune_device(device: torch.device, precision: str = "fp32") -> None:
    """Make ready for computing on a device; with tf32 a GPU rounds factors to 10 bits."""
    if device.type == "cuda":
        torch.set_float32_matmul_precision("high" if precision == "tf32" else "highest")
        return
    keep_freed_memory()
    use_fast_products()


def keep_freed_memory() -> bool:
    """Let glibc reuse freed memory instead of returning it; False where there is no glibc."""
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    # no block by mmap, none of the heap given back
    return bool(mallopt(_M_MMAP_MAX, 0)) and bool(mallopt(_M_TRIM_THRESHOLD, -1))


def use_fast_products() -> bool:
    """Send float32 products to oneDNN, if they stay float32; returns whether they do."""
    torch.set_float32_matmul_precision("medium")
    exact = product_error() < _FLOAT32_ERROR
    if not exact:
        torch.set_float32_matmul_precision("highest")
    return exact


def product_error() -> float:
    """The largest error, relative to the result's norm, of the kinds of products in an update."""
    generator = torch.Generator().manual_seed(0)

    def random(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    x, weight, bias, upstream = random(256, 512), random(512, 512), random(512), random(256, 512)
    left, right = random(8, 64, 512), random(8, 512, 64)
    x.requires_grad_(True)
    weight.requires_grad_(True)
    linear(x, weight, bias).backward(upstream)
    x64, weight64, upstream64 = x.detach().double(), weight.detach().double(), upstream.double()
    with torch.no_grad():
        pairs = [
            (linear(x, weight, bias), x64 @ weight64 + bias),
            (x @ weight, x64 @ weight64),
            (x.grad, upstream64 @ weight64.T),
            (weight.grad, x64.T @ upstream64),
            (left @ right, left.double() @ right.double()),
        ]
    errors = [(a.double() - b).norm() / b.norm() for a, b in pairs if a is not None]
    return max(error.item() for error in errors)
