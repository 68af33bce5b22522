"""Compare returns of Adroit's expert policies with those in the old engine, as a Markdown table.

    python scripts/adroit_expert_scores.py --policies DIR

DIR contains the policies of Rajeswaran et al. 2018 as `pen.npz`, `hammer.npz`, `door.npz` and
`relocate.npz` (format: data_sources/behaviour_policy.py). They take their mean action. z is the
difference of the mean returns divided by its standard error.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np

import d4rl_envs
from data_sources.behaviour_policy import HandPolicy
from tasks import Task, get_task
from utils import UserError

# mean and standard deviation of the same policies' raw returns on MuJoCo 2.1.0
OLD_ENGINE = {
    "pen": (3617.9, 1589.8),
    "hammer": (16287.3, 202.6),
    "door": (3009.9, 18.8),
    "relocate": (4393.2, 666.1),
}
OLD_EPISODES = 20


def play(task: Task, policy: HandPolicy, episodes: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Raw returns and successes, (episodes,) each; episode i has seed `seed` + i."""
    vector = d4rl_envs.make_vector(task, range(seed, seed + episodes))
    obs, running = vector.reset(), np.arange(episodes)
    returns = np.zeros(episodes)
    while len(running):
        obs, rewards, terminated, truncated = vector.step(policy.mean(obs), running)
        returns[running] += rewards
        done = terminated | truncated
        obs, running = obs[~done], running[~done]
    successes = vector.success()
    assert successes is not None  # all hand tasks have a success criterion
    return returns, successes


def load(folder: Path) -> dict[str, HandPolicy]:
    """The policy of each family."""
    paths = {family: folder / f"{family}.npz" for family in OLD_ENGINE}
    missing = [path.name for path in paths.values() if not path.is_file()]
    if missing:
        raise UserError(f"--policies {folder}: no {', '.join(missing)} in it")
    return {family: HandPolicy(path, expert_task(family)) for family, path in paths.items()}


def expert_task(family: str) -> Task:
    return get_task(f"{family}-expert-v1")


def row(family: str, policy: HandPolicy, episodes: int, seed: int) -> str:
    """A row of the table."""
    task = expert_task(family)
    returns, successes = play(task, policy, episodes, seed)
    mean, std = returns.mean(), returns.std()
    old_mean, old_std = OLD_ENGINE[family]
    z = (mean - old_mean) / np.hypot(std / episodes**0.5, old_std / OLD_EPISODES**0.5)
    cells = [
        family,
        f"{mean:.1f} ± {std:.1f}",
        f"{old_mean} ± {old_std}",
        f"{z:+.1f}",
        f"{task.normalized_score(mean):.1f}",
        f"{successes.mean():.0%}",
    ]
    return f"| {' | '.join(cells)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--policies", type=Path, required=True, help="folder of the policies")
    parser.add_argument("--episodes", type=int, default=20, help="episodes per family "
                        "(default: %(default)s)")  # fmt: skip
    parser.add_argument("--seed", type=int, default=0, help="seed of the first environment "
                        "(default: %(default)s)")  # fmt: skip
    args = parser.parse_args()
    if args.episodes < 1 or args.seed < 0:
        raise UserError("--episodes must be positive and --seed not negative")
    policies = load(args.policies)
    print(f"| family | here, {args.episodes} episodes | old engine | z | normalised | success |")
    print("|---|---|---|---|---|---|")
    for family, policy in policies.items():
        print(row(family, policy, args.episodes, args.seed), flush=True)


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
