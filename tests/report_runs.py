"""Run folders for the tests of reports and plots, written by the program's own logger."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from get_args import Settings
from logger import Logger
from reporting.curves import SCORE
from run.files import LOCK_FILE
from run.state import FINISHED

METHODS: dict[str, dict[str, object]] = {
    "TD3+ODT": {"stoc": 0, "use_entropy_reg": 0},
    "ODT": {"actor_rl_coeff": 0.0, "stoc": 1, "use_entropy_reg": 1},
    "TD3": {"actor_sup_coeff": 0.0, "stoc": 0, "use_entropy_reg": 0},
    "SAC+ODT": {"rl_algo": "SAC", "stoc": 1, "use_entropy_reg": 0},
}


def finished_run(
    folder: Path, before: float | None, scores: list[float], metric: Any = SCORE, **flags: object
) -> Path:
    """A run with an evaluation after pretraining and after every 100 steps, and a recorded end."""
    folder.mkdir(parents=True)
    settings = replace(Settings(), log_to_tb=False, **flags)  # type: ignore[arg-type]
    log = Logger(folder, settings, {"mean_normalized_score": 44.32})
    if before is not None:
        log.log("pretrain", 0, 0, {metric: -1.0})
        log.log("pretrain", 1, 0, {metric: before})
    for i, score in enumerate(scores):
        log.log("online", 2 * i, 100 * (i + 1), {metric: score})
        log.log("online", 2 * i + 1, 100 * (i + 1) + 5, {"training/Q_mean": 1.0})
    log.finish()
    (folder / LOCK_FILE).touch()
    return ended(folder, FINISHED)


def ended(folder: Path, outcome: str | None, error: str = "") -> Path:
    """Record how a run ended; None leaves it as if it was killed."""
    config = json.loads((folder / "config.json").read_text())
    config.pop("outcome", None)
    if outcome is not None:
        config |= {"outcome": outcome, "ended": config["started"], "error": error}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def status(folder: Path, **content: object) -> Path:
    """A sweep's record in the folder of a run."""
    folder.mkdir(parents=True, exist_ok=True)
    about = {"sweep": "default", "task": "hopper-medium-v2", "method": "ODT", "seed": 1}
    (folder / "status.json").write_text(json.dumps(about | content))
    return folder


def settings(method: str, env: str, seed: int, **more: object) -> dict[str, object]:
    return {**METHODS[method], "env": env, "seed": seed, **more}
