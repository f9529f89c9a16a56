"""DataFrames of pandas where those of Spark are asked for."""

from typing import Any

import pandas as pd
import pyarrow as pa
from pyspark.sql import DataFrame, SparkSession

from mfspark.errors import DataError


class FitsFrames:
    """An estimator whose ``fit`` takes a DataFrame of Spark or of pandas."""

    def fit(self, dataset: Any, params: Any = None) -> Any:
        """Fit to ``dataset``, a DataFrame of Spark or of pandas; ``params``: as in pyspark.ml."""
        return super().fit(spark_frame(dataset), params)  # type: ignore[misc]


class TransformsFrames:
    """A model whose ``transform`` takes a DataFrame of Spark or of pandas."""

    def transform(self, dataset: Any, params: Any = None) -> DataFrame:
        """Predict ``dataset``, a DataFrame of Spark or of pandas; returns one of Spark."""
        found: DataFrame = super().transform(spark_frame(dataset), params)  # type: ignore[misc]
        return found


def spark_frame(dataset: Any) -> DataFrame:
    """``dataset`` as a DataFrame of Spark; its index is left out.

    Raises ``DataError`` for anything else, and for columns of mixed types.
    """
    if not isinstance(dataset, pd.DataFrame):
        # Classic and Connect have classes of their own.
        if hasattr(dataset, "sparkSession") and hasattr(dataset, "mapInArrow"):
            return dataset  # type: ignore[no-any-return]
        raise DataError(
            f"found a {type(dataset).__name__} where ratings are asked for; give a DataFrame of "
            "Spark or of pandas with columns of users, items and ratings"
        )
    categories = {
        name: kind.categories.dtype
        for name, kind in dataset.dtypes.items()
        if isinstance(kind, pd.CategoricalDtype)
    }
    try:
        table = pa.Table.from_pandas(dataset.astype(categories), preserve_index=False)
    except (pa.ArrowException, TypeError) as error:
        reason = str(error).splitlines()[0]
        raise DataError(
            f"the pandas DataFrame cannot be handed to Spark ({reason}); make every column of one "
            'type, as with frame.astype({"user": str})'
        ) from None
    return SparkSession.builder.getOrCreate().createDataFrame(table)
