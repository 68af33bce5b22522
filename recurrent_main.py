"""`main.py` with recurrent critics: `--arch RNN` or `--arch LSTM`."""

from main import main
from run.writers import leave

if __name__ == "__main__":
    leave(main(recurrent=True))
