"""Files that are no CSV tables are told in words of the people who made them, and no row is lost to a quote."""

import csv
import gzip
import io
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chexworld_ray.errors import UserError
from chexworld_ray.shards.sources.tables import read_table
from chexworld_ray.storage import place

ZIP = b"PK\3\4" + bytes(40)


def read(folder: Path, data: bytes) -> list[dict[str, str]]:
    (folder / "t.csv").write_bytes(data)
    return read_table(place(str(folder / "t.csv"))).to_pylist()


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (ZIP, "an Excel file, or another zip archive, no CSV table; open it, and save it as CSV UTF-8"),
        (gzip.compress(ZIP, mtime=0), "an Excel file"),
        (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(40), "an old Excel file"),
        (b"PAR1" + bytes(40), "a Parquet file"),
        (b"  <!DOCTYPE html>\n<p>sign in</p>", "a web page"),
        (b"\xef\xbb\xbf<?xml version='1.0'?>", "a web page, or XML"),
        (b'[{"path": "a.png"}]', "JSON"),
        (b"BZh91AY" + bytes(40), "packed by bzip2; unpack it, or pack it by gzip"),
        ("path,x\na.png,1\n".encode("utf-16"), "UTF-16; save it as CSV UTF-8"),
        ("path,x\na.png,1\n".encode("utf-16-le"), "line 1 holds a NUL byte; save it as CSV UTF-8"),
        ("path,x\na.png,Röntgen\n".encode("cp1252"), r"line 2 is not UTF-8 \(byte 0xf6\); save it as CSV UTF-8"),
        ("path,x\ra.png,a\rb.png,Röntgen\r".encode("mac-roman"), "line 3 is not UTF-8"),
        (b"path;x\na.png;1\n", "its columns are separated by ';', not by commas; save it as CSV UTF-8, with commas"),
        (b"path;x\na.png;1,5\n", "separated by ';'"),
        (b"sep=;\npath;x\na.png;1\n", "separated by ';'"),
        (b"path\tx\na.png\t1\n", "separated by tabs"),
        (b"path,x", "the table has no rows"),
        (b"path,x\n\n \n", "the table has no rows"),
        (b"", "the table has no rows"),
        (b"path,x\na.png,1,2\n", "line 2 has 3 cells, the header 2; a cell with a comma in it stands in quotes"),
    ],
)
def test_what_is_no_table_says_what_it_is_and_how_to_save_it(tmp_path: Path, data: bytes, words: str) -> None:
    with pytest.raises(UserError, match=words) as caught:
        read(tmp_path, data)
    assert "\n" not in str(caught.value)


LARGE = "".join(f"n{number}.png,{'hello world ' * 20},0\n" for number in range(8000))


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ('path,x\na.png,"1\nb.png,0\nc.png,1\n', 2),
        ('path,x\na.png,"two\nlines"\nb.png,0\nc.png,"1', 5),
        ('path,"x\na.png,1\n', 1),
        ('path,note,x\na.png,"open,1\n' + LARGE, 2),
    ],
)
def test_a_quote_that_is_never_closed_is_told_by_its_line(tmp_path: Path, text: str, line: int) -> None:
    """Parsers put the rows behind it into one cell, and say nothing."""
    for data in (text.encode(), gzip.compress(text.encode())):
        with pytest.raises(UserError, match=rf'line {line}: a quote \("\) opens there and is not closed'):
            read(tmp_path, data)


ROWS, MIDST = "behind lines with as many cells as the header", "in the midst of a cell"


@pytest.mark.parametrize(
    ("text", "line", "end", "where"),
    [
        ('path,x\na.png,1\nb.png,"0\nc.png,"1\nd.png,1\n', 3, 4, MIDST),
        ('path,x\n"a.png",1\n"b.png,0\n"c.png",1\n', 3, 4, MIDST),
        ('path,x,y\na.png,"two\nlines" ,1\n', 2, 3, MIDST),  # a blank behind the quote
        ('path,x\na.png,"open\nb.png,mid\nc.png,end"\n', 2, 4, ROWS),
        ('path,x\r\na.png,"open\r\nb.png,mid\r\nc.png,end"\r\n', 2, 4, ROWS),
        ('path,x,y\na.png,"open,1\nb.png,mid,0\nc.png,end",1\n', 2, 4, ROWS),
        ('path,x\nz.png,0\na.png,"open\nb.PNG,end"\n', 3, 4, ROWS),
        ('path,x\n"p1/a.png,1\np2/b.png,0\np3/c.png",1\n', 2, 4, ROWS),
        ('x,path\n1,"a.png\n0,b.png\n1,c.png"\n', 2, 4, ROWS),
    ],
)
def test_a_quote_that_is_closed_behind_other_rows_loses_none(
    tmp_path: Path, text: str, line: int, end: int, where: str
) -> None:
    with pytest.raises(
        UserError, match=rf'line {line}: a quote \("\) opens there and is closed in line {end}, {where};'
    ):
        read(tmp_path, text.encode())


@pytest.mark.parametrize(
    "cell",
    [
        "one line,\nand another",
        "no effusion\nheart, lungs: normal",
        "one, two\nthree, four",
        "a first line\nsmall, left\nand, so, on\nend",
        '[\n{"label": "x", "y": 1},\n{"label": "z"}\n]',
    ],
)
def test_text_over_several_lines_is_one_cell(tmp_path: Path, cell: str) -> None:
    text = io.StringIO()
    csv.writer(text).writerows([("path", "x"), ("a.png", cell), ("b.png", "1")])
    assert [row["x"].replace("\r", "") for row in read(tmp_path, text.getvalue().encode())] == [cell, "1"]


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ('path,x\na.png,5" tube\nb.png,0\n', ['5" tube', "0"]),
        ('path,x\na.png,"a ""b"" c"\nb.png,"two\nlines, ""quoted"""\n', ['a "b" c', 'two\nlines, "quoted"']),
        ('path,x\na.png,"he said "yes" ok"\nb.png,0\n', ['he said yes" ok"', "0"]),
    ],
)
def test_quotes_that_lose_no_row_are_left_alone(tmp_path: Path, text: str, values: list[str]) -> None:
    assert [row["x"] for row in read(tmp_path, text.encode())] == values


@pytest.mark.parametrize("end", ["\r", "\n", "\r\n", "\r\r\n"])
def test_all_ends_of_lines_are_read(tmp_path: Path, end: str) -> None:
    text = end.join(["", "path,x", "a.png,1", "b.png,0", ""])
    assert read(tmp_path, text.encode()) == [{"path": "a.png", "x": "1"}, {"path": "b.png", "x": "0"}]


CELLS = st.text('",;\n ab', max_size=12).filter(lambda text: "," not in text or text.count("\n") < 2)  # no rows inside


@given(st.lists(st.tuples(st.text(max_size=8), CELLS), min_size=1, max_size=6))
def test_what_a_csv_writer_wrote_is_read_back(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[str, str]]
) -> None:
    plain = [(f"p{''.join(filter(str.isalnum, one))}", other.strip()) for one, other in rows]
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([("path", "x"), *plain])
    found = read(tmp_path_factory.mktemp("csv"), text.getvalue().encode("utf-8", "replace"))
    assert [(row["path"], row["x"]) for row in found] == [
        (one.encode("utf-8", "replace").decode(), other) for one, other in plain
    ]
