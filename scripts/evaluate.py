"""Evaluate a policy: mean return, normalised score with a 95% interval, length, success rate.

    python scripts/evaluate.py FOLDER [--episodes N] [--rtg R [R ...]] [--context C] [--seed S]
        [--video FILE.gif|FILE.mp4] [--plot FILE.png] [--task_file FILE] [--verbose | --json]

FOLDER is an exported policy (scripts/export_policy.py) or a run. Episode i has an environment of
seed S + i and the policy takes its mean action, so results are reproducible. The interval is a
percentile bootstrap over episodes (Efron 1979), from three episodes on.

With several target returns, prints a table and plots achieved against target return.
"""

from __future__ import annotations

import argparse
import json
import logging
import math
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np

from fast_cpu.device_tuning import tune_device
from get_args import OneLineParser
from policy_export import Policy, open_policy
from policy_export.checks import task_facts
from policy_export.playing import play, summarise
from policy_export.policy import POLICY_FILE
from reporting.intervals import bootstrap, mean_over_runs
from run.config import plain
from run.video import check_kind
from tasks import OwnTask
from tasks.task_file import read_task_file
from utils import UserError, run_command, select_device, user_path

_LARGEST_SEED = 2**32 - 1


def report(result: dict[str, Any], verbose: bool) -> str:
    """The results as text, with a table of the episodes if `verbose`."""
    count, faults = result["episodes"], result["env_faults"]
    returns = f"{result['return_mean']:.2f}"
    if count > 1:
        returns += f" ± {result['return_std']:.2f} (standard deviation over episodes)"
    lines = _table(result) if verbose else []
    lines += [
        f"{result['task']}: {count} episode{'s' * (count > 1)}, seed {result['seed']}, target "
        f"return {result['rtg']:g}, context {result['context']}",
        f"return            {returns}",
        *_headline(result),
        f"length            {result['length_mean']:.1f} steps",
    ]
    if result["success_rate"] is not None:
        lines.append(f"success rate      {result['success_rate']:.1%}")
    if faults:
        lines.append(
            f"faults            {faults} of {count} episodes ended by an environment fault"
        )
    return "\n".join(lines)


def comparison(results: Sequence[dict[str, Any]]) -> str:
    """The results of several target returns as a table."""
    first = results[0]
    lines = [
        f"{first['task']}: {first['episodes']} episodes per target return, seed {first['seed']}, "
        f"context {first['context']}; returns in training rewards, with 95% intervals",
        f"{'target':>10} {'achieved':>10} {'interval':>23} {'score':>8} {'length':>8}",
    ]
    for result in results:
        low_high = result["training_return_interval"]
        interval = "-" if low_high is None else f"{low_high[0]:.2f} to {low_high[1]:.2f}"
        score = result["normalized_score"]
        lines.append(
            f"{result['rtg']:>10g} {result['training_return_mean']:>10.2f} {interval:>23} "
            f"{'-' if score is None else f'{score:.2f}':>8} {result['length_mean']:>8.1f}"
        )
    faults = sum(result["env_faults"] for result in results)
    return "\n".join(
        [*lines, *([f"{faults} episodes ended by an environment fault"] * bool(faults))]
    )


def _headline(result: dict[str, Any]) -> list[str]:
    """The score with its interval; without reference scores, the interval of the return."""
    scored = result["normalized_score"] is not None
    interval = result["normalized_score_interval" if scored else "return_interval"]
    text = "95% interval {:.2f} to {:.2f}".format(*interval) if interval else ""
    if scored:
        score = f"normalised score  {result['normalized_score']:.2f}"
        return [f"{score} ({text})" if text else score]
    return [f"                  {text} (of the mean)"] if text else []


def _interval(values: Sequence[float]) -> tuple[float, float] | None:
    """95% interval of the mean over episodes; None for too few of them."""
    _, low, high = bootstrap([np.asarray(values)], mean_over_runs)
    return None if np.isnan(low) else (float(low), float(high))


def evaluate(policy: Policy, rtg: float, args: argparse.Namespace) -> dict[str, Any]:
    """The results of one target return, JSON-serialisable.

    Raises:
        UserError: the context is too long, the policy output is NaN, or no video can be recorded.
    """
    context = policy.rollout_settings(args.context).context_length
    episodes = play(
        policy, args.episodes, rtg, seed=args.seed, context_length=context, video=args.video
    )
    head = {"task": policy.task.name, "seed": args.seed, "rtg": rtg, "context": context}
    result = head | summarise(episodes, policy.task)
    kinds = ["normalized_score" if policy.task.scored else "return", "training_return"]
    for name in kinds:
        result[f"{name}_interval"] = _interval(result["per_episode"][name])
    return plain(result)


def save_plot(results: Sequence[dict[str, Any]], path: Path) -> None:
    """Plot achieved against target return.

    Raises:
        UserError: the file cannot be written.
    """
    from reporting.style import save_figure  # Matplotlib is slow to import
    from reporting.targets import target_figure

    targets = [result["rtg"] for result in results]
    returns = [result["per_episode"]["training_return"] for result in results]
    save_figure(target_figure(results[0]["task"], targets, returns), path, "--plot")


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not a number; give FOLDER before --rtg"
        ) from None


