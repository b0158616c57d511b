"""Parquet of strangers: what it must be is checked before a value is touched, and what it is not is one line."""

import hashlib
import io
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from chexworld_ray.analysis.embeddings import PARTS, nearest, part_name
from chexworld_ray.errors import UserError
from chexworld_ray.evaluation import results_file
from chexworld_ray.evaluation.features import feature_table, load_features
from chexworld_ray.shards import parquet
from chexworld_ray.shards.check import problems
from chexworld_ray.shards.manifest import REJECTED, Manifest
from chexworld_ray.shards.parquet import parse_table, read_table, tables, write_table
from chexworld_ray.shards.reader import read_images, read_row_group
from chexworld_ray.shards.records import load_record
from chexworld_ray.shards.schema import OPTIONAL, Columns, every_column
from chexworld_ray.shards.writer import drop_rows, write_file
from chexworld_ray.storage import place
from chexworld_ray.training.seen import FOLDER, lineage

RAN: list[str] = []
SCHEMA = pa.schema([pa.field("name", pa.string(), nullable=False), ("value", pa.float32())])


class Runs(pa.ExtensionType):
    """As Ray Data's: code of its own runs when a schema is read, and for each value."""

    def __init__(self, storage: pa.DataType) -> None:
        super().__init__(storage, "chexworld.test.runs")

    def __arrow_ext_serialize__(self) -> bytes:
        return b""

    @classmethod
    def __arrow_ext_deserialize__(cls, storage_type: pa.DataType, serialized: bytes) -> "Runs":
        RAN.append("schema")
        return cls(storage_type)


@pytest.fixture(autouse=True)
def registered() -> Iterator[None]:
    pa.register_extension_type(Runs(pa.null()))
    RAN.clear()
    yield
    pa.unregister_extension_type("chexworld.test.runs")


def extended(values: pa.Array) -> pa.Array:
    return pa.ExtensionArray.from_storage(Runs(values.type), values)


def bytes_of(table: pa.Table) -> bytes:
    sink = io.BytesIO()
    pq.write_table(table, sink)
    RAN.clear()
    return sink.getvalue()


TEXT = pa.array(["a", "b"])
STRANGE = {
    "plain": extended(TEXT),
    "in a struct": pa.StructArray.from_arrays([extended(TEXT)], ["deep"]),
    "in a list": pa.ListArray.from_arrays(pa.array([0, 1, 2], pa.int32()), extended(TEXT)),
    "of no column that is wanted": None,
}


@pytest.mark.parametrize("kind", STRANGE)
def test_an_extension_type_is_refused_and_its_code_does_not_run(kind: str) -> None:
    wanted = TEXT if STRANGE[kind] is None else STRANGE[kind]
    data = bytes_of(pa.table({"name": wanted, "value": pa.array([1, 2], pa.float32()), "other": extended(TEXT)}))
    with pytest.raises(UserError, match=r"x\.parquet: column .*'other' has an extension type"):
        parse_table(data, "x.parquet", SCHEMA)
    assert RAN == []
    pq.read_schema(io.BytesIO(data))
    assert RAN, "pyarrow alone would have run it"


Read = Callable[[Path, Manifest], object]


def features(folder: Path, manifest: Manifest) -> object:
    return load_features(place(str(folder / PARTS)), "phantoms")


def neighbours(folder: Path, manifest: Manifest) -> object:
    return nearest(place(str(folder)), manifest, np.zeros(2, np.float32), 1)


def dropped(folder: Path, manifest: Manifest) -> object:
    return drop_rows(manifest.root, manifest.files[0], {"x"}, 16)


READERS: dict[str, tuple[str, Read]] = {
    "a row group": ("SHARD", lambda _, m: read_row_group((m.root / m.files[0].path).url, 0, ("image_id", "image"))),
    "who stands in a file": ("SHARD", lambda _, m: read_images(m)),
    "rows that are dropped": ("SHARD", dropped),
    "results": (results_file.NAME, lambda folder, _: results_file.read_results(place(str(folder)))),
    "features": (f"{PARTS}/PART", features),
    "neighbours": (f"{PARTS}/PART", neighbours),
    "who saw what": (f"{FOLDER}/000000000010-a.parquet", lambda folder, _: lineage(place(str(folder)), "a", 10)),
    "a chunk's record": ("record", lambda folder, _: load_record(place(str(folder / "record")))),
}


