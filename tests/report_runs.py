"""Folders of runs for the report's tests, written by the program's own logger."""

import json
from pathlib import Path

from run.files import LOCK_FILE
from run.state import FINISHED
from tests.test_plot import make_run

METHODS: dict[str, dict[str, object]] = {
    "TD3+ODT": {"stoc": 0, "use_entropy_reg": 0},
    "ODT": {"actor_rl_coeff": 0.0, "stoc": 1, "use_entropy_reg": 1},
    "TD3": {"actor_sup_coeff": 0.0, "stoc": 0, "use_entropy_reg": 0},
    "SAC+ODT": {"rl_algo": "SAC", "stoc": 1, "use_entropy_reg": 0},
}


def finished_run(folder: Path, before: float, scores: list[float], **flags: object) -> Path:
    """A run with an evaluation after pretraining and after each 100 steps, and a recorded end."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    steps = [100 * (i + 1) for i in range(len(scores))]
    make_run(folder, steps, scores, [before], **flags)
    (folder / LOCK_FILE).touch()
    return ended(folder, FINISHED)


def ended(folder: Path, outcome: str | None, error: str = "") -> Path:
    """Record how a run ended; None leaves it as one that was killed."""
    config = json.loads((folder / "config.json").read_text())
    config.pop("outcome", None)
    if outcome is not None:
        config |= {"outcome": outcome, "ended": config["started"], "error": error}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def status(folder: Path, **content: object) -> Path:
    """What a sweep keeps in the folder of a run."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "status.json").write_text(json.dumps(content))
    return folder


def settings(method: str, env: str, seed: int, **more: object) -> dict[str, object]:
    return {**METHODS[method], "env": env, "seed": seed, **more}
