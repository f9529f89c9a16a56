"""``FactorModel``: factor tables with what one does with them."""

from collections.abc import Mapping
from typing import Any
from urllib.parse import unquote

import numpy as np
from pyspark.ml.base import Model
from pyspark.ml.param import Param
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql.types import IntegralType, StringType

from mfspark import files
from mfspark.columns import BIAS, COLD_BIAS, DRAWS, FACTORS, ITEM, N_RATINGS, RATING, USER, Side
from mfspark.engine.workspace import materialised
from mfspark.errors import ConfigError, DataError
from mfspark.ids import column, require_column, whole
from mfspark.models.drawn_fold_in import cold_biases, drawn_fold_in_of
from mfspark.models.factor_storage import FactorTables, read_factor_tables, write_factor_tables
from mfspark.models.fold_in import RowSolver, fold_in, fold_in_of
from mfspark.models.frames import TransformsFrames, spark_frame
from mfspark.models.local_model import LocalModel
from mfspark.models.matching import Matching, best_matches
from mfspark.models.metadata import LEAST_DRAWS, ModelMetadata
from mfspark.models.params import BayesianMFParams, FactorModelParams
from mfspark.models.persistence import Persistent, set_stored_params
from mfspark.models.prediction import Scoring, Spreading, add_predictions
from mfspark.models.similar import Nearest, evidence_of, nearest_rows
from mfspark.models.uncertainty import less_uncertainty
from mfspark.persisted import persist, unpersist
from mfspark.settings import CAUTION, MIN_AGREEMENT, FactorModelSettings

# New rows whose ids go to where the old ones are; more are brought together by a shuffle.
_MOST_BROADCAST_IDS = 1_000_000