@pytest.mark.parametrize("reader", READERS)
def test_no_reader_runs_what_a_file_brings(reader: str, tmp_path: Path, phantom_set: Manifest) -> None:
    name, read = READERS[reader]
    first = phantom_set.files[0]
    manifest = replace(phantom_set, root=place(str(tmp_path)), files=[first])
    name = name.replace("SHARD", first.path).replace("PART", part_name(first, 0))
    (tmp_path / name).parent.mkdir(exist_ok=True)
    names = [*Columns().schema().names, *pq.read_schema(phantom_set.root.path + "/" + first.path).names]
    (tmp_path / name).write_bytes(bytes_of(pa.table({column: extended(TEXT) for column in dict.fromkeys(names)})))
    with pytest.raises(UserError, match="has an extension type"):
        read(tmp_path, manifest)
    assert RAN == []


def test_a_check_names_the_files_that_it_does_not_read(tmp_path: Path, phantom_set: Manifest) -> None:
    data = bytes_of(pa.table({"image_id": extended(TEXT)}))
    (tmp_path / "a.parquet").write_bytes(data)
    (tmp_path / REJECTED).write_bytes(data)
    digest = hashlib.sha256(data).hexdigest()
    entry = replace(phantom_set.files[0], path="a.parquet", bytes=len(data), sha256=digest)
    found = problems(replace(phantom_set, root=place(str(tmp_path)), files=[entry]))
    assert [line.split(":")[0] for line in found[:2]] == ["a.parquet", REJECTED]
    assert RAN == []


BAD: dict[str, tuple[pa.Table, str]] = {
    "no such column": (pa.table({"other": TEXT}), "no column '(name|value)'"),
    "another type": (pa.table({"name": TEXT, "value": TEXT}), "column 'value' holds no float"),
    "a struct for a text": (
        pa.table({"name": pa.array([{"a": 1}, {"a": 2}]), "value": pa.array([1.0, 2.0])}),
        "column 'name' holds no string",
    ),
    "empty cells": (pa.table({"name": pa.array(["a", None]), "value": pa.array([1.0, 2.0])}), "1 empty cells of 2"),
    "no text": (
        pa.table({"name": pa.array([b"\xff\xfe", b"b"]), "value": pa.array([1.0, 2.0])}),
        "column 'name' holds no string",
    ),
}


@pytest.mark.parametrize("kind", BAD)
def test_another_form_is_one_line_with_file_and_column(kind: str, tmp_path: Path) -> None:
    table, said = BAD[kind]
    (tmp_path / "x.parquet").write_bytes(bytes_of(table))
    with pytest.raises(UserError, match=said) as caught:
        read_table(place(str(tmp_path / "x.parquet")), SCHEMA)
    assert str(tmp_path / "x.parquet") in str(caught.value)
    assert "\n" not in str(caught.value)


def test_what_was_meant_is_read_whatever_types_it_was_stored_in(tmp_path: Path) -> None:
    """Large strings, doubles and dictionaries hold the same values; other columns are left out, own pairs kept."""
    file = place(str(tmp_path / "x.parquet"))
    stored = pa.table(
        {
            "name": pa.array(["a", "b"], pa.large_string()).dictionary_encode(),
            "value": pa.array([1.0, None]),
            "more": TEXT,
        }
    )
    write_table(file, stored.replace_schema_metadata({"facts": "{}"}))
    table = read_table(file, SCHEMA)
    assert table.schema == SCHEMA
    assert table.to_pylist() == [{"name": "a", "value": 1.0}, {"name": "b", "value": None}]
    assert table.schema.metadata == {b"facts": b"{}"}


def test_a_shard_that_is_read_and_written_again_has_the_same_bytes(phantom_set: Manifest, tmp_path: Path) -> None:
    """So one that lost some rows is one that never had them."""
    entry = phantom_set.files[0]
    table = read_table(phantom_set.root / entry.path, every_column, OPTIONAL)
    again = write_file(place(str(tmp_path)), entry.path, table, entry.split, entry.projection, 16, entry.pictures)
    assert again == entry


