"""Examples in docstrings and documents run, and print what they say."""

import doctest
import importlib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MODULES = [
    ".".join(path.relative_to(ROOT).with_suffix("").parts)
    for path in sorted((ROOT / "mfspark").rglob("*.py"))
    if ">>>" in path.read_text() and "doctest: +SKIP" not in path.read_text()
]


@pytest.mark.parametrize("name", MODULES)
def test_examples_of_docstrings(name):
    result = doctest.testmod(importlib.import_module(name))
    assert result.attempted > 0
    assert result.failed == 0


def test_the_journey_of_a_rating():
    result = doctest.testfile(str(ROOT / "docs/architecture.md"), module_relative=False)
    assert result.attempted > 15
    assert result.failed == 0


def test_modules_with_examples_are_found():
    assert {"mfspark.engine.blocks", "mfspark.kernels.csr"} <= set(MODULES)
