"""Get the maze2d datasets; see docs/DATASETS.md."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from data_sources.command import main
from utils import run_command

if __name__ == "__main__":
    run_command(lambda: main(Path(__file__).name))
