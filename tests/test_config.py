import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chexworld_ray import recipes
from chexworld_ray.config import RunSettings, Science, difference, from_dict, to_dict
from chexworld_ray.errors import UserError


@pytest.mark.parametrize("name", recipes.RECIPES)
def test_json_round_trip(name: str) -> None:
    settings = recipes.by_name(name)
    assert from_dict(RunSettings, json.loads(json.dumps(to_dict(settings))), "x") == settings


def paths(record: dict[str, object], prefix: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    found = [prefix]
    for key, value in record.items():
        if isinstance(value, dict):
            found += paths(value, (*prefix, key))
    return found


@given(st.sampled_from(paths(to_dict(RunSettings()))), st.from_regex(r"[a-z_]{1,12}", fullmatch=True))
def test_unknown_keys_are_refused_at_every_depth(path: tuple[str, ...], key: str) -> None:
    record = to_dict(RunSettings())
    at = record
    for part in path:
        at = at[part]
    if key in at:
        return
    at[key] = 1
    with pytest.raises(UserError, match=key):
        from_dict(RunSettings, record, "config.json")


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"model": {"image_size": 100}}, "image-size 100"),
        ({"model": {"heads": 5}}, "heads"),
        ({"views": {"crop_scale": [0.9, 0.1]}}, "crop_scale"),
        ({"masks": {"context_tokens": 10_000}}, "context_tokens"),
        ({"epochs": 0}, "epochs"),
        ({"precision": "fp64"}, "precision"),
    ],
)
def test_impossible_settings_are_refused(change: dict[str, object], word: str) -> None:
    record = to_dict(Science())
    for key, value in change.items():
        if isinstance(value, dict):
            record[key].update(value)
        else:
            record[key] = value
    with pytest.raises(UserError, match=word):
        from_dict(Science, record, "x")


def test_difference_names_the_setting() -> None:
    old, new = to_dict(Science()), to_dict(Science(seed=3))
    assert difference(old, new) == ["seed: 0 -> 3"]


def test_a_long_key_is_cut_in_the_message() -> None:
    with pytest.raises(UserError) as caught:
        from_dict(Science, {"x" * 10_000: 1}, "config.json")
    assert len(str(caught.value)) < 200
