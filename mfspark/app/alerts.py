"""What somebody should know before they believe a result, and what to do about it."""

from typing import Literal

from pydantic import BaseModel, ConfigDict

from mfspark.app.config import Config
from mfspark.app.run_directory import IngestRecord
from mfspark.columns import Side
from mfspark.data.validate import DUPLICATE
from mfspark.models.metadata import ModelMetadata

# The last iteration still lowered the error by more than this many times tol.
_STILL_FALLING = 10
_FEW_TEST_ROWS = 1000
# Share of the items with ratings that should be in the table of items.
_MATCHED = 0.5
# Share of all ratings that one id may have, and how many times its fair share.
_SKEW, _TIMES_FAIR = 0.05, 20
_SHOWN_SLICES = 4
# As far as the search of penalties goes from where it begins, by powers of two.
_LOWEST, _HIGHEST = 2.0**-5.5, 2.0**5.5


class Alert(BaseModel):
    """``name`` tells kinds of alerts apart; a ``warning`` says that a figure is not what one would
    think, a ``note`` how it is to be read."""

    model_config = ConfigDict(frozen=True)

    name: str
    level: Literal["warning", "note"]
    text: str
    remedy: str


class Gain(BaseModel):
    """A row of ``gains`` (over all test rows) or ``slice_gains``; ``low`` and ``high`` are None
    where too few users make an interval."""

    model_config = ConfigDict(frozen=True)

    name: str
    n: int
    rmse: float
    baseline_rmse: float
    gain: float
    low: float | None
    high: float | None


class Findings(BaseModel):
    """What alerts are made from.

    ``last_change``: the share by which the last iteration lowered the validation error, or without
    validation rows the objective. ``n_matched`` of the rated items are in the table of items, None
    without one. ``most_ratings``: those of the id with the most, by side.
    """

    model_config = ConfigDict(frozen=True, arbitrary_types_allowed=True)

    config: Config
    ingest: IngestRecord
    metadata: ModelMetadata
    gains: list[Gain]
    slice_gains: list[Gain]
    last_change: float | None
    n_matched: int | None
    most_ratings: dict[Side, int]


def alerts_of(found: Findings) -> list[Alert]:
    """All that apply, warnings first."""
    checks = (
        _no_better_than_baselines, _worse_in_slices, _few_test_rows, _limit_reached,
        _penalty_at_the_edge, _no_metadata, _duplicates, _skew, _split_leaks_time, _scale_guessed,
    )  # fmt: skip
    alerts = [alert for check in checks if (alert := check(found)) is not None]
    return sorted(alerts, key=lambda alert: alert.level != "warning")


def _no_better_than_baselines(found: Findings) -> Alert | None:
    """A baseline whose interval of the gain does not lie above zero."""
    not_beaten = [gain for gain in found.gains if gain.low is None or gain.low <= 0]
    if not not_beaten:
        return None
    worst = min(not_beaten, key=lambda gain: gain.gain)
    is_worse = worst.high is not None and worst.high < 0
    return Alert(
        name="worse than a baseline" if is_worse else "not clearly better than a baseline",
        level="warning",
        text=f"Predictions are {'worse' if is_worse else 'not clearly better'} than {worst.name}: "
        f"RMSE {worst.rmse:.4f} against {worst.baseline_rmse:.4f}.",
        remedy=_better_model(found),
    )


def _better_model(found: Findings) -> str:
    section = found.config.train.model
    given = found.metadata.hyper_parameters.get("regParam")
    if section != "bayes" and given not in (None, "auto"):
        return (
            f'Let the fit choose its penalties: --set {section}.reg_param="auto" '
            f'--set {section}.bias_reg_param="auto"; or train.model=bayes, which has none.'
        )
    if section != "bayes":
        return "Try train.model=bayes, a lower rank, or more ratings per user and item."
    return "The ratings may tell no more than biases do: use biases alone (als.rank=0)."


def _worse_in_slices(found: Findings) -> Alert | None:
    """Classes of test rows in which the gain's interval lies below zero, the largest first."""
    worse = [gain for gain in found.slice_gains if gain.high is not None and gain.high < 0]
    if not worse:
        return None
    worse.sort(key=lambda gain: -gain.n)
    named = "; ".join(
        f"{gain.name} ({gain.rmse:.3f} against {gain.baseline_rmse:.3f}, {gain.n:,} rows)"
        for gain in worse[:_SHOWN_SLICES]
    )
    more = f"; and {len(worse) - _SHOWN_SLICES} more" if len(worse) > _SHOWN_SLICES else ""
    return Alert(
        name="worse than biases in a slice",
        level="warning",
        text=f"For some test rows biases alone predict better: {named}{more}.",
        remedy="Mind it where these rows matter; train.model=bayes and als.implicit_features=true "
        "shrink what little is known more carefully.",
    )


