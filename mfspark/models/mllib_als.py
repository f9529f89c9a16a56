"""``ALS`` and ``ALSModel``: the interface and the objective of ``pyspark.ml.recommendation.ALS``.

Code that was written for that class changes one import line.
"""

import inspect
import logging
from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
from pyspark.ml.base import Estimator, Model
from pyspark.ml.recommendation import _ALSModelParams, _ALSParams
from pyspark.ml.util import (
    DefaultParamsReadable,
    DefaultParamsWritable,
)
from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql.types import IntegerType, IntegralType

from mfspark import files
from mfspark.algorithms.history import Learnt
from mfspark.algorithms.start import start_rows
from mfspark.columns import BIAS, FACTORS, ITEM, N_RATINGS, USER, Side
from mfspark.engine.factor_tables import table_bytes
from mfspark.engine.fit_als import fit_als
from mfspark.engine.packed import summarise
from mfspark.engine.phases import Phases
from mfspark.engine.training import Fit, objective_of, prepare
from mfspark.engine.workspace import materialised
from mfspark.errors import ConfigError, ModelFormatError
from mfspark.ids import column
from mfspark.models.factor_model import FactorModel
from mfspark.models.factorisation import model_of, select_ratings
from mfspark.models.frames import FitsFrames, TransformsFrames
from mfspark.models.persistence import Persistent
from mfspark.settings import ALSSettings, PredictorSettings

logger = logging.getLogger("mfspark")

# Params whose business the engine sees to by itself.
_WITHOUT_EFFECT = (
    "checkpointInterval",
    "blockSize",
    "intermediateStorageLevel",
    "finalStorageLevel",
    "alpha",
)
_COLD = {"nan", "drop"}


class _Setters:
    """``setName`` for the Params that ``pyspark.ml`` sets one by one."""

    def setUserCol(self, value: str) -> Any:
        """Set userCol."""
        return self._set(userCol=value)  # type: ignore[attr-defined]

    def setItemCol(self, value: str) -> Any:
        """Set itemCol."""
        return self._set(itemCol=value)  # type: ignore[attr-defined]

    def setPredictionCol(self, value: str) -> Any:
        """Set predictionCol."""
        return self._set(predictionCol=value)  # type: ignore[attr-defined]

    def setColdStartStrategy(self, value: str) -> Any:
        """Set coldStartStrategy: nan or drop, in any case of letters."""
        return self._set(coldStartStrategy=value)  # type: ignore[attr-defined]

    def setBlockSize(self, value: int) -> Any:
        """Set blockSize, which has no effect."""
        return self._set(blockSize=value)  # type: ignore[attr-defined]

    def _cold_start(self) -> str:
        found: str = self.getOrDefault("coldStartStrategy")  # type: ignore[attr-defined]
        if found.lower() not in _COLD:
            raise ConfigError(
                f"coldStartStrategy = {found!r} is not allowed: pairs with an id that is new are "
                "given nan or dropped; set it to nan or drop"
            )
        return found.lower()


