"""Other libraries behind one face, for the benchmark: what they are given, and how they fit."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from pyspark.ml.recommendation import ALS
from pyspark.sql import DataFrame

from mfspark.app.config import BenchmarkSettings
from mfspark.app.packages import Fitted, Numbered, fit_cmfrec, fit_libmf, require_package
from mfspark.columns import ITEM, RATING, USER
from mfspark.evaluation.ratings import rmse_of
from mfspark.models.biased_als import BiasedALS
from mfspark.models.biased_sgd import BiasedSGD
from mfspark.settings import ALSSettings, FactorisationSettings, SGDSettings


@dataclass(frozen=True)
class Data:
    """Ratings to fit and to test (user, item, rating), from one table in memory."""

    train: DataFrame
    test: DataFrame


class Peer(ABC):
    """A library that fits rank-k models to the ratings it was made with."""

    # A Spark library has `transform` and `recommendForAllUsers`, and its memory can be told apart.
    on_spark: ClassVar[bool] = True

    @abstractmethod
    def fit(self, rank: int, iterations: int) -> Any:
        """A model after so many iterations."""

    @abstractmethod
    def rmse(self, model: Any) -> float:
        """On the test ratings whose user and item the model knows."""


class _SparkPeer(Peer):
    def __init__(self, data: Data, cores: int) -> None:
        self._data, self._cores = data, cores

    def rmse(self, model: Any) -> float:
        found = rmse_of(model, self._data.test)
        assert found is not None
        return found


class Mfspark(_SparkPeer):
    """Our own, run to the end; test rows it cannot score are left out, as by its peers."""

    estimator: ClassVar[Any] = BiasedALS

    def __init__(self, data: Data, cores: int, settings: FactorisationSettings) -> None:
        super().__init__(data, cores)
        self._chosen = {
            **settings.model_dump(by_alias=True),
            "tol": 0.0,
            "coldStartStrategy": "drop",
        }

    def fit(self, rank: int, iterations: int) -> Any:
        """See ``Peer``."""
        arguments = {**self._chosen, "rank": rank, "maxIter": iterations}
        return self.estimator(**arguments).fit(self._data.train)


class MfsparkSGD(Mfspark):
    """``BiasedSGD``; an iteration is an epoch."""

    estimator = BiasedSGD


class Mllib(_SparkPeer):
    """``pyspark.ml`` ALS with as many blocks as cores, its best here; its own default is 10."""

    def __init__(self, data: Data, cores: int, reg_param: float) -> None:
        super().__init__(data, cores)
        self._reg_param = reg_param

    def fit(self, rank: int, iterations: int) -> Any:
        """See ``Peer``."""
        estimator = ALS(
            rank=rank, maxIter=iterations, regParam=self._reg_param,
            numUserBlocks=self._cores, numItemBlocks=self._cores, coldStartStrategy="drop",
            userCol=USER, itemCol=ITEM, ratingCol=RATING,
        )  # fmt: skip
        return estimator.fit(self._data.train)


class _SingleMachine(Peer):
    """Fitted in this process; ratings are arrays, ids numbered from 0, before any clock starts."""

    on_spark = False

    def __init__(self, data: Data, cores: int) -> None:
        self._cores = cores
        train: Any = data.train.toPandas()
        test: Any = data.test.toPandas()
        self._ratings = Numbered.of(train)
        users, items = self._ratings.numbers(test)
        is_known = (users >= 0) & (items >= 0)
        self._test = users[is_known], items[is_known]
        self._truth = test[RATING].to_numpy()[is_known]

    def rmse(self, model: Fitted) -> float:
        return float(np.sqrt(np.mean(np.square(self._truth - model.predict(*self._test)))))


class Libmf(_SingleMachine):
    """SGD without biases by LIBMF."""

    def fit(self, rank: int, iterations: int) -> Fitted:
        """See ``Peer``."""
        return fit_libmf(self._ratings, rank, iterations, self._cores, reg_param=0.05, rate=0.1)


class CmfrecCholesky(_SingleMachine):
    """ALS with biases by cmfrec, normal equations solved exactly; λ scaled by the number of
    ratings, as by pyspark.ml."""

    use_cg: ClassVar[bool] = False

    def fit(self, rank: int, iterations: int) -> Fitted:
        """See ``Peer``."""
        return fit_cmfrec(
            self._ratings, rank, iterations, self._cores, reg_param=0.05, scale_reg=True,
            use_cg=self.use_cg,
        )  # fmt: skip


class CmfrecCG(CmfrecCholesky):
    """ALS with biases by cmfrec, three steps of conjugate gradients for each row."""

    use_cg = True


def make_peers(
    settings: BenchmarkSettings, als: ALSSettings, sgd: SGDSettings, data: Data, cores: int
) -> dict[str, Peer]:
    """mfspark first; the others as configured. Raises ``ConfigError`` for one not installed."""
    kinds: dict[str, type[Libmf | CmfrecCholesky]] = {
        "libmf": Libmf,
        "cmfrec": CmfrecCholesky,
        "cmfrec_cg": CmfrecCG,
    }
    peers: dict[str, Peer] = {"mfspark": Mfspark(data, cores, als)}
    for name in settings.peers:
        require_package(name.removesuffix("_cg"), "benchmark.peers")
        if name == "mllib":
            peers[name] = Mllib(data, cores, settings.mllib_reg_param)
        elif name == "sgd":
            peers[name] = MfsparkSGD(data, cores, sgd)
        else:
            peers[name] = kinds[name](data, cores)
    return peers
