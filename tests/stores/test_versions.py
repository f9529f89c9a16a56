"""Outputs where directories are not renamed: on a server that speaks S3, and on a file system whose
rename is a lie."""

import numpy as np
import pandas as pd
import pytest
from pyarrow import fs

from mfspark import files
from mfspark.algorithms.snapshots import load_arrays
from mfspark.errors import DataError, OutputExistsError


class LyingHandler(fs.FileSystemHandler):
    """This machine's files; nothing is ever renamed, though it says so."""

    def __init__(self):
        self._files = fs.LocalFileSystem()

    def get_type_name(self):
        return "lying"

    def normalize_path(self, path):
        return path

    def get_file_info(self, paths):
        return self._files.get_file_info(paths)

    def get_file_info_selector(self, selector):
        return self._files.get_file_info(selector)

    def create_dir(self, path, recursive):
        self._files.create_dir(path, recursive=recursive)

    def delete_dir(self, path):
        self._files.delete_dir(path)

    def delete_dir_contents(self, path, missing_dir_ok=False):
        self._files.delete_dir_contents(path, missing_dir_ok=missing_dir_ok)

    def delete_root_dir_contents(self):
        raise NotImplementedError

    def delete_file(self, path):
        self._files.delete_file(path)

    def move(self, src, dest):
        pass

    def copy_file(self, src, dest):
        pass

    def open_input_stream(self, path):
        return self._files.open_input_stream(path)

    def open_input_file(self, path):
        return self._files.open_input_file(path)

    def open_output_stream(self, path, metadata):
        self._files.create_dir(path.rpartition("/")[0])
        return self._files.open_output_stream(path)

    def open_append_stream(self, path, metadata):
        raise NotImplementedError


@pytest.fixture(params=["s3", "s3a", "lying"])
def place(request, monkeypatch, tmp_path):
    """The URI of a folder."""
    if request.param != "lying":
        return f"{request.param}://{request.getfixturevalue('store').bucket}/some/runs"
    lying = fs.PyFileSystem(LyingHandler())
    monkeypatch.setattr(files, "_filesystem", lambda uri: (lying, str(tmp_path)))
    return "lying://host/runs"


def fill(folder, text):
    files.write_text(f"{folder}/about.json", text)
    with files.open_to_write(f"{folder}/part/rows.npy") as stream:
        np.save(stream, np.arange(3))


def break_off(path):
    with files.staged_directory(path, overwrite=True) as stage:
        fill(stage, "unfinished")
        raise ZeroDivisionError


def test_an_output_appears_when_its_pointer_does(place):
    path = f"{place}/model"
    with files.staged_directory(path, overwrite=False) as stage:
        fill(stage, "first")
        assert not files.exists(path)
    assert files.exists(path)
    assert files.read_text(f"{files.current(path)}/about.json") == "first"
    assert files.read_text(files.current(place, "model/about.json")) == "first"
    with files.open_to_read(files.current(place, "model/part/rows.npy")) as stream:
        assert list(np.load(stream)) == [0, 1, 2]
    with pytest.raises(OutputExistsError, match="exists and would be replaced"):
        files.staged_directory(path, overwrite=False).__enter__()


def test_a_reader_stays_at_the_version_that_it_began_with(place):
    path = f"{place}/model"
    readers = []
    for number in range(4):
        with files.staged_directory(path, overwrite=True) as stage:
            fill(stage, str(number))
        readers.append(files.current(path))
        assert [files.read_text(f"{at}/about.json") for at in readers[-2:]] == [
            str(n) for n in range(max(number - 1, 0), number + 1)
        ]
    assert len(files.names_in(f"{path}/versions")) == files.KEPT_VERSIONS
    with files.staged_directory(path, overwrite=True, keep=1) as stage:
        fill(stage, "last")
    assert files.names_in(f"{path}/versions") == [files.current(path).rpartition("/")[2]]


def test_a_failure_leaves_what_was_there(place):
    path = f"{place}/model"
    for attempt in ("at first", "later"):
        with pytest.raises(ZeroDivisionError):
            break_off(path)
        assert files.exists(path) == (attempt == "later")
        if attempt == "at first":
            with files.staged_directory(path, overwrite=False) as stage:
                fill(stage, "whole")
    assert files.read_text(f"{files.current(path)}/about.json") == "whole"
    assert len(files.names_in(f"{path}/versions")) == 1


def test_what_a_killed_writer_left_is_none_and_goes(place):
    path = f"{place}/model"
    fill(f"{path}/versions/20260101T000000Z-00000000", "half")
    assert not files.exists(path)
    with files.staged_directory(path, overwrite=False) as stage:
        fill(stage, "whole")
    assert files.read_text(f"{files.current(path)}/about.json") == "whole"
    assert len(files.names_in(f"{path}/versions")) == 1
    files.remove(path)
    assert not files.exists(path)
    assert files.names_in(path) == []


def test_documents_are_replaced_whole_and_folders_of_others_are_what_they_are(place):
    for text in ("one", "two"):
        files.write_text(f"{place}/run.json", text)
        assert files.read_text(f"{place}/run.json") == text
    assert files.names_in(place) == ["run.json"]
    assert files.exists(place)
    assert files.current(place) == place
    assert files.current(place, "run.json") == f"{place}/run.json"
    assert not files.exists(f"{place}/nothing")


def test_arrays_of_a_snapshot(place):
    arrays = {"users": np.arange(6.0).reshape(2, 3), "items": np.zeros((1, 3), np.float32)}
    for name, values in arrays.items():
        with files.open_to_write(f"{place}/snapshots/1/{name}.npy") as stream:
            np.save(stream, values)
    found = load_arrays(f"{place}/snapshots/1")
    assert found.keys() == arrays.keys()
    for name, values in arrays.items():
        np.testing.assert_array_equal(found[name], values)


def test_tables_of_the_driver(place):
    with files.open_to_write(f"{place}/table/part.parquet") as stream:
        pd.DataFrame({"a": [1, 2]}).to_parquet(stream)
    assert list(files.read_pandas(f"{place}/table")["a"]) == [1, 2]


def test_a_bucket_that_is_not_there_is_said(store):
    with pytest.raises(DataError, match=r"s3://no-such-bucket/runs/x.* cannot be written"):
        files.staged_directory("s3://no-such-bucket/runs/x", overwrite=False).__enter__()
