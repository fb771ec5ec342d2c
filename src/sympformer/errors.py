"""Errors that a user can mend."""


class InputError(ValueError):
    """Wrong usage or input; the message is one line that says what to change (exit code 2)."""
