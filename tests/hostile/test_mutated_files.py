"""Files of ratings with bytes changed, cut off or twice: an error that names the file, or rows.

MFSPARK_FUZZ_EXAMPLES says how many files (make fuzz).
"""

import gzip
import json
import os
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from running import make_ratings, run_job

FUZZ = settings(
    max_examples=int(os.environ.get("MFSPARK_FUZZ_EXAMPLES", "2")),
    deadline=None,
    derandomize="MFSPARK_FUZZ_EXAMPLES" not in os.environ,
    # A file that is found is small enough.
    phases=[Phase.generate],
    suppress_health_check=list(HealthCheck),
)


@pytest.fixture(scope="module")
def originals(tmp_path_factory) -> dict[str, bytes]:
    """The same 200 ratings in each format."""
    folder = tmp_path_factory.mktemp("originals")
    text = make_ratings(folder / "ratings.csv", 200).read_bytes()
    table = pd.read_csv(folder / "ratings.csv")
    table.to_parquet(folder / "ratings.parquet", index=False)
    table.to_json(folder / "ratings.json", orient="records", lines=True)
    return {
        "ratings.csv": text,
        "ratings.csv.gz": gzip.compress(text),
        "ratings.dat": text.split(b"\n", 1)[1].replace(b",", b"::"),
        "ratings.parquet": (folder / "ratings.parquet").read_bytes(),
        "ratings.json": (folder / "ratings.json").read_bytes(),
    }


def mutated(data: st.DataObject, content: bytes) -> bytes:
    """``content`` after one thing that happens to files."""
    place = data.draw(st.integers(0, len(content) - 1), label="place")
    how = data.draw(st.sampled_from(["flipped", "cut off", "twice", "hole", "inserted"]))
    if how == "flipped":
        changed = bytearray(content)
        for _ in range(data.draw(st.integers(1, 5))):
            changed[data.draw(st.integers(0, len(content) - 1))] ^= data.draw(st.integers(1, 255))
        return bytes(changed)
    if how == "cut off":
        return content[:place]
    if how == "twice":
        return content + content[place:]
    if how == "hole":
        return content[:place] + bytes(64) + content[place + 64 :]
    return content[:place] + data.draw(st.binary(min_size=1, max_size=40)) + content[place:]


@pytest.mark.parametrize("name", ["ratings.csv", "ratings.csv.gz", "ratings.dat",
                                  "ratings.parquet", "ratings.json"])  # fmt: skip
@FUZZ
@given(data=st.data())
def test_a_damaged_file_is_named_or_its_rows_are_counted(
    spark, originals, tmp_path_factory, name, data
):
    place = tmp_path_factory.mktemp("damaged")
    (place / name).write_bytes(mutated(data, originals[name]))
    (place / "run.toml").write_text(
        f'[run]\nname = "mine"\n[data]\npath = "{name}"\nduplicates = "mean"\nmax_bad_share = 1.0\n'
    )
    result = run_job(spark, "ingest", place / "run.toml")
    told = result.stdout.strip().splitlines()
    run = place / "runs/mine"
    if result.returncode == 0:
        assert_rows_add_up(run)
    else:
        # Nothing unexpected, in one line, and no half of a run.
        assert result.returncode in (3, 4), result.stdout
        assert told[-1].startswith("mfspark: error: ")
        assert name in told[-1] or "rows" in told[-1] or "ratings" in told[-1], told[-1]
        assert not (run / "ratings").exists()


def assert_rows_add_up(run: Path) -> None:
    facts = json.loads((run / "ingest.json").read_text())
    kept = sum(facts["split"].values())
    assert facts["rows_read"] == kept + facts["rows_merged"] + sum(facts["bad_rows"].values())
    parts = [pd.read_parquet(run / "ratings" / part) for part in ("train", "validation", "test")]
    assert sum(map(len, parts)) == kept
    assert pd.concat(parts)["rating"].between(-1e308, 1e308).all()