def _few_test_rows(found: Findings) -> Alert | None:
    """Fewer than differences of models need."""
    n = found.ingest.split["test"]
    if n >= _FEW_TEST_ROWS:
        return None
    return Alert(
        name="few test rows",
        level="warning",
        text=f"There are {n:,} test rows: figures of other rows would differ by more than the "
        "models do.",
        remedy="Raise split.test, or use the cross_validate job, which tests on all rows in turn.",
    )


def _limit_reached(found: Findings) -> Alert | None:
    """The fit ended by its number of iterations while the error was still falling."""
    tol = found.metadata.hyper_parameters.get("tol")
    if found.metadata.stopped != "max_iter" or found.last_change is None or tol is None:
        return None
    if found.last_change <= _STILL_FALLING * float(tol):
        return None
    section = found.config.train.model
    return Alert(
        name="iteration limit reached",
        level="warning",
        text=f"The fit was stopped after {found.metadata.best_iteration} iterations, the last of "
        f"which still lowered the error by {found.last_change:.2%}.",
        remedy=f"Raise {section}.max_iter.",
    )


def _penalty_at_the_edge(found: Findings) -> Alert | None:
    """The chosen λ is one of the ends of what was tried; see
    :mod:`mfspark.algorithms.penalties`."""
    penalties, given = found.metadata.penalties, found.metadata.hyper_parameters
    if penalties is None or given.get("regParam") != "auto" or not found.metadata.rank:
        return None
    weight = penalties.users
    n_rows = (found.metadata.n_users * found.metadata.n_items) ** 0.5
    guess = max(found.metadata.n_ratings / n_rows, 1.0) ** (0.5 - float(given["regExponent"]))
    if _LOWEST < weight / guess < _HIGHEST:
        return None
    is_high = weight / guess >= _HIGHEST
    return Alert(
        name="penalty at the edge",
        level="warning",
        text=f"The chosen penalty λ = {weight:.3g} is at the {'upper' if is_high else 'lower'} end "
        "of those that were tried"
        + (": factors were of no use, and the model is little more than biases." if is_high
           else ": the ratings have hardly any noise, or repeat themselves."),
        remedy="Look whether ratings of a user say anything about others of theirs; give "
        f"{found.config.train.model}.reg_param by hand to go on.",
    )  # fmt: skip


def _no_metadata(found: Findings) -> Alert | None:
    """Most rated items are not in the table of items."""
    if found.n_matched is None or found.n_matched >= _MATCHED * found.metadata.n_items:
        return None
    return Alert(
        name="items without metadata",
        level="warning",
        text=f"Of {found.metadata.n_items:,} rated items {found.n_matched:,} are in the table of "
        "items, so reports show ids in place of titles.",
        remedy="Compare the ids of both files; data.item_columns.item names the column of ids, "
        'data.item_type="string" keeps leading zeros.',
    )


def _duplicates(found: Findings) -> Alert | None:
    """Rows that repeat a pair."""
    n = found.ingest.bad_rows.get(DUPLICATE, 0) + found.ingest.rows_merged
    if not n:
        return None
    policy = found.config.data.duplicates
    return Alert(
        name="duplicates",
        level="note",
        text=f"{n:,} of {found.ingest.rows_read:,} rows repeat a pair of user and item; "
        f"{'their mean counts' if policy == 'mean' else 'the last one counts'}.",
        remedy='data.duplicates says what to do with them: "last", "mean" or "error".',
    )


def _skew(found: Findings) -> Alert | None:
    for side in Side:
        share = found.most_ratings[side] / found.metadata.n_ratings
        if share > _SKEW and share * found.metadata.n_rows(side) > _TIMES_FAIR:
            return Alert(
                name="skew",
                level="note",
                text=f"One {side} has {share:.0%} of all training ratings, so figures over all "
                f"rows are largely about that {side}.",
                remedy=f"Look whether this {side} is real (a default value, a crawler?), and at "
                "the figures by activity and popularity.",
            )
    return None


def _split_leaks_time(found: Findings) -> Alert | None:
    """Ratings have times, and the split does not go by them."""
    method = found.config.split.method
    if found.ingest.first_time is None or method in ("temporal", "leave_last"):
        return None
    return Alert(
        name="split leaks time",
        level="note",
        text=f"The split is {method.replace('_', ' ')}: the model was trained on ratings that are "
        "later than those it is tested on, which it will not have in use.",
        remedy="split.method=temporal or leave_last measures what is to come.",
    )


def _scale_guessed(found: Findings) -> Alert | None:
    """Neither the format nor the configuration says what a rating may be."""
    if found.ingest.scale is not None:
        return None
    low, high = found.metadata.rating_scale
    return Alert(
        name="rating scale guessed",
        level="note",
        text=f"Nobody said what ratings may be; those for training lie from {low:g} to {high:g}, "
        "and predictions are clipped to that.",
        remedy="Set data.rating_scale, as in [1, 5], and others go to quarantine.",
    )
