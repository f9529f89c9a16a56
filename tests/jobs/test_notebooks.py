"""Notebooks have what they showed stored, and run on files that they have not seen."""

import os
import re
import shutil
import sys

import nbformat
import numpy as np
import pandas as pd
import pytest
from nbclient import NotebookClient
from running import ROOT, run_job

NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


def outputs_of(notebook):
    return [output for cell in notebook.cells for output in cell.get("outputs", [])]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_what_it_showed_is_stored(path):
    notebook = nbformat.read(path, as_version=4)
    outputs = outputs_of(notebook)
    assert sum("text/html" in output.get("data", {}) for output in outputs) >= 1
    assert all(output["output_type"] != "error" for output in outputs)
    # Messages tell of the machine.
    assert all(output.get("name") != "stderr" for output in outputs)
    counts = [cell["execution_count"] for cell in notebook.cells if cell.cell_type == "code"]
    assert counts == list(range(1, len(counts) + 1))


@pytest.fixture
def executed(tmp_path, monkeypatch, of_short_life):
    def execute(name, run):
        notebook = nbformat.read(ROOT / "notebooks" / name, as_version=4)
        for cell in notebook.cells:
            if cell.cell_type == "code":
                cell.outputs = []
        monkeypatch.setenv("PYSPARK_PYTHON", os.environ.get("PYSPARK_PYTHON", sys.executable))
        monkeypatch.setenv("MFSPARK_RUN", str(run))
        for variable, value in of_short_life.items():
            monkeypatch.setenv(variable, value)
        resources = {"metadata": {"path": str(tmp_path)}}
        NotebookClient(notebook, timeout=240, resources=resources).execute()
        return [output.get("data", {}) | {"text": output.get("text", "")}
                for output in outputs_of(notebook)]  # fmt: skip

    return execute


def test_exploring_needs_the_files_alone(finished, executed):
    shown = executed("01_explore_factors.ipynb", finished[0] / "runs/mine")
    assert sum("image/png" in output for output in shown) == 2
    assert any("A prediction" in output["text"] or "= " in output["text"] for output in shown)


@pytest.mark.thorough
def test_transitive_inference(executed, tmp_path):
    rng = np.random.default_rng(0)
    taste, loading = rng.normal(0, 1, 60), rng.choice([-1, 1], 40)
    pairs = pd.MultiIndex.from_product([range(60), range(40)], names=["user", "item"])
    ratings = pairs.to_frame(index=False).sample(frac=0.6, random_state=0)
    ratings["rating"] = 3 + taste[ratings["user"]] * loading[ratings["item"]]
    parts = {"train": ratings[:1000], "validation": ratings[1000:1200], "test": ratings[1200:]}
    for part, rows in parts.items():
        (tmp_path / "run/ratings" / part).mkdir(parents=True)
        rows.to_parquet(tmp_path / "run/ratings" / part / "part.parquet")
    genres = [["Romance"] if n < 18 else ["Sci-Fi"] if n < 36 else [] for n in range(40)]
    (tmp_path / "run/items").mkdir()
    pd.DataFrame({"item": range(40), "genres": genres}).to_parquet(tmp_path / "run/items/p.parquet")
    shown = executed("02_transitive_inference.ipynb", tmp_path / "run")
    tables = [output["text/html"] for output in shown if "text/html" in output]
    assert any("correlation with the truth" in table for table in tables)
    said = next(output["text"] for output in shown if "whoever asks" in output["text"])
    assert float(re.search(r"([+-][\d.]+) from her ratings", said)[1]) < -1
    # Here one factor is all there is, and romances tell of it.
    of_als = re.search(r"<th>ALS</th>\s*<td>([\d.]+)</td>\s*<td>([\d.]+)</td>", tables[-1])
    assert float(of_als[2]) > 0.9


@pytest.mark.thorough
def test_uncertainty(finished, executed):
    shown = executed("03_uncertainty.ipynb", finished[0])
    tables = [output["text/html"] for output in shown if "text/html" in output]
    promised = next(table for table in tables if "should hold" in table)
    shares = [float(text) for text in re.findall(r"<td>([\d.]+)%</td>", promised)]
    assert shares[::2] == [50, 80, 95]
    for wanted, found in zip(shares[::2], shares[1::2], strict=True):
        assert found == pytest.approx(wanted, abs=3)


@pytest.mark.slow
def test_lists_are_found_without_spark(finished, executed):
    shown = executed("04_explain_and_recommend.ipynb", finished[0] / "runs/mine")
    texts = "".join(output["text"] for output in shown)
    assert "the same list: True" in texts
    recall = next(o["text/html"] for o in shown if "recall of the model" in o.get("text/html", ""))
    assert re.search(r"exact</th>\s*<td>1.0<", recall)
    ends = [float(found) for found in re.findall(r" = ([\d.]+)", texts)]
    assert len(ends) == 2
    assert ends[0] == pytest.approx(ends[1], abs=2e-3)


@pytest.mark.thorough
def test_comparing(spark, finished, executed, tmp_path):
    folder = shutil.copytree(finished[0], tmp_path / "copy")
    models = 'compare.models=["bias_only","als"]'
    result = run_job(spark, "compare", folder / "run.toml", models, "compare.resamples=100")
    assert result.returncode == 0, result.stdout[-3000:]
    shown = executed("05_compare.ipynb", folder / "runs/mine")
    assert sum("image/png" in output for output in shown) == 3
