"""Charts of the pages as SVG, drawn by matplotlib without a display."""

from itertools import cycle
from typing import Any

import numpy as np
import pandas as pd
from adjustText import adjust_text
from matplotlib.axes import Axes
from matplotlib.dates import AutoDateLocator, ConciseDateFormatter
from matplotlib.ticker import (
    EngFormatter,
    LogLocator,
    MaxNLocator,
    NullFormatter,
    ScalarFormatter,
)

from mfspark.kernels.arrays import Float64s
from mfspark.report.drawing import BLUE, GREEN, GREY, INK, ORANGE, VIOLET, figure, hover

# Names of so many classes stand side by side.
_UPRIGHT = 10
_SERIES = BLUE, ORANGE, GREEN, VIOLET, GREY


def rmse_chart(metrics: pd.DataFrame, unit: str) -> str:
    """RMSE of every predictor on all test rows, with its 95 % interval."""
    rows = metrics.sort_values("rmse", ascending=False)
    with figure(6.4, 0.55 * len(rows) + 0.7) as (axes, result):
        places = range(len(rows))
        spans = [rows["rmse"] - rows["rmse_low"], rows["rmse_high"] - rows["rmse"]]
        colors = [BLUE if name == "model" else GREY for name in rows["predictor"]]
        bars = axes.barh(places, rows["rmse"], height=0.62, color=colors)
        hover(
            bars,
            [
                f"{row.predictor}: {row.rmse:.4f} ({row.rmse_low:.4f} to {row.rmse_high:.4f})"
                for row in rows.itertuples()
            ],
        )
        axes.errorbar(rows["rmse"], places, xerr=spans, fmt="none", ecolor=INK, capsize=3, lw=1)
        for place, value, end in zip(places, rows["rmse"], rows["rmse_high"], strict=True):
            axes.text(end + 0.012 * rows["rmse"].max(), place, f"{value:.4f}", va="center")
        axes.set_yticks(list(places), rows["predictor"])
        axes.set_xlim(0, rows["rmse_high"].max() * 1.12)
        axes.set_xlabel(f"RMSE ({unit}; lower is better)")
        axes.grid(visible=False, axis="y")
    return result[0]


def models_chart(models: pd.DataFrame, differences: pd.DataFrame, unit: str) -> str:
    """By how much the RMSE of every model is above the best one's, with the interval of that paired
    difference."""
    rows = models.sort_values("rmse", ascending=False)
    best = rows["predictor"].iloc[-1]
    known = differences[differences["better"] == best].set_index("worse")
    with figure(6.4, 0.36 * len(rows) + 0.8) as (axes, result):
        for place, row in enumerate(rows.itertuples()):
            if row.predictor == best:
                axes.scatter([0], [place], color=BLUE, zorder=3, s=34)
                continue
            pair = known.loc[row.predictor]
            color = INK if pair["is_clear"] else GREY
            axes.plot([pair["low"], pair["high"]], [place, place], color=color, lw=1.4)
            point = axes.scatter([pair["difference"]], [place], color=color, zorder=3, s=34)
            hover(
                point,
                [
                    f"{row.predictor}: {pair['difference']:+.4f} ({pair['low']:+.4f} to "
                    f"{pair['high']:+.4f}) against {best}"
                ],
            )
        axes.axvline(0, color=BLUE, lw=0.8, ls=":")
        names = [f"{_plain(row.predictor)}  {row.rmse:.4f}" for row in rows.itertuples()]
        axes.set_yticks(range(len(rows)), names)
        axes.set_ylim(-0.6, len(rows) - 0.4)
        axes.margins(x=0.08)
        axes.set_xlabel(f"RMSE above the best ({unit}; grey: no clear difference)")
    return result[0]


