"""Errors that a user can act on: what was found, why it matters, what to do."""


class MfsparkError(Exception):
    """Base of all errors that mfspark raises on purpose; jobs print it as one line and exit 1."""


class ConfigError(MfsparkError):
    """The configuration names an unknown key or holds a value that is not allowed."""


class DataError(MfsparkError):
    """The ratings, or a file that should hold them, cannot be used."""


class DivergenceError(MfsparkError):
    """Gradient descent left all bounds, at whatever learning rate."""


class FitError(MfsparkError):
    """Spark gave up in the middle of a fit; the message names the cause and the remedy."""


class ModelFormatError(MfsparkError):
    """A model directory is missing, corrupt, or of another schema version."""


class OutputExistsError(MfsparkError):
    """The target of a write exists and overwriting was not asked for."""


def one_line(error: Exception) -> str:
    """The first line of an error that says something, at most 300 characters."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    # A Java error reached through py4j says on its second line what happened.
    telling = [line for line in lines if not line.startswith("An error occurred while calling")]
    return (telling or lines or [repr(error)])[0].removeprefix(": ")[:300]
