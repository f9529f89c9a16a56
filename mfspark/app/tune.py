"""A search for hyper-parameters, judged by validation ratings alone."""

import io
import logging
import time
from typing import Any

import numpy as np
import pandas as pd
from pydantic import BaseModel
from pyspark.sql import DataFrame, SparkSession

from mfspark import files
from mfspark.app.config import Config
from mfspark.app.configured_columns import features_of_run, refuse_unused_features
from mfspark.app.estimators import make_estimator, mark_validation
from mfspark.app.run_directory import RunDirectory
from mfspark.app.search import Search
from mfspark.columns import IS_VALIDATION
from mfspark.errors import DataError, one_line
from mfspark.models.factor_model import FactorModel
from mfspark.persisted import persist, unpersist

logger = logging.getLogger("mfspark")

# The share of the iterations after which hopeless trials end.
_FIRST_LOOK = 0.25


class TrialRow(BaseModel):
    """A row of the table ``trials``; hyper-parameters that a model lacks are null.

    ``state``: complete, pruned (ended after the first look) or failed, with the ``reason``.
    """

    number: int
    fingerprint: str | None
    model: str
    rank: int
    reg_param: float | None
    bias_reg_param: float | None
    reg_exponent: float | None
    state: str
    validation_rmse: float | None
    first_rmse: float | None
    iterations: int | None
    seconds: float
    reason: str | None = None


def tune(spark: SparkSession, run: RunDirectory) -> None:
    """Try hyper-parameters out on validation ratings: tune/trials, a row each, and tune/best.toml.

    Test ratings are not looked at. Stopped and started again, the search goes on where it was.
    """
    settings = run.config.tune
    with run.step("tune") as facts:
        refuse_unused_features(run.config.train)
        train, validation = (run.ratings(spark, part) for part in ("train", "validation"))
        if validation.isEmpty():
            raise DataError(
                "there are no validation ratings to judge trials by; pass --set "
                "split.validation=0.1 --set run.overwrite=true to the ingest job"
            )
        ratings = persist(mark_validation(train, validation, IS_VALIDATION))
        done = _done(run)
        if done:
            logger.info("%d trials are there already", len(done))
        found = run.ingested()
        per_row = found.split["train"] / (found.users * found.items) ** 0.5
        search = Search(settings, per_row, list(done))
        for number in range(len(done), settings.trials):
            row = _trial(spark, run, number, search, ratings)
            _write(run, row)
            done.append(row)
            logger.info("trial %d of %d: %s", number + 1, settings.trials, _said(row))
        unpersist(ratings)
        best = _best(done)
        files.write_text(run.of("tune/best.toml"), best_config(run.config, best))
        facts |= {"trials": len(done), "validation_rmse": best.validation_rmse}
    print(f"\nBest of {len(done)} trials: {_said(best)}")
    print(f"Configuration: {run.of('tune/best.toml')}")


