"""`main.py` with recurrent critics: `--arch RNN` or `--arch LSTM`."""

import sys

from main import main

if __name__ == "__main__":
    sys.exit(main(recurrent=True))
