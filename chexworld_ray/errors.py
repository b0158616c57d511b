"""The one exception that a user is meant to read."""


class UserError(Exception):
    """A mistake that the user can mend: the command line prints it as one line and exits with code 2.

    The message says what is wrong, where (file, row, key), and what to do.
    """
