"""Command lines called in this process."""

from collections.abc import Callable, Sequence
from unittest.mock import patch

import pytest

from utils import run_command


def as_command(main: Callable[[Sequence[str]], int | None]) -> Callable[[Sequence[str]], int]:
    """A script's `main` as `run_command` runs it: prints errors and returns the exit code."""

    def command(argv: Sequence[str]) -> int:
        with patch("utils.make_output_lasting"), pytest.raises(SystemExit) as ended:
            run_command(lambda: main(argv))
        return int(str(ended.value.code))

    return command
