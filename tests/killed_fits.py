"""Fits that end as if their process had been killed."""

from unittest.mock import patch

from mfspark.algorithms.history import History


class KilledError(Exception):
    """Stands for the end of the process."""


def killed_after(n_passes: int):
    """Has the fit of this process end when a pass after so many is told of."""
    told = History.add
    left = [n_passes]

    def add(self, *arguments, **named):
        left[0] -= 1
        if left[0] < 0:
            raise KilledError
        told(self, *arguments, **named)

    return patch.object(History, "add", add)
