"""Neighbourhood methods: what similar items (or similar users) say about a rating."""

from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
from pyspark.ml.base import Estimator, Model
from pyspark.ml.util import DefaultParamsReadable, DefaultParamsWritable
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql.pandas.functions import arrow_udf
from typing_extensions import Unpack

from mfspark import files
from mfspark.columns import ITEM, RATING, USER, Side
from mfspark.engine.cells import values
from mfspark.engine.find_neighbours import Nearest, Neighbourhood, find_neighbours
from mfspark.engine.workspace import materialised
from mfspark.kernels.arrays import Int64s
from mfspark.kernels.neighbours import Lists, corrections
from mfspark.models.baselines import BiasOnly
from mfspark.models.factor_model import FactorModel
from mfspark.models.factorisation import select_ratings
from mfspark.models.frames import FitsFrames, TransformsFrames
from mfspark.models.knn_storage import KNNTables, read_knn_tables, write_knn_tables
from mfspark.models.params import FactorModelParams, KNNArguments, KNNParams
from mfspark.models.persistence import Persistent, set_stored_params
from mfspark.persisted import unpersist
from mfspark.settings import KNNSettings

_BASE = "_base"


class KNNModel(TransformsFrames, Model, FactorModelParams, Persistent):
    """r̂(u, i) = base + Σ_j s_ij (r_uj − base_uj) / (δ + Σ_j s_ij) over the k nearest neighbours j
    that were rated.

    (Items as neighbours; with users it is the mirror image.) ``neighbourhood`` has the similarities
    and the deviations r − base. The base is μ + b_u + b_i from ``biases``, or with ``means`` the
    mean rating of the item (user). Where no neighbour was rated the prediction is the base.
    """

    def __init__(
        self, neighbourhood: Neighbourhood, biases: FactorModel, side: Side, k: int,
        neighbour_damping: float, means: DataFrame | None,
    ) -> None:  # fmt: skip
        super().__init__()
        self.neighbourhood, self.biases, self.side, self.k = neighbourhood, biases, side, k
        self.neighbour_damping, self.means = neighbour_damping, means

    @property
    def n_parameters(self) -> int:
        """Numbers in the model: neighbours and similarities, what was rated and how, biases."""
        n = self.biases.n_parameters
        for table, column in (
            (self.neighbourhood.neighbours, "neighbours"),
            (self.neighbourhood.rated, "positions"),
        ):
            # Two lists of four bytes for each number.
            row = table.agg(F.sum(F.octet_length(column)) / 2).first()
            n += int(row[0] or 0) if row is not None else 0
        return n

    def unpersist(self) -> "KNNModel":
        """Free the memory of executors that the tables take; the next use fetches them again."""
        tables = [self.neighbourhood.neighbours, self.neighbourhood.rated]
        for table in tables if self.means is None else [*tables, self.means]:
            unpersist(table)
        self.biases.unpersist()
        return self

    def save(self, path: str, overwrite: bool = False) -> None:
        """Write the model directory ``path``: neighbours, rated, means and biases, and knn.json.

        It appears whole or not at all; ``OutputExistsError`` when it exists and ``overwrite`` is
        false.
        """
        with files.staged_directory(path, overwrite) as stage:
            self.write_content(stage)

    def write_content(self, directory: str) -> None:
        """See ``Persistent``."""
        params = {param.name: value for param, value in self.extractParamMap().items()}
        tables = KNNTables(
            self.neighbourhood, self.means, self.side, self.k, self.neighbour_damping, params
        )
        write_knn_tables(tables, directory)
        self.biases.save(f"{directory}/biases")

    @classmethod
    def read_content(cls, path: str) -> "KNNModel":
        """See ``Persistent``."""
        saved = read_knn_tables(path)
        biases = FactorModel.load(f"{path}/biases")
        model = cls(
            saved.neighbourhood, biases, saved.side, saved.k, saved.neighbour_damping, saved.means
        )
        set_stored_params(model, saved.params, path)
        return model

    @property
    def sparkSession(self) -> SparkSession:
        """The session that holds the tables."""
        return self.biases.sparkSession

    def _transform(self, dataset: DataFrame) -> DataFrame:
        """The base of every pair, and the weighted deviations of its nearest rated neighbours."""
        columns = {USER: self.getOrDefault(self.userCol), ITEM: self.getOrDefault(self.itemCol)}
        prediction = self.getOrDefault(self.predictionCol)
        based = self.biases.copy(
            {
                self.biases.userCol: columns[USER],
                self.biases.itemCol: columns[ITEM],
                self.biases.predictionCol: _BASE,
                self.biases.coldStartStrategy: self.getOrDefault(self.coldStartStrategy),
                self.biases.clipPredictions: False,
            }
        ).transform(dataset)
        tables = [
            (self.neighbourhood.neighbours, self.side),
            (self.neighbourhood.rated, self.side.other),
        ]
        if self.means is not None:
            tables.append((self.means, self.side))
        joined = based
        for table, side in tables:
            renamed = table.withColumnRenamed(side, f"_{side}")
            joined = joined.join(
                renamed, joined[columns[side]] == renamed[f"_{side}"], "left"
            ).drop(f"_{side}")
        base = F.col(_BASE)
        if self.means is not None:
            # What is cold goes by the strategy, as the biases know it.
            base = F.when(F.isnan(base), base).otherwise(F.coalesce("mean", base))
        found = base + _correction(self.k, self.neighbour_damping)(
            "neighbours", "similarities", "positions", "deviations"
        )
        if self.getOrDefault(self.clipPredictions):
            low, high = self.biases.metadata.rating_scale
            found = F.when(F.isnan(found), found).otherwise(
                F.least(F.greatest(found, F.lit(low)), F.lit(high))
            )
        kept = [name for name in dataset.columns if name != prediction]
        return joined.select(*kept, found.alias(prediction))


