"""Compare the environments with recordings of the old engine and print a Markdown table.

    python scripts/env_parity_table.py --golden DIR

DIR contains files <task>.npz in the format described in d4rl_envs/parity.py, for example
tests/golden/envs with 40 steps per task. Differences are the largest absolute ones over the
recordings of a file.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from d4rl_envs import TASKS, UserError
from d4rl_envs.parity import load_arrays, recordings, table_head, table_row


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--golden", type=Path, required=True, help="folder of <task>.npz files")
    golden = parser.parse_args().golden
    found = [task for task in TASKS.values() if (golden / f"{task.name}.npz").exists()]
    if not found:
        raise UserError(f"--golden {golden}: no file <task>.npz of any task in it")
    print(table_head())
    for task in found:
        recorded = list(recordings(load_arrays(golden / f"{task.name}.npz")))
        print(table_row(task, recorded), flush=True)


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
