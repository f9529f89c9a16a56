"""What a distributed sampler keeps of its draws after burn-in, and its way to tables and back."""

import math

from mfspark.algorithms.diagnostics import Trace, signal_norm
from mfspark.algorithms.gibbs_threads import Hyper
from mfspark.algorithms.posterior import StoredDraws, spread_of
from mfspark.algorithms.snapshots import ChainPlace
from mfspark.columns import ITEM, USER, Side
from mfspark.engine.gibbs_sweep import Draw, flat_sums, unflat_sums
from mfspark.engine.index import Layout
from mfspark.engine.kept_cells import KeptCells
from mfspark.engine.mean_cells import MeanCells
from mfspark.engine.plan import Keep
from mfspark.engine.saved_cells import FitSnapshots
from mfspark.engine.workspace import Workspace
from mfspark.settings import BayesianSettings

# Before the names of tables of the mean.
_MEAN = "mean_"


class Averages:
    """The mean of all draws, some of them, and what is followed of each, by chain; of an earlier
    fit, where ``state`` has one."""

    def __init__(
        self,
        workspace: Workspace,
        settings: BayesianSettings,
        layouts: dict[Side, Layout],
        keep: Keep,
        state: FitSnapshots,
    ) -> None:
        self.mean = MeanCells(workspace, layouts, settings.rank, keep)
        self.traces: list[list[Trace]] = []
        self._workspace, self._keep, self._state = workspace, keep, state
        self._rank = settings.rank
        draws: list[Draw] = []
        place = None if state.loop is None else state.loop.chain
        if place is not None:
            self.traces = list(place.traces)
            if place.n_averaged:
                rows, kept = self._saved(_MEAN)
                self.mean.restore(rows, place.width, place.n_averaged, kept)
            while f"{_stored(len(draws))}{USER}" in state.names():
                # Nothing but the rows is asked for of these.
                draws.append(Draw(*self._saved(_stored(len(draws))), sums={}))
        self.stored = StoredDraws[Draw](settings.keep_draws, draws, place.spreads if place else ())

    def add(self, draw: Draw, hyper: Hyper, n_ratings: int, n_validation: int) -> bool:
        """Take one more draw; whether all draws are in the mean now."""
        self.stored.add(draw, spread_of(hyper.noise_precision, hyper.priors, draw.sums))
        missed = draw.validation_squared_error
        self.traces[-1].append(
            Trace(
                noise=1 / math.sqrt(hyper.noise_precision),
                signal=signal_norm(draw.sums[USER], draw.sums[ITEM]),
                train_rmse=math.sqrt(draw.squared_error / n_ratings),
                validation_rmse=math.sqrt(missed / n_validation) if n_validation else math.nan,
            )
        )
        return self.mean.add(draw)

    @property
    def held(self) -> list[Draw]:
        """Draws that are still needed."""
        return [*self.mean.waiting, *self.stored.kept]

    @property
    def stored_rows(self) -> list[dict[Side, KeptCells]]:
        """Rows of the draws that are stored."""
        return [draw.rows for draw in self.stored.kept]

    def place(self, number: int, sweep: int, draw: Draw) -> ChainPlace:
        """How far a chain is: all that is no table."""
        return ChainPlace(
            number=number,
            sweep=sweep,
            squared_error=draw.squared_error,
            validation_squared_error=draw.validation_squared_error,
            sums={str(side): flat_sums(sums) for side, sums in draw.sums.items()},
            n_averaged=self.mean.n_draws,
            width=self.mean.width,
            spreads=self.stored.spreads,
            traces=self.traces,
        )

    def cells(self, draw: Draw) -> dict[str, KeptCells]:
        """All cells, by name: those of the chain, which is at ``draw``, of the mean, and of the
        stored draws."""
        of_draws = {"": draw.rows, _MEAN: self.mean.rows}
        of_draws |= {_stored(n): each.rows for n, each in enumerate(self.stored.kept)}
        return {
            f"{prefix}{side}": cells
            for prefix, rows in of_draws.items()
            for side, cells in rows.items()
        }

    def saved_draw(self, place: ChainPlace) -> Draw:
        """Where the chain of an earlier fit was."""
        rows, kept = self._saved("")
        sums = {side: unflat_sums(place.sums[side], self._rank) for side in Side}
        return Draw(rows, kept, sums, place.squared_error, place.validation_squared_error)

    def _saved(self, prefix: str) -> tuple[dict[Side, KeptCells], range]:
        """Cells of both sides, and their numbers in the workspace."""
        first = self._workspace.n_kept
        rows = {
            side: self._state.cells(self._workspace, f"{prefix}{side}", self._keep) for side in Side
        }
        return rows, range(first, self._workspace.n_kept)


def _stored(number: int) -> str:
    """Before the names of the tables of a stored draw."""
    return f"stored_{number}_"