def cost_chart(models: pd.DataFrame, unit: str) -> str:
    """RMSE against the time to fit, a point for each model."""
    with figure(6.4, max(3.2, 0.36 * len(models) - 0.4)) as (axes, result):
        points = axes.scatter(models["fit_seconds"], models["rmse"], color=BLUE, s=26)
        hover(
            points,
            [
                f"{row.predictor}: {row.rmse:.4f} in {row.fit_seconds:.3g} s"
                for row in models.itertuples()
            ],
        )
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_major_formatter(ScalarFormatter())
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.margins(x=0.25, y=0.12)
        axes.set_xlabel("seconds to fit (logarithmic)")
        axes.set_ylabel(f"RMSE ({unit})")
        names = [
            axes.text(row.fit_seconds, row.rmse, _plain(row.predictor), fontsize=8)
            for row in models.sort_values("rmse").itertuples()
        ]
        adjust_text(
            names, x=list(models["fit_seconds"]), y=list(models["rmse"]), ax=axes,
            expand=(1.15, 1.6), ensure_inside_axes=True,
            arrowprops={"arrowstyle": "-", "color": GREY, "lw": 0.6},
        )  # fmt: skip
    return result[0]


def curves_chart(curves: pd.DataFrame, along: str, unit: str) -> str:
    """RMSE of each model after each pass, against ``along``: passes or seconds."""
    with figure(5.2, 3.0) as (axes, result):
        for (name, rows), color in zip(curves.groupby("predictor"), cycle(_SERIES)):
            (line,) = axes.plot(
                rows[along], rows["rmse"], color=color, marker=".", label=_plain(str(name))
            )
            hover(
                line,
                [
                    f"{name}: {error:.4f} after {place:.3g} {along}"
                    for place, error in zip(rows[along], rows["rmse"], strict=True)
                ],
            )
        best = curves["rmse"].min()
        # The first passes are far off, and would press the rest together.
        axes.set_ylim(best - 0.01, min(curves["rmse"].max(), 1.15 * best) + 0.01)
        axes.set_xlabel("passes over the ratings" if along == "passes" else "seconds")
        axes.set_ylabel(f"RMSE ({unit})")
        axes.set_xlim(left=0)
        axes.legend(frameon=False)
    return result[0]


def ranks_chart(ranks: pd.DataFrame, unit: str) -> str:
    """Errors by rank on one axis, agreement of the factors on the other; the chosen rank marked."""
    places = range(len(ranks))
    with figure(10.2, 3.6) as (axes, result):
        axes.plot(places, ranks["train_rmse"], color=GREY, marker=".", label="training")
        axes.errorbar(places, ranks["validation_rmse"], yerr=ranks["excess_error"], color=BLUE,
                      marker="o", ms=4, capsize=3,
                      label="validation ± error of its difference to the lowest")  # fmt: skip
        (line,) = axes.plot(places, ranks["test_rmse"], color=ORANGE, marker=".", ls="--",
                            label="test")  # fmt: skip
        hover(
            line,
            [
                f"rank {row.rank}: test {row.test_rmse:.4f}, validation {row.validation_rmse:.4f}, "
                f"training {row.train_rmse:.4f}"
                for row in ranks.itertuples()
            ],
        )
        axes.axvline(list(ranks["is_chosen"]).index(True), color=INK, lw=0.8, ls=":")
        axes.set_xticks(list(places), [str(rank) for rank in ranks["rank"]])
        axes.set_xlabel("rank (dotted: chosen)")
        axes.set_ylabel(f"RMSE ({unit})")
        other = axes.twinx()
        other.plot(places, ranks["agreement"], color=_SERIES[2], marker="s", ms=3, lw=1,
                   label="agreement of the factors (right)")  # fmt: skip
        other.set_ylim(0, 1.05)
        other.set_ylabel("agreement")
        other.grid(visible=False)
        lines = [part for both in (axes, other) for part in both.get_legend_handles_labels()[0]]
        names = [part for both in (axes, other) for part in both.get_legend_handles_labels()[1]]
        axes.legend(lines, names, frameon=False, ncols=2, loc="lower center",
                    bbox_to_anchor=(0.5, 1.0))  # fmt: skip
    return result[0]


def learning_chart(curve: pd.DataFrame, unit: str) -> str:
    """Test error of the model, and of biases alone, against the number of training ratings."""
    with figure(10.2, 3.4) as (axes, result):
        spans = [curve["rmse"] - curve["rmse_low"], curve["rmse_high"] - curve["rmse"]]
        (line,) = axes.plot(curve["n_ratings"], curve["bias_only_rmse"], color=GREY, marker=".",
                            label="biases alone")  # fmt: skip
        hover(
            line,
            [
                f"{row.n_ratings:,} ratings: biases {row.bias_only_rmse:.4f}, model {row.rmse:.4f}"
                for row in curve.itertuples()
            ],
        )
        axes.errorbar(curve["n_ratings"], curve["rmse"], yerr=spans, color=BLUE, marker="o", ms=4,
                      capsize=3, label="model")  # fmt: skip
        axes.set_xscale("log", base=2)
        axes.set_xticks(curve["n_ratings"], [_short(int(n)) for n in curve["n_ratings"]])
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.set_xlabel("training ratings (logarithmic)")
        axes.set_ylabel(f"test RMSE ({unit})")
        axes.legend(frameon=False)
    return result[0]


