"""A fit that is broken off at any iteration goes on from its last snapshot to the same end."""

import json
from dataclasses import replace
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pyarrow as pa
import pytest
from killed_fits import KilledError, killed_after

from mfspark import files
from mfspark.algorithms import snapshots as module
from mfspark.algorithms.als_threads import ThreadedALS
from mfspark.algorithms.gibbs_threads import ThreadedGibbs
from mfspark.algorithms.history import History
from mfspark.algorithms.indexed_ratings import index_ratings
from mfspark.algorithms.sgd_threads import ThreadedSGD
from mfspark.algorithms.snapshots import Snapshots
from mfspark.columns import ITEM, USER, Side
from mfspark.errors import DiskError
from mfspark.kernels.objective import Objective, Penalty
from mfspark.settings import ALSSettings, BayesianSettings, SGDSettings

OBJECTIVE = Objective(0.0, True, Penalty(1.0, 0.25, 0.5), Penalty(1.0, 0.25, 0.5))
LINKED = replace(OBJECTIVE, link_weight=2.0)
N_USERS, N_ITEMS = 60, 40
FITS = {
    "als": ThreadedALS(OBJECTIVE, ALSSettings(rank=3, tol=0, max_iter=8), scale=1.3),
    "als that ends by validation": ThreadedALS(
        replace(OBJECTIVE, users=Penalty(0.01, 0.1, 0.5)),
        ALSSettings(rank=8, tol=0, max_iter=30),
    ),
    "als with links": ThreadedALS(
        LINKED, ALSSettings(rank=3, tol=0, max_iter=8, implicit_features=True)
    ),
    "sgd": ThreadedSGD(OBJECTIVE, SGDSettings(rank=3, tol=0, max_iter=8)),
    "sgd beyond its best epoch": ThreadedSGD(
        replace(OBJECTIVE, users=Penalty(0.01, 0.1, 0.5)),
        SGDSettings(rank=8, tol=0, max_iter=30, learning_rate=0.3),
    ),
    "sgd that undoes epochs": ThreadedSGD(
        OBJECTIVE,
        SGDSettings(rank=3, tol=0, max_iter=20, schedule="bold_driver", learning_rate=0.2),
    ),
    "sgd with links": ThreadedSGD(
        LINKED, SGDSettings(rank=3, tol=0, max_iter=8, implicit_features=True)
    ),
    "bayes": ThreadedGibbs(
        OBJECTIVE,
        BayesianSettings(rank=3, max_iter=30, burn_in=4, keep_draws=3, implicit_features=False),
        scale=1.3,
    ),
    "bayes with links and chains": ThreadedGibbs(
        OBJECTIVE, BayesianSettings(rank=2, max_iter=24, burn_in=4, keep_draws=5, num_chains=3)
    ),
}


@pytest.fixture(scope="module")
def ratings():
    rng = np.random.default_rng(3)
    seen = rng.random((N_USERS, N_ITEMS)) < 0.4
    users, items = np.nonzero(seen)
    values = rng.normal(0, 1, (N_USERS, 2)) @ rng.normal(0, 1, (2, N_ITEMS)) / 1.5
    table = pa.table(
        {
            "user": users,
            "item": items,
            "rating": (values[seen] + rng.normal(0, 0.5, len(users))).astype(np.float32),
            "is_validation": rng.random(len(users)) < 0.2,
        }
    )
    features = {ITEM: pa.table({"item": np.arange(50), "feature_0": rng.normal(0, 1, 50)})}
    return index_ratings(table), index_ratings(table, features=features)


def learner(name, ratings):
    """The fit of that name, with its ratings; the last one has features of items as well."""
    return FITS[name], ratings["chains" in name]


def snapshots(folder: Path, **changes) -> Snapshots:
    Path(folder).mkdir(exist_ok=True)
    found = Snapshots(str(folder), seconds=0.0, identity="these ratings", execution="one_task")
    return replace(found, **changes)


