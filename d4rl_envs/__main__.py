"""Run a program that imports d4rl and gym on the environments of this package.

`python -m d4rl_envs CLIENT.py ARGS` is `python CLIENT.py ARGS` with `clients/d4rl.py` on the path.
The path is an environment variable, so processes that the program starts find it, too.
"""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path

from d4rl_envs.errors import UserError

CLIENTS = Path(__file__).resolve().parent / "clients"
USAGE = """usage: python -m d4rl_envs CLIENT.py [ARGS ...]
       python -m d4rl_envs -m MODULE [ARGS ...]

Run a program that imports d4rl and gym on these environments, without d4rl and mujoco-py."""


def environment() -> dict[str, str]:
    """This process's environment variables, with `CLIENTS` first in PYTHONPATH."""
    paths = [str(CLIENTS), *filter(None, [os.environ.get("PYTHONPATH")])]
    return os.environ | {"PYTHONPATH": os.pathsep.join(paths)}


def run(arguments: list[str]) -> None:
    """Replace this process by the interpreter with these arguments.

    Raises:
        UserError: no such script, or gym is missing.
    """
    if not arguments[0].startswith("-") and not Path(arguments[0]).exists():
        raise UserError(f"{arguments[0]}: no such file")
    if importlib.util.find_spec("gym") is None:
        raise UserError(
            "gym: not installed, but programs for D4RL need it; pip install gym==0.23.1"
        )
    os.execve(sys.executable, [sys.executable, *arguments], environment())


def main() -> int:
    arguments = sys.argv[1:]
    if not arguments or arguments[0] in ("-h", "--help"):
        print(USAGE, file=sys.stdout if arguments else sys.stderr)
        return 0 if arguments else 2
    try:
        run(arguments)
    except UserError as error:
        print(error, file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())
