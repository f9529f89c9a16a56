"""Whatever table of ratings comes: rows in are rows out by cause, models are finite, saved and
loaded the same, and the same however a fit is spread.

MFSPARK_FUZZ_EXAMPLES says how many tables (make fuzz).
"""

import math
import os
import unicodedata
from collections import defaultdict

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, Verbosity, given, settings
from hypothesis import strategies as st
from pyarrow import parquet as pq

from mfspark import BiasedALS, FactorModel
from mfspark.data.read import RatingsSource, read_ratings
from mfspark.data.validate import Checks, check_ratings
from mfspark.errors import DataError

FUZZ = settings(
    max_examples=int(os.environ.get("MFSPARK_FUZZ_EXAMPLES", "5")),
    deadline=None,
    derandomize="MFSPARK_FUZZ_EXAMPLES" not in os.environ,
    suppress_health_check=list(HealthCheck),
    verbosity=Verbosity.quiet,
)
ALS = {"rank": 1, "maxIter": 2, "tol": 0.0, "regParam": 1.0, "biasRegParam": 0.25, "seed": 1}

WORDS = st.sampled_from(
    ["é", unicodedata.normalize("NFD", "é"), "Ⅳ", "ß", "日本", "👩‍👩‍👧", "a b", "a,b", 'q"', "0x1f",
     "007", "1e5", "-0", "NaN", "null", "\\N", "#", "İ", "\u200bz", "naïve;x", "A", "a"]
)  # fmt: skip
IDS = {
    "long": st.integers(-(2**63), 2**63 - 1) | st.integers(0, 5),
    "int": st.integers(-(2**31), 2**31 - 1) | st.integers(0, 5),
    "numeric text": st.integers(0, 10**17).map(str) | st.integers(0, 5).map(str),
    "text": WORDS,
}
ARROW = {"long": pa.int64(), "int": pa.int32(), "numeric text": pa.string(), "text": pa.string()}
SCALES = (
    st.integers(1, 10).map(lambda n: n / 2),
    st.floats(-1e3, 1e3),
    st.sampled_from([-1e-9, 0.0, 1e-12]),
    st.just(3.0),
)


@st.composite
def tables(draw) -> pa.Table:
    """user, item, rating: one user, one item, all by all, or any; some rows are bad."""
    kinds = [draw(st.sampled_from(sorted(IDS))) for _ in range(2)]
    users = draw(st.lists(IDS[kinds[0]], min_size=1, max_size=6, unique=True))
    items = draw(st.lists(IDS[kinds[1]], min_size=1, max_size=6, unique=True))
    shape = draw(st.sampled_from(["any", "all by all", "one user", "one item", "one pair"]))
    users = users[:1] if shape in ("one user", "one pair") else users
    items = items[:1] if shape in ("one item", "one pair") else items
    if shape == "any":
        n = draw(st.integers(1, 30))
        pairs = [(draw(st.sampled_from(users)), draw(st.sampled_from(items))) for _ in range(n)]
    else:
        pairs = [(user, item) for user in users for item in items]
    ratings = draw(
        st.lists(draw(st.sampled_from(SCALES)), min_size=len(pairs), max_size=len(pairs))
    )
    rows = [(*pair, rating) for pair, rating in zip(pairs, ratings, strict=True)]
    bad = st.sampled_from([math.nan, math.inf, -math.inf, None])
    for _ in range(draw(st.integers(0, 3))):
        rows.append((users[0], items[0], draw(bad)))
        rows.append(draw(st.sampled_from([(None, items[0], 1.0), (users[0], None, 1.0)])))
    rows = draw(st.permutations(rows))
    names = ["user", "item", "rating"]
    types = [ARROW[kinds[0]], ARROW[kinds[1]], pa.float64()]
    columns = [pa.array([row[n] for row in rows], types[n]) for n in range(3)]
    return pa.table(dict(zip(names, columns, strict=True)))


def good_pairs(table: pa.Table) -> dict[tuple, float]:
    """The mean rating of each pair of the good rows."""
    found = defaultdict(list)
    for row in table.to_pylist():
        user, item, rating = row["user"], row["item"], row["rating"]
        if user is not None and item is not None and rating is not None and math.isfinite(rating):
            found[user, item].append(rating)
    return {pair: sum(ratings) / len(ratings) for pair, ratings in found.items()}


def as_read(spark, path, table: pa.Table):
    pq.write_table(table, path)
    raw = read_ratings(spark, RatingsSource(path=str(path)))
    return check_ratings(raw, Checks(duplicates="mean", max_bad_share=1.0))


@FUZZ
@given(table=tables())
def test_rows_in_are_rows_out_by_cause(spark, tmp_path_factory, table):
    path = tmp_path_factory.mktemp("any") / "ratings.parquet"
    expected = good_pairs(table)
    if not expected:
        with pytest.raises(DataError):
            as_read(spark, path, table)
        return
    checked = as_read(spark, path, table)
    try:
        assert checked.n_read == table.num_rows
        n_bad = sum(checked.bad_rows.values())
        assert checked.quarantine.count() == n_bad
        n_good = checked.n_clean + checked.n_merged
        assert n_good + n_bad == table.num_rows
        # Text that is all integers becomes a number.
        found = {
            (str(row["user"]), str(row["item"])): row["rating"]
            for row in checked.clean.toPandas().to_dict("records")
        }
        assert found.keys() == {(str(user), str(item)) for user, item in expected}
        for (user, item), rating in expected.items():
            assert found[str(user), str(item)] == pytest.approx(rating, abs=1e-9)
    finally:
        checked.release()


def predictions(model: FactorModel, pairs) -> np.ndarray:
    found = model.transform(pairs).toPandas()
    order = found["user"].astype(str) + "\0" + found["item"].astype(str)
    return found.assign(order=order).sort_values("order")["prediction"].to_numpy(np.float64)


@FUZZ
@given(table=tables().filter(good_pairs))
def test_models_of_any_table_are_finite_and_the_same_however_they_are_made(
    spark, tmp_path_factory, table
):
    folder = tmp_path_factory.mktemp("models")
    expected = good_pairs(table)
    checked = as_read(spark, folder / "ratings.parquet", table)
    try:
        ratings = checked.clean.select("user", "item", "rating")
        pairs = ratings.select("user", "item")
        model = BiasedALS(**ALS).fit(ratings)
        for side, place in (("user", 0), ("item", 1)):
            rows: pd.DataFrame = getattr(model, f"{side}_factors").toPandas()
            assert set(rows[side].astype(str)) == {str(pair[place]) for pair in expected}
            assert np.isfinite(rows["bias"]).all()
            assert np.isfinite(np.stack(rows["factors"])).all()
        found = predictions(model, pairs)
        assert len(found) == len(expected)
        assert np.isfinite(found).all()
        model.save(str(folder / "model"))
        np.testing.assert_array_equal(
            predictions(FactorModel.load(str(folder / "model")), pairs), found
        )
        spread = BiasedALS(**ALS, execution="distributed", numUserBlocks=2, numItemBlocks=2)
        unit = max(abs(rating) for rating in expected.values()) + 1e-9
        np.testing.assert_allclose(predictions(spread.fit(ratings), pairs), found, atol=1e-4 * unit)
        model.unpersist()
    finally:
        checked.release()