class ALS(
    FitsFrames,
    _Setters,
    Estimator["ALSModel"],
    _ALSParams,
    DefaultParamsReadable["ALS"],
    DefaultParamsWritable,
):
    """``pyspark.ml.recommendation.ALS`` on the engine of mfspark: the same arguments, the same
    defaults, the same objective

        Σ (r − p_u·q_i)² + λ (Σ_u n_u |p_u|² + Σ_i n_i |q_i|²)

    (Zhou et al. 2008), without biases and without centring; for these, and for validation, early
    stopping and reports, see :class:`~mfspark.models.biased_als.BiasedALS`. Ids may also be
    strings or long. Implicit feedback and non-negative factors are refused. Params about
    checkpoints, storage levels and blocks of rows have no effect; numbers of blocks have one when
    they are set.
    """

    def __init__(
        self,
        rank: int = 10,
        maxIter: int = 10,
        regParam: float = 0.1,
        numUserBlocks: int = 10,
        numItemBlocks: int = 10,
        implicitPrefs: bool = False,
        alpha: float = 1.0,
        userCol: str = "user",
        itemCol: str = "item",
        seed: int | None = None,
        ratingCol: str = "rating",
        nonnegative: bool = False,
        checkpointInterval: int = 10,
        intermediateStorageLevel: str = "MEMORY_AND_DISK",
        finalStorageLevel: str = "MEMORY_AND_DISK",
        coldStartStrategy: str = "nan",
        blockSize: int = 4096,
    ) -> None:
        arguments = {name: value for name, value in locals().items() if name in _ARGUMENTS}
        super().__init__()
        self._set_given(arguments)

    def setParams(
        self,
        rank: int = 10,
        maxIter: int = 10,
        regParam: float = 0.1,
        numUserBlocks: int = 10,
        numItemBlocks: int = 10,
        implicitPrefs: bool = False,
        alpha: float = 1.0,
        userCol: str = "user",
        itemCol: str = "item",
        seed: int | None = None,
        ratingCol: str = "rating",
        nonnegative: bool = False,
        checkpointInterval: int = 10,
        intermediateStorageLevel: str = "MEMORY_AND_DISK",
        finalStorageLevel: str = "MEMORY_AND_DISK",
        coldStartStrategy: str = "nan",
        blockSize: int = 4096,
    ) -> "ALS":
        """Set Params; those that are left at their defaults keep the values they had."""
        self._set_given({name: value for name, value in locals().items() if name in _ARGUMENTS})
        return self

    def _set_given(self, arguments: dict[str, Any]) -> None:
        given = {name: value for name, value in arguments.items() if value != _ARGUMENTS[name]}
        self._set(**given)

    def setRank(self, value: int) -> "ALS":
        """Set rank."""
        return self._set(rank=value)

    def setMaxIter(self, value: int) -> "ALS":
        """Set maxIter; 0 leaves random factors."""
        return self._set(maxIter=value)

    def setRegParam(self, value: float) -> "ALS":
        """Set regParam, λ."""
        return self._set(regParam=value)

    def setNumUserBlocks(self, value: int) -> "ALS":
        """Set numUserBlocks, of a distributed fit."""
        return self._set(numUserBlocks=value)

    def setNumItemBlocks(self, value: int) -> "ALS":
        """Set numItemBlocks, of a distributed fit."""
        return self._set(numItemBlocks=value)

    def setNumBlocks(self, value: int) -> "ALS":
        """Set numUserBlocks and numItemBlocks."""
        return self._set(numUserBlocks=value, numItemBlocks=value)

    def setImplicitPrefs(self, value: bool) -> "ALS":
        """Set implicitPrefs; true is refused by ``fit``."""
        return self._set(implicitPrefs=value)

    def setAlpha(self, value: float) -> "ALS":
        """Set alpha, which has no effect."""
        return self._set(alpha=value)

    def setRatingCol(self, value: str) -> "ALS":
        """Set ratingCol; of an empty name every rating is 1."""
        return self._set(ratingCol=value)

    def setNonnegative(self, value: bool) -> "ALS":
        """Set nonnegative; true is refused by ``fit``."""
        return self._set(nonnegative=value)

    def setCheckpointInterval(self, value: int) -> "ALS":
        """Set checkpointInterval, which has no effect."""
        return self._set(checkpointInterval=value)

    def setIntermediateStorageLevel(self, value: str) -> "ALS":
        """Set intermediateStorageLevel, which has no effect."""
        return self._set(intermediateStorageLevel=value)

    def setFinalStorageLevel(self, value: str) -> "ALS":
        """Set finalStorageLevel, which has no effect."""
        return self._set(finalStorageLevel=value)

    def setSeed(self, value: int) -> "ALS":
        """Set seed."""
        return self._set(seed=value)

    def _fit(self, dataset: DataFrame) -> "ALSModel":
        """Fit with the objective of ``pyspark.ml``, on ids and Params as it has them."""
        self._refuse()
        rating_col = self.getRatingCol()
        if not rating_col:
            rating_col = "_rating"
            dataset = dataset.withColumn(rating_col, F.lit(1.0))
        columns = PredictorSettings(
            user_col=self.getUserCol(), item_col=self.getItemCol(), rating_col=rating_col
        )
        ratings = _with_int_ids(select_ratings(dataset, columns))
        n_blocks = {
            name: self.getOrDefault(name) if self.isSet(name) else None
            for name in ("numUserBlocks", "numItemBlocks")
        }
        settings = ALSSettings(
            **columns.model_dump(),
            rank=self.getRank(),
            max_iter=max(1, self.getMaxIter()),
            reg_param=self.getRegParam(),
            reg_exponent=1.0,
            fit_biases=False,
            tol=0.0,
            # The default seed of pyspark.ml is another in each process.
            seed=self.getSeed() if self.isSet(self.seed) else 0,
            num_user_blocks=n_blocks["numUserBlocks"],
            num_item_blocks=n_blocks["numItemBlocks"],
        )
        if self.getMaxIter() == 0:
            fit = _random_fit(ratings, settings)
        else:
            fit = fit_als(ratings, settings, scale=1.0)
        factors = model_of(fit, dataset, settings, settings.rank, type(self))
        model: ALSModel = self._copyValues(ALSModel(factors))
        return model._resetUid(self.uid)

    def _refuse(self) -> None:
        """``ConfigError`` for what is not there or out of bounds; a warning for what is idle."""
        self._cold_start()
        if self.getImplicitPrefs():
            raise ConfigError(
                "implicitPrefs = True is not there: mfspark fits explicit ratings only, and would "
                "take counts for them; use pyspark.ml.recommendation.ALS for implicit feedback"
            )
        if self.getNonnegative():
            raise ConfigError(
                "nonnegative = True is not there: factors of mfspark may have any sign; set it to "
                "False, or use pyspark.ml.recommendation.ALS"
            )
        for name, lowest in (("rank", 1), ("maxIter", 0), ("regParam", 0)):
            if not self.getOrDefault(name) >= lowest:
                raise ConfigError(
                    f"{name} = {self.getOrDefault(name)!r} is not allowed: it must be {lowest} or "
                    "more"
                )
        idle = [name for name in _WITHOUT_EFFECT if self.isSet(name)]
        if idle:
            logger.warning(
                "ALS: %s %s no effect here: the engine keeps and checkpoints by itself",
                ", ".join(idle),
                "has" if len(idle) == 1 else "have",
            )


