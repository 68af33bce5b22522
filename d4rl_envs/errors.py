"""Exceptions raised for invalid input."""


class UserError(Exception):
    """Invalid input. The message is one line: what is wrong, then what to do about it.

    Command-line programs print the message and exit with code 2.
    """


class DamagedFile(UserError):
    """A file that is not HDF5, truncated or damaged inside; only getting it again can help."""
