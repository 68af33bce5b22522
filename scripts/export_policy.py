"""Export the policy of a run to a folder that contains everything needed to act.

    python scripts/export_policy.py RUN_DIR --out FOLDER [--best] [--torch_export]

The folder contains the weights (policy.safetensors) and everything else (policy.json); see
policy_export/policy.py. It needs neither dataset nor run, and loading it executes no code. Evaluate
it with `scripts/evaluate.py FOLDER`. --torch_export adds policy.pt2, the network with its
pre-processing as one program of torch.export, which runs without this repository.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from evaluation import SCORE, headline
from get_args import OneLineParser
from policy_export import Policy, save_policy
from policy_export.policy import policy_of_run
from policy_export.program import save_program
from utils import run_command, user_path


def summary(policy: Policy) -> str:
    """One line on what was exported and its score in the run."""
    origin, scores = policy.record["origin"], policy.record["scores"] or {}
    weights = sum(x.numel() for x in policy.actor.parameters())
    text = (
        f"{policy.task.name}, {origin['method']}, {weights:,} parameters, "
        f"{origin['phase']} iteration {origin['iterations'][origin['phase']]}"
    )
    name, value = headline(scores)
    what = "normalised score" if name == SCORE else "return"
    if name not in scores:
        return text
    place = scores.get("phase"), scores.get("iteration")
    same = place == (origin["phase"], origin["iterations"][origin["phase"]])
    # the last evaluation before the checkpoint
    when = "" if same else " at {} iteration {}".format(*place)
    return f"{text}, {what} {value:.2f} in the run{when}"


def main(argv: Sequence[str] | None = None) -> None:
    logging.basicConfig(format="warning: %(message)s", level=logging.WARNING)
    parser = OneLineParser(description=(__doc__ or "").split("\n\n")[0], allow_abbrev=False)
    parser.add_argument("run_dir", type=user_path, help="folder of the run")
    parser.add_argument("--out", type=user_path, required=True, help="new or empty output folder")
    parser.add_argument("--best", action="store_true", help="export the policy of the best "
                        "evaluation instead of the last one")  # fmt: skip
    parser.add_argument("--torch_export", action="store_true", help="also write policy.pt2, a "
                        "program of torch.export, which needs only PyTorch")  # fmt: skip
    args = parser.parse_args(argv)
    policy = policy_of_run(args.run_dir, best=args.best)
    save_policy(policy, args.out)
    if args.torch_export:
        save_program(policy, args.out)
    print(f"wrote {args.out}: {summary(policy)}")


if __name__ == "__main__":
    run_command(main)