def _correction(k: int, damping: float) -> Any:
    def correct(
        neighbours: pa.Array, similarities: pa.Array, positions: pa.Array, deviations: pa.Array
    ) -> pa.Array:
        own = _lists(neighbours, similarities)
        return pa.array(corrections(own, _lists(positions, deviations), k, damping))

    return arrow_udf(correct, "double")  # type: ignore[call-overload]


def _lists(numbers: pa.Array, beside: pa.Array) -> Lists:
    """Lists of a batch from binary columns; null is an empty list."""
    parts = values(numbers)
    lengths = np.array([len(part) // 4 for part in parts], np.int64)
    starts: Int64s = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    flat = b"".join(memoryview(part) for part in parts)
    others = b"".join(memoryview(part) for part in values(beside))
    return Lists(starts, np.frombuffer(flat, np.int32), np.frombuffer(others, np.float32))


class _KNN(
    FitsFrames, Estimator[KNNModel], KNNParams, DefaultParamsReadable["_KNN"], DefaultParamsWritable
):
    side: ClassVar[Side]

    def __init__(self, **arguments: Unpack[KNNArguments]) -> None:
        super().__init__()
        self.set_params(arguments)

    def _fit(self, dataset: DataFrame) -> KNNModel:
        """Biases or means first; then neighbours by what is compared, and what each id rated."""
        settings = self.settings()
        assert isinstance(settings, KNNSettings)
        ratings = select_ratings(dataset, settings)
        biases = BiasOnly(damping=settings.damping).fit(ratings)
        rating = F.col(RATING).cast("double")
        based = biases.copy({biases.predictionCol: _BASE}).transform(ratings)
        means = None
        base = F.col(_BASE)
        if settings.centring == "mean":
            means = ratings.groupBy(self.side).agg(F.avg(rating).alias("mean"))
            means = materialised(means, 16 * biases.metadata.n_ratings)
            based = based.join(means, self.side)
            base = F.col("mean")
        compared = rating - F.col(_BASE) if settings.similarity == "pearson_baseline" else rating
        compared_ratings = based.select(
            USER,
            ITEM,
            (rating - base).cast("float").alias("deviation"),
            compared.cast("float").alias("compared"),
        )
        nearest = Nearest(
            settings.n_stored,
            settings.similarity == "pearson",
            settings.shrinkage,
            settings.min_support,
        )
        found = find_neighbours(compared_ratings, self.side, nearest)
        return self._copyValues(
            KNNModel(found, biases, self.side, settings.k, settings.neighbour_damping, means)
        )


class ItemKNN(_KNN):
    """Predicts from what the user thinks of similar items (Koren 2010, section 2.2)."""

    side = ITEM


class UserKNN(_KNN):
    """Predicts from what similar users think of the item."""

    side = USER