def test_what_would_fill_the_memory_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A text that stands for many, in a file of some kilobytes: what it says of its size is the size stored."""
    table = pa.table({"name": ["x" * 2**14] * 4000, "value": pa.array([0.0] * 4000, pa.float32())})
    data = bytes_of(table)
    assert len(data) < 2**17
    monkeypatch.setattr(parquet, "MAX_BYTES", 2**25)
    with pytest.raises(UserError, match="bytes in memory"):
        parse_table(data, "x.parquet", SCHEMA)
    monkeypatch.setattr(parquet, "MAX_ROWS", 3999)
    with pytest.raises(UserError, match="4000 rows"):
        parse_table(data, "x.parquet", SCHEMA)


WHOLE = bytes_of(pa.table({"name": [f"n{number}" for number in range(60)], "value": np.arange(60, dtype=np.float32)}))


@settings(max_examples=150)
@example([(762, 29)], 0)  # pyarrow 26 ends the process where it is asked of this column
@given(st.lists(st.tuples(st.integers(0, len(WHOLE) - 1), st.integers(1, 255)), max_size=6), st.integers(0, 400))
def test_a_spoilt_file_is_read_or_refused_and_nothing_else(spoilt: list[tuple[int, int]], cut: int) -> None:
    data = bytearray(WHOLE)
    for at, change in spoilt:
        data[at] ^= change
    try:
        table, groups = parse_table(bytes(data[: len(data) - cut]), "x.parquet", SCHEMA)
    except UserError as error:
        assert "x.parquet" in str(error)
    else:
        assert table.num_rows == sum(groups)
        assert table.schema == SCHEMA
        table.to_pylist()


def test_a_file_that_is_no_parquet_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "x.parquet").write_text("nothing of the kind")
    (tmp_path / "folder.parquet").mkdir()
    for name in ("x.parquet", "folder.parquet", "none.parquet"):
        with pytest.raises(UserError, match=name):
            read_table(place(str(tmp_path / name)), SCHEMA)


def test_drafts_and_other_files_are_no_parts(tmp_path: Path) -> None:
    """A killed writer leaves a draft beside its place; its rows come from the part that was written after it."""
    rows = {name: ["a"] for name in ("image_id", "dataset", "patient_id", "split")}
    part = feature_table(pa.table(rows), np.ones((1, 2), np.float32))
    folder = place(str(tmp_path))
    write_table(folder / "p-000.parquet", part)
    whole = (tmp_path / "p-000.parquet").read_bytes()
    (tmp_path / f"p-000.parquet.{'0a' * 16}.draft").write_bytes(whole)
    (tmp_path / f"p-001.parquet.{'0b' * 16}.draft").write_bytes(whole[:50])
    (tmp_path / "notes.txt").write_text("mine")
    assert [file.name for file in tables(folder)] == ["p-000.parquet"]
    assert len(load_features(folder, "a")["a"].image_ids) == 1


def test_features_of_different_widths_are_refused(tmp_path: Path) -> None:
    rows = pa.table({name: ["a", "b"] for name in ("image_id", "dataset", "patient_id", "split")})
    folder = place(str(tmp_path))
    write_table(folder / "0.parquet", feature_table(rows, np.ones((2, 4), np.float32)))
    write_table(folder / "1.parquet", feature_table(rows, np.ones((2, 2), np.float32)))
    with pytest.raises(UserError, match=r"1\.parquet: its features are not of the width"):
        load_features(folder, "a")
    ragged = rows.append_column("features", pa.array([[1.0], [1.0, 2.0]], pa.list_(pa.float32())))
    write_table(folder / "0.parquet", ragged)
    with pytest.raises(UserError, match=r"0\.parquet: column 'features'"):
        load_features(folder, "a")


def test_the_rows_of_many_row_groups_are_counted_once() -> None:
    sink = io.BytesIO()
    pq.write_table(pa.table({"name": ["a"] * 40, "value": pa.array([1.0] * 40, pa.float32())}), sink, row_group_size=1)
    footer = parquet.read_footer(io.BytesIO(sink.getvalue()), "x.parquet")
    assert footer.groups == [1] * 40
    assert footer.groups is footer.groups, "each sum over them would read the footer again"


def test_a_name_without_end_is_cut_in_a_message() -> None:
    long = "n" * 100_000
    twice = pa.table([TEXT, TEXT, TEXT], names=[long, "name", "name"])
    for table, schema in ((twice, pa.schema([("other", pa.string())])), (pa.table({long: extended(TEXT)}), SCHEMA)):
        with pytest.raises(UserError) as caught:
            parse_table(bytes_of(table), "x.parquet", schema)
        assert len(str(caught.value)) < 300


class Watched(io.BytesIO):
    """Notes the threads that read it, and the one that lets it go."""

    def __init__(self, data: bytes, seen: set[int]) -> None:
        super().__init__(data)
        self._seen = seen

    def read(self, size: int | None = -1, /) -> bytes:
        self._seen.add(threading.get_ident())
        return super().read(size)

    def __del__(self) -> None:
        self._seen.add(threading.get_ident())


def test_a_file_is_read_and_let_go_by_the_thread_that_asked() -> None:
    """A thread of Arrow's that lets a file go while Python ends aborts the process."""
    table = pa.table({f"c{number}": np.random.default_rng(number).random(5000) for number in range(20)})
    buffer = io.BytesIO()
    pq.write_table(table, buffer, row_group_size=500)
    seen: set[int] = set()
    for _ in range(20):
        source = Watched(buffer.getvalue(), seen)
        assert parquet.read_columns(source, parquet.read_footer(source, "file"), table.schema).num_rows == 5000
        del source
    assert seen == {threading.get_ident()}
