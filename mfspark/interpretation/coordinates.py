"""The coordinates that factors are read in: those of the model, or rotated to simple structure."""

from collections.abc import Iterator
from functools import partial

import numpy as np
import pyarrow as pa
from pyspark.sql import functions as F

from mfspark.columns import FACTORS, ITEM, N_RATINGS
from mfspark.kernels.varimax import varimax
from mfspark.models.factor_model import FactorModel
from mfspark.models.list_columns import matrix_of
from mfspark.models.metadata import CoordinateSystem
from mfspark.models.turned_factors import turned_factors

VARIMAX = "varimax"
# Of the items with most ratings.
_MOST_ITEMS = 5000


def in_simple_structure(model: FactorModel, min_ratings: int) -> FactorModel:
    """The same predictions from factors that are rotated so that each item has few large ones
    (varimax of the items that have ``min_ratings``).

    An orthogonal rotation of both sides; factors are ordered by |p_f||q_f|, which stand in
    ``singular_values``, and signed so that most items are positive. The model has no canonical
    factors, so it is to be read: neighbours and lists are those of ``model``.
    """
    items = model.item_factors.where(F.col(N_RATINGS) >= min_ratings)
    chosen = items.orderBy(F.desc(N_RATINGS), ITEM).limit(_MOST_ITEMS).select(FACTORS)
    rank = model.rank
    found = chosen.repartition(1).mapInArrow(partial(_rotation, rank=rank), "rows binary").collect()
    if not found:
        return model
    rotation = np.frombuffer(found[0][0]).reshape(rank, rank)
    # PᵀP = QᵀQ = S in canonical rotation, so |p_f|² = |q_f|² = Σ_g R²_gf s_g.
    singular = np.array(model.metadata.rotation.singular_values)
    sizes = np.square(rotation).T @ singular
    order = np.argsort(-sizes, kind="stable")
    rotation, sizes = rotation[:, order], sizes[order]
    penalty = model.metadata.rotation.user_penalty
    if penalty:
        penalty = (rotation.T @ np.array(penalty) @ rotation).tolist()
    system = CoordinateSystem(name=VARIMAX, singular_values=sizes.tolist(), user_penalty=penalty)
    return FactorModel(
        turned_factors(model.user_factors, rotation),
        turned_factors(model.item_factors, rotation),
        model.history,
        model.metadata.model_copy(update={"rotation": system}),
    ).setParams(**{param.name: value for param, value in model.extractParamMap().items()})


def _rotation(batches: Iterator[pa.RecordBatch], rank: int) -> Iterator[pa.RecordBatch]:
    parts = [matrix_of(batch.column(0), rank) for batch in batches]
    loadings = np.concatenate([np.zeros((0, rank)), *parts])
    # The order in which rows arrive is not that of the table.
    loadings = loadings[np.lexsort(loadings.T)] if rank else loadings
    if not len(loadings):
        return
    rotation = varimax(loadings)
    rotation = rotation * np.where((loadings @ rotation).sum(axis=0) < 0, -1.0, 1.0)
    yield pa.RecordBatch.from_pydict({"rows": [rotation.tobytes()]})
