"""Errors that are the user's to mend."""


class UserError(ValueError):
    """An error of the user's input, told in one sentence: what was found, what was expected, what to do."""
