import numpy as np
import pytest
import pytrec_eval
from hypothesis import given, settings
from hypothesis import strategies as st

from mfspark.kernels.rank_metrics import METRICS, RankedLists, diversity, ranking_metrics


def lists_of(listed, grades, least):
    """RankedLists of one user: listed items, grades by item of the test part, what is relevant."""
    n = 12
    gains = [[float(grades.get(item, 0)) for item in listed] + [0.0] * (n - len(listed))]
    hits = [[grades.get(item, -1) >= least for item in listed] + [False] * (n - len(listed))]
    best = sorted(grades.values(), reverse=True)[:n]
    return RankedLists(
        np.array(gains), np.array(hits), np.array([best + [0.0] * (n - len(best))], float),
        np.array([sum(grade >= least for grade in grades.values())]),
    )  # fmt: skip


def test_by_hand():
    lists = lists_of(["a", "b", "c", "d"], {"b": 1.0, "d": 0.5, "z": 1.0}, 0.5)
    found = dict(zip(METRICS, ranking_metrics(lists, 4)[0], strict=True))
    log = np.log2
    assert found["NDCG"] == pytest.approx(
        (1 / log(3) + 0.5 / log(5)) / (1 + 1 / log(3) + 0.5 / log(4))
    )
    assert found["binary NDCG"] == pytest.approx(
        (1 / log(3) + 1 / log(5)) / (1 + 1 / log(3) + 1 / log(4))
    )
    assert found["recall"] == pytest.approx(2 / 3)
    assert found["precision"] == pytest.approx(2 / 4)
    assert found["MAP"] == pytest.approx((1 / 2 + 2 / 4) / 3)
    assert found["MRR"] == pytest.approx(1 / 2)
    assert found["hit rate"] == 1
    one = dict(zip(METRICS, ranking_metrics(lists, 1)[0], strict=True))
    assert set(one.values()) == {0.0}


def test_short_lists_and_users_without_anything_relevant():
    lists = lists_of(["b"], {"b": 1.0, "c": 1.0}, 0.5)
    found = dict(zip(METRICS, ranking_metrics(lists, 5)[0], strict=True))
    # Places that a list does not fill are misses.
    assert found["precision"] == pytest.approx(1 / 5)
    assert found["recall"] == pytest.approx(1 / 2)
    nothing = lists_of(["b", "c"], {"b": 0.2}, 0.5)
    assert np.isnan(ranking_metrics(nothing, 2)).all()
    no_gain = ranking_metrics(lists_of(["b"], {"b": 0.0}, 0.0), 1)[0]
    assert np.isnan(no_gain[0])
    assert (no_gain[1:] == 1).all()
    empty = ranking_metrics(lists_of([], {"b": 1.0}, 0.5), 3)[0]
    assert (empty == 0).all()


@settings(deadline=None, max_examples=60)
@given(seed=st.integers(0, 2**32 - 1), n=st.integers(1, 12), k=st.integers(1, 12))
def test_as_trec_eval_has_it(seed, n, k):
    rng = np.random.default_rng(seed)
    items = [f"i{number}" for number in range(20)]
    listed = list(rng.permutation(items)[:n])
    grades = {str(item): int(rng.integers(0, 5)) for item in rng.permutation(items)[:8]}
    found = ranking_metrics(lists_of(listed, grades, 3), k)[0]
    run = {"u": {str(item): float(100 - place) for place, item in enumerate(listed[:k])}}
    graded = pytrec_eval.RelevanceEvaluator({"u": grades}, {f"ndcg_cut.{k}"}).evaluate(run)["u"]
    relevant = {item: int(grade >= 3) for item, grade in grades.items()}
    names = {
        f"ndcg_cut.{k}", f"recall.{k}", f"P.{k}", f"map_cut.{k}", "recip_rank", f"success.{k}",
    }  # fmt: skip
    binary = pytrec_eval.RelevanceEvaluator({"u": relevant}, names).evaluate(run)["u"]
    if not any(relevant.values()):
        assert np.isnan(found).all()
        return
    expected = [
        graded[f"ndcg_cut_{k}"],
        *[binary[f"{name}_{k}"] for name in ("ndcg_cut", "recall", "P", "map_cut")],
        binary["recip_rank"],
        binary[f"success_{k}"],
    ]
    np.testing.assert_allclose(found, expected, atol=1e-12)


def test_diversity_is_the_mean_over_pairs(rng):
    vectors = rng.normal(size=(3, 5, 4)).astype(np.float32)
    unit = vectors / np.linalg.norm(vectors, axis=2, keepdims=True)
    is_listed = np.arange(5) < np.array([[5], [3], [1]])
    found = diversity(unit, is_listed)
    for user, n in ((0, 5), (1, 3)):
        pairs = [
            1 - float(unit[user, a].astype(float) @ unit[user, b])
            for a in range(n) for b in range(a)
        ]  # fmt: skip
        assert found[user] == pytest.approx(np.mean(pairs), abs=1e-6)
    assert np.isnan(found[2])
    # Without factors nothing tells how alike items are.
    assert np.isnan(diversity(np.zeros((3, 5, 0), np.float32), is_listed)).all()
