"""A run that an earlier version began goes on as it was, with the command that began it."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from chexworld_ray.config import ModelSettings, RunSettings, Science, ViewSettings, to_dict
from chexworld_ray.errors import UserError
from chexworld_ray.shards import plan
from chexworld_ray.shards.manifest import Manifest
from chexworld_ray.storage import Place, place, read_json, write_json
from chexworld_ray.training import run
from chexworld_ray.training.checkpoint_files import folder_name

SCIENCE = Science(model=ModelSettings(image_size=48, patch_size=12, width=32, heads=2), global_batch=10)
SETTINGS = RunSettings(science=SCIENCE)


def began(root: Place, data: Manifest) -> dict[str, Any]:
    """Have version 1 begin a run: its record, which knew neither `blur_side` nor versions of the plan."""
    run.open_or_create(root, SETTINGS, [data], 60)
    record = read_json(root / run.CONFIG) | {"schema_version": 1}
    del record["science"]["views"]["blur_side"]
    write_json(root / run.CONFIG, record)
    return record


def test_the_same_command_goes_on_with_a_run_of_the_first_version(phantom_set: Manifest, tmp_path: Path) -> None:
    root = place(str(tmp_path / "run"))
    began(root, phantom_set)
    for starts in (2, 3):
        before = run.begun(root, None)
        assert before is not None
        meant = dataclasses.replace(SETTINGS, science=before.meaning(SCIENCE))
        there = run.open_or_create(root, meant, [phantom_set], 60, before.version)
        assert (there.version, there.plan, there.science.views.blur_side) == (1, 1, 48)
        assert len(there.starts) == starts


def test_a_new_run_has_the_newest_version(phantom_set: Manifest, tmp_path: Path) -> None:
    root = place(str(tmp_path / "run"))
    assert run.begun(root, None) is None
    there = run.open_or_create(root, SETTINGS, [phantom_set], 60)
    assert (there.version, there.plan, there.science) == (run.SCHEMA_VERSION, plan.VERSION, SCIENCE)
    assert there.meaning(SCIENCE) == SCIENCE


def test_a_run_that_goes_on_from_one_of_the_first_version_is_of_it(phantom_set: Manifest, tmp_path: Path) -> None:
    root, other = place(str(tmp_path / "run")), place(str(tmp_path / "other"))
    began(root, phantom_set)
    write_json(root / folder_name(10) / "state.json", {})
    for url in (root.url, (root / folder_name(10)).url):
        assert run.compatible(url, SCIENCE, [phantom_set]) == url
        before = run.begun(other, url)
        assert before is not None
        assert before.version == 1
    meant = dataclasses.replace(SETTINGS, science=before.meaning(SCIENCE))
    there = run.open_or_create(other, meant, [phantom_set], 60, before.version)
    assert (there.plan, there.science.views.blur_side) == (1, 48)
    again = run.begun(other, None)
    assert again is not None
    assert again.meaning(SCIENCE) == there.science


def test_other_settings_of_an_old_run_are_told_in_one_line(phantom_set: Manifest, tmp_path: Path) -> None:
    root = place(str(tmp_path / "run"))
    began(root, phantom_set)
    other = dataclasses.replace(SCIENCE, views=ViewSettings(blur_side=100), seed=3)
    with pytest.raises(UserError, match=r"seed: 0 -> 3; science\.views\.blur_side: 48 -> 100"):
        run.open_or_create(root, RunSettings(science=other), [phantom_set], 60)
    named = dataclasses.replace(SCIENCE, views=ViewSettings(blur_side=48))
    run.open_or_create(root, RunSettings(science=named), [phantom_set], 60)


@pytest.mark.parametrize("version", [0, 3, "1", 1.0, True, None, []])
def test_a_version_that_is_not_known_is_one_line(version: object, phantom_set: Manifest, tmp_path: Path) -> None:
    root = place(str(tmp_path / "run"))
    record = began(root, phantom_set)
    write_json(root / run.CONFIG, record | {"schema_version": version})
    with pytest.raises(UserError, match=r"schema version .*this program reads 1 and 2"):
        run.load(root)
    with pytest.raises(UserError, match="plan version 7"):
        plan.make_plan([phantom_set], ("train",), ("frontal",), 0, 7)


def test_settings_of_the_first_version_are_read_with_all_their_values(phantom_set: Manifest, tmp_path: Path) -> None:
    root = place(str(tmp_path / "run"))
    record = began(root, phantom_set)
    there = to_dict(run.load(root).science)
    assert there["views"].pop("blur_side") == 48
    assert {**record["science"], "views": None} == {**_lists(there), "views": None}


def _lists(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _lists(one) for key, one in value.items()}
    return list(value) if isinstance(value, tuple) else value
