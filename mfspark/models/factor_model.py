"""``FactorModel``: factor tables with what one does with them."""

from typing import Any

from pyspark.ml.base import Model
from pyspark.ml.param import Param
from pyspark.ml.util import MLReadable, MLWritable
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql.types import StringType

from mfspark.columns import BIAS, FACTORS, ITEM, RATING, USER
from mfspark.errors import DataError
from mfspark.models.matching import Matching, best_matches
from mfspark.models.metadata import ModelMetadata
from mfspark.models.params import FactorModelParams
from mfspark.models.prediction import Scoring, add_predictions
from mfspark.models.storage import FactorModelReader, FactorModelWriter, load_model, save_model


class FactorModel(Model, FactorModelParams, MLWritable, MLReadable["FactorModel"]):
    """r̂(u, i) = μ + b_u + b_i + p_u·q_i, as two tables.

    ``user_factors``: user, n_ratings long, bias float, factors array<float>; ``item_factors`` the
    same with item. ``history``: one row per half-step (iteration, side, objective, train_rmse,
    validation_rmse, seconds, bytes). ``metadata``: μ, rating scale, hyper-parameters, rotation.
    """

    def __init__(
        self,
        user_factors: DataFrame,
        item_factors: DataFrame,
        history: DataFrame,
        metadata: ModelMetadata,
    ) -> None:
        super().__init__()
        self.user_factors = user_factors
        self.item_factors = item_factors
        self.history = history
        self.metadata = metadata

    @property
    def rank(self) -> int:
        """Number of factors per user and item."""
        return self.metadata.rank

    @property
    def global_mean(self) -> float:
        """μ, the mean of the training ratings (0 when biases were not fitted)."""
        return self.metadata.global_mean

    @property
    def n_parameters(self) -> int:
        """Numbers in the model: factors and biases of all users and items, and μ."""
        return (self.rank + 1) * (self.metadata.n_users + self.metadata.n_items) + 1

    @property
    def userFactors(self) -> DataFrame:
        """``user_factors`` under the name that ``pyspark.ml`` gives it."""
        return self.user_factors

    @property
    def itemFactors(self) -> DataFrame:
        """``item_factors`` under the name that ``pyspark.ml`` gives it."""
        return self.item_factors

    @property
    def sparkSession(self) -> SparkSession:
        """The session that holds the tables."""
        return self.user_factors.sparkSession

    def setParams(self, **arguments: Any) -> "FactorModel":
        """Set userCol, itemCol, predictionCol, coldStartStrategy or clipPredictions."""
        for name in arguments:
            if not self.hasParam(name):
                raise TypeError(f"FactorModel has no parameter {name!r}")
        self._set(**arguments)
        return self

    def copy(self, extra: dict[Param[Any], Any] | None = None) -> "FactorModel":
        """The same tables under Params of its own, with those of ``extra`` on top."""
        return super().copy(extra)

    def _transform(self, dataset: DataFrame) -> DataFrame:
        """Add the prediction (double) to every row; ids absent from training go by the strategy."""
        user, item = self.getOrDefault(self.userCol), self.getOrDefault(self.itemCol)
        self._check_ids(dataset, user, self.user_factors, USER)
        self._check_ids(dataset, item, self.item_factors, ITEM)
        scoring = Scoring(
            user=user,
            item=item,
            prediction=self.getOrDefault(self.predictionCol),
            rank=self.rank,
            mean=self.global_mean,
            cold_start=self.getOrDefault(self.coldStartStrategy),
            limits=self.metadata.rating_scale if self.getOrDefault(self.clipPredictions) else None,
        )
        n_rows = self.metadata.n_users + self.metadata.n_items
        return add_predictions(dataset, self.user_factors, self.item_factors, scoring, n_rows)

    def _check_ids(self, dataset: DataFrame, column: str, table: DataFrame, side: str) -> None:
        if column not in dataset.columns:
            raise DataError(
                f"there is no column {column!r} among {', '.join(dataset.columns)}; "
                f"set {side}Col to the right one"
            )
        ours, theirs = table.schema[side].dataType, dataset.schema[column].dataType
        if isinstance(ours, StringType) != isinstance(theirs, StringType):
            raise DataError(
                f"column {column!r} has type {theirs.simpleString()}, but the model was trained on "
                f"{side} ids of type {ours.simpleString()}: no id would match; cast the column"
            )

    def recommendForAllUsers(self, numItems: int, seen: DataFrame | None = None) -> DataFrame:
        """Best items for every user: user, recommendations array<struct<item, rating float>>.

        Pairs in ``seen`` (columns user and item, such as the training ratings) are left out.
        """
        return self._recommend(self.user_factors, self.item_factors, numItems, seen)

    def recommendForAllItems(self, numUsers: int, seen: DataFrame | None = None) -> DataFrame:
        """Best users for every item: item, recommendations array<struct<user, rating float>>."""
        return self._recommend(self.item_factors, self.user_factors, numUsers, seen)

    def recommendForUserSubset(
        self, dataset: DataFrame, numItems: int, seen: DataFrame | None = None
    ) -> DataFrame:
        """Best items for the users in ``dataset``; users absent from training get no row."""
        column = self.getOrDefault(self.userCol)
        self._check_ids(dataset, column, self.user_factors, USER)
        chosen = self.user_factors.join(dataset.select(F.col(column).alias(USER)), USER, "semi")
        return self._recommend(chosen, self.item_factors, numItems, seen)

    def recommendForItemSubset(
        self, dataset: DataFrame, numUsers: int, seen: DataFrame | None = None
    ) -> DataFrame:
        """Best users for the items in ``dataset``; items absent from training get no row."""
        column = self.getOrDefault(self.itemCol)
        self._check_ids(dataset, column, self.item_factors, ITEM)
        chosen = self.item_factors.join(dataset.select(F.col(column).alias(ITEM)), ITEM, "semi")
        return self._recommend(chosen, self.user_factors, numUsers, seen)

    def similarItems(self, items: DataFrame, n: int, among: DataFrame | None = None) -> DataFrame:
        """Nearest items by the cosine of their factors, for the items in column ``item``.

        ``among`` (column item) limits the neighbours, say to items with enough ratings. Returns
        item, recommendations array<struct<similar_item, similarity float>>, never the item itself.
        """
        chosen = self.item_factors.join(items.select(ITEM), ITEM, "semi")
        # The item's nearest neighbour is itself: it is excluded as a pair of a query and itself.
        allowed = self.item_factors
        if among is not None:
            allowed = allowed.join(among.select(ITEM), ITEM, "semi")
        candidates = allowed.withColumnRenamed(ITEM, "similar_item")
        itself = chosen.select(ITEM, F.col(ITEM).alias("similar_item"))
        matching = Matching(n, self.rank, cosine=True)
        return best_matches(
            chosen.select(ITEM, BIAS, FACTORS),
            candidates.select("similar_item", BIAS, FACTORS),
            matching,
            "similarity",
            itself,
        )

    def _recommend(
        self, queries: DataFrame, candidates: DataFrame, n: int, seen: DataFrame | None
    ) -> DataFrame:
        matching = Matching(n, self.rank, offset=self.global_mean)
        sides = [table.columns[0] for table in (queries, candidates)]
        if seen is not None:
            own = {USER: self.getOrDefault(self.userCol), ITEM: self.getOrDefault(self.itemCol)}
            seen = seen.select(*[F.col(own[side]).alias(side) for side in sides])
        return best_matches(queries, candidates, matching, RATING, seen)

    def unpersist(self) -> "FactorModel":
        """Free the memory of executors that the tables take; the next use fetches them again."""
        self.user_factors.unpersist()
        self.item_factors.unpersist()
        return self

    def save(self, path: str, overwrite: bool = False) -> None:
        """Write the model directory ``path`` (Parquet tables and metadata.json).

        It appears whole or not at all; ``OutputExistsError`` when it exists and ``overwrite`` is
        false.
        """
        save_model(self, path, overwrite)

    def write(self) -> FactorModelWriter:
        """Writer for ``pyspark.ml`` pipelines."""
        return FactorModelWriter(self)

    @classmethod
    def read(cls) -> FactorModelReader:
        """Reader for ``pyspark.ml`` pipelines."""
        return FactorModelReader()

    @classmethod
    def load(cls, path: str) -> "FactorModel":
        """Read a model directory; ``ModelFormatError`` says what is wrong with it."""
        model = cls(*load_model(SparkSession.active(), path))
        known = {param.name for param in model.params}
        return model.setParams(
            **{
                name: value
                for name, value in model.metadata.hyper_parameters.items()
                if name in known
            }
        )