_ARGUMENTS = {
    name: parameter.default
    for name, parameter in inspect.signature(ALS.setParams).parameters.items()
    if name != "self"
}


def _with_int_ids(ratings: DataFrame) -> DataFrame:
    """Ids as int where they are whole numbers, as those of ``pyspark.ml`` are; beyond, as long."""
    wide = [
        side
        for side in Side
        if isinstance(ratings.schema[side].dataType, IntegralType)
        and not isinstance(ratings.schema[side].dataType, IntegerType)
    ]
    if not wide:
        return ratings
    most = ratings.agg(*[F.max(F.abs(F.col(side).cast("long"))).alias(side) for side in wide])
    row = most.first()
    assert row is not None
    narrow = [side for side in wide if row[side] is None or row[side] < 2**31]
    return ratings.withColumns({side: F.col(side).cast("int") for side in narrow})


def _random_fit(ratings: DataFrame, settings: ALSSettings) -> Fit:
    """The factors that a fit starts from, of users and of items."""
    phases = Phases()
    objective = objective_of(settings)
    training = prepare(summarise(ratings), settings.rank, objective, known={}, scale=1.0)
    phases.end("prepare")
    tables = {}
    for side in Side:
        counted = ratings.groupBy(side).agg(F.count(F.lit(1)).alias(N_RATINGS))
        kind = ratings.schema[side].dataType.simpleString()
        table = counted.mapInArrow(
            partial(_random_rows, side=side, rank=settings.rank, seed=settings.seed),
            f"{side} {kind}, {N_RATINGS} long, {BIAS} float, {FACTORS} array<float>",
        )
        n_bytes = table_bytes(training.summary.n_ratings, settings.rank)
        tables[side] = materialised(table, n_bytes)
    n_rows = {side: table.count() for side, table in tables.items()}
    learnt = Learnt.without_passes(n_rows[USER], n_rows[ITEM], "max_iter")
    return training.fit(tables, learnt, phases)


