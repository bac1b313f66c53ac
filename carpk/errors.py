"""Errors and warnings: what, where, what was expected and what to do, in a sentence."""


class CarpkError(ValueError):
    """Something a user gave cannot be used; the message says what, where and what to do."""


class DatasetError(CarpkError):
    """A table, file or study folder holds an entry that cannot be used as it stands."""


class ModelError(CarpkError):
    """A structural model, parameter or output is unknown or wrongly defined."""


class RegimenError(CarpkError):
    """A dose, infusion or schedule is impossible or not supported."""


class FitError(CarpkError):
    """A population model and a data set do not fit together, or a saved fit cannot be read."""


class SaveError(CarpkError):
    """A file or folder cannot be written."""


class CarpkWarning(UserWarning):
    """Nothing is wrong with the input, but the answer needs a caveat."""
