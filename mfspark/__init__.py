"""mfspark: biased matrix factorisation of explicit ratings on Apache Spark.

    r̂(u, i) = μ + b_u + b_i + p_u · q_i

The names below are loaded on first use, so that ``import mfspark.kernels`` needs no Spark.
"""

import os
import sys
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mfspark.models.baselines import BiasOnly, GlobalMean, MeanModel
    from mfspark.models.bayesian_mf import BayesianMF
    from mfspark.models.biased_als import BiasedALS
    from mfspark.models.biased_sgd import BiasedSGD
    from mfspark.models.factor_model import FactorModel
    from mfspark.models.knn import ItemKNN, KNNModel, UserKNN
    from mfspark.models.local_model import LocalModel
    from mfspark.models.mllib_als import ALS, ALSModel

__version__ = "0.1.0"
__all__ = [
    "ALS",
    "ALSModel",
    "BayesianMF",
    "BiasOnly",
    "BiasedALS",
    "BiasedSGD",
    "FactorModel",
    "GlobalMean",
    "ItemKNN",
    "KNNModel",
    "LocalModel",
    "MeanModel",
    "UserKNN",
    "__version__",
]

# Spark would start its workers with whatever python3 is on the PATH, which need not have mfspark.
# A session that exists already is past that: see the errors of a fit.
os.environ.setdefault("PYSPARK_PYTHON", sys.executable)

_MODULES = {
    "ALS": "mllib_als",
    "ALSModel": "mllib_als",
    "BayesianMF": "bayesian_mf",
    "BiasOnly": "baselines",
    "BiasedALS": "biased_als",
    "BiasedSGD": "biased_sgd",
    "FactorModel": "factor_model",
    "GlobalMean": "baselines",
    "ItemKNN": "knn",
    "KNNModel": "knn",
    "LocalModel": "local_model",
    "MeanModel": "baselines",
    "UserKNN": "knn",
}


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return getattr(import_module(f"mfspark.models.{_MODULES[name]}"), name)
    raise AttributeError(f"module 'mfspark' has no attribute {name!r}")
