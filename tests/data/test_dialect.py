"""Files as people have them."""

import gzip

import pytest

from mfspark.data.dialect import dialect_of, guessed_name, has_decimal_comma
from mfspark.data.read import RatingsSource, read_items, read_ratings
from mfspark.data.source import ItemColumns
from mfspark.data.validate import Checks, check_ratings
from mfspark.errors import DataError


@pytest.mark.parametrize("separator", [",", ";", "\t", "|", "::"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_separators_are_found(tmp_path, separator, end):
    lines = ["user,x" if separator == ";" else "user", "item", "rating"]
    rows = [lines, *[[f"u{n}", f"a b {n}", "3" if separator == "," else "3,5"] for n in range(9)]]
    path = tmp_path / "ratings.csv"
    path.write_bytes(end.join(separator.join(row) for row in rows).encode())
    found = dialect_of(str(path), None, None)
    assert found.separator == separator
    assert found.rows == rows
    assert found.encoding == "UTF-8"


def test_quoted_fields_and_bad_lines_do_not_mislead(tmp_path):
    path = tmp_path / "items.csv"
    path.write_text(
        'id,title\n1,"a; b; c; d"\n2,"x; y; z; w"\n3,too,many\n' + '4,"p; q; r; s"\n' * 20
    )
    assert dialect_of(str(path), None, None).separator == ","
    assert dialect_of(str(path), ";", None).separator == ";"
    (tmp_path / "one.csv").write_text("alone\n")
    assert dialect_of(str(tmp_path / "one.csv"), None, None).separator == ","
    (tmp_path / "empty.csv").write_text("")
    assert dialect_of(str(tmp_path / "empty.csv"), None, None).rows == []


def test_encodings_compressed_files_and_folders(tmp_path):
    text = "user;titel\n1;Über den Wolken\n"
    (tmp_path / "part").mkdir()
    (tmp_path / "part/_SUCCESS").write_text("")
    (tmp_path / "part/a.csv.gz").write_bytes(gzip.compress(text.encode("latin-1")))
    found = dialect_of(str(tmp_path / "part"), None, None)
    assert (found.separator, found.encoding) == (";", "ISO-8859-1")
    assert found.rows[1] == ["1", "Über den Wolken"]
    (tmp_path / "bom.csv").write_bytes("\ufeffuser;titel\n1;ü\n".encode())
    found = dialect_of(str(tmp_path / "bom.csv"), None, None)
    assert (found.encoding, found.rows[0]) == ("UTF-8", ["user", "titel"])
    # A character that the end of what is looked at cuts in two is no other character set.
    (tmp_path / "long.csv").write_bytes(("user;x\n" + "1;ü\n" * 60_000).encode())
    assert dialect_of(str(tmp_path / "long.csv"), None, None).encoding == "UTF-8"


def test_decimal_commas():
    assert has_decimal_comma(["3,5", "4", "2,0"])
    assert not has_decimal_comma(["3.5", "4,0"])
    assert not has_decimal_comma(["3", "4"])
    assert not has_decimal_comma(["1,2,3"])


def test_guesses_of_columns():
    names = ["Kundennummer", "ISBN", "Book-Rating", "Datum"]
    roles = ("user", "item", "rating", "timestamp")
    assert [guessed_name(role, names) for role in roles] == names
    assert guessed_name("user", ["a", "b"]) is None
    assert guessed_name("item", ["id", "name"]) == "id"


def test_own_files_are_read_without_a_word(spark, tmp_path, caplog):
    """Semicolons, decimal commas, Windows line ends, Latin-1; items with names of their own."""
    (tmp_path / "ratings.csv").write_bytes(
        "user;item;rating\r\nJosé;b-1;3,5\r\nZoë;b-2;4\r\nZoë;b-1;0,5\r\n".encode("latin-1")
    )
    (tmp_path / "books.csv").write_bytes(
        "Nr;Titel;Genres\r\nb-1;Die Möwe (1896);Drama|Comedy\r\nb-2;Ohne Jahr;\r\n".encode(
            "latin-1"
        )
    )
    source = RatingsSource(
        path=str(tmp_path / "ratings.csv"),
        items_path=str(tmp_path / "books.csv"),
        item_columns=ItemColumns(item="Nr", title="Titel", genres="Genres"),
    )
    with caplog.at_level("INFO", "mfspark"):
        checked = check_ratings(read_ratings(spark, source), Checks())
    assert (
        "separated by ';' and quoted by \", decimals by ',', characters are ISO-8859-1"
        in "\n".join(caplog.messages)
    )
    rows = sorted(tuple(row)[:3] for row in checked.clean.collect())
    assert rows == [("José", "b-1", 3.5), ("Zoë", "b-1", 0.5), ("Zoë", "b-2", 4.0)]
    items = {row[0]: tuple(row)[1:] for row in read_items(spark, source).collect()}
    assert items["b-1"] == ("Die Möwe", 1896, ["Drama", "Comedy"])
    assert items["b-2"][:2] == ("Ohne Jahr", None)


def test_what_is_set_goes_before_what_is_found(spark, tmp_path):
    path = tmp_path / "ratings.csv"
    path.write_text("user;item;rating\na;b;1,5\n")
    source = RatingsSource(path=str(path), decimal=".", separator=";")
    assert read_ratings(spark, source).table.first()["rating"] == "1,5"


def test_items_between_double_colons_without_a_header(spark, tmp_path):
    (tmp_path / "ratings.csv").write_text("user,item,rating\n1,2,3\n")
    (tmp_path / "films.dat").write_text("2::Heat (1995)::Action|Crime\n3::Up: A Story::\n")
    source = RatingsSource(
        path=str(tmp_path / "ratings.csv"), items_path=str(tmp_path / "films.dat")
    )
    found = {row["item"]: tuple(row)[1:3] for row in read_items(spark, source).collect()}
    assert found == {"2": ("Heat", 1995), "3": ("Up: A Story", None)}


def test_utf_16_is_refused_in_a_sentence(spark, tmp_path):
    path = tmp_path / "ratings.csv"
    path.write_bytes("user;item;rating\nü;b;3\n".encode("utf-16"))
    with pytest.raises(DataError, match=r"written in UTF-16.*convert it to UTF-8"):
        read_ratings(spark, RatingsSource(path=str(path)))


@pytest.mark.parametrize(
    ("lines", "mark", "escape"),
    [
        (["'u1';'it''s'", "'u2';'b'"], "'", "'"),
        (['"u1";"say \\"hi\\""', '"u2";"b"'], '"', "\\"),
        (['"u1";"say ""hi"""', '"u2";"a\\b"'], '"', '"'),
        (["u1,'Til There Was You", "u2,'Round Midnight"], '"', '"'),
        (["'a','b'", "\"c\",'d'", "'e','f'"], '"', '"'),
        (["u1,3", "u2,4"], '"', '"'),
    ],
)
def test_quoting_is_found(tmp_path, lines, mark, escape):
    path = tmp_path / "some.csv"
    path.write_text("\n".join(lines * 5))
    found = dialect_of(str(path), None, None)
    assert (found.quoting.mark, found.quoting.escape) == (mark, escape)
    assert {len(row) for row in found.rows} == {2}


def ratings_as_read(spark, path, **given):
    table = read_ratings(spark, RatingsSource(path=str(path), **given)).table
    return sorted((row["user"], row["item"], row["rating"]) for row in table.collect())


def test_quoted_ratings_are_read(spark, tmp_path, caplog):
    single = tmp_path / "single.csv"
    single.write_text("'user';'item';'rating'\n'Ann';'it''s; this';'4'\n'Bob';'b';'3'\n")
    with caplog.at_level("INFO", "mfspark"):
        assert ratings_as_read(spark, single) == [("Ann", "it's; this", "4"), ("Bob", "b", "3")]
    assert "separated by ';' and quoted by '," in "\n".join(caplog.messages)
    escaped = tmp_path / "escaped.csv"
    escaped.write_text('"user";"item";"rating"\n"Ann";"say \\"hi\\"; now";"4"\n')
    assert ratings_as_read(spark, escaped) == [("Ann", 'say "hi"; now', "4")]
    # Nothing is a quotation mark where that is set.
    bare = tmp_path / "bare.csv"
    bare.write_text('user,item,rating\nAnn,"b,4\nBob,"c",3\n')
    assert ratings_as_read(spark, bare, quote="") == [("Ann", '"b', "4"), ("Bob", '"c"', "3")]


@pytest.mark.parametrize(
    ("genres", "expected"),
    [
        (["Drama|Sci-Fi, hard", "War"], [["Drama", "Sci-Fi, hard"], ["War"]]),
        (["Drama; War ", "", "War"], [["Drama", "War"], [], ["War"]]),
        (['"Drama, War"', "War"], [["Drama", "War"], ["War"]]),
        (["\"['Drama', 'War']\"", "[]"], [["Drama", "War"], []]),
        (["Drama", ""], [["Drama"], []]),
    ],
)
def test_genres_are_separated_as_people_do(spark, tmp_path, genres, expected):
    (tmp_path / "ratings.csv").write_text("user,item,rating\n1,2,3\n")
    lines = [f"{n}\tTitle {n}\t{text}" for n, text in enumerate(genres)]
    (tmp_path / "items.tsv").write_text("item\ttitle\tgenres\n" + "\n".join(lines) + "\n")
    source = RatingsSource(
        path=str(tmp_path / "ratings.csv"), items_path=str(tmp_path / "items.tsv")
    )
    found = {row["item"]: row["genres"] or [] for row in read_items(spark, source).collect()}
    assert [found[str(n)] for n in range(len(genres))] == expected


def test_decimal_commas_of_item_tables(spark, tmp_path):
    (tmp_path / "ratings.csv").write_text("user,item,rating\n1,2,3\n")
    table = "item;title;preis;gewicht;text\n1;A;3,50;1.5;1,2\n2;B;4;2;1.2\n3;C;;7;x\n"
    (tmp_path / "semicolons.csv").write_text(table)
    (tmp_path / "commas.csv").write_text('item,title,sold\n1,A,"1,234"\n2,B,17\n')

    def items(name):
        path = str(tmp_path / name)
        source = RatingsSource(path=str(tmp_path / "ratings.csv"), items_path=path)
        return read_items(spark, source).orderBy("item").collect()

    rows = items("semicolons.csv")
    assert [row["preis"] for row in rows] == [3.5, 4.0, None]
    assert [row["gewicht"] for row in rows] == [1.5, 2.0, 7.0]
    # Written in both ways, so not known to be a number.
    assert [row["text"] for row in rows] == ["1,2", "1.2", "x"]
    # A thousand, more likely than one and a bit.
    assert [row["sold"] for row in items("commas.csv")] == ["1,234", "17"]