def training_chart(history: pd.DataFrame, best_iteration: int, unit: str) -> str:
    """RMSE after every pass, with the last iteration that counts."""
    with figure(6.4, 3.0) as (axes, result):
        half_steps = history["iteration"] - (history["side"] == "user") * 0.5
        (line,) = axes.plot(
            half_steps, history["train_rmse"], color=GREY, marker=".", label="training"
        )
        hover(
            line,
            [
                f"{row.iteration} {row.side}: training {row.train_rmse:.4f}"
                + (
                    ""
                    if pd.isna(row.validation_rmse)
                    else f", validation {row.validation_rmse:.4f}"
                )
                for row in history.itertuples()
            ],
        )
        if history["validation_rmse"].notna().any():
            is_measured = history["validation_rmse"].notna()
            axes.plot(half_steps[is_measured], history.loc[is_measured, "validation_rmse"],
                      color=BLUE, marker=".", label="validation")  # fmt: skip
        axes.axvline(best_iteration, color=ORANGE, lw=1, ls="--", label="kept")
        is_by_side = (history["side"] != "both").any()
        axes.set_xlabel("iteration (a point per half-step)" if is_by_side else "iteration")
        axes.set_ylabel(f"RMSE ({unit})")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.legend(frameon=False)
    return result[0]


def histogram_chart(histogram: pd.DataFrame, unit: str) -> str:
    """Shares of the test ratings and of the predictions, by classes of equal width."""
    places = np.sort(histogram["rating"].unique())
    width = np.diff(places).min() if len(places) > 1 else 1.0
    with figure(6.4, 2.8) as (axes, result):
        for name, shift, color, label in (
            ("n_test", -0.2, GREY, "test ratings"), ("n_predicted", 0.2, BLUE, "predictions")
        ):  # fmt: skip
            share = 100 * histogram[name] / max(histogram[name].sum(), 1)
            bars = axes.bar(histogram["rating"] + shift * width, share, width=0.4 * width,
                            color=color, label=label)  # fmt: skip
            hover(
                bars,
                [
                    f"{label}, {rating:.3g}: {n:,} ({part:.1f} %)"
                    for rating, n, part in zip(
                        histogram["rating"], histogram[name], share, strict=True
                    )
                ],
            )
        axes.set_xlabel(f"rating ({unit}, to the nearest {width:.3g})")
        axes.set_ylabel("share (%)")
        axes.grid(visible=False, axis="x")
        axes.legend(frameon=False)
    return result[0]


def calibration_chart(calibration: pd.DataFrame, unit: str) -> str:
    """Mean rating of each tenth of the predictions, against their mean."""
    with figure(5.2, 2.7) as (axes, result):
        both = calibration[["predicted", "rating"]].to_numpy()
        ends = [both.min(initial=np.inf), both.max(initial=-np.inf)]
        if len(both):
            axes.plot(ends, ends, color=GREY, lw=1, ls="--", label="as it should be")
        (line,) = axes.plot(calibration["predicted"], calibration["rating"], color=BLUE, marker="o",
                            ms=4, label="a tenth of the predictions each")  # fmt: skip
        hover(
            line,
            [
                f"predicted {row.predicted:.3f}, rated {row.rating:.3f}"
                for row in calibration.itertuples()
            ],
        )
        axes.set_title("calibration", fontsize=10, loc="left")
        axes.set_xlabel(f"mean prediction ({unit})")
        axes.set_ylabel("mean rating")
        axes.legend(frameon=False, fontsize=8, loc="upper left")
    return result[0]


