"""What a later release may not change in silence."""

from dataclasses import asdict, replace
from pathlib import Path

import cv2
import pytest

from chexworld_ray.errors import UserError
from chexworld_ray.phantoms.dataset import make_phantom
from chexworld_ray.runtime.ingest import ingest
from chexworld_ray.shards import manifest as manifests
from chexworld_ray.shards.manifest import Release
from chexworld_ray.shards.records import IMAGE_SCHEMA
from chexworld_ray.shards.schema import Columns, Meta
from chexworld_ray.shards.settings import WriteSettings
from chexworld_ray.shards.source import Source
from chexworld_ray.shards.sources.registry import read_source
from chexworld_ray.storage import place

TEXT: Meta = (("smoker", "text"),)


@pytest.mark.parametrize(
    ("before", "later", "told"),
    [
        (Columns(("cough",), (), TEXT), Columns(("cough", "smoker")), "was meta data .* is a label .*columns cough,"),
        (Columns((), (), TEXT), Columns(("smoker",)), "was meta data .* is a label in this one; .*columns '',"),
        (Columns(("smoker",)), Columns(("a b",), (), TEXT), "was a label .* is meta data .*columns 'a b,smoker',"),
        (Columns(("smoker",)), Columns((), (), (("smoker", "number"),)), "was a label .* is meta data"),
    ],
)
def test_a_column_that_is_a_label_in_one_release_is_one_in_all(before: Columns, later: Columns, told: str) -> None:
    with pytest.raises(UserError, match=f"^--append: column 'smoker' {told}.* or ingest all again$"):
        before.union(later)


def test_columns_of_other_kinds_may_share_a_name_and_new_ones_may_come() -> None:
    before = Columns(("pneumothorax",), ("pneumothorax",), TEXT)
    later = Columns(("new",), ("pneumothorax",), (*TEXT, ("age", "number")))
    labels = ("pneumothorax", "new")
    assert before.union(later) == Columns(labels, ("pneumothorax",), (*TEXT, ("age", "number")))
    with pytest.raises(UserError, match="column 'smoker' is text in the releases before and number in this one"):
        before.union(Columns((), (), (("smoker", "number"),)))


def folder(root: Path, cells: list[str], names: str = "{}.png") -> Path:
    """A folder with a table of two columns."""
    rows = []
    for number, cell in enumerate(cells):
        file = root / names.format(number)
        file.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(file), make_phantom(5, number, 96).image_HW)
        rows.append(f"{names.format(number)},{cell}\n")
    (root / "labels.csv").write_text("path,smoker\n" + "".join(rows))
    return root


def data_set(out: Path, source: Source, columns: Columns, mark: str = "0" * 64, rule: int = 2) -> None:
    """A data set as its manifest tells it, with no image."""
    before = manifests.empty(place(str(out)), asdict(WriteSettings()))
    release = Release(mark, source.found, 0, {}, {}, rule)
    manifests.publish(manifests.add_release(before, release, [], IMAGE_SCHEMA.empty_table(), columns, None))


def test_a_release_with_other_labels_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    source = read_source(str(folder(tmp_path / "in", ["yes", "no"])), labels="labels.csv")
    data_set(tmp_path / "out", source, Columns((), (), TEXT))
    there = sorted((tmp_path / "out").iterdir())
    with pytest.raises(UserError, match="--append: column 'smoker' was meta data"):
        ingest(source, str(tmp_path / "out"), WriteSettings(), append=True)
    assert sorted((tmp_path / "out").iterdir()) == there


def test_without_labels_a_table_is_read_as_it_was_before_words_were_labels(tmp_path: Path) -> None:
    root = str(folder(tmp_path, ["yes", "no"]))
    assert read_source(root, labels="labels.csv").columns == Columns(("smoker",))
    assert read_source(root, labels="labels.csv", label_columns=()).columns == Columns((), (), TEXT)


def refused(source: Source, out: Path, settings: WriteSettings | None = None) -> str:
    with pytest.raises(UserError, match="another data set is there") as caught:
        ingest(source, str(out), settings or WriteSettings())
    return str(caught.value)


def test_a_data_set_of_an_older_program_says_which_rules_have_changed(tmp_path: Path) -> None:
    shelves = folder(tmp_path / "in", ["yes", "no"], "p10/p1000003{}/a.png")
    source, out = read_source(str(shelves), labels="labels.csv"), tmp_path / "out"
    labels = "smoker was text, now it is a label"
    patients = "the outermost of several folders named like patients was the patient, now it is the innermost"
    for columns, rule, rules in (
        (Columns((), (), TEXT), 1, f"{labels}; {patients}"),
        (Columns((), (), TEXT), 2, labels),
        (Columns(("smoker",)), 1, patients),
    ):
        data_set(out, source, columns, rule=rule)
        told = refused(source, out)
        assert f"another data set is there, or the same one, read by older rules: {rules}; add to it" in told


def test_what_is_really_another_data_set_says_nothing_of_rules(tmp_path: Path) -> None:
    source, out = read_source(str(folder(tmp_path / "in", ["yes", "no"])), labels="labels.csv"), tmp_path / "out"
    data_set(out, source, Columns(("other",)))
    assert "another data set is there; add" in refused(source, out)
    data_set(out, replace(source, packed=source.packed[:1]), Columns((), (), TEXT))
    assert "another data set is there; add" in refused(source, out)
    data_set(out, source, Columns(("smoker",)))
    assert "another data set is there; add" in refused(source, out)
    told = refused(source, out, WriteSettings(split_seed=1))
    assert "another data set is there, with split_seed 0 (now 1); add" in told
