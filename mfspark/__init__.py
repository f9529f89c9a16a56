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
    from mfspark.shipping import ship

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
    "ship",
]

# Spark would start its workers with whatever python3 is on the PATH, which need not have mfspark.
# A session that exists already is past that: see the errors of a fit.
os.environ.setdefault("PYSPARK_PYTHON", sys.executable)

_MODULES = {
    "ALS": "models.mllib_als",
    "ALSModel": "models.mllib_als",
    "BayesianMF": "models.bayesian_mf",
    "BiasOnly": "models.baselines",
    "BiasedALS": "models.biased_als",
    "BiasedSGD": "models.biased_sgd",
    "FactorModel": "models.factor_model",
    "GlobalMean": "models.baselines",
    "ItemKNN": "models.knn",
    "KNNModel": "models.knn",
    "LocalModel": "models.local_model",
    "MeanModel": "models.baselines",
    "UserKNN": "models.knn",
    "ship": "shipping",
}


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return getattr(import_module(f"mfspark.{_MODULES[name]}"), name)
    raise AttributeError(f"module 'mfspark' has no attribute {name!r}")
