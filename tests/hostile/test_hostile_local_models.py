"""A local model's file from a stranger is read, or refused with a reason."""

import io
import json
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mfspark import LocalModel
from mfspark.errors import ModelFormatError


@pytest.fixture(scope="module")
def stored(tmp_path_factory) -> Path:
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(9, 3)).astype(np.float32)
    items = [f"i{n}" for n in range(9)]
    path = tmp_path_factory.mktemp("local") / "model.npz"
    LocalModel(items, rows, 3.5, np.diag([2.0, 1.5, 0.5]), 0.5, True, (1.0, 5.0)).save(str(path))
    return path


def parts(path: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def write(path: Path, content: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, data in content.items():
            archive.writestr(name, data)
    return path


def array(values: object) -> bytes:
    stream = io.BytesIO()
    np.lib.format.write_array(stream, np.asarray(values), allow_pickle=True)
    return stream.getvalue()


def header(shape: tuple[int, ...], descr: str) -> bytes:
    stream = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        stream, {"shape": shape, "fortran_order": False, "descr": descr}
    )
    return stream.getvalue()


class Opened:
    """Unpickled, it would say so."""

    def __reduce__(self):
        return (open, ("unpickled", "w"))


def test_what_was_saved_is_read(stored):
    model = LocalModel.load(str(stored))
    again = model.recommend(model.foldIn({"i0": 5.0, "i3": 1.0}), 3)
    assert [each.item for each in again]
    assert model.limits == (1.0, 5.0)


@pytest.mark.parametrize(
    ("name", "data", "reason"),
    [
        ("items.npy", array([Opened()] * 9), "no numbers and no text"),
        ("rows.npy", header((10**12, 3), "<f4"), "not as long as its header says"),
        ("rows.npy", header((2**62, 4), "<f4"), "not as long as its header says"),
        ("rows.npy", b"\x93NUMPY\x01\x00\xff\xff" + b"(" * 65535, "not a file"),
        ("rows.npy", array(np.full((9, 3), np.nan, np.float32)), "NaN or infinite"),
        ("rows.npy", array(np.zeros((8, 3), np.float32)), "do not fit each other"),
        ("penalty.npy", array(np.zeros((2, 2))), "do not fit each other"),
        ("items.npy", array(["same"] * 9), "twice"),
        ("facts.npy", array("[" * 100_000), "not a file"),
        ("facts.npy", array('{"format": 2}'), "not a file"),
        ("facts.npy", array(json.dumps({"format": 1, "mean": "3", "exponent": 0.5,
                                        "fit_biases": True, "limits": None})), "not a file"),
    ],
)  # fmt: skip
def test_odd_parts_are_refused(stored, tmp_path, monkeypatch, name, data, reason):
    monkeypatch.chdir(tmp_path)
    path = write(tmp_path / "odd.npz", parts(stored) | {name: data})
    with pytest.raises(ModelFormatError, match=reason) as caught:
        LocalModel.load(str(path))
    assert str(path) in str(caught.value)
    assert not (tmp_path / "unpickled").exists()


def test_archives_that_would_grow_are_refused(stored, tmp_path):
    content = parts(stored)
    content["rows.npy"] = header((10**7, 10), "<f4") + bytes(4 * 10**8)
    path = write(tmp_path / "bomb.npz", content, zipfile.ZIP_DEFLATED)
    assert path.stat().st_size < 10**6
    with pytest.raises(ModelFormatError, match="is compressed"):
        LocalModel.load(str(path))


def test_other_files_are_refused(stored, tmp_path):
    (tmp_path / "text.npz").write_text("no archive")
    content = parts(stored)
    del content["penalty.npy"]
    for path in (tmp_path / "text.npz", write(tmp_path / "part.npz", content), tmp_path):
        with pytest.raises(ModelFormatError, match="is not a file that LocalModel"):
            LocalModel.load(str(path))


@settings(deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_changed_bytes_are_refused_or_make_no_difference(stored, data):
    whole = stored.read_bytes()
    content = bytearray(whole)
    for _ in range(data.draw(st.integers(1, 3))):
        content[data.draw(st.integers(0, len(content) - 1))] ^= data.draw(st.integers(1, 255))
    path = stored.with_name("changed.npz")
    path.write_bytes(content[: data.draw(st.integers(len(content) // 2, len(content)))])
    expected, found, refusal = LocalModel.load(str(stored)), None, ""
    try:
        found = LocalModel.load(str(path))
    except ModelFormatError as error:
        refusal = str(error)
    assert "\n" not in refusal
    if found is not None:
        user = expected.foldIn({"i1": 4.0})
        np.testing.assert_array_equal(found.foldIn({"i1": 4.0}), user)
        assert found.recommend(user, 5) == expected.recommend(user, 5)
