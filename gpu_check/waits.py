"""Lines at which the host waits for the GPU; an update has none.

On a GPU, PyTorch's sync debug mode finds them. Without one, updates run on the meta device, whose
tensors have no values, and operations that would read or copy some are errors.
"""

from __future__ import annotations

import traceback
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from gpu_check.agent import EAGER, SMALL, WARM, Agent
from gpu_check.part import ROOT, Part
from gpu_check.runs import QUICK, RUNS

_READS = ("_local_scalar_dense", "nonzero", "masked_select", "equal")
_COPIES = ("_to_copy", "copy_")


def project_line() -> str:
    """The innermost line of the project that is being executed, outside this package."""
    for frame in reversed(traceback.extract_stack()):
        path = Path(frame.filename)
        inside = path.is_relative_to(ROOT) and not path.is_relative_to(Path(__file__).parent)
        if inside and "site-packages" not in path.parts:
            return f"{path.relative_to(ROOT)}:{frame.lineno} {frame.line}"
    return "outside the project"


class NoHostReads(TorchDispatchMode):
    """Forbids operations that read a device's tensors on the host, or copy from or to it.

    Tensors on the CPU may be read. Not noticed: `torch.tensor(values, device=...)`, a copy that is
    made before dispatch.

    Raises:
        RuntimeError: there is such an operation; the message gives its line.
    """

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        name = func.overloadpacket.__name__
        tensors = [x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
        places = {x.device.type for x in tensors}
        if name in _COPIES and "device" in kwargs:
            places.add(torch.device(kwargs["device"]).type)
        by_mask = name.startswith("index") and any(x.dtype == torch.bool for x in tensors[1:])
        reads = (name in _READS or by_mask) and places != {"cpu"}
        if reads or (name in _COPIES and len(places) > 1):
            raise RuntimeError(f"the host waits at {project_line()} ({name})")
        return func(*args, **kwargs)


def waits_in(function: Callable[[], object]) -> Counter[str]:
    """How often each line makes the host wait for the GPU during a call."""
    lines: Counter[str] = Counter()

    def note(message: Warning | str, *_: Any, **__: Any) -> None:
        if "synchronizing" in str(message):
            lines[project_line()] += 1

    torch.cuda.synchronize()
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.showwarning = note
        torch.cuda.set_sync_debug_mode("warn")
        try:
            function()
        finally:
            torch.cuda.set_sync_debug_mode("default")
    return lines


def update(device: torch.device, flags: str, resumed: bool = False) -> dict[str, Any]:
    """Check that the host does not wait during updates, optionally after resuming a state."""
    agent = Agent(device, flags)
    if resumed:
        before = Agent(torch.device("cpu"), flags)
        before.update(1)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", ".*to a meta parameter")
            agent.trainer.load_state_dict(before.trainer.state_dict())
    agent.update(WARM)
    if device.type != "cuda":
        with NoHostReads():
            agent.update(1)
        return {"waits": 0}
    # the first updates of a process may wait for a library to initialise
    once, lines = (waits_in(lambda: agent.update(5)) for _ in range(2))
    if lines:
        raise RuntimeError(f"the host waits at {dict(lines)}")
    return {"waits": 0, "at_first": once.total()}


def check(part: Part) -> None:
    device = part.device if part.on_gpu else torch.device("meta")
    for name in QUICK if part.quick else RUNS:
        # PPO and AWR read where episodes end, once per iteration
        if not name.startswith(("PPO", "AWR")):
            flags = RUNS[name] if part.on_gpu else RUNS[name].replace("bf16", "fp32")
            part.item(name, update, device, f"{flags} {SMALL} {EAGER}")
    part.item("as CUDA graphs", update, device, f"{RUNS['TD3+ODT']} {SMALL}")
    part.item("resumed", update, device, f"{RUNS['SAC']} {SMALL} {EAGER}", True)
