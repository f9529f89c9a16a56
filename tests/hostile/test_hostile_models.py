"""A model directory from a stranger is read, or refused with a reason; it reads nothing else."""

import json
import os
import shutil
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mfspark import ALSModel, FactorModel, KNNModel
from mfspark.errors import ModelFormatError

SAVED = Path(__file__).parents[1] / "spark" / "saved"
FACTORS = json.loads((SAVED / "factors/metadata.json").read_text())


@pytest.fixture
def model(tmp_path) -> Path:
    shutil.copytree(SAVED / "factors", tmp_path / "model")
    return tmp_path / "model"


def loaded(path: Path) -> tuple[FactorModel | None, str]:
    """A model, or why there is none."""
    try:
        return FactorModel.load(str(path)), ""
    except ModelFormatError as error:
        return None, str(error)


def refusal(path: Path, kind=FactorModel) -> str:
    with pytest.raises(ModelFormatError) as caught:
        kind.load(str(path))
    message = str(caught.value)
    assert str(path) in message
    assert "\n" not in message
    return message


@pytest.mark.parametrize("target", ["/etc/passwd", "../../elsewhere", "no such thing"])
@pytest.mark.parametrize("place", ["metadata.json", "user_factors", "history/more.parquet"])
def test_links_out_of_a_model_are_not_followed(spark, model, place, target):
    (model.parents[1] / "elsewhere").mkdir(exist_ok=True)
    path = model / place
    shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    path.symlink_to(target)
    assert f"holds {place}, which is a link" in refusal(model)


def test_a_link_to_itself_and_a_pipe_are_not_read(spark, model):
    (model / "loop").symlink_to("loop")
    assert "holds loop" in refusal(model)
    (model / "loop").unlink()
    os.mkfifo(model / "item_factors/part.parquet")
    assert "holds item_factors/part.parquet" in refusal(model)


def test_links_inside_a_model_and_to_a_model_are_followed(spark, model):
    (model / "user_factors").rename(model / "users")
    (model / "user_factors").symlink_to("users")
    link = model.parent / "link"
    link.symlink_to(model)
    assert FactorModel.load(str(link)).metadata.n_users == FACTORS["n_users"]


@pytest.mark.parametrize(
    "text",
    [
        "[" * 100_000,
        '{"a":' * 100_000,
        '{"schema_version": 1, "hyper_parameters": {"rank": ' + "9" * 5000 + "}}",
        '{"schema_version": 1e999}',
        "null",
        "\ufeff{}",
        "",
        '{"schema_version": 1}' + " " * 2**26,
    ],
    ids=["deep list", "deep object", "digits", "infinite", "null", "mark", "empty", "long"],
)
@pytest.mark.parametrize(
    ("name", "document", "kind"),
    [("factors", "metadata.json", FactorModel), ("neighbours", "knn.json", KNNModel)],
)
def test_odd_documents_are_refused(spark, tmp_path, name, document, kind, text):
    shutil.copytree(SAVED / name, tmp_path / "model")
    (tmp_path / "model" / document).write_text(text)
    refusal(tmp_path / "model", kind)


@pytest.mark.parametrize("text", ["", "{}", "[" * 100_000, '{"uid": 1, "paramMap": 5}'])
def test_odd_documents_of_spark_are_refused(spark, tmp_path, text):
    shutil.copytree(SAVED / "als", tmp_path / "model")
    for part in (tmp_path / "model/metadata").glob("[!._]*"):
        part.write_text(text)
    refusal(tmp_path / "model", ALSModel)


def places(document: object, path: tuple = ()) -> list[tuple]:
    """The way to every value of a document."""
    inner = (
        document.items()
        if isinstance(document, dict)
        else enumerate(document)
        if isinstance(document, list)
        else []
    )
    return [path, *[place for key, value in inner for place in places(value, (*path, key))]]


def with_value(document: object, path: tuple, value: object) -> object:
    if not path:
        return value
    copy = dict(document) if isinstance(document, dict) else list(document)
    copy[path[0]] = with_value(copy[path[0]], path[1:], value)
    return copy


ANYTHING = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from([-1, 0, 2**63, 1e308, "rating`; DROP", "../x"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner),
    max_leaves=4,
)


@pytest.fixture(scope="module")
def prey(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("prey") / "model"
    shutil.copytree(SAVED / "factors", folder)
    return folder


@settings(
    max_examples=int(os.environ.get("MFSPARK_FUZZ_EXAMPLES", "25")),
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
@given(place=st.sampled_from(places(FACTORS)), value=ANYTHING)
def test_any_value_in_any_place_is_used_or_refused(spark, prey, place, value):
    (prey / "metadata.json").write_text(json.dumps(with_value(FACTORS, place, value)))
    model, reason = loaded(prey)
    assert "\n" not in reason
    if model is not None:
        pairs = spark.createDataFrame([(0, 0), (99, 99)], "user long, item long")
        names = {"userCol": "user", "itemCol": "item", "predictionCol": "prediction"}
        rows = model.setParams(**names).transform(pairs).collect()
        assert len(rows) <= 2


def test_files_of_a_model_that_are_cut_off_or_changed_are_named(spark, model, rng):
    file = next((model / "item_factors").glob("*.parquet"))
    whole = file.read_bytes()
    expected = FactorModel.load(str(model)).item_factors.toPandas().sort_values("item")
    for trial in range(12):
        content = bytearray(whole)
        if trial % 3 == 0:
            del content[int(rng.integers(len(content))) :]
        elif trial % 3 == 1:
            content[int(rng.integers(len(content)))] ^= int(rng.integers(1, 256))
        else:
            content += whole[: int(rng.integers(1, len(whole)))]
        file.write_bytes(content)
        # What is read is right: bytes that nothing depends on may be changed.
        read, reason = loaded(model)
        assert (read is None) == ("item_factors" in reason)
        if read is not None:
            found = read.item_factors.toPandas().sort_values("item")
            pd.testing.assert_frame_equal(found, expected)
