"""Show why a decision transformer needs RL gradients online: the one-step bandit of section 3.1.

    python motivation/motivation.py --out DIR [--seeds N] [--device cuda] [...]

Writes four figures (reward.png, critic.png, action.png, policy.png), their numbers per epoch
(epochs.csv) and the last epoch of each run (runs.csv), and prints a conclusion computed from them.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_type_hints

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tqdm import tqdm

from get_args import OneLineParser
from motivation.bandit import METHODS, OPTIMUM, Bandit, BanditSettings, History, reward
from motivation.figures import FIGURES
from reporting.intervals import bootstrap, mean_over_runs, share_interval
from reporting.style import save_figure
from reporting.tables import to_csv
from run.setting_checks import inside
from utils import UserError, run_command, select_device, user_path, write_output

# a policy has found the optimum if its action is within this distance
NEAR = 0.1
FLAGS = {field.name: field for field in dataclasses.fields(BanditSettings)}


def shares(history: History) -> dict[str, tuple[int, int, tuple[float, float]]]:
    """By method: runs that end at the optimum, all runs, and the 95% interval of the share."""
    counts = {}
    for method, actions in zip(METHODS, history.actions[-1], strict=True):
        at_optimum = int(((actions - OPTIMUM).abs() <= NEAR).sum())
        counts[method] = (at_optimum, len(actions), share_interval(at_optimum, len(actions)))
    return counts


def conclusion(history: History) -> str:
    """Which methods find the hidden optimum in most runs, according to the intervals."""
    verdicts: dict[str, list[str]] = {"found": [], "not found": [], "undecided": []}
    for method, (count, runs, (low, high)) in shares(history).items():
        verdict = "found" if low > 0.5 else "not found" if high < 0.5 else "undecided"
        returns = reward(history.actions[-1][METHODS.index(method)]).mean().item()
        verdicts[verdict].append(
            f"{method} ({count} of {runs} runs, 95% interval {low:.0%} to {high:.0%}; "
            f"mean reward {returns:.2f})"
        )
    sentences = {
        "found": "the hidden optimum at 0 is found by",
        "not found": "it is not found by",
        "undecided": "there are too few runs to decide about",
    }
    if not verdicts["found"]:
        sentences["not found"] = "the hidden optimum at 0 is not found by"
    parts = [f"{sentences[kind]} {' and '.join(who)}" for kind, who in verdicts.items() if who]
    text = "; ".join(parts)
    return f"{text[0].upper()}{text[1:]}."


def epoch_rows(history: History) -> list[dict[str, Any]]:
    """Means over runs with 95% intervals, per epoch and method."""
    rows = []
    for epoch, samples in enumerate(history.samples):
        for method, actions in zip(METHODS, history.actions[epoch], strict=True):
            row: dict[str, Any] = {
                "method": method,
                "epoch": epoch,
                "phase": "pretrain" if epoch <= history.pretrained else "online",
                "online_samples": samples,
            }
            for name, values in (("reward", reward(actions)), ("action", actions)):
                interval = map(float, bootstrap([values.numpy()], mean_over_runs))
                row |= zip((f"{name}_mean", f"{name}_low", f"{name}_high"), interval, strict=True)
            row["share_at_optimum"] = float(((actions - OPTIMUM).abs() <= NEAR).float().mean())
            rows.append(row)
    return rows


def run_rows(history: History) -> list[dict[str, Any]]:
    """The last action and reward of each run."""
    return [
        {"method": method, "run": i, "action": action, "reward": paid}
        for method, actions in zip(METHODS, history.actions[-1], strict=True)
        for i, (action, paid) in enumerate(
            zip(actions.tolist(), reward(actions).tolist(), strict=True)
        )
    ]


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = OneLineParser(
        description=(__doc__ or "").split("\n\n")[0],
        usage="%(prog)s --out DIR [--FLAG VALUE ...]",
        allow_abbrev=False,
    )
    parser.add_argument("--out", type=user_path, required=True, help="output folder")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    types = get_type_hints(BanditSettings)
    for name, field in FLAGS.items():
        about = field.metadata
        within = f", in {about['within']}" if about["within"] else ""
        parser.add_argument(
            f"--{name}",
            type=types[name],
            default=field.default,
            choices=about["choices"] or None,
            metavar=None if about["choices"] else name.split("_")[-1].upper(),
            help=f"{about['help']}{within} (default: %(default)s)",
        )
    return parser.parse_args(argv)


def bandit_settings(args: argparse.Namespace) -> BanditSettings:
    """The settings from a command line.

    Raises:
        UserError: a number is out of range.
    """
    values = {name: getattr(args, name) for name in FLAGS}
    for name, value in values.items():
        within = FLAGS[name].metadata["within"]
        if isinstance(value, float) and not math.isfinite(value):
            raise UserError(f"--{name} {value}: not finite; use a finite number")
        if within and not inside(value, within):
            raise UserError(f"--{name} {value}: out of range; use a number in {within}")
    return BanditSettings(**values)


def main(argv: Sequence[str] | None = None) -> None:
    args = parse_args(argv)
    settings = bandit_settings(args)
    device = select_device(args.device)
    recorded = json.dumps(dataclasses.asdict(settings), indent=2)
    write_output(args.out / "settings.json", recorded.encode(), "--out")
    epochs = settings.pretrain_epochs + settings.online_epochs
    with tqdm(total=epochs, unit="epoch", disable=None, leave=False) as bar:
        history = Bandit(settings, device).run(after_epoch=bar.update)
    for name, draw in FIGURES.items():
        save_figure(draw(history), args.out / f"{name}.png")
    for name, rows in (("epochs", epoch_rows(history)), ("runs", run_rows(history))):
        text = to_csv(list(rows[0]), [list(row.values()) for row in rows])
        write_output(args.out / f"{name}.csv", text.encode(), "--out")
    sentence = conclusion(history)
    write_output(args.out / "conclusion.txt", f"{sentence}\n".encode(), "--out")
    print(f"wrote {', '.join(f'{name}.png' for name in FIGURES)}, epochs.csv and runs.csv "
          f"in {args.out}")  # fmt: skip
    print(sentence)


if __name__ == "__main__":
    run_command(main)