def residuals_chart(residuals: pd.DataFrame, unit: str) -> str:
    """Shares of the test ratings by how far the model, and biases alone, are off."""
    with figure(5.2, 2.7) as (axes, result):
        for predictor, color in (("bias only", GREY), ("model", BLUE)):
            rows = residuals[residuals["predictor"] == predictor].sort_values("residual")
            share = 100 * rows["n"] / max(rows["n"].sum(), 1)
            (line,) = axes.plot(rows["residual"], share, color=color, marker=".", ms=4, lw=1.2,
                                drawstyle="steps-mid", label=predictor)  # fmt: skip
            hover(
                line,
                [
                    f"{predictor}, {residual:+.2f}: {part:.1f} % of the test ratings"
                    for residual, part in zip(rows["residual"], share, strict=True)
                ],
            )
        axes.axvline(0, color=INK, lw=0.8, ls=":")
        axes.set_title("residuals", fontsize=10, loc="left")
        axes.set_xlabel(f"prediction − rating ({unit})")
        axes.set_ylabel("share of the test ratings (%)")
        axes.legend(frameon=False, fontsize=8, loc="upper left")
    return result[0]


def slice_chart(metrics: pd.DataFrame, slice_name: str, order: list[str]) -> str:
    """RMSE of the model and of biases alone with 95 % intervals, for each value of a slice."""
    with figure(5.2, 2.7) as (axes, result):
        for predictor, color, shift in (("bias only", GREY, -0.2), ("model", BLUE, 0.2)):
            rows = metrics[metrics["predictor"] == predictor].set_index("value").loc[order]
            spans = [
                (rows["rmse"] - rows["rmse_low"]).clip(lower=0),
                (rows["rmse_high"] - rows["rmse"]).clip(lower=0),
            ]
            bars = axes.bar(
                [n + shift for n in range(len(order))], rows["rmse"], width=0.38, color=color,
                label=predictor, yerr=spans, ecolor=INK, error_kw={"lw": 0.7},
            )  # fmt: skip
            hover(
                bars,
                [
                    f"{row.Index}, {predictor}: {row.rmse:.4f} ({row.n:,} ratings)"
                    for row in rows.itertuples()
                ],
            )
        counts = metrics[metrics["predictor"] == "model"].set_index("value")["n"]
        # Bounds of classes one below the other.
        if len(order) <= _UPRIGHT:
            names = [v.replace(" to ", "\nto ") if len(order) > 4 else v for v in order]
            labels = [
                f"{_plain(n)}\n{_short(counts[v])}" for n, v in zip(names, order, strict=True)
            ]
            axes.set_xticks(range(len(order)), labels, fontsize=8 if len(order) < 8 else 6.5)
        else:
            labels = [f"{_plain(value, 16)} {_short(counts[value])}" for value in order]
            axes.set_xticks(range(len(order)), labels, fontsize=6.5, rotation=90)
        axes.set_title(slice_name, fontsize=10, loc="left")
        axes.set_ylabel("RMSE")
        axes.set_ylim(0, axes.get_ylim()[1] * 1.18)
        axes.legend(frameon=False, fontsize=8, ncols=2, loc="upper right")
        axes.grid(visible=False, axis="x")
    return result[0]


def values_chart(values: pd.DataFrame, unit: str) -> str:
    """Share of the ratings that have each value, or are in each class."""
    places = np.sort(values["rating"])
    width = np.diff(places).min() if len(places) > 1 else 1.0
    with figure(5.2, 2.7) as (axes, result):
        share = 100 * values["n"] / values["n"].sum()
        bars = axes.bar(values["rating"], share, width=0.8 * width, color=BLUE)
        hover(
            bars,
            [
                f"{row.rating:.3g}: {row.n:,} ratings ({100 * row.n / values['n'].sum():.1f} %)"
                for row in values.itertuples()
            ],
        )
        axes.set_title("values", fontsize=10, loc="left")
        axes.set_xlabel(f"rating ({unit})")
        axes.set_ylabel("share of the ratings (%)")
        axes.grid(visible=False, axis="x")
    return result[0]