def assert_same(found, expected):
    for side in Side:
        np.testing.assert_allclose(found.rows[side], expected.rows[side], atol=1e-5)
    assert found.history.reason == expected.history.reason
    assert found.best_iteration == expected.best_iteration
    without_time = [
        [row._replace(seconds=0.0) for row in each.history.rows] for each in (found, expected)
    ]
    assert [row.iteration for row in without_time[0]] == [row.iteration for row in without_time[1]]
    np.testing.assert_allclose(
        [row.objective for row in without_time[0]],
        [row.objective for row in without_time[1]],
        rtol=1e-6,
    )
    if expected.posterior is not None:
        for side in Side:
            np.testing.assert_allclose(
                found.posterior.draws[side], expected.posterior.draws[side], atol=1e-5
            )
        np.testing.assert_allclose(found.posterior.spread, expected.posterior.spread, rtol=1e-5)
        # To how they add up: a trace is followed to single precision.
        for one, other in zip(
            found.posterior.diagnostics, expected.posterior.diagnostics, strict=True
        ):
            assert one.quantity == other.quantity
            assert one.mean == pytest.approx(other.mean, rel=1e-5)
            # It is made of ranks, and two draws that are nearly equal may change places.
            assert one.rhat == pytest.approx(other.rhat, rel=1e-2)


@pytest.mark.parametrize("name", FITS)
def test_a_fit_killed_again_and_again_ends_as_if_nothing_had_happened(name, ratings, tmp_path):
    fit, table = learner(name, ratings)
    expected = fit.learn(table, n_threads=2)
    disturbed = replace(fit, snapshots=snapshots(tmp_path / "state"))
    n_kills = 0
    while True:
        # Each life is long enough for one more iteration to be saved, and a part of the next; ALS
        # runs the one before once more.
        try:
            with killed_after({"als": 5, "sgd": 2, "bayes": 8}[name.split()[0]]):
                found = disturbed.learn(table, n_threads=2)
            break
        except KilledError:
            n_kills += 1
            assert n_kills < 40
    assert n_kills >= 2
    assert_same(found, expected)


@pytest.mark.parametrize("name", ["als", "sgd", "bayes"])
def test_every_snapshot_leads_to_the_same_end(name, ratings, tmp_path):
    """Also those of iterations after which the fit was not killed."""
    fit, table = learner(name, ratings)
    expected = fit.learn(table, n_threads=2)
    for n_passes in range(1, len(expected.history.rows), 5):
        folder = tmp_path / f"after {n_passes}"
        disturbed = replace(fit, snapshots=snapshots(folder))
        with killed_after(n_passes), pytest.raises(KilledError):
            disturbed.learn(table, n_threads=1)
        assert_same(disturbed.learn(table, n_threads=2), expected)


def test_one_snapshot_is_there_at_a_time(ratings, tmp_path):
    fit, table = learner("als", ratings)
    with killed_after(11), pytest.raises(KilledError):
        replace(fit, snapshots=snapshots(tmp_path / "state")).learn(table, n_threads=1)
    names = [path.name for path in (tmp_path / "state").iterdir()]
    latest = snapshots(tmp_path / "state").latest()
    assert sorted(names) == sorted(["fit.json", latest.folder])
    # The fifth iteration is behind it, and is run again.
    assert latest.loop.iteration == 4


@pytest.mark.parametrize(
    "change",
    [{"identity": "other ratings"}, {"execution": "distributed"}, {"folder": "/nowhere/at/all"}],
)
def test_a_snapshot_of_something_else_is_not_used(change, ratings, tmp_path):
    fit, table = learner("als", ratings)
    with killed_after(11), pytest.raises(KilledError):
        replace(fit, snapshots=snapshots(tmp_path / "state")).learn(table, n_threads=1)
    assert snapshots(tmp_path / "state").latest() is not None
    assert replace(snapshots(tmp_path / "state"), **change).latest() is None


