"""`main.py` with recurrent critics: `--arch RNN` or `--arch LSTM`."""

from log_writers import leave
from main import main

if __name__ == "__main__":
    leave(main(recurrent=True))