def tails_chart(tails: dict[str, tuple[Float64s, Float64s]]) -> str:
    """Of users and items, most rated first, the share of all ratings that a share of them has."""
    with figure(5.2, 2.7) as (axes, result):
        for (side, (ids, ratings)), color in zip(tails.items(), (ORANGE, BLUE), strict=True):
            axes.plot(100 * ids, 100 * ratings, color=color, label=f"{side}s")
        axes.axhline(50, color=GREY, lw=0.8, ls=":")
        axes.set_title("long tails", fontsize=10, loc="left")
        axes.set_xlabel("users or items, most rated first (%)")
        axes.set_ylabel("share of the ratings (%)")
        axes.set_xlim(0, 100)
        axes.set_ylim(0, 102)
        axes.legend(frameon=False, loc="lower right")
    return result[0]


def activity_chart(sides: dict[str, pd.DataFrame]) -> str:
    """Shares of users and of items by their number of ratings, in classes that double."""
    highest = max(counts["n_ratings"].max() for counts in sides.values())
    lows = 2 ** np.arange(int(np.log2(highest)) + 1)
    with figure(5.2, 2.7) as (axes, result):
        for (side, counts), color, shift in zip(
            sides.items(), (ORANGE, BLUE), (-0.2, 0.2), strict=True
        ):
            classes = np.searchsorted(lows, counts["n_ratings"], side="right") - 1
            n = np.bincount(classes, counts["n_ids"], len(lows))
            bars = axes.bar(np.arange(len(lows)) + shift, 100 * n / n.sum(), width=0.38,
                            color=color, label=f"{side}s")  # fmt: skip
            hover(
                bars,
                [
                    f"{int(count):,} {side}s with {low} to {2 * low - 1} ratings"
                    for low, count in zip(lows, n, strict=True)
                ],
            )
        # Labels of all classes would run into each other where there are many.
        step = 1 + len(lows) // 12
        axes.set_xticks(range(0, len(lows), step), [_short(int(low)) for low in lows[::step]])
        axes.set_title("ratings of one", fontsize=10, loc="left")
        axes.set_xlabel("number of ratings, from … to twice as many")
        axes.set_ylabel("share of users or items (%)")
        axes.legend(frameon=False, loc="upper right")
        axes.grid(visible=False, axis="x")
    return result[0]


def time_chart(over_time: pd.DataFrame, unit: str) -> str:
    """Ratings of each period as bars, and their mean as a line."""
    length = over_time["length"].iloc[0]
    days = {"day": 1, "week": 7, "month": 30, "quarter": 91, "year": 365}[length]
    with figure(5.2, 2.7) as (axes, result):
        periods = pd.to_datetime(over_time["period"])
        bars = axes.bar(periods, over_time["n"], width=0.85 * days, align="edge", color=GREY)
        hover(
            bars,
            [
                f"{day:%Y-%m-%d}: {row.n:,} ratings, {row.mean_rating:.2f} {unit} on average"
                for day, row in zip(periods, over_time.itertuples(), strict=True)
            ],
        )
        axes.set_title(f"over time, by {length}", fontsize=10, loc="left")
        axes.set_ylabel("ratings")
        axes.grid(visible=False)
        locator: Any = AutoDateLocator(maxticks=6)  # type: ignore[no-untyped-call]
        axes.xaxis.set_major_locator(locator)
        dates: Any = ConciseDateFormatter(locator)  # type: ignore[no-untyped-call]
        axes.xaxis.set_major_formatter(dates)
        axes.yaxis.set_major_formatter(EngFormatter(sep=""))
        other = axes.twinx()
        middle = periods + pd.Timedelta(days=0.43 * days)
        other.plot(middle, over_time["mean_rating"], color=BLUE, marker=".", lw=1)
        other.set_ylabel(f"mean ({unit})", color=BLUE)
        other.spines["right"].set_visible(False)
    return result[0]


def coverage_chart(coverage: pd.DataFrame) -> str:
    """Share of the ratings in each interval, against the share that it should hold."""
    with figure(5.2, 3.4) as (axes, result):
        axes.plot([0, 100], [0, 100], color=GREY, lw=1, ls="--", label="as it should be")
        (line,) = axes.plot(100 * coverage["level"], 100 * coverage["covered"], color=BLUE,
                            marker="o", ms=4, label="test ratings")  # fmt: skip
        hover(
            line,
            [
                f"should hold {100 * row.level:.0f} %, holds {100 * row.covered:.1f} %"
                for row in coverage.itertuples()
            ],
        )
        axes.set_xlabel("the interval should hold (% of the ratings)")
        axes.set_ylabel("it holds (%)")
        axes.set_xlim(0, 100)
        axes.set_ylim(0, 100)
        axes.legend(frameon=False, loc="upper left")
    return result[0]