def _random_rows(
    batches: Iterator[pa.RecordBatch], side: Side, rank: int, seed: int
) -> Iterator[pa.RecordBatch]:
    for batch in batches:
        rows = start_rows(batch.column(0), None, side, rank, seed)[:, :rank]
        ends = rank * np.arange(len(rows) + 1, dtype=np.int32)
        yield pa.RecordBatch.from_arrays(
            [
                *batch.columns,
                pa.array(np.zeros(len(rows), np.float32)),
                pa.ListArray.from_arrays(ends, rows.ravel()),
            ],
            names=[str(side), N_RATINGS, BIAS, FACTORS],
        )


class ALSModel(TransformsFrames, _Setters, Model, _ALSModelParams, Persistent):
    """What ``ALS.fit`` returns, with the interface of ``pyspark.ml.recommendation.ALSModel``.

    One made by ``ALSModel()`` is empty, as in pyspark.ml, and only good for ``load``.
    """

    def __init__(self, factor_model: FactorModel | None = None) -> None:
        super().__init__()
        self._factor_model = factor_model

    @property
    def factor_model(self) -> FactorModel:
        """The same as a :class:`FactorModel`, with history and metadata; ``ModelFormatError`` when
        the model is empty."""
        if self._factor_model is None:
            raise ModelFormatError(
                "ALSModel() has no factors; ALS(…).fit(ratings) and ALSModel.load(path) make one "
                "that has"
            )
        return self._factor_model

    @property
    def rank(self) -> int:
        """Number of factors."""
        return self.factor_model.rank

    @property
    def userFactors(self) -> DataFrame:
        """id, features array<float>."""
        return _id_and_features(self.factor_model.user_factors, USER)

    @property
    def itemFactors(self) -> DataFrame:
        """id, features array<float>."""
        return _id_and_features(self.factor_model.item_factors, ITEM)

    def unpersist(self) -> "ALSModel":
        """Free the memory of executors that the tables take; the next use fetches them again."""
        self.factor_model.unpersist()
        return self

    def _inner(self) -> FactorModel:
        """The factor model under the Params of this one."""
        inner = self.factor_model
        names = ("userCol", "itemCol", "predictionCol")
        values = {inner.getParam(name): self.getOrDefault(name) for name in names}
        return inner.copy({**values, inner.coldStartStrategy: self._cold_start()})

    def _transform(self, dataset: DataFrame) -> DataFrame:
        scored = self._inner().transform(dataset)
        name = self.getOrDefault(self.predictionCol)
        return scored.withColumn(name, column(name).cast("float")) if name else dataset

    def recommendForAllUsers(self, numItems: int) -> DataFrame:
        """Best items for every user: userCol, recommendations array<struct<itemCol, rating>>."""
        return self._inner().recommendForAllUsers(numItems, caution=0.0)

    def recommendForAllItems(self, numUsers: int) -> DataFrame:
        """Best users for every item: itemCol, recommendations array<struct<userCol, rating>>."""
        return self._inner().recommendForAllItems(numUsers, caution=0.0)

    def recommendForUserSubset(self, dataset: DataFrame, numItems: int) -> DataFrame:
        """Best items for the users in ``dataset``; users absent from training get no row."""
        return self._inner().recommendForUserSubset(dataset, numItems, caution=0.0)

    def recommendForItemSubset(self, dataset: DataFrame, numUsers: int) -> DataFrame:
        """Best users for the items in ``dataset``; items absent from training get no row."""
        return self._inner().recommendForItemSubset(dataset, numUsers, caution=0.0)

    has_own_params = False

    def write_content(self, directory: str) -> None:
        """See ``Persistent``."""
        self.factor_model.save(files.join(directory, "factors"))

    @classmethod
    def read_content(cls, path: str) -> "ALSModel":
        """See ``Persistent``."""
        return cls(FactorModel.load(files.join(path, "factors")))

    @property
    def sparkSession(self) -> SparkSession:
        """The session that holds the tables."""
        return self.factor_model.sparkSession


def _id_and_features(table: DataFrame, side: Side) -> DataFrame:
    features: Column = F.col(FACTORS)
    return table.select(F.col(side).alias("id"), features.alias("features"))