class FactorModel(TransformsFrames, Model, FactorModelParams, Persistent):
    """r̂(u, i) = μ + b_u + b_i + p_u·q_i, as two tables.

    ``user_factors``: user, n_ratings long, bias float, factors array<float>; ``item_factors`` the
    same with item. Models of fits in which rows have features, given or implicit, have another
    column cold_bias float, which takes the place of the bias in pairs whose other id has no
    rating. ``history``: one row per half-step (iteration, side, objective, train_rmse,
    validation_rmse, seconds, bytes). ``metadata``: μ, rating scale, hyper-parameters, rotation.
    ``draws``: of models that ``BayesianMF`` made a table by side: the id, and ``draws``
    array<float>, for each stored draw its factors and its bias. ``phases``: seconds of the fit (of
    the second one, with ``refit``) by phase, see :mod:`mfspark.engine.phases`; not saved. Ids of
    which the fit knew features alone have ``n_ratings`` 0; they count as known with the
    ``coldStartStrategy`` features.
    """

    settings_type = FactorModelSettings

    predictionStdCol: Param[str] = BayesianMFParams.predictionStdCol

    def __init__(
        self,
        user_factors: DataFrame,
        item_factors: DataFrame,
        history: DataFrame,
        metadata: ModelMetadata,
        draws: dict[Side, DataFrame] | None = None,
        phases: Mapping[str, float] | None = None,
    ) -> None:
        super().__init__()
        self.user_factors = user_factors
        self.item_factors = item_factors
        self.history = history
        self.metadata = metadata
        self.draws = draws or {}
        self.phases = phases or {}

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
        per_row = self.rank + len({BIAS, COLD_BIAS} & set(self.user_factors.columns))
        return per_row * sum(self.metadata.n_rows(side) for side in Side) + 1

    @property
    def userFactors(self) -> DataFrame:
        """``user_factors`` with the id in the column ``userCol``."""
        return self.user_factors.withColumnRenamed(USER, self.getOrDefault(self.userCol))

    @property
    def itemFactors(self) -> DataFrame:
        """``item_factors`` with the id in the column ``itemCol``."""
        return self.item_factors.withColumnRenamed(ITEM, self.getOrDefault(self.itemCol))

    @property
    def sparkSession(self) -> SparkSession:
        """The session that holds the tables."""
        return self.user_factors.sparkSession

    def setParams(self, **arguments: Any) -> "FactorModel":
        """Set userCol, itemCol, predictionCol, coldStartStrategy or clipPredictions."""
        self.set_params(arguments)
        return self

    def copy(self, extra: dict[Param[Any], Any] | None = None) -> "FactorModel":
        """The same tables under Params of its own, with those of ``extra`` on top."""
        return super().copy(extra)

    def _transform(self, dataset: DataFrame) -> DataFrame:
        """Add the prediction (double) to every row; ids absent from training go by the strategy."""
        self.settings()
        names = {USER: self.getOrDefault(self.userCol), ITEM: self.getOrDefault(self.itemCol)}
        added = []
        for side, table in ((USER, self.user_factors), (ITEM, self.item_factors)):
            self._check_ids(dataset, names[side], table, side)
            if not isinstance(dataset.schema[names[side]].dataType, StringType | IntegralType):
                # Doubles and decimals; one that is no whole number is nobody's id.
                added.append(f"_{side}_as_long")
                dataset = dataset.withColumn(added[-1], whole(column(names[side])))
                names[side] = added[-1]
        scoring = Scoring(
            user=names[USER],
            item=names[ITEM],
            prediction=self.getOrDefault(self.predictionCol),
            rank=self.rank,
            mean=self.global_mean,
            cold_start=self.getOrDefault(self.coldStartStrategy),
            has_cold_biases=COLD_BIAS in self.user_factors.columns,
            limits=self._limits(),
            spreading=self._spreading(),
        )
        n_rows = sum(self.metadata.n_rows(side) for side in Side)
        users, items = self._known(USER), self._known(ITEM)
        if scoring.spreading is not None:
            users, items = users.join(self.draws[USER], USER), items.join(self.draws[ITEM], ITEM)
        scored = add_predictions(dataset, users, items, scoring, n_rows)
        return scored.drop(*added)

    def _limits(self) -> tuple[float, float] | None:
        """What predictions are clipped to."""
        return self.metadata.rating_scale if self.getOrDefault(self.clipPredictions) else None

    def _known(self, side: Side) -> DataFrame:
        """The rows of a side that count as known."""
        table = self.user_factors if side == USER else self.item_factors
        by_features = self.getOrDefault(self.coldStartStrategy) == "features"
        if by_features or not self.metadata.n_unrated(side):
            return table
        return table.where(F.col(N_RATINGS) > 0)

    @property
    def has_spread(self) -> bool:
        """Whether there are enough stored draws for ``predictionStdCol``."""
        facts = self.metadata.posterior
        return facts is not None and facts.n_draws >= LEAST_DRAWS

    def _spreading(self) -> Spreading | None:
        """What standard deviations are made of, if they are wanted."""
        column_name = self.getOrDefault(self.predictionStdCol)
        if column_name is None:
            return None
        if column_name == self.getOrDefault(self.predictionCol):
            raise ConfigError(
                f"predictionStdCol and predictionCol are both {column_name!r}, so one would "
                "replace the other; name them apart"
            )
        facts = self.metadata.posterior
        if facts is None or not self.has_spread:
            raise ConfigError(
                f"predictionStdCol = {column_name!r} needs a model with {LEAST_DRAWS} stored "
                f"draws or more, but this one of {self.metadata.algorithm} has "
                f"{0 if facts is None else facts.n_draws}; fit by BayesianMF with keepDraws = 8, "
                "or unset predictionStdCol"
            )
        return Spreading(column_name, facts.n_draws, facts.noise, facts.cold_user, facts.cold_item)

    def _check_ids(self, dataset: DataFrame, name: str, table: DataFrame, side: Side) -> None:
        require_column(dataset, name, f"{side}Col")
        ours, theirs = table.schema[side].dataType, dataset.schema[name].dataType
        if isinstance(ours, StringType) != isinstance(theirs, StringType):
            raise DataError(
                f"column {name!r} has type {theirs.simpleString()}, but the model was trained on "
                f"{side} ids of type {ours.simpleString()}: no id would match; cast the column"
            )

    def recommendForAllUsers(
        self,
        numItems: int,
        seen: DataFrame | None = None,
        minRatings: int = 0,
        caution: float = CAUTION,
    ) -> DataFrame:
        """Best items for every user: userCol, recommendations array<struct<itemCol, rating float>>.

        ``rating`` is a lower bound, by which the lists are ordered: the prediction less ``caution``
        standard deviations of what is not known of the item for want of ratings (see
        :mod:`mfspark.models.uncertainty`), within the range of the ratings when predictions are
        clipped; with ``caution`` 0 it is the prediction. Otherwise items that two people liked
        would be on everybody's list. ``minRatings`` leaves out items with fewer. Pairs in ``seen``
        (columns userCol and itemCol, such as the training ratings) are left out.
        """
        return self._recommend(self._known(USER), numItems, seen, minRatings, caution)

    def recommendForAllItems(
        self,
        numUsers: int,
        seen: DataFrame | None = None,
        minRatings: int = 0,
        caution: float = CAUTION,
    ) -> DataFrame:
        """Best users for every item: itemCol, recommendations array<struct<userCol, rating float>>.

        Arguments as in ``recommendForAllUsers``, with items and users in each other's place.
        """
        return self._recommend(self._known(ITEM), numUsers, seen, minRatings, caution)

    def recommendForUserSubset(
        self,
        dataset: DataFrame,
        numItems: int,
        seen: DataFrame | None = None,
        minRatings: int = 0,
        caution: float = CAUTION,
    ) -> DataFrame:
        """Best items for the users in ``dataset``; users absent from training get no row.

        Other arguments as in ``recommendForAllUsers``.
        """
        return self._recommend(self._chosen(dataset, USER), numItems, seen, minRatings, caution)

    def recommendForItemSubset(
        self,
        dataset: DataFrame,
        numUsers: int,
        seen: DataFrame | None = None,
        minRatings: int = 0,
        caution: float = CAUTION,
    ) -> DataFrame:
        """Best users for the items in ``dataset``; items absent from training get no row.

        Other arguments as in ``recommendForAllUsers``.
        """
        return self._recommend(self._chosen(dataset, ITEM), numUsers, seen, minRatings, caution)

    def similarItems(
        self,
        items: DataFrame,
        n: int,
        among: DataFrame | None = None,
        minAgreement: float = MIN_AGREEMENT,
    ) -> DataFrame:
        """Up to ``n`` items that the same people like, for the items in the column itemCol.

        ``among`` (column itemCol) limits the neighbours. Returns itemCol, recommendations
        array<struct<similar_…, similarity float, agreement float, n_ratings long>>, never the item
        itself, with the name of itemCol for the dots. ``similarity`` is the cosine of what the
        model predicts of two items beyond biases over all users, shrunk where one of them has few
        ratings. ``agreement`` is how often the neighbour would be among the n nearest were the
        model made of as many other users; below ``minAgreement`` it is left out, so a list may be
        shorter or empty: there is no reliable neighbour. See :mod:`mfspark.kernels.similarity`.
        """
        return self._similar(items, ITEM, n, among, minAgreement)

    def similarUsers(
        self,
        users: DataFrame,
        n: int,
        among: DataFrame | None = None,
        minAgreement: float = MIN_AGREEMENT,
    ) -> DataFrame:
        """Up to ``n`` users who like the same items, for the users in the column userCol.

        As ``similarItems``, with users and items in each other's place.
        """
        return self._similar(users, USER, n, among, minAgreement)

    def _similar(
        self, dataset: DataFrame, side: Side, n: int, among: DataFrame | None, least: float
    ) -> DataFrame:
        """Neighbours of the known ids in ``dataset``, in the names of its side's column."""
        if not 0 <= least <= 1:
            raise ConfigError(
                f"minAgreement = {least} is not allowed: it is a share of draws; give 0 (every "
                "neighbour) to 1"
            )
        allowed = self._known(side) if among is None else self._chosen(among, side)
        nearest = Nearest(n, least, self.rank, evidence_of(side, self.metadata, self.history))
        lists = nearest_rows(self._chosen(dataset, side), allowed, nearest)
        name = self.getOrDefault(self.userCol if side == USER else self.itemCol)
        kind = lists.schema["recommendations"].dataType.simpleString()
        # Fields by place: only their names change.
        named = F.col("recommendations").cast(kind.replace(f"similar_{side}", f"`similar_{name}`"))
        return lists.select(F.col(side).alias(name), named.alias("recommendations"))

    def cautious(self, caution: float) -> "FactorModel":
        """This model with predictions that are lower bounds, as recommendations are ordered by:
        less ``caution`` standard deviations of what is not known of the item."""
        table = self._known(ITEM)
        lowered = less_uncertainty(table, ITEM, caution, self.metadata, self.history, self.draws)
        result = self.copy()
        result.item_factors = lowered
        return result

    def _chosen(self, dataset: DataFrame, side: Side) -> DataFrame:
        """The rows of the known ids of a side that are in ``dataset``."""
        name = self.getOrDefault(self.userCol if side == USER else self.itemCol)
        dataset, table = spark_frame(dataset), self._known(side)
        self._check_ids(dataset, name, table, side)
        return table.join(dataset.select(column(name).alias(side)), side, "semi")

    def _recommend(
        self,
        queries: DataFrame,
        n: int,
        seen: DataFrame | None,
        min_ratings: int,
        caution: float,
    ) -> DataFrame:
        """Lists of the other side for ``queries``, rows of a factor table."""
        if caution < 0:
            raise ConfigError(
                f"caution = {caution} is not allowed: it would favour what little is known of; "
                "give 0 or more"
            )
        sides = [Side(queries.columns[0]), Side(queries.columns[0]).other]
        candidates = self._known(sides[1])
        if min_ratings:
            candidates = candidates.where(F.col(N_RATINGS) >= min_ratings)
        candidates = less_uncertainty(
            candidates, sides[1], caution, self.metadata, self.history, self.draws
        )
        sizes = {USER: self.metadata.n_users, ITEM: self.metadata.n_items}
        matching = Matching(
            n,
            self.rank,
            sizes[sides[0]],
            sizes[sides[1]],
            offset=self.global_mean,
            limits=self._limits(),
        )
        own = {USER: self.getOrDefault(self.userCol), ITEM: self.getOrDefault(self.itemCol)}
        if seen is not None:
            seen = spark_frame(seen)
            for side in sides:
                require_column(seen, own[side], f"{side}Col")
            seen = seen.select(*[column(own[side]).alias(side) for side in sides])
        lists = best_matches(queries, candidates, matching, RATING, seen)
        candidate = candidates.schema[sides[1]].dataType.simpleString()
        # Fields by place: only their names change.
        named = F.col("recommendations").cast(
            f"array<struct<`{own[sides[1]]}`: {candidate}, {RATING}: float>>"
        )
        return lists.select(F.col(sides[0]).alias(own[sides[0]]), named.alias("recommendations"))

    def foldIn(self, ratings: DataFrame, side: str) -> "FactorModel":
        """A copy of this model with new rows of ``side`` (``"user"`` or ``"item"``) for the ids in
        ``ratings`` (userCol, itemCol, ratingCol), the rows of the other side being as they are.

        Each new row is the exact minimum for its ratings, as in a half-step of the fit, and takes
        the place of the row that the id had: give all ratings of an id, not the latest alone. What
        is rated beside ids that the model does not know, and rows without a finite rating, are left
        out; an id with nothing else gets no row. Coordinates, and what is made of them (similarity,
        uncertainty), stay those of the fit.

        A row of a model of ``BayesianMF`` is the posterior mean given the rows of the other side,
        beside each of the stored draws, and has draws of its own, so that ``predictionStdCol``
        holds for it; what is known of an id beside its ratings is the mean and covariance of all
        rows. Raises ``DataError`` for models of given features, and of implicit ones that minimise
        a penalty, whose rows depend on more than ratings, and for a posterior without draws.
        """
        if side not in tuple(Side):
            raise ConfigError(f"side = {side!r} is not allowed; give 'user' or 'item'")
        own = Side(side)
        dataset = self._rated(ratings)
        tables = {USER: self.user_factors, ITEM: self.item_factors}
        system: RowSolver
        if self.metadata.posterior is None:
            system, fixed = fold_in_of(self.metadata), tables[own.other]
        else:
            system = drawn_fold_in_of(tables, self.draws, self.metadata, own)
            fixed = self.draws[own.other].withColumnRenamed(DRAWS, FACTORS)
            fixed = fixed.withColumn(BIAS, F.lit(0.0).cast("float"))
        found = persist(fold_in(dataset, fixed, self.metadata.n_rows(own.other), system, own))
        ids, n_found = found.select(own), found.count()
        if n_found <= _MOST_BROADCAST_IDS:
            ids = F.broadcast(ids)
        draws = dict(self.draws)
        if draws:
            # [factors, draws]: see DrawnFoldIn.
            drawn = F.slice(FACTORS, self.rank + 1, system.n_factors)
            kept = draws[own].join(ids, own, "anti")
            all_draws = kept.select(own, DRAWS).unionByName(found.select(own, drawn.alias(DRAWS)))
            n_all = self.metadata.n_rows(own) + n_found
            draws[own] = materialised(all_draws, n_all * 4 * system.n_factors)
        old = tables[own].join(ids, own, "anti")
        columns = [
            name for name in old.columns if name in (own, N_RATINGS, BIAS, COLD_BIAS, FACTORS)
        ]
        new = found.withColumn(FACTORS, F.slice(FACTORS, 1, self.rank))
        if COLD_BIAS in columns:
            new = new.join(cold_biases(dataset, tables, self.metadata, own), own, "left")
            new = new.fillna(0.0, [COLD_BIAS])
        together = old.select(columns).unionByName(new.select(columns))
        n_most = self.metadata.n_rows(own) + n_found
        # Free of what it is made of: models that were folded in again and again would have plans
        # that take longer than their work.
        tables[own] = materialised(together, n_most * 4 * (self.rank + 4))
        n = tables[own].count()
        unpersist(found)
        metadata = self.metadata.model_copy(update={"n_users" if own == USER else "n_items": n})
        model = FactorModel(tables[USER], tables[ITEM], self.history, metadata, draws)
        return model.setParams(
            **{param.name: value for param, value in self.extractParamMap().items()}
        )

    def local(self) -> LocalModel:
        """This model for a service without Spark, which knows users by their ratings alone.

        Collects the item factors. Raises ``DataError`` as ``foldIn`` does.
        """
        system = fold_in_of(self.metadata)
        table: Any = self.item_factors.orderBy(ITEM).toPandas()
        factors = [list(row) for row in table[FACTORS]]
        rows = np.column_stack(
            [np.array(factors, np.float32).reshape(len(table), self.rank), table[BIAS]]
        ).astype(np.float32)
        objective = system.objective
        return LocalModel(
            table[ITEM].to_list(),
            rows,
            self.global_mean,
            system.user_penalty(),
            objective.users.exponent,
            objective.fit_biases,
            self._limits(),
        )

    def _rated(self, ratings: DataFrame) -> DataFrame:
        """user, item, rating (double), ids of the types that the tables have."""
        dataset = spark_frame(ratings)
        columns = []
        for side, table in ((USER, self.user_factors), (ITEM, self.item_factors)):
            name = self.getOrDefault(self.userCol if side == USER else self.itemCol)
            self._check_ids(dataset, name, table, side)
            kind = table.schema[side].dataType
            id_ = whole(column(name)) if isinstance(kind, IntegralType) else column(name)
            columns.append(id_.cast(kind).alias(side))
        name = self.metadata.hyper_parameters.get("ratingCol", RATING)
        require_column(dataset, name, "ratingCol")
        return dataset.select(*columns, column(name).cast("double").alias(RATING))

    def unpersist(self) -> "FactorModel":
        """Free the memory of executors that the tables take; the next use fetches them again."""
        unpersist(self.user_factors)
        unpersist(self.item_factors)
        for draws in self.draws.values():
            unpersist(draws)
        return self

    def save(self, path: str, overwrite: bool = False) -> None:
        """Write the model directory ``path`` (Parquet tables and metadata.json).

        It appears whole or not at all; ``OutputExistsError`` when it exists and ``overwrite`` is
        false.
        """
        replaces = files.exists(path)
        with files.staged_directory(path, overwrite) as stage:
            self.write_content(stage)
        if replaces and self._reads_from(path):
            # The files that the tables were read from are gone.
            saved = read_factor_tables(files.current(path))
            self.user_factors, self.item_factors = saved.user_factors, saved.item_factors
            self.history, self.draws = saved.history, saved.draws

    def _reads_from(self, path: str) -> bool:
        folder = files.absolute(path) + "/"
        origins = self.user_factors.inputFiles()
        return any(unquote(files.absolute(origin)).startswith(folder) for origin in origins)

    def write_content(self, directory: str) -> None:
        """See ``Persistent``."""
        in_force = {param.name: value for param, value in self.extractParamMap().items()}
        metadata = self.metadata.model_copy(
            update={"hyper_parameters": self.metadata.hyper_parameters | in_force}
        )
        tables = FactorTables(
            self.user_factors, self.item_factors, self.history, metadata, self.draws
        )
        write_factor_tables(tables, directory)

    @classmethod
    def read_content(cls, path: str) -> "FactorModel":
        """See ``Persistent``."""
        saved = read_factor_tables(path)
        model = cls(
            saved.user_factors, saved.item_factors, saved.history, saved.metadata, saved.draws
        )
        hyper_parameters = saved.metadata.hyper_parameters
        known = {param.name for param in model.params} & set(hyper_parameters)
        set_stored_params(model, {name: hyper_parameters[name] for name in known}, path)
        return model
