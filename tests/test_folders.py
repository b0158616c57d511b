"""Links to folders are followed: every file once, no loop, and no stranger's link out of sight."""

import os
from pathlib import Path

import cv2
import pytest

from chexworld_ray.cli import main
from chexworld_ray.folders import _Walker, walk
from chexworld_ray.phantoms.dataset import make_phantom
from chexworld_ray.shards.source import Source
from chexworld_ray.shards.sources.listing import list_files
from chexworld_ray.shards.sources.registry import read_source


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """`in/part1` lies there, `in/part2` is a link out of it."""
    (tmp_path / "in" / "part1").mkdir(parents=True)
    (tmp_path / "real" / "part2" / "deep").mkdir(parents=True)
    for number, name in enumerate(("in/part1/0.png", "in/part1/1.png", "real/part2/2.png", "real/part2/deep/3.png")):
        cv2.imwrite(str(tmp_path / name), make_phantom(5, number, 96).image_HW)
    (tmp_path / "in" / "part2").symlink_to("../real/part2")
    return tmp_path / "in"


ALL = ["part1/0.png", "part1/1.png", "part2/2.png", "part2/deep/3.png"]


def paths(source: Source) -> list[str]:
    return [row.path for row in source]


def test_images_behind_a_link_are_found_with_and_without_a_table(folder: Path) -> None:
    source = read_source(str(folder))
    assert paths(source) == ALL
    assert source.links == "links to folders: 1 followed, 1 of them out of the folder"
    (folder / "labels.csv").write_text("path,x\npart1/0.png,1\npart2/deep/3.png,0\n")
    source = read_source(str(folder), labels="labels.csv")
    assert paths(source) == ["part1/0.png", "part2/deep/3.png"]
    assert source.ignored == {"csv": 1, "unlisted": 2}


def test_a_folder_without_links_says_nothing_of_them(folder: Path) -> None:
    (folder / "part2").unlink()
    assert read_source(str(folder)).links == ""


def test_no_link_makes_a_loop_or_a_copy(folder: Path) -> None:
    (folder / "0 first").symlink_to("part1")  # by name it comes before what it leads to
    (folder / "again").symlink_to("../real/part2/deep")
    (folder / "here").symlink_to(".")
    (folder / "itself").symlink_to("itself")
    (folder / "part1" / "up").symlink_to("..")
    (folder.parent / "real" / "part2" / "back").symlink_to(folder)
    source = read_source(str(folder))
    assert paths(source) == ["itself", *ALL], "a link to itself is no folder; as a file it can't be read"
    assert source.set_aside == []
    assert ": 1 followed, " in source.links


def test_a_table_may_name_a_file_by_any_of_its_paths(folder: Path) -> None:
    (folder / "here").symlink_to(".")
    (folder / "part1" / "sister").symlink_to("../part2")
    names = ["here/part1/0.png", "part1/1.png", "here/here/part1/sister/deep/3.png"]
    (folder / "labels.csv").write_text("path\n" + "\n".join(names) + "\n")
    source = read_source(str(folder), labels="labels.csv")
    assert paths(source) == names
    assert all((folder / name).is_file() for name in names)
    assert source.ignored == {"csv": 1, "unlisted": 1}, "part2/2.png"
    assert list_files(str(folder)).listed("here/part1/sister/none.png") is None


@pytest.mark.parametrize("target", ["..", "../..", "/", "/etc", "/proc/self", "/dev"])
def test_a_link_around_the_folder_or_to_the_system_is_told_and_not_followed(folder: Path, target: str) -> None:
    (folder.parent / "beside.png").write_bytes((folder / "part1" / "0.png").read_bytes())
    (folder / "part1" / "sly").symlink_to(os.path.join("..", target) if target.startswith(".") else target)
    source = read_source(str(folder))
    assert paths(source) == ALL
    (aside,) = source.set_aside
    assert (aside.source_path, aside.reason) == ("part1/sly/", "folder can't be listed")
    what = "to files of the system" if target in ("/etc", "/proc/self", "/dev") else "to a folder around it"
    assert aside.detail.startswith(f"a link {what}")
    assert aside.detail.endswith(", which is not followed")
    assert source.found == 5, "it counts, so that nothing is lost in silence"


def test_a_link_behind_a_link_may_not_lead_around_it(folder: Path) -> None:
    (folder.parent / "real" / "secret.png").write_bytes(b"x")
    (folder.parent / "real" / "part2" / "up").symlink_to("..")
    found = walk(str(folder))
    assert [os.path.relpath(file, folder) for file in found.files] == ALL
    assert list(found.refused) == [str(folder / "part2" / "up")]


def test_no_chain_of_links_leads_around_what_is_read(folder: Path) -> None:
    """part2 → real/part2, part2/on → far, on/back → real: none of them leads around the folder that it lies in."""
    (folder.parent / "far").mkdir()
    (folder.parent / "real" / "secret.png").write_bytes(b"x")
    (folder.parent / "real" / "part2" / "on").symlink_to("../../far")
    (folder.parent / "far" / "back").symlink_to("../real")
    found = walk(str(folder))
    assert [os.path.relpath(file, folder) for file in found.files] == ALL
    assert list(found.refused) == [str(folder / "part2" / "on" / "back")]


FOLLOWED = ["/mnt/disk", "/data/cxr", "/home/me/data", "/home/group", "/run/media/me/disk", "/dev/shm/cxr", "/var/data"]
REFUSED = ["/home", "/home/me", "/var", "/root", "/root/data", "/run", "/run/secrets", "/var/lib/x", "/var/log", "/etc"]


@pytest.mark.parametrize("target", [*FOLLOWED, *REFUSED])
def test_links_to_disks_of_data_are_followed_and_those_to_the_system_or_whole_homes_are_not(
    folder: Path, monkeypatch: pytest.MonkeyPatch, target: str
) -> None:
    """Folders of this machine stand for those of any: what a link leads to is told by its real path alone."""
    monkeypatch.setenv("HOME", "/home/me")
    walker = _Walker(str(folder))
    assert (walker._why_not(target) is None) == (target in FOLLOWED)
    monkeypatch.setenv("HOME", "/root")
    walker = _Walker(str(folder))
    assert walker._why_not("/root/data") is None, "in a container it is the user's own"
    assert walker._why_not("/root") is not None


def test_where_a_link_may_lead_to_a_folder_typed_by_the_user_leads_anywhere(folder: Path) -> None:
    (folder.parent / "typed").symlink_to(folder)
    assert paths(read_source(str(folder.parent / "typed"))) == ALL


def test_the_command_says_that_links_were_followed(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "labels.csv").write_text("path,patient_name\npart1/0.png,x\n")
    assert main(["ingest", str(folder), "--labels", "labels.csv", "--out", str(folder / "out")]) == 2
    assert "links" not in capsys.readouterr().err, "the columns are looked at first"
    bad = ["ingest", str(folder), "--out", str(folder / "out"), "--longest-side", "1"]
    assert main(bad) == 2
    assert capsys.readouterr().err.splitlines()[0].startswith("links to folders: 1 followed")
