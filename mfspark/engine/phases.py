"""How long the phases of a fit take."""

import logging
import time
from typing import Literal

logger = logging.getLogger("mfspark")

# Seconds; a phase with nothing to do takes less.
_WORTH_TELLING = 0.01

# prepare     rows to Python, packed, checked and summed up, and the plan
# penalties   chosen by short fits of a sample
# task        all of a fit in one task: packs together, indexing, iterations, rows of the tables
# count       packs encoded, ids counted
# index       places of ids in blocks
# build       blocks, exchanges, the start
# iterations  what the history has the seconds of
# tables      factor tables
Phase = Literal["prepare", "penalties", "task", "count", "index", "build", "iterations", "tables"]


class Phases:
    """Seconds by phase, in the order of the fit; a phase begins where the one before ends.

    ``name``: of the fit, in the log; without one it has no line there.
    """

    def __init__(self, name: str | None = None) -> None:
        self._name = name
        self.seconds: dict[str, float] = {}
        self._begun = time.perf_counter()

    def end(self, phase: Phase) -> None:
        """The ``phase`` ends now."""
        now = time.perf_counter()
        self.seconds[phase] = now - self._begun
        self._begun = now

    def tell(self) -> None:
        """One line for the log."""
        if self._name is None:
            return
        parts = ", ".join(
            f"{phase} {seconds:.3g}"
            for phase, seconds in self.seconds.items()
            if seconds >= _WORTH_TELLING
        )
        logger.info(
            "%s: %.3g s (%s)",
            self._name,
            sum(self.seconds.values()),
            parts,
            extra={"phases": {phase: round(took, 3) for phase, took in self.seconds.items()}},
        )
