"""One model on one fold: fitted, timed, its predictions written; a failure ends it alone."""

import logging
import math
import time
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from mfspark import files
from mfspark.app.config import BlendSettings
from mfspark.app.estimators import Contender, make_estimator
from mfspark.app.memory import Memory, watch_memory
from mfspark.app.package_estimator import PackageModel
from mfspark.columns import IS_VALIDATION, ITEM, RATING, USER, Side
from mfspark.errors import DataError, one_line
from mfspark.evaluation.blend import fit_blend
from mfspark.models.baselines import MeanModel
from mfspark.models.factor_model import FactorModel
from mfspark.models.knn import KNNModel

logger = logging.getLogger("mfspark")

VALIDATION, TEST, CANDIDATES = "validation", "test", "candidates"
_PREDICTED = "predicted"
# Kinds that learn from validation ratings when to stop, and have a history.
_ITERATIVE = "als", "sgd", "bayes"


@dataclass(frozen=True)
class Fold:
    """Ratings to fit (user, item, rating, is_validation), features by side, and what to predict:
    the test part, and the validation part where there is one; and of the first fold candidates of
    lists (user, item)."""

    number: int
    ratings: DataFrame
    features: dict[Side, DataFrame]
    parts: dict[str, DataFrame]
    candidates: DataFrame | None


@dataclass
class Entry:
    """What is known of a contender so far; figures by fold."""

    contender: Contender
    members: tuple["Entry", ...] = ()
    reason: str | None = None
    fit_seconds: list[float] = field(default_factory=list)
    predict_seconds: list[float] = field(default_factory=list)
    parameters: list[float] = field(default_factory=list)
    memory: list[Memory] = field(default_factory=list)
    # Rows of the tables of curves and of weights.
    curves: list[tuple[Any, ...]] = field(default_factory=list)
    weights: list[tuple[Any, ...]] = field(default_factory=list)

    @property
    def name(self) -> str:
        """What tables call it."""
        return self.contender.name

    def path(self, target: str, fold: int, part: str) -> str:
        """Where its predictions for a part of a fold are."""
        # Names may hold anything; as bytes they are safe in a path.
        return f"{target}/{self.name.encode().hex()}/{fold}/{part}"


def run_entry(entry: Entry, fold: Fold, target: str) -> None:
    """Fit and predict, into folders below ``target``; what goes wrong is noted as the reason."""
    try:
        (_run_blend if entry.contender.kind == "blend" else _run_model)(entry, fold, target)
    except Exception as error:
        entry.reason = one_line(error)
        logger.warning("%s failed: %s", entry.name, entry.reason)
        logger.debug("%s failed", entry.name, exc_info=True)


def warm_up(entry: Entry, ratings: DataFrame) -> None:
    """Fit to a few ratings, so that no clock runs while Spark and the kernels get warm."""
    logger.info("warm-up of %s", entry.name)
    try:
        model = _estimator(entry.contender, None, {}).fit(ratings)
        model.transform(ratings).write.format("noop").mode("overwrite").save()
    except Exception as error:
        # Perhaps for being so few ratings; whether it fails on all of them is seen later.
        logger.info("warm-up of %s failed: %s", entry.name, one_line(error))


def _estimator(
    contender: Contender, validation: str | None, features: dict[Side, DataFrame]
) -> Any:
    estimator = make_estimator(contender.kind, contender.settings, validation, features)
    extra: dict[Any, Any] = {estimator.getParam("predictionCol"): _PREDICTED}
    strategy = estimator.getParam("coldStartStrategy")
    if estimator.getOrDefault(strategy) == "drop":
        # Rows that a model drops could not be counted.
        extra[strategy] = "nan"
    return estimator.copy(extra)


