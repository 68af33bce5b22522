"""Device set-up: float32 matrix products, and memory reuse on the CPU.

Neither CPU setting changes any result; together they double the speed of training.

Products: PyTorch uses MKL for float32 matrices, which is slow on CPUs not made by Intel.
`set_float32_matmul_precision("medium")` switches to oneDNN, but also allows it to compute in
bfloat16, which it does on some CPUs. The error is therefore measured against float64, and the
setting is reverted if it exceeds that of float32.

Memory: by default glibc returns large freed blocks to the system and maps new ones page by page
for the next tensor, which costs a quarter of an update. `mallopt` makes it keep them.
"""

from __future__ import annotations

import ctypes
import importlib.util
import os
import shutil
import sys
import sysconfig
from pathlib import Path

import torch
from torch import Tensor

from fast_cpu.linear import linear
from utils import UserError

# parameters of glibc's mallopt (malloc.h)
_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4
# relative error of a product of 512 terms: 1e-6 in float32, 2e-3 in bfloat16, 2e-4 in TF32
_FLOAT32_ERROR = 1e-5


def check_device(device: torch.device, precision: str, compiled: bool) -> None:
    """Reject settings that the device does not support.

    Args:
        device: Device of the run.
        precision, compiled: `--precision` and `--compile`.

    Raises:
        UserError: --compile or tf32 without a CUDA device, or --compile without Triton, a C
            compiler or Python's headers.
    """
    if device.type == "cuda":
        if compiled and (problem := compile_problem()):
            raise UserError(f"--compile 1: {problem}, or drop the flag")
        return
    for used, flag, instead in (
        (compiled, "--compile 1", "drop the flag"),
        (precision == "tf32", "--precision tf32", "use fp32 or bf16"),
    ):
        if used:
            raise UserError(f"{flag} needs a CUDA device, but the run is on {device}; {instead}")


def compile_problem() -> str:
    """What Triton needs to compile for a GPU and does not find; empty if nothing is missing."""
    if importlib.util.find_spec("triton") is None:
        return "Triton is not installed; install it (python -m pip install triton)"
    compilers = [os.environ["CC"]] if "CC" in os.environ else ["gcc", "clang"]
    if not any(map(shutil.which, compilers)):
        return f"Triton finds no C compiler ({' or '.join(compilers)}); install one, or set CC"
    header = Path(sysconfig.get_path("include", "posix_prefix"), "Python.h")
    if sys.platform == "linux" and not header.exists():
        return f"Triton finds no {header}; install Python's headers (Debian: python3-dev)"
    return ""


def tune_device(device: torch.device, precision: str = "fp32") -> None:
    """Configure matrix products (TF32 on a GPU only with `--precision tf32`) and CPU memory."""
    if device.type == "cuda":
        torch.set_float32_matmul_precision("high" if precision == "tf32" else "highest")
        # recurrent critics run on cuDNN, which has a switch of its own
        torch.backends.cudnn.allow_tf32 = precision == "tf32"
        return
    keep_freed_memory()
    use_fast_products()


def keep_freed_memory() -> bool:
    """Make glibc reuse freed memory instead of returning it; False without glibc."""
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    # allocate nothing by mmap, never trim the heap
    return bool(mallopt(_M_MMAP_MAX, 0)) and bool(mallopt(_M_TRIM_THRESHOLD, -1))


def use_fast_products() -> bool:
    """Use oneDNN for float32 products if that keeps float32 accuracy; returns whether it does."""
    torch.set_float32_matmul_precision("medium")
    exact = product_error() < _FLOAT32_ERROR
    if not exact:
        torch.set_float32_matmul_precision("highest")
    return exact


def product_error() -> float:
    """Largest relative error (of the norm) among the kinds of matrix products in an update."""
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
