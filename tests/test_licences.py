"""What `pip install chexworld_ray` brings along may be used under this package's licence, Apache-2.0."""

import re
import tomllib
from importlib.metadata import Distribution, distribution
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).parents[1]
# of packages whose metadata have no licence that a program can read; from the file LICENSE that each ships
READ_BY_HAND: dict[str, str] = {}
FREE = re.compile(
    r"(?i)\b(?:MIT|BSD|Apache|ISC|PSF|Python|MPL|Mozilla|HPND|Unlicense|zlib|CC0|0BSD|CNRI|Modified BSD|public domain)"
)
OF_GPU_MAKERS = re.compile(r"(?i)NVIDIA|^cuda")  # what torch brings along, its owner's terms; no copyleft
# the LGPL lets a program import a library that its user can replace, as Python does
LIBRARY = re.compile(r"(?i)LGPL|lesser general public")
COPYLEFT = re.compile(r"(?i)\bA?GPL|(?<!lesser )general public license|affero")


def hard_dependencies() -> dict[str, Distribution]:
    """All that is installed with the package, extras left out, by name."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    waiting = [(Requirement(text), frozenset[str]()) for text in project["dependencies"]]
    seen: set[tuple[str, frozenset[str]]] = set()
    found: dict[str, Distribution] = {}
    while waiting:
        requirement, asked_by = waiting.pop()
        marker, extras = requirement.marker, frozenset(requirement.extras)
        if marker and not any(marker.evaluate({"extra": extra}) for extra in asked_by or {""}):
            continue
        name = re.sub(r"[-_.]+", "-", requirement.name).lower()
        if (name, extras) in seen:
            continue
        seen.add((name, extras))
        found[name] = distribution(name)
        waiting += [(Requirement(text), extras | {""}) for text in found[name].requires or ()]
    return found


def licence(one: Distribution) -> str:
    """All that the metadata say."""
    classifiers = [text for text in one.metadata.get_all("Classifier") or () if text.startswith("License ::")]
    words = [one.metadata.get("License-Expression"), (one.metadata.get("License") or "").strip()[:200], *classifiers]
    return "; ".join(word for word in words if word)


def test_no_hard_dependency_asks_for_more_than_this_package_does() -> None:
    licences = {name: licence(one) or READ_BY_HAND.get(name, "") for name, one in hard_dependencies().items()}
    assert {"torch", "ray", "pydicom", "imagecodecs", "numpy", "pandas"} <= licences.keys(), "the walk goes deep"
    wrong = {name: said for name, said in licences.items() if COPYLEFT.search(LIBRARY.sub("", said))}
    assert wrong == {}
    unknown = {
        name: said
        for name, said in licences.items()
        if not FREE.search(said) and not LIBRARY.search(said) and not OF_GPU_MAKERS.search(f"{name} {said}")
    }
    assert unknown == {}, "read the licence of these, and name it in READ_BY_HAND"


def test_a_copyleft_licence_is_told_from_others() -> None:
    for said in ("GPL V3.0", "License :: OSI Approved :: GNU General Public License v3 (GPLv3)", "AGPL-3.0-only"):
        assert COPYLEFT.search(LIBRARY.sub("", said)), said
    for said in ("LGPL-2.1-or-later", "GNU Lesser General Public License v3", "MIT", "Apache-2.0"):
        assert not COPYLEFT.search(LIBRARY.sub("", said)), said
