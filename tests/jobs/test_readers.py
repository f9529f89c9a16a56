"""The tables of a run in the libraries that people read them with."""

import re
import shutil

import duckdb
import pandas as pd
import polars as pl
import pytest
from running import ROOT

SNIPPETS = [
    code
    for code in re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    if re.match(r"import (pandas|polars|duckdb)", code)
]


def tables_below(folder):
    return sorted({path.parent for path in folder.rglob("*.parquet")})


def test_every_table_is_read_by_its_folder(finished):
    folder, _ = finished
    tables = tables_below(folder / "runs/mine")
    assert len(tables) > 15
    for table in tables:
        n_rows = len(pd.read_parquet(table))
        assert pl.read_parquet(table).height == n_rows
        count = duckdb.sql(f"SELECT count(*) FROM '{table}/*.parquet'").fetchall()[0]
        assert count == (n_rows,)


def test_ids_have_one_type_in_all_tables(finished):
    folder, _ = finished
    for name in ("items", "model/item_factors", "ratings/train", "interpretation/similar_items"):
        assert pl.read_parquet(folder / "runs/mine" / name).schema["item"] == pl.String
    for name in ("users", "model/user_factors", "ratings/test"):
        assert pl.read_parquet(folder / "runs/mine" / name).schema["user"] == pl.String


@pytest.mark.parametrize("code", SNIPPETS, ids=lambda code: code.split()[1])
def test_snippets_of_the_readme_run(code, finished, tmp_path, monkeypatch):
    folder, _ = finished
    shutil.copytree(folder / "runs/mine", tmp_path / "runs/demo")
    *lines, last = code.strip().split("\n\n")
    names = {}
    monkeypatch.chdir(tmp_path)
    exec("\n".join(lines), names)
    if last.startswith("duckdb"):
        found = eval(last.removesuffix(".show()"), names).df()
    else:
        *before, last = last.splitlines()
        exec("\n".join(before), names)
        found = eval(last, names)
        found = pd.DataFrame(found.to_dict(as_series=False) if "polars" in code else found)
    factors = pd.read_parquet(folder / "runs/mine/model/item_factors")
    expected = factors.nlargest(10, "bias")
    assert list(found.columns) == ["item", "title", "n_ratings", "bias"]
    assert found["bias"].tolist() == expected["bias"].tolist()
    titles = dict(zip(found["item"], found["title"], strict=True))
    assert all(
        title == f"Title {item[2:]}" for item, title in titles.items() if item not in ("i-0", "i-1")
    )


def test_there_are_three_snippets():
    assert len(SNIPPETS) == 3
