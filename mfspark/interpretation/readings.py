"""What goes along with each factor among what is known of items, and what to call it.

Correlations of the items' loadings with genres and other classes (0 or 1), the year and other
numbers, and the logarithm of the number of ratings. Their intervals are Fisher's, their p-values
those of permuted items, and the false discovery rate over all of them is controlled (Benjamini and
Hochberg 1995): of what is clear, one in twenty is expected to be chance.
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F
from pyspark.sql.types import BooleanType, NumericType
from scipy.stats import false_discovery_control

from mfspark.columns import BIAS, COLD_BIAS, FACTORS, ITEM, N_RATINGS, TITLE
from mfspark.errors import ConfigError
from mfspark.kernels.arrays import Bools, Float64s
from mfspark.small_tables import table_of

# Of the items with most ratings; more would make nothing clearer.
_MOST_ITEMS = 5000
_LEAST_CLASS = 20
# Of a column with more classes the largest are looked at.
_MOST_CLASSES = 50
_PERMUTATIONS, _SEED = 999, 0
_FALSE_DISCOVERIES = 0.05
# |r| of what a label names, and how much of it.
_LEAST_R, _MOST_NAMED = 0.2, 2
_FOLDS, _RIDGE = 5, 1.0
# The 97.5 % quantile of the normal distribution.
_Z = 1.959964
_SCHEMA = (
    "factor int, kind string, value string, correlation double, low double, high double, "
    "n_items long, class_size long, p double"
)
NO_READING = "no clear reading"
# All metadata together, among the kinds.
_ALL = ""
_SINGULAR = {"genres": "genre"}
_OF_THE_MODEL = {ITEM, TITLE, FACTORS, N_RATINGS, BIAS, COLD_BIAS}
_ENDS = {"year": ("newer", "older"), "popularity": ("much rated", "little rated")}


@dataclass(frozen=True)
class Readings:
    """``factor_metadata``: factor, kind (genre, year, popularity, or the name of another column),
    value (the class; of numbers the kind again), correlation with its 95 % interval (low, high),
    n_items (of which the value is known), class_size (items of the class), p, q (the false
    discovery rate at which it would be clear), is_clear.

    ``factor_labels``: factor, label, is_given (by the configuration), r2 (cross-validated, from all
    metadata together; null where too few items have all of it). ``factor_variance``: factor, kind,
    r2: the same of each kind of metadata alone (``plot_variance_explained`` of MOFA2).
    """

    factor_metadata: DataFrame
    factor_labels: DataFrame
    factor_variance: DataFrame

    def tables(self) -> dict[str, DataFrame]:
        """The tables by name."""
        return {field.name: getattr(self, field.name) for field in fields(self)}


class _Attribute(NamedTuple):
    """``values`` float64 [n] of the items that ``is_known`` (bool [n])."""

    kind: str
    value: str
    values: Float64s
    is_known: Bools


def read_factors(described: DataFrame, stability: DataFrame, labels: Mapping[str, str]) -> Readings:
    """Read the factors of ``described`` (item, n_ratings, factors; year, genres and whatever else
    is known), items with enough ratings.

    ``stability``: factor, is_stable; a factor that is not stable gets no label, and without any
    row all may have one. ``labels`` by number go before what is found; ``ConfigError`` for one of
    a factor that is not there.
    """
    first = described.select(F.size(FACTORS)).first()
    numbers = range(1, (first[0] if first else 0) + 1)
    if odd := sorted(set(labels) - {str(n) for n in numbers}):
        raise ConfigError(
            f"interpret.labels names factor {', '.join(odd)}, but the model has {len(numbers)} "
            "factors of enough items; number them from 1"
        )
    spark = described.sparkSession
    rows = described.orderBy(F.desc(N_RATINGS), ITEM).limit(_MOST_ITEMS)
    columns = rows.select(FACTORS, N_RATINGS, *_known_columns(rows))
    # So many items are looked at in one place, not here.
    found = columns.repartition(1).mapInArrow(partial(_of_items, seed=_SEED), _SCHEMA).collect()
    of_values = [row for row in found if row["value"] is not None]
    q = false_discovery_control([row["p"] for row in of_values]) if of_values else []
    metadata = [
        (*row, float(rate), bool(rate <= _FALSE_DISCOVERIES))
        for row, rate in zip(of_values, q, strict=True)
    ]
    metadata.sort(key=lambda row: (row[0], -abs(row[3]), row[1], row[2]))
    is_stable = {row["factor"]: row["is_stable"] for row in stability.collect()}
    shares = [
        (row["factor"], row["kind"], row["correlation"]) for row in found if row["value"] is None
    ]
    r2 = {factor: share for factor, kind, share in shares if kind == _ALL}
    names = [
        (
            n,
            labels.get(str(n)) or _label([row for row in metadata if row[0] == n]
                                         if is_stable.get(n, not is_stable) else []),
            str(n) in labels,
            r2.get(n),
        )
        for n in numbers
    ]  # fmt: skip
    return Readings(
        table_of(spark, metadata, f"{_SCHEMA}, q double, is_clear boolean"),
        table_of(spark, names, "factor int, label string, is_given boolean, r2 double"),
        table_of(
            spark,
            [row for row in shares if row[1] != _ALL and row[2] is not None],
            "factor int, kind string, r2 double",
        ),
    )


def _known_columns(described: DataFrame) -> list[Column]:
    """What is known of items: text, lists of text, and numbers as doubles."""
    found = []
    for field in described.schema:
        if field.name in _OF_THE_MODEL:
            continue
        if isinstance(field.dataType, NumericType | BooleanType):
            found.append(F.col(f"`{field.name}`").cast("double").alias(field.name))
        elif field.dataType.simpleString() in ("string", "array<string>"):
            found.append(F.col(f"`{field.name}`"))
    return found


def _label(rows: list[tuple[object, ...]]) -> str:
    """What the clear correlations of a factor say of its ends: classes, the strongest first, then
    numbers such as the year."""
    ends: tuple[list[str], list[str]] = [], []
    for _, kind, value, r, *_, is_clear in sorted(rows, key=lambda row: row[1] == row[2]):
        assert isinstance(r, float)
        if not is_clear or abs(r) < _LEAST_R:
            continue
        is_number = kind == value
        high, low = str(value), ""
        if is_number:
            high, low = _ENDS.get(str(kind), (f"high {kind}", f"low {kind}"))
        if is_number:
            ends[0].append(high if r > 0 else low)
            ends[1].append(low if r > 0 else high)
        else:
            ends[0 if r > 0 else 1].append(high)
    named = [" and ".join(end[:_MOST_NAMED]) for end in ends]
    if not any(named):
        return NO_READING
    return " against ".join(end or "the rest" for end in named)


def _of_items(batches: Iterator[pa.RecordBatch], seed: int) -> Iterator[pa.RecordBatch]:
    """Rows of ``_SCHEMA`` for each factor and attribute, and R² as those without a value."""
    parts = list(batches)
    n = sum(part.num_rows for part in parts)
    if not n:
        return
    table = pa.Table.from_batches(parts)
    flat = table[FACTORS].combine_chunks().flatten().to_numpy(zero_copy_only=False)
    loadings = flat.reshape(n, -1).astype(np.float64)
    if not loadings.shape[1]:
        return
    attributes = _attributes(table)
    rng = np.random.default_rng(seed)
    rows: list[tuple[object, ...]] = []
    for each in attributes:
        r, p = correlations(loadings[each.is_known], each.values[each.is_known], rng)
        n_known = int(each.is_known.sum())
        low, high = interval(r, n_known)
        is_class = each.kind != each.value
        size = int(each.values[each.is_known].sum()) if is_class else n_known
        rows += [
            (f + 1, each.kind, each.value, r[f], low[f], high[f], n_known, size, p[f])
            for f in range(len(r))
        ]
    groups = {_ALL: attributes}
    for each in attributes:
        groups.setdefault(each.kind, []).append(each)
    for kind, group in groups.items():
        for f, share in enumerate(explained(loadings, group, rng)):
            rows.append((f + 1, kind, None, share, None, None, n, n, None))
    names = [part.split()[0] for part in _SCHEMA.split(", ")]
    kinds = [
        pa.int32(), pa.string(), pa.string(), *3 * [pa.float64()], *2 * [pa.int64()], pa.float64(),
    ]  # fmt: skip
    yield pa.RecordBatch.from_arrays(
        [
            pa.array(list(column), kind)
            for column, kind in zip(zip(*rows, strict=True), kinds, strict=True)
        ],
        names=names,
    )


def _attributes(table: pa.Table) -> list[_Attribute]:
    """Classes with enough items, numbers, and popularity."""
    found = []
    for name in table.column_names:
        if name in (FACTORS, N_RATINGS):
            continue
        if pa.types.is_floating(table.schema.field(name).type):
            found += _number(name, table[name].to_numpy().astype(np.float64))
        else:
            found += _classes(_SINGULAR.get(name, name), table[name].to_pylist())
    counts = table[N_RATINGS].to_numpy().astype(np.float64)
    found += _number("popularity", np.log(np.maximum(counts, 1)))
    assert all(len(each.values) == table.num_rows for each in found)
    return found


def _classes(kind: str, values: list[Any]) -> list[_Attribute]:
    sets = [{each} if isinstance(each, str) else set(each or ()) for each in values]
    is_known = np.array([bool(each) for each in sets])
    sizes = Counter(name for each in sets for name in each)
    return [
        _Attribute(kind, name, np.array([name in each for each in sets], np.float64), is_known)
        for name, size in sorted(sizes.most_common(_MOST_CLASSES))
        if _LEAST_CLASS <= size <= is_known.sum() - _LEAST_CLASS
    ]


def _number(kind: str, values: Float64s) -> list[_Attribute]:
    is_known = np.isfinite(values)
    if is_known.sum() < _LEAST_CLASS or np.ptp(values[is_known]) == 0:
        return []
    return [_Attribute(kind, kind, values, is_known)]


def correlations(
    loadings: Float64s, values: Float64s, rng: np.random.Generator
) -> tuple[Float64s, Float64s]:
    """Pearson's r of each column of ``loadings`` [n, rank] with ``values`` [n], and how often
    permuted items have as high an |r|, float64 [rank] each; 0 and 1 of a constant column."""
    x, y = _standardised(loadings), _standardised(values[:, None])[:, 0]
    r = x.T @ y / len(y)
    orders = np.argsort(rng.random((_PERMUTATIONS, len(y))), axis=1)
    by_chance = np.abs(y[orders] @ x) / len(y)
    p = (1 + (by_chance >= np.abs(r) - 1e-12).sum(axis=0)) / (1 + _PERMUTATIONS)
    return r, np.asarray(p)


def interval(r: Float64s, n: int) -> tuple[Float64s, Float64s]:
    """95 % interval of r of ``n`` items, by Fisher's z = artanh r with deviation 1/√(n − 3)."""
    z = np.arctanh(np.clip(r, -1 + 1e-12, 1 - 1e-12))
    half = _Z / np.sqrt(max(n - 3, 1))
    return np.tanh(z - half), np.tanh(z + half)


