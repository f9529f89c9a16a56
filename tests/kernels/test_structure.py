"""What must hold of the source tree itself."""

from collections import Counter
from pathlib import Path

PACKAGE = Path(__file__).parents[2] / "mfspark"


def test_one_file_name_is_one_file():
    names = Counter(path.name for path in PACKAGE.rglob("*.py") if path.name != "__init__.py")
    assert [name for name, n in names.items() if n > 1] == []
