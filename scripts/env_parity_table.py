"""How closely the environments follow recordings of the old engine, as a Markdown table.

    python scripts/env_parity_table.py --golden DIR

DIR holds one recording `<task>.npz` per task (tests/golden/envs has 40 steps of each; the form is
described in envs/parity.py). Differences are the largest over a recording's seeds, absolute.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from d4rl_envs.parity import episodes, load_arrays, table_head, table_row
from tasks import TASKS
from utils import UserError


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--golden", type=Path, required=True, help="folder of recordings")
    golden = parser.parse_args().golden
    found = [task for task in TASKS.values() if (golden / f"{task.name}.npz").exists()]
    if not found:
        raise UserError(f"--golden {golden}: no recording <task>.npz of any task is there")
    print(table_head())
    for task in found:
        recorded = list(episodes(load_arrays(golden / f"{task.name}.npz")))
        print(table_row(task, recorded), flush=True)


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        print(error, file=sys.stderr)
        sys.exit(2)
