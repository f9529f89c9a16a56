"""How a delimited text file is written, as far as its beginning tells, and what its columns are."""

import csv
import re
from typing import NamedTuple

from mfspark import files
from mfspark.columns import ITEM, RATING, TIMESTAMP, USER
from mfspark.data.text import UNQUOTED, Quoting

_SAMPLE_BYTES, _SAMPLE_LINES = 256 * 1024, 50
# The first of equals is taken.
_SEPARATORS = (",", ";", "\t", "::", "|")
# Between the tags of a text, the first that occurs.
TAG_SEPARATORS = ("|", ";", ",")
_DECIMAL_COMMA, _DECIMAL_POINT = r"\s*[-+]?\d+,\d+\s*", r"\s*[-+]?\d*\.\d+\s*"
# Parts of names that people give to columns, in English and a few neighbours.
_USUAL_NAMES = {
    USER: ("user", "customer", "client", "reader", "member", "reviewer", "account", "kund",
           "utilisateur", "uid"),
    ITEM: ("item", "movie", "film", "product", "book", "isbn", "artist", "track", "song", "asin",
           "business", "artikel", "produkt", "iid"),
    RATING: ("rating", "score", "star", "grade", "bewertung", "note", "value", "rate"),
    TIMESTAMP: ("time", "date", "datum", "zeit"),
    "title": ("title", "name", "titel"),
    "year": ("year", "jahr", "released"),
    "genres": ("genre", "categor", "tag", "kategorie"),
}  # fmt: skip


class Dialect(NamedTuple):
    """What stands between fields and around them, the character set, and the first rows (the header
    first, if there is one)."""

    separator: str
    quoting: Quoting
    encoding: str
    rows: list[list[str]]


def dialect_of(
    path: str, separator: str | None, encoding: str | None, quote: str | None = None
) -> Dialect:
    """The dialect of the file, or of the first file of the folder, at ``path``; what is given is
    taken as it is."""
    content = _beginning(path)
    encoding = encoding or _encoding(content)
    lines = content.decode(encoding, errors="replace").lstrip("\ufeff").splitlines()
    if len(content) == _SAMPLE_BYTES and len(lines) > 1:
        # The last one may be cut.
        lines = lines[:-1]
    lines = [line for line in lines if line.strip()][:_SAMPLE_LINES]
    quoting = _quoting(lines, quote)
    separator = separator or _separator(lines, quoting)
    if len(separator) > 1:
        quoting = UNQUOTED
    rows = [_fields(line, separator, quoting) for line in lines]
    return Dialect(separator, quoting, encoding, rows)


def has_decimal_comma(values: list[str]) -> bool:
    """Whether numbers are written as 3,5: some are, and none is as 3.5."""
    if any(re.fullmatch(_DECIMAL_POINT, value) for value in values):
        return False
    return any(re.fullmatch(_DECIMAL_COMMA, value) for value in values)


def guessed_name(role: str, names: list[str]) -> str | None:
    """The column that is likely meant by user, item, rating, timestamp, title, year or genres."""
    if role in (USER, ITEM):
        # The one of user_rating or Book-Rating is a rating.
        names = [n for n in names if not any(part in n.lower() for part in _USUAL_NAMES[RATING])]
    for part in _USUAL_NAMES[str(role)]:
        for name in names:
            if part in name.lower():
                return name
    if role in (USER, ITEM):
        return next((name for name in names if name.lower() == "id"), None)
    return None


def _beginning(path: str) -> bytes:
    """The first bytes of a file; none of one that cannot be read, which its reader will say."""
    while files.is_folder(path):
        names = [name for name in files.names_in(path) if not name.startswith((".", "_"))]
        if not names:
            return b""
        path = files.join(path, names[0])
    try:
        return files.read_beginning(path, _SAMPLE_BYTES)
    except OSError:
        return b""


def _encoding(content: bytes) -> str:
    if content.startswith((b"\xff\xfe", b"\xfe\xff")):
        return "UTF-16"
    try:
        # A character that is cut at the end is no fault of the file.
        content[: max(0, len(content) - 4)].decode("utf-8")
    except UnicodeDecodeError as error:
        return "ISO-8859-1" if error.start < len(content) - 8 else "UTF-8"
    return "UTF-8"


def _quoting(lines: list[str], mark: str | None) -> Quoting:
    """Double marks, unless single ones stand around fields and no double ones do; with a backslash
    before those inside of fields, where that occurs and no doubled mark does."""
    if mark is None:
        around = {each: sum(_is_around_fields(line, each) for line in lines) for each in "\"'"}
        mark = "'" if around["'"] > len(lines) / 2 and not around['"'] else '"'
    if not mark:
        return UNQUOTED
    inside = re.compile(rf"[^,;\t|]{mark}{mark}[^,;\t|]")
    is_escaped = any(f"\\{mark}" in line for line in lines)
    is_doubled = any(inside.search(line) for line in lines)
    return Quoting(mark, "\\" if is_escaped and not is_doubled else mark)


def _is_around_fields(line: str, mark: str) -> bool:
    """Whether as many fields begin as end with the mark, and some do."""
    begins = re.findall(rf"(?:^|[,;\t|])\s*{mark}", line)
    ends = re.findall(rf"{mark}\s*(?=$|[,;\t|])", line)
    return 0 < len(begins) == len(ends)


def _separator(lines: list[str], quoting: Quoting) -> str:
    """The one that cuts most lines into as many fields as the first."""
    best, best_score = _SEPARATORS[0], (0.0, 0)
    for separator in _SEPARATORS:
        counts = [len(_fields(line, separator, quoting)) for line in lines]
        if not counts or counts[0] < 2:
            continue
        score = (sum(n == counts[0] for n in counts) / len(counts), counts[0])
        if score > best_score:
            best, best_score = separator, score
    return best


def _fields(line: str, separator: str, quoting: Quoting) -> list[str]:
    if len(separator) > 1:
        return line.split(separator)
    if not quoting.mark:
        return next(csv.reader([line], delimiter=separator, quoting=csv.QUOTE_NONE), [])
    is_doubled = quoting.escape == quoting.mark
    reader = csv.reader(
        [line],
        delimiter=separator,
        quotechar=quoting.mark,
        doublequote=is_doubled,
        escapechar=None if is_doubled else quoting.escape,
    )
    return next(reader, [])