def reliability_chart(reliability: pd.DataFrame, unit: str) -> str:
    """Error of each tenth of the predictions, the surest first, against what was predicted."""
    with figure(5.2, 3.4) as (axes, result):
        low = min(reliability["std"].min(), reliability["rmse"].min())
        high = max(reliability["std"].max(), reliability["rmse"].max())
        ends = [0.97 * low, 1.03 * high]
        axes.plot(ends, ends, color=GREY, lw=1, ls="--", label="as it should be")
        (line,) = axes.plot(reliability["std"], reliability["rmse"], color=BLUE, marker="o", ms=4,
                            label="a tenth of the test ratings each")  # fmt: skip
        hover(
            line,
            [f"predicted {row.std:.3f}, RMSE {row.rmse:.3f}" for row in reliability.itertuples()],
        )
        axes.set_xlabel(f"predicted standard deviation ({unit})")
        axes.set_ylabel(f"RMSE ({unit})")
        axes.legend(frameon=False, loc="upper left")
    return result[0]


def share_chart(factors: pd.DataFrame, stability: pd.DataFrame) -> str:
    """Share of the interaction variance per factor; in colour those that are stable."""
    is_stable = stability.set_index("factor")["is_stable"].to_dict()
    colors = [BLUE if is_stable.get(factor, True) else GREY for factor in factors["factor"]]
    with figure(6.4, 3.0) as (axes, result):
        bars = axes.bar(factors["factor"], 100 * factors["share"], color=colors, width=0.7)
        values = stability.set_index("factor")["stability"].to_dict()
        hover(
            bars,
            [
                f"factor {row.factor}: {100 * row.share:.1f} %"
                + (f", stability {values[row.factor]:.2f}" if row.factor in values else "")
                for row in factors.itertuples()
            ],
        )
        axes.set_xlabel("factor (grey: not stable)" if len(stability) else "factor")
        axes.set_ylabel("share of interaction\nvariance (%)")
        axes.grid(visible=False, axis="x")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    return result[0]


def factor_gains_chart(gains: pd.DataFrame, unit: str) -> str:
    """Test error with none, one, two, … of the factors."""
    with figure(6.4, 3.0) as (axes, result):
        (line,) = axes.plot(gains["n_factors"], gains["rmse"], color=BLUE, marker=".")
        hover(line, [f"{row.n_factors} factors: {row.rmse:.4f}" for row in gains.itertuples()])
        axes.set_xlabel("factors kept (0: biases alone)")
        axes.set_ylabel(f"test RMSE ({unit})")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    return result[0]


def variance_chart(variance: pd.DataFrame) -> str:
    """Shares of the ratings' variance."""
    rows = variance.iloc[::-1]
    with figure(4.2, 3.0) as (axes, result):
        axes.barh(range(len(rows)), 100 * rows["share"], height=0.62,
                  color=[GREY if part == "rest" else BLUE for part in rows["part"]])  # fmt: skip
        for place, share in enumerate(rows["share"]):
            axes.text(100 * max(share, 0) + 1, place, f"{100 * share:.1f} %", va="center")
        axes.set_yticks(range(len(rows)), rows["part"])
        axes.set_xlabel("share of the variance of training ratings (%)")
        axes.set_xlim(right=min(110, 100 * rows["share"].max() + 16))
        axes.grid(visible=False, axis="y")
    return result[0]