def _table(result: dict[str, Any]) -> list[str]:
    each = result["per_episode"]
    scored = each["normalized_score"] is not None
    lines = [f"{'seed':>10} {'return':>12} {'score':>9} {'length':>7} success"]
    for i in range(result["episodes"]):
        success = {True: "yes", False: "no", None: "-"}[each["success"][i]]
        score = f"{each['normalized_score'][i]:.2f}" if scored else "-"
        lines.append(
            f"{result['seed'] + i:>10} {each['return'][i]:>12.2f} "
            f"{score:>9} {each['length'][i]:>7} {success}"
            + (" (fault)" if each["faulted"][i] else "")
        )
    return lines


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = OneLineParser(description=(__doc__ or "").split("\n\n")[0], allow_abbrev=False)
    parser.add_argument("folder", type=user_path, help="folder of an exported policy or of a run")
    parser.add_argument("--episodes", type=int, default=10, help="number of episodes "
                        "(default: %(default)s)")  # fmt: skip
    parser.add_argument("--rtg", type=_number, nargs="+", metavar="R", help="target returns, in "
                        "training rewards (default: the run's --eval_rtg)")  # fmt: skip
    parser.add_argument("--plot", type=user_path, metavar="FILE", help="figure of achieved against "
                        "target return, .png, .pdf or .svg (default with several target returns: "
                        "target_returns.png)")  # fmt: skip
    parser.add_argument("--context", type=int, help="steps of history the policy sees "
                        "(default: the run's --eval_context_length)")  # fmt: skip
    parser.add_argument("--seed", type=int, default=0, help="seed of the first episode's "
                        "environment (default: %(default)s)")  # fmt: skip
    parser.add_argument("--best", action="store_true", help="with a run: the policy of the best "
                        "evaluation instead of the last one")  # fmt: skip
    parser.add_argument("--video", type=user_path, help="GIF or MP4 file for the first episode")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N "
                        "(default: %(default)s)")  # fmt: skip
    parser.add_argument("--task_file", type=user_path, help="task file of a policy trained with "
                        "one, to evaluate it in this file's environment")  # fmt: skip
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
    largest = _LARGEST_SEED + 1 - args.episodes
    if not 0 <= args.seed <= largest:
        raise UserError(f"--seed {args.seed}: outside its range; use a number in [0, {largest}]")
    for rtg in args.rtg or []:
        if not math.isfinite(rtg):
            raise UserError(f"--rtg {rtg}: not a finite number")
    if args.video is not None:
        check_kind(args.video)
        if args.rtg and len(args.rtg) > 1:
            raise UserError(f"--video {args.video}: needs a single target return; drop the others")
    if args.plot is not None:
        from reporting.style import check_format

        check_format(args.plot, "--plot")
    for flag, path in (("--plot", args.plot), ("--video", args.video)):
        if path is not None:
            _check_writable(path, flag)


def _check_writable(path: Path, flag: str) -> None:
    """Raise a UserError if no file can be written to the folder of `path`, which is created."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path.parent):
            pass
    except OSError as error:
        raise UserError(
            f"{flag} {path}: cannot be written ({error.strerror}); choose another folder"
        ) from None


def _with_environment(policy: Policy, args: argparse.Namespace) -> Policy:
    """The policy with the task of --task_file, if given.

    Raises:
        UserError: the tasks differ, or a policy file alone would decide which module to import.
    """
    if args.task_file is not None:
        task = read_task_file(args.task_file.absolute())
        ours, theirs = ({**task_facts(each), "definition": 0} for each in (task, policy.task))
        if not isinstance(policy.task, OwnTask) or ours != theirs:
            raise UserError(
                f"--task_file {args.task_file}: the policy was trained on another task; compare "
                f"name, spaces, rewards and rtg_scale with those in {args.folder}"
            )
        return replace(policy, task=task)
    if isinstance(policy.task, OwnTask) and (args.folder / POLICY_FILE).is_file():
        code = policy.task.entry_point or policy.task.environment
        if ":" in code:
            raise UserError(
                f"{args.folder}: its environment is the code {code}, which a policy file alone "
                "does not run; add --task_file"
            )
    return policy


def main(argv: Sequence[str] | None = None) -> None:
    logging.basicConfig(format="warning: %(message)s", level=logging.WARNING)
    args = parse_args(argv)
    several = len(args.rtg or []) > 1
    if several and args.plot is None:
        args.plot = Path("target_returns.png")
    check_args(args)
    device = select_device(args.device)
    tune_device(device)
    policy = _with_environment(open_policy(args.folder, device, args.best), args)
    targets = args.rtg or [policy.settings.eval_rtg]
    results = [evaluate(policy, rtg, args) for rtg in targets]
    if args.json:
        print(json.dumps(results if several else results[0]))
    else:
        if args.verbose or not several:
            print("\n\n".join(report(result, args.verbose) for result in results))
        if several:
            print(comparison(results))
    # last, so that a plot that cannot be written loses nothing else
    if args.plot is not None:
        save_plot(results, args.plot)
        if not args.json:
            print(f"wrote {args.plot}")


if __name__ == "__main__":
    run_command(main)