@pytest.mark.parametrize(
    "damage",
    [
        lambda folder: (folder / "fit.json").write_text("{"),
        lambda folder: (folder / "fit.json").write_bytes(b"\xff\xfe"),
        lambda folder: (folder / "fit.json").write_text(json.dumps({"format": 1})),
        lambda folder: next(folder.glob("*/items.npy")).write_bytes(b"\x93NUMPY"),
        lambda folder: next(folder.glob("*/items.npy")).write_bytes(b"items"),
        lambda folder: next(folder.glob("*/items.npy")).unlink(),
        lambda folder: (folder / "fit.json").write_text(
            (folder / "fit.json").read_text().replace('"folder":"', '"folder":"../')
        ),
    ],
)
def test_a_damaged_snapshot_is_no_snapshot(damage, ratings, tmp_path):
    fit, table = learner("als", ratings)
    expected = fit.learn(table, n_threads=2)
    disturbed = replace(fit, snapshots=snapshots(tmp_path / "state"))
    with killed_after(11), pytest.raises(KilledError):
        disturbed.learn(table, n_threads=1)
    damage(tmp_path / "state")
    assert_same(disturbed.learn(table, n_threads=2), expected)


def test_a_fit_does_not_end_because_its_state_cannot_be_saved(ratings, tmp_path):
    fit, table = learner("als", ratings)
    expected = fit.learn(table, n_threads=2)
    # A machine that does not see the folder.
    elsewhere = replace(snapshots(tmp_path / "state"), folder=str(tmp_path / "gone"))
    assert_same(replace(fit, snapshots=elsewhere).learn(table, n_threads=2), expected)
    assert not (tmp_path / "gone").exists()
    full = OSError(28, "No space left on device")
    with patch.object(np, "save", side_effect=full):
        found = replace(fit, snapshots=snapshots(tmp_path / "full")).learn(table, n_threads=2)
    assert_same(found, expected)
    assert list((tmp_path / "full").iterdir()) == []
    # The same, told by what writes documents and makes folders.
    for name in ("write_text", "make_folder"):
        folder = tmp_path / name
        with patch.object(files, name, side_effect=DiskError("no room")) as refused:
            found = replace(fit, snapshots=snapshots(folder)).learn(table, n_threads=2)
        assert refused.called
        assert_same(found, expected)


def test_saving_takes_a_small_part_of_the_time(tmp_path):
    """By a clock of its own: iterations of 10 s, a snapshot takes 5 s."""
    folder, now = tmp_path / "state", [0.0]
    folder.mkdir()
    with patch.object(module.time, "monotonic", lambda: now[0]):
        saver, n_saved = module.Saver(snapshots(folder, seconds=60.0)), 0
        for _ in range(200):
            now[0] += 10.0
            if saver.is_due:
                state = History(9, 0.0, 1.0).state
                with saver.saving(module.LoopState(objective=OBJECTIVE, history=state)):
                    now[0] += 5.0
                n_saved += 1
    assert n_saved > 10
    assert 5.0 * n_saved < 0.05 * now[0]


def test_state_comes_back_whole(ratings, tmp_path):
    """Infinity and NaN included."""
    fit, table = learner("bayes", ratings)
    fit = replace(fit, settings=fit.settings.model_copy(update={"tol": 0.0}))
    train_only = replace(table, is_validation=np.zeros_like(table.is_validation))
    with killed_after(20), pytest.raises(KilledError):
        replace(fit, snapshots=snapshots(tmp_path / "state")).learn(train_only, n_threads=1)
    loop = snapshots(tmp_path / "state").latest().loop
    assert loop.history.best == np.inf
    assert np.isnan(loop.chain.traces[0][0].validation_rmse)
    assert loop.objective == OBJECTIVE
    arrays = module.load_arrays(
        str(next(path for path in (tmp_path / "state").iterdir() if path.is_dir()))
    )
    assert arrays["user_rows"].shape == (len(table.ids[USER]), 4)
    assert {part.dtype for part in arrays.values()} == {np.dtype("f4"), np.dtype("f8")}