def agreement_chart(agreement: pd.DataFrame) -> str:
    """|r| of each factor with the factors of refits, put in the order of their matches."""
    table = agreement.pivot_table(index="factor", columns="matched", values="r")
    with figure(4.2, 3.4) as (axes, result):
        image = axes.imshow(table.to_numpy(), cmap="Blues", vmin=0, vmax=1)
        size = len(table)
        step = max(1, size // 8)
        places = range(0, size, step)
        axes.set_xticks(places, [str(place + 1) for place in places])
        axes.set_yticks(places, [str(place + 1) for place in places])
        axes.set_xlabel("factor of a refit, by its match")
        axes.set_ylabel("factor")
        axes.grid(visible=False)
        bar = axes.figure.colorbar(image, ax=axes, shrink=0.8)
        bar.set_label("mean |r|")
    return result[0]


def explained_chart(variance: pd.DataFrame) -> str:
    """R² of each factor from each kind of metadata."""
    table = 100 * variance.pivot_table(index="kind", columns="factor", values="r2").clip(lower=0)
    with figure(10.2, 0.34 * len(table) + 0.9) as (axes, result):
        axes.imshow(table.to_numpy(), cmap="Blues", vmin=0, vmax=max(40, table.to_numpy().max()),
                    aspect="auto")  # fmt: skip
        for (row, column), share in np.ndenumerate(table.to_numpy()):
            if share >= 1 or len(table.columns) <= _UPRIGHT:
                # On dark cells light, in dark pages as well.
                axes.text(column, row, f"{share:.0f}", ha="center", va="center", fontsize=8,
                          color="white" if share > 24 else "#1c2734")  # fmt: skip
        axes.set_xticks(range(len(table.columns)), [str(n) for n in table.columns])
        axes.set_yticks(range(len(table)), [_plain(str(kind)) for kind in table.index])
        axes.set_xlabel("factor (variance that each kind of metadata alone explains, %)")
        axes.grid(visible=False)
    return result[0]


def correlation_chart(correlations: pd.DataFrame) -> str:
    """The strongest correlations of one factor with item metadata, with their intervals; grey:
    perhaps chance."""
    rows = correlations.iloc[::-1]
    with figure(2.9, 0.26 * max(len(rows), 1) + 0.45) as (axes, result):
        colors = [
            GREY if not is_clear else BLUE if value >= 0 else ORANGE
            for value, is_clear in zip(rows["correlation"], rows["is_clear"], strict=True)
        ]
        spans = [rows["correlation"] - rows["low"], rows["high"] - rows["correlation"]]
        bars = axes.barh(range(len(rows)), rows["correlation"], color=colors, height=0.65,
                         xerr=spans, error_kw={"lw": 0.8, "ecolor": INK})  # fmt: skip
        hover(
            bars,
            [
                f"{row.value}: r = {row.correlation:+.2f} ({row.low:+.2f} to {row.high:+.2f}), "
                f"{row.class_size} of {row.n_items} items, q = {row.q:.2g}"
                for row in rows.itertuples()
            ],
        )
        names = [f"{_plain(row.value, 14)} ({_short(row.class_size)})" for row in rows.itertuples()]
        axes.set_yticks(range(len(rows)), names, fontsize=8)
        axes.axvline(0, color=INK, lw=0.8)
        axes.set_xlim(-1, 1)
        axes.set_xticks([-1, 0, 1])
        axes.grid(visible=False, axis="y")
    return result[0]


def map_chart(items: pd.DataFrame, axes_names: tuple[str, str], n_labels: int = 22) -> str:
    """The most rated items on two axes, in the colours of their commonest genres."""
    with figure(10.2, 5.6) as (axes, result):
        _scatter(axes, items, "genre", [_map_name(row) for row in items.itertuples()])
        taken: list[tuple[float, float]] = []
        width = (items["x"].max() - items["x"].min()) or 1.0
        height = (items["y"].max() - items["y"].min()) or 1.0
        # Far-out items say most about an axis; a label that would cover another one is left out.
        centred = (items[["x", "y"]] - items[["x", "y"]].median()) / [width, height]
        distance = np.square(centred).sum(axis=1)
        for row in items.loc[distance.sort_values(ascending=False).index].itertuples():
            if len(taken) == n_labels:
                break
            place = (float(row.x) / width, float(row.y) / height)
            if any(abs(place[0] - x) < 0.16 and abs(place[1] - y) < 0.04 for x, y in taken):
                continue
            taken.append(place)
            axes.annotate(_plain(_map_name(row), 26), (row.x, row.y), xytext=(3, 3),
                          textcoords="offset points", fontsize=7)  # fmt: skip
        _finish_map(axes, axes_names)
    return result[0]


def users_chart(users: pd.DataFrame, axes_names: tuple[str, str]) -> str:
    """Users on two axes, in the colours of their tastes."""
    tastes = [None if pd.isna(taste) else f"taste {int(taste)}" for taste in users["taste"]]
    with figure(10.2, 4.6) as (axes, result):
        _scatter(axes, users.assign(taste=tastes), "taste", None)
        _finish_map(axes, axes_names)
    return result[0]


def _scatter(axes: Axes, rows: pd.DataFrame, by: str, names: list[str] | None) -> None:
    """Points in the colours of the commonest values of ``by``, grey where it is another one."""
    common = list(rows[by].value_counts().index[: len(_SERIES) - 1])
    titles = pd.Series(names or [""] * len(rows), index=rows.index)
    for value, color in [(None, GREY), *zip(common, _SERIES, strict=False)]:
        own = rows[rows[by] == value] if value is not None else rows[~rows[by].isin(common)]
        if not len(own):
            continue
        label = "others" if value is None else _plain(str(value))
        points = axes.scatter(own["x"], own["y"], s=14, color=color, alpha=0.75, linewidths=0,
                              label=label if common else None)  # fmt: skip
        if names is not None:
            of_value = "" if value is None else f" ({value})"
            hover(points, [f"{title}{of_value}" for title in titles[own.index]])
    if common:
        axes.legend(frameon=False, fontsize=8, ncols=len(common) + 1, loc="lower center",
                    bbox_to_anchor=(0.5, 1.0))  # fmt: skip


def _finish_map(axes: Axes, names: tuple[str, str]) -> None:
    if any(names):
        axes.axhline(0, color=GREY, lw=0.7)
        axes.axvline(0, color=GREY, lw=0.7)
    axes.margins(x=0.14, y=0.05)
    axes.set_xlabel(names[0])
    axes.set_ylabel(names[1])


def _map_name(row: Any) -> str:
    return row.title if isinstance(row.title, str) else str(row.item)


def explanation_chart(parts: pd.DataFrame, labels: dict[int, str], unit: str) -> str:
    """A prediction as steps from the global mean: biases, the six largest factors, the rest."""
    factors = parts[parts["part"] == "factor"]
    largest = factors.loc[factors["value"].abs().sort_values(ascending=False).index[:6]]
    rest = factors.drop(largest.index)["value"].sum()
    value = parts.set_index("part")["value"]
    steps = [("global mean μ", value["global mean"]), ("user bias", value["user bias"]),
             ("item bias", value["item bias"])]  # fmt: skip
    steps += [(factor_name(int(row.name), labels), row.value) for row in _named(largest)]
    if len(factors) > len(largest):
        steps.append((f"other {len(factors) - len(largest)} factors", rest))
    with figure(10.2, 0.3 * (len(steps) + 1) + 0.7) as (axes, result):
        total = 0.0
        for place, (name, step) in enumerate(steps):
            color = INK if place == 0 else BLUE if step >= 0 else ORANGE
            bar = axes.barh(place, step, left=total, color=color, height=0.6)
            hover(bar, [f"{name}: {step:+.3f}"])
            total += step
            sign = "" if place == 0 else "+" if step >= 0 else "−"
            axes.text(max(total, total - step) + 0.02, place, f" {sign}{abs(step):.3f}",
                      va="center", fontsize=8)  # fmt: skip
        axes.barh(len(steps), total, color=INK, height=0.6)
        axes.text(total + 0.02, len(steps), f" {total:.3f}", va="center", fontsize=8)
        axes.set_yticks(range(len(steps) + 1), [name for name, _ in steps] + ["prediction r̂"])
        axes.invert_yaxis()
        axes.margins(x=0.1)
        axes.set_xlabel(unit)
        axes.grid(visible=False, axis="y")
    return result[0]


def factor_name(number: int, labels: dict[int, str]) -> str:
    """Its number, and what it is called."""
    return f"factor {number}" + (f": {_plain(labels[number], 48)}" if number in labels else "")


def _named(rows: pd.DataFrame) -> list[Any]:
    return list(rows[["name", "value"]].itertuples(index=False))


def _short(n: int) -> str:
    return f"{n / 1e6:.1f}M" if n >= 1e6 else f"{n / 1e3:.0f}k" if n >= 1e4 else str(n)


def _plain(text: str, most: int = 30) -> str:
    """Text that matplotlib shows as it is: no mathematics between dollar signs, not too long."""
    short = text if len(text) <= most else text[: most - 1] + "…"
    return short.replace("$", r"\$")
