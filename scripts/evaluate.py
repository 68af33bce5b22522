"""Play a policy: mean return, normalised score with a confidence interval, length, success rate.

    python scripts/evaluate.py FOLDER [--episodes N] [--rtg R] [--context C] [--seed S]
        [--video FILE.gif|FILE.mp4] [--verbose | --json]

FOLDER is an exported policy's (scripts/export_policy.py) or a run's. Episode i starts in an
environment of seed S + i and takes the policy's mean action, so that the same command gives the
same numbers. The interval is a bootstrap over episodes (Efron 1979, percentile method): 95% of the
means of 10,000 samples of as many episodes, drawn with replacement, lie in it.
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

import d4rl_envs
from evaluation import Episode, evaluation_metrics, rollout
from fast_cpu.device_tuning import tune_device
from get_args import OneLineParser
from policy_export.policy import Policy, open_policy
from run.config import plain
from run.video import VideoRecorder, check_kind
from tasks import Task
from utils import UserError, select_device

RESAMPLES = 10_000
CONFIDENCE = 0.95
# environments that are played side by side, and resamples that are drawn at a time
_TOGETHER, _DRAWN = 32, 100
_LARGEST_SEED = 2**32 - 1


def play(
    policy: Policy,
    episodes: int,
    target_return: float,
    *,
    seed: int = 0,
    context_length: int | None = None,
    video: Path | None = None,
) -> list[Episode]:
    """Play whole episodes; number i starts in an environment of seed `seed` + i.

    Args:
        target_return: Return-to-go to begin with, in training units.
        context_length: Steps that the policy sees; by default as in the run's evaluations.
        video: GIF or MP4 file to make of the first episode.

    Raises:
        UserError: the context is too long, the policy puts out NaN, or there can be no video.
    """
    settings = policy.rollout_settings(context_length)
    played: list[Episode] = []
    if video is not None:
        # by itself, because models with all that a picture shows are large
        vector = d4rl_envs.make_vector(policy.task, [seed], "rgb_array")
        vector.render()  # where nothing can be rendered it fails here, before anything is played
        recorder = VideoRecorder(vector)
        played += rollout(
            policy.actor, vector, settings, target_return, after_step=recorder.after_step
        )
        _save_video(recorder, video)
        vector.close()
    while len(played) < episodes:
        first, last = len(played), min(len(played) + _TOGETHER, episodes)
        vector = d4rl_envs.make_vector(policy.task, range(seed + first, seed + last))
        played += rollout(policy.actor, vector, settings, target_return)
        vector.close()
    return played


def _save_video(recorder: VideoRecorder, path: Path) -> None:
    if recorder.problem:
        raise UserError(f"--video {path}: {recorder.problem}")
    try:
        recorder.save(path)
    except OSError as error:
        raise UserError(f"--video {path}: cannot be written ({error.strerror})") from None


def bootstrap_interval(values: np.ndarray) -> tuple[float, float] | None:
    """Confidence interval of the mean of independent values (n,); None for fewer than two."""
    if len(values) < 2:
        return None
    rng = np.random.default_rng(0)
    blocks = [
        values[rng.integers(len(values), size=(_DRAWN, len(values)))].mean(axis=1)
        for _ in range(RESAMPLES // _DRAWN)
    ]
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(np.concatenate(blocks), [tail, 1 - tail]).tolist()
    return low, high


def summarise(episodes: Sequence[Episode], task: Task) -> dict[str, Any]:
    """Means over the episodes and each episode's own numbers, as JSON can hold them."""
    raw = np.array([episode.raw_return for episode in episodes])
    scores = task.normalized_score(raw)
    metrics = evaluation_metrics(list(episodes), task)
    return {
        "episodes": len(episodes),
        "return_mean": raw.mean(),
        "return_std": raw.std(),
        "training_return_mean": metrics["evaluation/return_mean_gm"],
        "normalized_score": scores.mean(),
        "normalized_score_interval": bootstrap_interval(scores),
        "interval": f"{CONFIDENCE:.0%} bootstrap over episodes, {RESAMPLES} resamples",
        "length_mean": metrics["evaluation/length_mean_gm"],
        "success_rate": metrics.get("evaluation/success_rate"),
        "env_faults": int(metrics["evaluation/env_faults"]),
        "per_episode": {
            "return": raw,
            "training_return": [episode.training_return for episode in episodes],
            "normalized_score": scores,
            "length": [episode.length for episode in episodes],
            "success": [episode.success for episode in episodes],
            "faulted": [episode.faulted for episode in episodes],
        },
    }


def report(result: dict[str, Any], verbose: bool) -> str:
    """What the script says, as text."""
    interval = result["normalized_score_interval"]
    between = "no interval from one episode"
    if interval is not None:
        between = f"{interval[0]:.2f} to {interval[1]:.2f}, {result['interval']}"
    lines = [
        f"{result['task']}: {result['episodes']} episodes, seed {result['seed']}, return-to-go "
        f"{result['rtg']:g}, context {result['context']}",
        f"return            {result['return_mean']:.2f} ± {result['return_std']:.2f} "
        "(standard deviation of the episodes)",
        f"normalised score  {result['normalized_score']:.2f} ({between})",
        f"length            {result['length_mean']:.1f} steps",
    ]
    if result["success_rate"] is not None:
        lines.append(f"success rate      {result['success_rate']:.1%}")
    if result["env_faults"]:
        lines.append(
            f"faults            {result['env_faults']} episodes ended by the environment's"
        )
    return "\n".join(_table(result) + lines if verbose else lines)


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
    parser.add_argument("folder", type=Path, help="an exported policy's folder, or a run's")
    parser.add_argument("--episodes", type=int, default=10, help="default: %(default)s")
    parser.add_argument("--rtg", type=float, help="return to ask for, in training units "
                        "(default: the run's --eval_rtg)")  # fmt: skip
    parser.add_argument("--context", type=int, help="steps of history that the policy sees "
                        "(default: the run's --eval_context_length)")  # fmt: skip
    parser.add_argument("--seed", type=int, default=0, help="of the first episode's environment")
    parser.add_argument("--best", action="store_true", help="of a run: the policy of its best "
                        "evaluation, not the last one")  # fmt: skip
    parser.add_argument("--video", type=Path, help="GIF or MP4 file to make of the first episode")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    output = parser.add_mutually_exclusive_group()
    output.add_argument("--verbose", action="store_true", help="a line per episode too")
    output.add_argument("--json", action="store_true", help="one JSON object instead of text")
    return parser.parse_args(argv)


def check_args(args: argparse.Namespace) -> None:
    """Refuse what can be refused before anything is read.

    Raises:
        UserError: names the flag.
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
    result = plain(head | summarise(episodes, policy.task))
    print(json.dumps(result) if args.json else report(result, args.verbose))
    return 0


if __name__ == "__main__":
    sys.exit(main())
