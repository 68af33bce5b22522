"""`main.py` with recurrent critics: `--arch RNN` or `--arch LSTM`."""

from functools import partial

from main import main
from run.stopping import run_program

if __name__ == "__main__":
    run_program(partial(main, recurrent=True))