def _run_model(entry: Entry, fold: Fold, target: str) -> None:
    """Fit and predict with one estimator, timed, and note what it cost."""
    started = time.perf_counter()
    with watch_memory() as memory:
        if entry.contender.kind in _ITERATIVE and VALIDATION in fold.parts:
            model = _estimator(entry.contender, IS_VALIDATION, fold.features).fit(fold.ratings)
        else:
            model = _estimator(entry.contender, None, fold.features).fit(train_of(fold))
    fitted = time.perf_counter()
    for part, rows in fold.parts.items():
        _write(entry, fold, part, model.transform(rows), target)
    entry.fit_seconds.append(fitted - started)
    entry.predict_seconds.append(time.perf_counter() - fitted)
    if fold.candidates is not None:
        # Candidates that are all clipped to the best rating could not be put in order.
        unclipped = model
        if model.hasParam("clipPredictions"):
            unclipped = model.copy({model.getParam("clipPredictions"): False})
        rows = fold.candidates.withColumn(RATING, F.lit(None).cast("double"))
        _write(entry, fold, CANDIDATES, unclipped.transform(rows), target)
    # What the libraries of other peers take is memory of this process, which is not looked at.
    entry.memory.append(Memory() if isinstance(model, PackageModel) else memory)
    entry.parameters.append(_n_parameters(model))
    if entry.contender.kind in _ITERATIVE:
        entry.curves += _curve(entry.name, fold.number, model)


def train_of(fold: Fold) -> DataFrame:
    """The training ratings of a fold."""
    return fold.ratings.where(~F.col(IS_VALIDATION)).drop(IS_VALIDATION)


def _write(entry: Entry, fold: Fold, part: str, predictions: DataFrame, target: str) -> None:
    table = predictions.select(
        F.lit(fold.number).alias("fold"),
        F.lit(entry.name).alias("predictor"),
        USER,
        ITEM,
        F.col(RATING).cast("double").alias(RATING),
        F.col(_PREDICTED).cast("double").alias(_PREDICTED),
    )
    files.write_parquet(table, entry.path(target, fold.number, part))


def _curve(name: str, fold: int, model: FactorModel) -> list[tuple[Any, ...]]:
    """RMSE after each pass over the ratings: a half-step of ALS, an epoch of SGD, half a sweep of
    the sampler, which is measured after some of them."""
    history: Any = model.history.toPandas()
    history = history.sort_values(["iteration", "side"], ascending=[True, False])
    part = VALIDATION if history["validation_rmse"].notna().any() else "train"
    passes = (2 if model.metadata.posterior else 1) * np.arange(1, len(history) + 1)
    rows = zip(passes, history["seconds"].cumsum(), history[f"{part}_rmse"], strict=True)
    return [
        (name, fold, int(number), float(seconds), part, float(rmse))
        for number, seconds, rmse in rows
        if not math.isnan(rmse)
    ]


def _n_parameters(model: Any) -> float:
    """Numbers that a model keeps of the ratings."""
    if isinstance(model, FactorModel | KNNModel | MeanModel | PackageModel):
        return float(model.n_parameters)
    return float(model.rank * sum(t.count() for t in (model.userFactors, model.itemFactors)))


def _run_blend(entry: Entry, fold: Fold, target: str) -> None:
    """Fit the blend to the validation predictions of its members, and blend those of the test
    rows."""
    settings = entry.contender.settings
    assert isinstance(settings, BlendSettings)
    alive = [member for member in entry.members if member.reason is None]
    if VALIDATION not in fold.parts:
        raise DataError("there are no validation ratings to fit a blend to; set split.validation")
    if not alive:
        raise DataError("all of its members failed")
    spark = fold.ratings.sparkSession
    started = time.perf_counter()

    def predictions(part: str) -> DataFrame:
        paths = [member.path(target, fold.number, part) for member in alive]
        return files.read_parquet(spark, *paths)

    blend = fit_blend(
        predictions(VALIDATION), [member.name for member in alive], settings.reg_param
    )
    fitted = time.perf_counter()
    for part in fold.parts:
        _write(entry, fold, part, blend.predict(predictions(part)), target)
    # To use a blend is to fit and to use its members.
    entry.fit_seconds.append(fitted - started + sum(m.fit_seconds[-1] for m in alive))
    own = time.perf_counter() - fitted
    if fold.candidates is not None:
        _write(entry, fold, CANDIDATES, blend.predict(predictions(CANDIDATES)), target)
    entry.predict_seconds.append(own + sum(m.predict_seconds[-1] for m in alive))
    entry.parameters.append(sum(m.parameters[-1] for m in alive) + len(alive) + 1)
    entry.weights += [
        (entry.name, fold.number, name, weight)
        for name, weight in {"intercept": blend.intercept, **blend.weights}.items()
    ]
