"""Files that people have, from the command of the README to the report."""

import re

import pandas as pd
from running import ROOT, run_job, submit_job


def own_files(folder):
    """Semicolons, decimal commas, Windows line ends, Latin-1, ids of text, names of their own."""
    books = [f"B-{n:03d};Größe {n} ({1950 + n});Roman|Drama" for n in range(40)]
    (folder / "books.csv").write_bytes(
        ("\r\n".join(["ISBN;Titel;Sparte", *books]) + "\r\n").encode("latin-1")
    )
    rows = ["Kunde;ISBN;Bewertung"]
    for n in range(1500):
        reader, book = (n * 37) % 83, (n * 11 + n // 83) % 40
        stars = 1 + ((reader * book + n) % 9) / 2
        rows.append(f"Köln {reader};B-{book:03d};{str(stars).replace('.', ',')}")
    # One of each kind that is no rating.
    rows += ["Köln 1;B-001;gut", ";B-001;3,0"]
    (folder / "ratings.csv").write_bytes(("\r\n".join(rows) + "\r\n").encode("latin-1"))
    (folder / "own.toml").write_text((ROOT / "conf/custom.toml").read_text(encoding="utf-8"))


def test_from_the_first_error_to_the_report(spark, tmp_path):
    """The error of the first try says what to type; with that it works."""
    own_files(tmp_path)
    first = run_job(spark, "pipeline", tmp_path / "own.toml")
    assert first.returncode == 3
    (line,) = first.stdout.strip().splitlines()[-1:]
    assert "has no column 'user' for the user; it has Kunde, ISBN, Bewertung; pass --set" in line
    settings = re.findall(r"--set (\S+)", line)
    assert settings == [
        "data.columns.user=Kunde", "data.columns.item=ISBN", "data.columns.rating=Bewertung"
    ]  # fmt: skip
    settings += ["data.items_path=books.csv", "als.rank=4", "als.max_iter=3"]
    settings += ["interpret.refits=1"]
    second = run_job(spark, "pipeline", tmp_path / "own.toml", *settings)
    assert second.returncode == 3
    line = second.stdout.strip().splitlines()[-1]
    assert "the item table books.csv has no column 'item'" in line
    more = re.findall(r"--set (\S+)", line)
    assert more == ["data.item_columns.item=ISBN", "data.item_columns.title=Titel"]
    # Nothing was left by either.
    assert not (tmp_path / "runs").exists()
    settings += [*more, "data.item_columns.genres=Sparte", "data.rating_scale=[1, 5]"]
    third = run_job(spark, "pipeline", tmp_path / "own.toml", *settings)
    assert third.returncode == 0, third.stdout[-3000:]
    assert (
        "fields are separated by ';' and quoted by \", decimals by ',', characters are ISO-8859-1"
        in third.stdout
    )
    run = tmp_path / "runs/custom"
    ratings = pd.concat([pd.read_parquet(run / f"ratings/{p}") for p in ("train", "test")])
    assert ratings["user"].str.fullmatch(r"Köln \d+").all()
    assert ratings["rating"].isin([n / 2 for n in range(2, 11)]).all()
    reasons = pd.read_parquet(run / "quarantine")["reason"].value_counts()
    assert reasons["unparsable rating"] == reasons["null user"] == 1
    items = pd.read_parquet(run / "items").set_index("item")
    assert (items.loc["B-007", "title"], items.loc["B-007", "year"]) == ("Größe 7", 1957)
    report = (run / "report/index.html").read_text(encoding="utf-8")
    assert "Größe" in report
    alerts = pd.read_parquet(run / "evaluation/alerts")["name"]
    # Stars without any structure, and few of them.
    assert {"few test rows", "not clearly better than a baseline"} <= set(alerts) or (
        "worse than a baseline" in set(alerts)
    )
    assert "Warning: There are" in third.stdout
    # Nothing that is there is worked over, and before any work the line says what to type.
    unchanged = run_job(spark, "pipeline", tmp_path / "own.toml", *settings)
    assert unchanged.returncode == 0
    assert unchanged.stdout.count("nothing has changed since: skipped") == 5
    again = run_job(spark, "pipeline", tmp_path / "own.toml", *settings, "split.seed=5")
    assert again.returncode == 2
    line = again.stdout.strip().splitlines()[-1]
    assert "runs/custom/ratings exists" in line
    assert "--set run.overwrite=true" in line
    assert "separated" not in again.stdout


def test_by_spark_submit(tmp_path):
    own_files(tmp_path)
    result = submit_job(
        "ingest", tmp_path / "own.toml", "data.columns.user=Kunde", "data.columns.item=ISBN",
        "data.columns.rating=Bewertung", "data.items_path=books.csv",
        "data.item_columns.item=ISBN", "data.item_columns.title=Titel", cwd=tmp_path,
    )  # fmt: skip
    assert result.returncode == 0, result.stdout
    assert "of 1502 rows are good" in result.stdout
    assert len(pd.read_parquet(tmp_path / "runs/custom/items")) == 40
