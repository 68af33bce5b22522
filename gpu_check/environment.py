"""Versions, GPU and packages."""

from __future__ import annotations

import platform
import re
import shutil
import subprocess
from importlib import metadata
from typing import Any

import torch

from gpu_check.part import ROOT, Part


def pinned() -> dict[str, str]:
    """The packages of requirements.txt and their versions."""
    return dict(re.findall(r"^([\w-]+)==(\S+)", (ROOT / "requirements.txt").read_text(), re.M))


def installed(name: str) -> str:
    """The version of a package, without a build's suffix; empty if it is not installed."""
    try:
        return metadata.version(name).partition("+")[0]
    except metadata.PackageNotFoundError:
        return ""


def versions() -> dict[str, Any]:
    """Python, PyTorch and what it was built for, and packages other than in requirements.txt."""
    found = {name: installed(name) for name in pinned()}
    other = [f"{name} {found[name]}" for name, x in pinned().items() if found[name] not in ("", x)]
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version(),
        "triton": installed("triton"),
        "other_versions": other,
    }


def gpu(device: torch.device) -> dict[str, Any]:
    """The GPU and its driver."""
    about = torch.cuda.get_device_properties(device)
    free, total = torch.cuda.mem_get_info(device)
    figures = {
        "name": about.name,
        "capability": f"{about.major}.{about.minor}",
        "free_gib": free / 2**30,
        "total_gib": total / 2**30,
    }
    if shutil.which("nvidia-smi"):
        query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
        done = subprocess.run(query, capture_output=True, text=True, timeout=30)
        figures["driver"] = done.stdout.partition("\n")[0]
    return figures


def check(part: Part) -> None:
    part.item("versions", versions)
    if part.on_gpu:
        part.item("GPU", gpu, part.device)
