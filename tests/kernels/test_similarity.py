import numpy as np
import pytest

from mfspark.kernels.similarity import Evidence, SimilarRows, similar_rows


def rows_of(rng, n, rank=3, n_ratings=None, first_key=0):
    factors = rng.normal(0, [2.0, 1.0, 0.5][:rank], (n, rank)).astype(np.float32)
    counts = np.full(n, 200) if n_ratings is None else n_ratings
    return SimilarRows(factors, counts.astype(np.int64), keys(n, first_key))


def keys(n, first=0):
    return np.arange(first, first + n, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)


EVIDENCE = Evidence(np.array([2.0, 1.0, 0.5]), np.array([3.0, 4.0, 5.0]), 0.8, 0.5)


def test_similarities_by_hand(rng):
    candidates = rows_of(rng, 30, n_ratings=rng.integers(1, 300, 30))
    queries = SimilarRows(*(part[:5] for part in candidates))
    positions, similarity, _ = similar_rows(queries, candidates, EVIDENCE, 7, 0)
    for i in range(5):
        expected = {}
        for j in range(30):
            parts, shares = [], []
            for row in (i, j):
                q, n = candidates.factors[row].astype(float), float(candidates.n_ratings[row])
                error = [
                    0.8 / (n * s + penalty * n**0.5)
                    for s, penalty in zip((2, 1, 0.5), (3, 4, 5), strict=True)
                ]
                profile = q * np.sqrt([2.0, 1.0, 0.5])
                known = profile @ profile
                parts.append(profile / np.sqrt(known))
                shares.append(known / (known + np.dot([2.0, 1.0, 0.5], error)))
            expected[j] = parts[0] @ parts[1] * np.sqrt(shares[0] * shares[1])
        del expected[i]
        order = sorted(expected, key=expected.get, reverse=True)[:7]
        assert positions[i].tolist() == order
        np.testing.assert_allclose(similarity[i], [expected[j] for j in order], rtol=1e-5)


def test_similarity_is_the_cosine_of_predictions_over_all_users(rng):
    """With ratings without end nothing is shrunk."""
    users = rng.normal(size=(500, 3))
    # Canonical coordinates: uncorrelated.
    users = np.linalg.qr(users)[0] * np.sqrt([1000.0, 500.0, 250.0])
    squares = (users**2).mean(axis=0)
    candidates = rows_of(rng, 20, n_ratings=np.full(20, 10**12))
    evidence = Evidence(squares, np.ones(3), 0.8, 0.5)
    positions, similarity, agreement = similar_rows(candidates, candidates, evidence, 3, 5)
    predicted = users @ candidates.factors.T.astype(float)
    unit = predicted / np.linalg.norm(predicted, axis=0)
    expected = unit.T @ unit
    np.testing.assert_allclose(
        similarity, np.take_along_axis(expected, positions.astype(int), axis=1), atol=1e-5
    )
    assert (agreement == 1).all()


def test_agreement_is_how_often_other_samples_have_the_neighbour(rng):
    """Against ridge regressions on the ratings of other users, made again and again."""
    rank, n_items = 2, 25
    squares, noise, penalty = np.array([1.0, 0.4]), 1.0, 2.0
    truth = rng.normal(0, [1.0, 0.7], (n_items, rank))
    counts = np.array([20, 60, 200, 800, 3000] * 5)
    evidence = Evidence(squares, np.full(rank, penalty), noise, 0.5)

    def sample():
        rows = []
        for item in range(n_items):
            users = rng.normal(0, np.sqrt(squares), (counts[item], rank))
            ratings = users @ truth[item] + rng.normal(0, np.sqrt(noise), counts[item])
            weight = penalty * np.sqrt(counts[item]) * np.eye(rank)
            rows.append(np.linalg.solve(users.T @ users + weight, users.T @ ratings))
        return SimilarRows(np.array(rows, np.float32), counts.astype(np.int64), keys(n_items))

    said, was = [], []
    for _ in range(12):
        first = sample()
        positions, _, agreement = similar_rows(first, first, evidence, 5, 60)
        for _ in range(12):
            second = sample()
            nearest, _, _ = similar_rows(second, second, evidence, 5, 0)
            found = (positions[:, :, None] == nearest[:, None, :]).any(axis=2)
            said.append(agreement.ravel())
            was.append(found.ravel())
    said, was = np.concatenate(said), np.concatenate(was)
    assert said.mean() == pytest.approx(was.mean(), abs=0.05)
    for low, high in ((0.2, 0.5), (0.5, 0.8), (0.8, 1.01)):
        chosen = (said >= low) & (said < high)
        assert chosen.sum() > 300
        assert was[chosen].mean() == pytest.approx(said[chosen].mean(), abs=0.1)


def test_rows_without_ratings_or_without_factors(rng):
    candidates = rows_of(rng, 6, n_ratings=np.array([0, 500, 500, 500, 500, 500]))
    candidates.factors[1] = 0
    _, similarity, agreement = similar_rows(candidates, candidates, EVIDENCE, 3, 10)
    assert np.isfinite(similarity).all()
    assert (similarity[1] == 0).all()
    assert (agreement[0] < 1).any()
    none, empty, _ = similar_rows(
        candidates, SimilarRows(*(part[:0] for part in candidates)), EVIDENCE, 3, 2
    )
    assert none.shape == empty.shape == (6, 0)


def test_nobody_is_a_neighbour_of_itself(rng):
    candidates = rows_of(rng, 4)
    positions, similarity, _ = similar_rows(candidates, candidates, EVIDENCE, 4, 3)
    assert np.isfinite(similarity[:, :3]).all()
    assert (similarity[:, 3] == -np.inf).all()
    assert all(row not in positions[row, :3] for row in range(4))
