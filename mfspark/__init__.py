"""mfspark: biased matrix factorisation of explicit ratings on Apache Spark.

    r̂(u, i) = μ + b_u + b_i + p_u · q_i

The names below are loaded on first use, so that ``import mfspark.kernels`` needs no Spark.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mfspark.models.biased_als import BiasedALS
    from mfspark.models.biased_sgd import BiasedSGD
    from mfspark.models.factor_model import FactorModel

__version__ = "0.1.0"
__all__ = ["BiasedALS", "BiasedSGD", "FactorModel", "__version__"]


def __getattr__(name: str) -> Any:
    if name == "BiasedALS":
        from mfspark.models.biased_als import BiasedALS

        return BiasedALS
    if name == "BiasedSGD":
        from mfspark.models.biased_sgd import BiasedSGD

        return BiasedSGD
    if name == "FactorModel":
        from mfspark.models.factor_model import FactorModel

        return FactorModel
    raise AttributeError(f"module 'mfspark' has no attribute {name!r}")
