"""The exception raised for invalid input."""


class UserError(Exception):
    """Invalid input. The message is one line: what is wrong, then what to do about it.

    Command-line programs print the message and exit with code 2.
    """
