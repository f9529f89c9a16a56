"""Exported vectors find the lists of the recommend job, by plain products and by FAISS."""

import re
import shutil
import sys
from contextlib import contextmanager

import faiss
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from milvus_lite.server_manager import server_manager_instance
from pymilvus import MilvusClient
from running import ROOT, run_job

from mfspark.app.vector_stores import write_store


@contextmanager
def milvus(path):
    client = MilvusClient(str(path))
    client.load_collection("items")
    yield client
    client.close()
    server_manager_instance.release_server(str(path))


STORES = ['export.stores=["faiss", "milvus"]']


@pytest.fixture(scope="module")
def exported(spark, finished, tmp_path_factory):
    folder = shutil.copytree(finished[0], tmp_path_factory.mktemp("export") / "copy")
    settings = ["recommend.exclude_seen=false", "recommend.n=5", "recommend.min_ratings=20"]
    for job in ("recommend", "export"):
        result = run_job(spark, job, folder / "run.toml", *settings, *STORES)
        assert result.returncode == 0, result.stdout[-3000:]
    run = folder / "runs/mine"
    users, items = (pd.read_parquet(run / f"vectors/{name}") for name in ("users", "items"))
    shutil.copytree(run, folder / "runs/demo")
    lists = pd.read_parquet(run / "recommendations").set_index("user")["recommendations"]
    return (
        folder,
        users,
        items,
        {user: [row["item"] for row in rows] for user, rows in lists.items()},
    )


def test_largest_products_are_the_models_own_lists(exported):
    _, users, items, lists = exported
    assert len(users) == 101
    assert items["n_ratings"].min() >= 20
    products = np.stack(users["vector"]) @ np.stack(items["vector"]).T
    for user, row in zip(users["user"], products, strict=True):
        assert list(items["item"].to_numpy()[np.argsort(-row)[:5]]) == lists[user]


def test_recall_by_faiss(exported):
    _, users, items, lists = exported
    vectors = np.stack(items["vector"]).astype(np.float32)
    queries = np.stack(users["vector"]).astype(np.float32)
    recall = {}
    for name, index in {
        "exact": faiss.IndexFlatIP(vectors.shape[1]),
        "approximate": faiss.IndexHNSWFlat(vectors.shape[1], 16, faiss.METRIC_INNER_PRODUCT),
    }.items():
        index.add(vectors)
        _, places = index.search(queries, 5)
        found = items["item"].to_numpy()[places]
        hits = [set(row) & set(lists[u]) for u, row in zip(users["user"], found, strict=True)]
        recall[name] = sum(map(len, hits)) / sum(map(len, lists.values()))
    assert recall["exact"] == 1
    assert recall["approximate"] > 0.9


def test_the_stores_that_the_job_wrote(exported):
    folder, users, items, lists = exported
    vectors = folder / "runs/mine/vectors"
    queries = np.stack(users["vector"]).astype(np.float32)
    index = faiss.read_index(str(vectors / "items.faiss"))
    _, places = index.search(queries, 5)
    in_order = items["item"].sort_values().to_numpy()
    assert list(in_order) == list(items["item"])
    with milvus(vectors / "milvus.db") as client:
        found = client.search("items", data=list(queries), limit=5)
    for user, row, hits in zip(users["user"], places, found, strict=True):
        assert list(in_order[row]) == lists[user]
        assert [hit["item"] for hit in hits] == lists[user]


def test_stores_that_cannot_be_written(spark, finished, tmp_path, monkeypatch):
    folder = shutil.copytree(finished[0], tmp_path / "copy")
    monkeypatch.setitem(sys.modules, "pymilvus", None)
    result = run_job(spark, "export", folder / "run.toml", 'export.stores=["milvus"]')
    assert result.returncode == 2
    assert "export.stores names milvus, but pymilvus cannot be imported" in result.stdout
    assert not (folder / "runs/mine/vectors").exists()


@pytest.mark.parametrize("kind", [pa.int64(), pa.string(), pa.float64()])
def test_ids_of_all_types_go_into_milvus(tmp_path, kind):
    items = pa.table({
        "item": pa.array([3, 1, 2], pa.int64()).cast(kind),
        "vector": pa.array([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]], pa.list_(pa.float32())),
    })  # fmt: skip
    write_store("milvus", items, str(tmp_path))
    with milvus(tmp_path / "milvus.db") as client:
        (hits,) = client.search("items", data=[[0.9, 1.0]], limit=3)
    assert [float(hit["item"]) for hit in hits] == [1, 3, 2]


def test_the_snippet_of_the_readme_runs(exported, monkeypatch):
    folder, _, _, lists = exported
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    (code,) = [block for block in blocks if block.startswith("import faiss")]
    names: dict[str, pd.DataFrame] = {}
    monkeypatch.chdir(folder)
    exec(code, names)
    found = names["lists"]
    assert found.shape == (101, 10)
    assert all(list(found.loc[user][:5]) == own for user, own in lists.items())
