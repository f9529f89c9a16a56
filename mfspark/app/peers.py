"""Other libraries behind one face, for the benchmark: what they are given, and how they fit."""

import importlib.util
import io
from abc import ABC, abstractmethod
from contextlib import redirect_stdout
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import numpy as np
import pandas as pd
from pyspark.ml.recommendation import ALS
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from mfspark.app.config import BenchmarkSettings
from mfspark.columns import ITEM, RATING, USER
from mfspark.errors import ConfigError
from mfspark.kernels.arrays import Float32s, Float64s, Int64s
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
        error = F.col(RATING) - F.col("prediction")
        row = model.transform(self._data.test).agg(F.sqrt(F.avg(F.pow(error, 2)))).first()
        assert row is not None
        return float(row[0])


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


class _Predictor(Protocol):
    def __call__(self, users: Int64s, items: Int64s) -> Float64s: ...


class _SingleMachine(Peer):
    """Fitted in this process; ratings are arrays, ids numbered from 0, before any clock starts."""

    on_spark = False

    def __init__(self, data: Data, cores: int) -> None:
        self._cores = cores
        train: Any = data.train.toPandas()
        test: Any = data.test.toPandas()
        known = {str(side): pd.Index(train[side].unique()) for side in (USER, ITEM)}
        self.train = pd.DataFrame(
            {
                **{side: index.get_indexer(train[side]) for side, index in known.items()},
                RATING: train[RATING].astype(np.float32),
            }
        )
        at = {side: index.get_indexer(test[side]) for side, index in known.items()}
        numbered = pd.DataFrame({**at, RATING: test[RATING]})
        self._test = numbered[(numbered[USER] >= 0) & (numbered[ITEM] >= 0)]

    def rmse(self, model: _Predictor) -> float:
        found = model(self._test[USER].to_numpy(), self._test[ITEM].to_numpy())
        return float(np.sqrt(np.mean(np.square(self._test[RATING].to_numpy() - found))))


class Libmf(_SingleMachine):
    """SGD without biases by LIBMF (Chin, Zhuang, Juan, Lin 2015), with its λ and rate."""

    def fit(self, rank: int, iterations: int) -> _Predictor:
        """See ``Peer``."""
        # Importing it prints a path.
        with redirect_stdout(io.StringIO()):
            from libmf import mf
        fitted = mf.MF(
            k=rank, nr_iters=iterations, nr_threads=self._cores, quiet=True,
            lambda_p1=0.0, lambda_q1=0.0, lambda_p2=0.05, lambda_q2=0.05, eta=0.1,
        )  # fmt: skip
        # It reads the memory row by row; pandas lends it column by column.
        fitted.fit(np.ascontiguousarray(self.train.to_numpy(np.float32)))
        p: Float32s
        q: Float32s
        p, q = fitted.p_factors(), fitted.q_factors()
        if p.shape[1] != rank:
            raise ConfigError(f"LIBMF fitted {p.shape[1]} factors where {rank} were asked for")

        def predict(users: Int64s, items: Int64s) -> Float64s:
            found: Float64s = np.einsum("nf,nf->n", p[users], q[items], dtype=np.float64)
            return found

        return predict


class _Cmfrec(_SingleMachine):
    use_cg: ClassVar[bool]

    def fit(self, rank: int, iterations: int) -> _Predictor:
        """See ``Peer``."""
        from cmfrec import CMF

        # λ scaled by the number of ratings, as by pyspark.ml.
        fitted = CMF(
            k=rank, niter=iterations, nthreads=self._cores, use_float=True, method="als",
            use_cg=self.use_cg, finalize_chol=False, lambda_=0.05, scale_lam=True,
            precompute_for_predictions=False, verbose=False,
        )  # fmt: skip
        named = {USER: "UserId", ITEM: "ItemId", RATING: "Rating"}
        fitted.fit(self.train.rename(columns=named))

        def predict(users: Int64s, items: Int64s) -> Float64s:
            return np.asarray(fitted.predict(users, items), np.float64)

        return predict


class CmfrecCholesky(_Cmfrec):
    """ALS with biases by cmfrec, normal equations solved exactly."""

    use_cg = False


class CmfrecCG(_Cmfrec):
    """ALS with biases by cmfrec, three steps of conjugate gradients for each row."""

    use_cg = True


_PACKAGES = {"libmf": "libmf", "cmfrec": "cmfrec", "cmfrec_cg": "cmfrec"}


def make_peers(
    settings: BenchmarkSettings, als: ALSSettings, sgd: SGDSettings, data: Data, cores: int
) -> dict[str, Peer]:
    """mfspark first; the others as configured. Raises ``ConfigError`` for one not installed."""
    kinds: dict[str, type[Libmf | _Cmfrec]] = {
        "libmf": Libmf,
        "cmfrec": CmfrecCholesky,
        "cmfrec_cg": CmfrecCG,
    }
    peers: dict[str, Peer] = {"mfspark": Mfspark(data, cores, als)}
    for name in settings.peers:
        package = _PACKAGES.get(name)
        if package is not None and importlib.util.find_spec(package) is None:
            raise ConfigError(
                f"benchmark.peers names {name!r}, but the package {package} is not installed; "
                f"pip install {package}, or leave it out"
            )
        if name == "mllib":
            peers[name] = Mllib(data, cores, settings.mllib_reg_param)
        elif name == "sgd":
            peers[name] = MfsparkSGD(data, cores, sgd)
        else:
            peers[name] = kinds[name](data, cores)
    return peers
