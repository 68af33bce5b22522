"""Evaluate a policy: mean return, normalised score with a 95% interval, length, success rate.

    python scripts/evaluate.py FOLDER [--episodes N] [--rtg R] [--context C] [--seed S]
        [--video FILE.gif|FILE.mp4] [--verbose | --json]

FOLDER is an exported policy (scripts/export_policy.py) or a run. Episode i has an environment of
seed S + i and the policy takes its mean action, so results are reproducible. The interval is a
percentile bootstrap over episodes (Efron 1979), from three episodes on.
"""

from __future__ import annotations

import argparse
import json
import logging
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np

from fast_cpu.device_tuning import tune_device
from get_args import OneLineParser
from policy_export import open_policy
from policy_export.playing import play, summarise
from reporting.intervals import bootstrap, mean_over_runs
from run.config import plain
from run.video import check_kind
from utils import UserError, run_command, select_device, user_path

_LARGEST_SEED = 2**32 - 1


def report(result: dict[str, Any], verbose: bool) -> str:
    """The results as text, with a table of the episodes if `verbose`."""
    count, faults = result["episodes"], result["env_faults"]
    score, returns = f"{result['normalized_score']:.2f}", f"{result['return_mean']:.2f}"
    if result["normalized_score_interval"] is not None:
        low, high = result["normalized_score_interval"]
        score += f" (95% interval {low:.2f} to {high:.2f})"
    if count > 1:
        returns += f" ± {result['return_std']:.2f} (standard deviation over episodes)"
    lines = _table(result) if verbose else []
    lines += [
        f"{result['task']}: {count} episode{'s' * (count > 1)}, seed {result['seed']}, target "
        f"return {result['rtg']:g}, context {result['context']}",
        f"return            {returns}",
        f"normalised score  {score}",
        f"length            {result['length_mean']:.1f} steps",
    ]
    if result["success_rate"] is not None:
        lines.append(f"success rate      {result['success_rate']:.1%}")
    if faults:
        lines.append(
            f"faults            {faults} of {count} episodes ended by an environment fault"
        )
    return "\n".join(lines)


def _interval(scores: np.ndarray) -> tuple[float, float] | None:
    """95% interval of the mean over episodes; None for too few of them."""
    _, low, high = bootstrap([scores], mean_over_runs)
    return None if np.isnan(low) else (float(low), float(high))


def _table(result: dict[str, Any]) -> list[str]:
    each = result["per_episode"]
    lines = [f"{'seed':>10} {'return':>12} {'score':>9} {'length':>7} success"]
    for i in range(result["episodes"]):
        success = {True: "yes", False: "no", None: "-"}[each["success"][i]]
        lines.append(
            f"{result['seed'] + i:>10} {each['return'][i]:>12.2f} "
            f"{each['normalized_score'][i]:>9.2f} {each['length'][i]:>7} {success}"
            + (" (fault)" if each["faulted"][i] else "")
        )
    return lines


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = OneLineParser(description=(__doc__ or "").split("\n\n")[0], allow_abbrev=False)
    parser.add_argument("folder", type=user_path, help="folder of an exported policy or of a run")
    parser.add_argument("--episodes", type=int, default=10, help="number of episodes "
                        "(default: %(default)s)")  # fmt: skip
    parser.add_argument("--rtg", type=float, help="target return, in training rewards "
                        "(default: the run's --eval_rtg)")  # fmt: skip
    parser.add_argument("--context", type=int, help="steps of history the policy sees "
                        "(default: the run's --eval_context_length)")  # fmt: skip
    parser.add_argument("--seed", type=int, default=0, help="seed of the first episode's "
                        "environment (default: %(default)s)")  # fmt: skip
    parser.add_argument("--best", action="store_true", help="with a run: the policy of the best "
                        "evaluation instead of the last one")  # fmt: skip
    parser.add_argument("--video", type=user_path, help="GIF or MP4 file for the first episode")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N "
                        "(default: %(default)s)")  # fmt: skip
    output = parser.add_mutually_exclusive_group()
    output.add_argument("--verbose", action="store_true", help="also print each episode")
    output.add_argument("--json", action="store_true", help="print a JSON object instead of text")
    return parser.parse_args(argv)


def check_args(args: argparse.Namespace) -> None:
    """Check option values before anything is loaded.

    Raises:
        UserError: a value is invalid.
    """
    if args.episodes < 1:
        raise UserError(f"--episodes {args.episodes}: must be at least 1")
    if not 0 <= args.seed <= _LARGEST_SEED - args.episodes:
        raise UserError(f"--seed {args.seed}: outside its range; use a number in [0, 4294967295]")
    if args.rtg is not None and not math.isfinite(args.rtg):
        raise UserError(f"--rtg {args.rtg}: not a finite number")
    if args.video is not None:
        check_kind(args.video)


def main(argv: Sequence[str] | None = None) -> int:
    logging.basicConfig(format="warning: %(message)s", level=logging.WARNING)
    args = parse_args(argv)
    try:
        check_args(args)
        device = select_device(args.device)
        tune_device(device)
        policy = open_policy(args.folder, device, args.best)
        rtg = policy.settings.eval_rtg if args.rtg is None else args.rtg
        context = policy.rollout_settings(args.context).context_length
        episodes = play(
            policy, args.episodes, rtg, seed=args.seed, context_length=context, video=args.video
        )
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    head = {"task": policy.task.name, "seed": args.seed, "rtg": rtg, "context": context}
    result = head | summarise(episodes, policy.task)
    result["normalized_score_interval"] = _interval(result["per_episode"]["normalized_score"])
    result = plain(result)
    print(json.dumps(result) if args.json else report(result, args.verbose))
    return 0


if __name__ == "__main__":
    run_command(main)