def _trial(
    spark: SparkSession, run: RunDirectory, number: int, search: Search, ratings: DataFrame
) -> TrialRow:
    """Fit what the search asks for, first for some iterations; a failure is a row like others."""
    asked, chosen = search.ask()
    row: dict[str, Any] = {
        "number": number, "fingerprint": run.identity("ratings"), **chosen, "state": "failed",
        "validation_rmse": None, "first_rmse": None, "iterations": None, "seconds": 0.0,
    }  # fmt: skip
    started = time.perf_counter()
    try:
        kind = str(chosen["model"])
        section = getattr(run.config, kind)
        own = section.model_copy(
            update={
                name: value
                for name, value in chosen.items()
                if value is not None and name != "model"
            }
        )
        features = features_of_run(spark, run, ratings) if kind == "bayes" else {}
        first = max(2, round(_FIRST_LOOK * own.max_iter))
        short = own.model_copy(update={"max_iter": first})
        if kind == "bayes":
            short = short.model_copy(update={"burn_in": min(own.burn_in, first // 2)})
        model = make_estimator(kind, short, IS_VALIDATION, features).fit(ratings)
        row["first_rmse"] = validation_rmse(model)
        if search.is_hopeless(asked, row["first_rmse"]):
            row |= {"state": "pruned", "iterations": model.metadata.best_iteration}
        else:
            model = make_estimator(kind, own, IS_VALIDATION, features).fit(ratings)
            row |= {
                "state": "complete",
                "validation_rmse": validation_rmse(model),
                "iterations": model.metadata.best_iteration,
            }
    except Exception as error:
        logger.debug("trial %d failed", number + 1, exc_info=True)
        row["reason"] = one_line(error)
    row["seconds"] = time.perf_counter() - started
    search.tell(asked, row["validation_rmse"], row["state"] == "pruned")
    return TrialRow(**row)


def validation_rmse(model: FactorModel) -> float:
    """Of the iteration that is kept, as its history has it."""
    history: Any = model.history.toPandas()
    known = history[history["iteration"] <= model.metadata.best_iteration]
    errors = known.dropna(subset="validation_rmse").sort_values("iteration")["validation_rmse"]
    return float(errors.iloc[-1]) if len(errors) else float("nan")


def best_config(config: Config, best: TrialRow) -> str:
    """``config`` with the hyper-parameters of a trial, as TOML that all jobs take."""
    content = config.model_dump(mode="json", exclude_unset=True, exclude_none=True)
    chosen = best.model_dump(include={"rank", "reg_param", "bias_reg_param", "reg_exponent"})
    section = content.setdefault(best.model, {})
    section |= {name: value for name, value in chosen.items() if value is not None}
    content.setdefault("train", {})["model"] = best.model
    content.pop("tune", None)
    # Comes with Optuna's extra, which the search has asked for.
    import tomli_w

    text: str = tomli_w.dumps(content)
    return text


def _done(run: RunDirectory) -> list[TrialRow]:
    """Trials of an earlier search of the same ratings, by number."""
    folder = run.of("tune/trials")
    if not files.exists(folder):
        return []
    rows = files.read_pandas(folder).sort_values("number")
    known = rows.astype(object).where(rows.notna(), None).to_dict("records")
    found = [TrialRow(**row) for row in known]
    if any(row.fingerprint != run.identity("ratings") for row in found):
        if run.config.run.overwrite:
            files.remove(folder)
            return []
        raise DataError(
            f"{folder} has trials of other ratings than {run.of('ratings')} holds now; pass --set "
            "run.overwrite=true to begin again, or --set run.name=NAME for another folder"
        )
    return found


def _write(run: RunDirectory, row: TrialRow) -> None:
    """The row as a file of its own, which appears whole: a search may be stopped at any time."""
    sink = io.BytesIO()
    table = pd.DataFrame([row.model_dump()]).astype(
        {"reg_param": float, "bias_reg_param": float, "reg_exponent": float,
         "validation_rmse": float, "first_rmse": float, "iterations": "Int64",
         "fingerprint": "string", "reason": "string"}
    )  # fmt: skip
    table.to_parquet(sink)
    files.write_bytes(run.of(f"tune/trials/trial-{row.number:05d}.parquet"), sink.getvalue())


def _best(rows: list[TrialRow]) -> TrialRow:
    complete = [
        row for row in rows
        if row.validation_rmse is not None and np.isfinite(row.validation_rmse)
    ]  # fmt: skip
    if not complete:
        reasons = {row.reason for row in rows if row.reason}
        raise DataError(f"no trial came to an end: {'; '.join(sorted(reasons)) or 'none was run'}")
    return min(complete, key=lambda row: float(row.validation_rmse or np.inf))


def _said(row: TrialRow) -> str:
    numbers = {"λ": row.reg_param, "λ_b": row.bias_reg_param, "ν": row.reg_exponent}
    shown = ", ".join(f"{name} {value:.3g}" for name, value in numbers.items() if value is not None)
    what = f"{row.model}, rank {row.rank}{', ' if shown else ''}{shown}"
    if row.state == "complete":
        return f"{what}: validation RMSE {row.validation_rmse:.4f}"
    return f"{what}: {row.state}{f' ({row.reason})' if row.reason else ''}"
