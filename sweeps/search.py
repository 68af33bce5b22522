"""Search spaces: the field `search` of a sweep file, and the flags of its trials.

    search:
      trials: 30
      flags:
        learning_rate: {loguniform: [1.0e-5, 1.0e-3]}
        K: {choice: [5, 10, 20]}
      algorithm: optuna

docs/SWEEPS.md describes the fields.
"""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from get_args import Settings
from utils import UserError

# Ray Tune's functions of the same names
DISTRIBUTIONS = (
    "choice", "uniform", "quniform", "loguniform", "qloguniform", "randint", "qrandint",
    "lograndint", "qlograndint", "randn", "qrandn",
)  # fmt: skip
FIELDS: dict[str, type] = {
    "trials": int, "flags": dict, "algorithm": str, "early_stopping": bool, "grace_iters": int,
    "reduction_factor": int,
}  # fmt: skip
ALGORITHMS = ("random", "optuna")
# floats are rounded to this many significant digits, to be readable in tables
_DIGITS = 4


@dataclass(frozen=True)
class Search:
    """A search over flags for the highest score.

    Attributes:
        trials: Number of trials.
        space: The distribution of each flag, a domain of Ray Tune.
        algorithm: "random", or "optuna", which learns from finished trials.
        early_stopping: Whether ASHA ends trials with low scores early.
        grace_iters: Iterations before a trial may be ended; None: a ninth of the longest trial's.
        reduction_factor: One in this many trials continues beyond a rung, and the next rung has
            this many times as many iterations.
    """

    trials: int
    space: Mapping[str, Any]
    algorithm: str = "random"
    early_stopping: bool = True
    grace_iters: int | None = None
    reduction_factor: int = 3

    def sample(self, seed: int) -> list[dict[str, Any]]:
        """Random values of the flags for each trial; more trials leave the first ones unchanged."""
        random = np.random.RandomState(seed)
        return [
            self.tidy(
                {flag: domain.sample(random_state=random) for flag, domain in self.space.items()}
            )
            for _ in range(self.trials)
        ]

    def tidy(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Sampled values as values of flags; numbers from an interval are rounded."""
        found = {}
        for flag, value in values.items():
            plain = value.item() if isinstance(value, np.generic) else value
            chosen = hasattr(self.space[flag], "categories")
            rounded = isinstance(plain, float) and not chosen
            found[flag] = float(f"{plain:.{_DIGITS}g}") if rounded else plain
        return found


def phase_to_compare(settings: Settings) -> str:
    """The phase whose evaluations ASHA compares."""
    return "online" if settings.max_online_iters else "pretrain"


def iterations(settings: Settings) -> int:
    """Iterations of the phase whose evaluations ASHA compares."""
    return settings.max_online_iters or settings.max_pretrain_iters


def read_search(content: Mapping[str, Any]) -> Search:
    """The search of a sweep file's field; the caller checks the names of the flags.

    Raises:
        UserError: it is not a valid search, or its packages are not installed.
    """
    for name, value in content.items():
        if name not in FIELDS:
            raise UserError(f"search: {name}: unknown field; use {', '.join(FIELDS)}")
        if type(value) is not FIELDS[name]:
            kind = FIELDS[name].__name__
            raise UserError(f"search: {name}: {value!r} is not of type {kind}")
    for name, least in (("trials", 1), ("grace_iters", 1), ("reduction_factor", 2)):
        if content.get(name, least) < least:
            raise UserError(f"search: {name} {content[name]}: use {least} or more")
    if not content.get("trials") or not content.get("flags"):
        raise UserError("search: needs the fields trials and flags")
    algorithm = content.get("algorithm", "random")
    if algorithm not in ALGORITHMS:
        raise UserError(f"search: algorithm {algorithm}: use {' or '.join(ALGORITHMS)}")
    if algorithm == "optuna" and not importlib.util.find_spec("optuna"):
        raise UserError(
            "search: algorithm optuna: not installed; run python -m pip install optuna, or use "
            "random"
        )
    space = {name: _domain(name, entry) for name, entry in content["flags"].items()}
    return Search(**{k: v for k, v in content.items() if k != "flags"}, space=space)


def _domain(flag: str, entry: Any) -> Any:
    """The domain {DISTRIBUTION: ARGUMENTS} of a flag.

    Raises:
        UserError: there is no such domain, or Ray Tune is not installed.
    """
    place = f"search: flags: {flag}"
    if not isinstance(entry, dict) or len(entry) != 1:
        raise UserError(f"{place}: {entry!r} is not a distribution; use, for example, "
                        "{choice: [1, 2]}")  # fmt: skip
    ((name, arguments),) = entry.items()
    if name not in DISTRIBUTIONS:
        raise UserError(f"{place}: {name}: unknown distribution; use {', '.join(DISTRIBUTIONS)}")
    if not isinstance(arguments, list) or not arguments:
        raise UserError(f"{place}: {name}: {arguments!r} is not a list of its arguments")
    try:
        from ray import tune  # optional
    except ImportError:
        raise UserError(
            "search: needs Ray Tune; run python -m pip install -r requirements-optional.txt"
        ) from None
    try:
        if name == "choice":
            return tune.choice(arguments)
        numbers = [_number(argument) for argument in arguments]
        if not name.endswith("randn") and not numbers[0] < numbers[1]:
            raise ValueError(f"{numbers[0]} is not below {numbers[1]}")
        domain = getattr(tune, name)(*numbers)
        domain.sample()
    except (ValueError, TypeError, IndexError, OverflowError, ZeroDivisionError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{place}: {name}: {arguments}: not possible ({reason})") from None
    return domain


def _number(value: Any) -> float | int:
    """A finite number; YAML reads 1e-3, without a point, as text."""
    number = float(value) if isinstance(value, str) else value
    if isinstance(number, bool) or not isinstance(number, int | float) or not math.isfinite(number):
        raise ValueError(f"{value!r} is not a finite number")
    return number