def explained(
    loadings: Float64s, attributes: list[_Attribute], rng: np.random.Generator
) -> list[float | None]:
    """R² of each factor from all attributes together, by ridge regression on other folds; None
    where too few items have all attributes."""
    if not attributes:
        return [None] * loadings.shape[1]
    known = np.logical_and.reduce([each.is_known for each in attributes])
    design = np.column_stack([each.values for each in attributes])[known]
    target = loadings[known]
    if len(target) < max(_FOLDS * _LEAST_CLASS, 2 * design.shape[1]):
        return [None] * loadings.shape[1]
    fold = rng.permutation(len(target)) % _FOLDS
    predicted = np.empty_like(target)
    for k in range(_FOLDS):
        train, test = fold != k, fold == k
        centre, scale = design[train].mean(axis=0), design[train].std(axis=0)
        x = (design - centre) / np.where(scale > 0, scale, 1)
        mean = target[train].mean(axis=0)
        normal = x[train].T @ x[train] + _RIDGE * np.eye(x.shape[1])
        weights = np.linalg.solve(normal, x[train].T @ (target[train] - mean))
        predicted[test] = mean + x[test] @ weights
    rest = ((target - predicted) ** 2).sum(axis=0)
    total = ((target - target.mean(axis=0)) ** 2).sum(axis=0)
    return [float(1 - a / b) if b > 0 else 0.0 for a, b in zip(rest, total, strict=True)]


def _standardised(columns: Float64s) -> Float64s:
    centred = columns - columns.mean(axis=0)
    scale = centred.std(axis=0)
    is_spread = scale > 1e-12
    return np.asarray(np.where(is_spread, centred, 0) / np.where(is_spread, scale, 1))
