"""The error that this package raises for what a caller got wrong."""


class UserError(Exception):
    """Bad input. The message is one line: what is wrong, and what to do about it.

    Command-line programs print the message as it is and exit with code 2.
    """
