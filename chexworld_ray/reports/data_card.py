"""What a data set holds, for its description in a terminal and in reports."""

from typing import Any, Literal, NamedTuple

from chexworld_ray.errors import UserError
from chexworld_ray.shards.manifest import Manifest, load
from chexworld_ray.training.run import Run


def data_sets(run: Run) -> tuple[list[Manifest], list[str]]:
    """Data sets that a run learnt from, and lines about those that have moved away or are another version now."""
    found: list[Manifest] = []
    missing: list[str] = []
    for entry in run.data:
        try:
            manifest = load(entry["url"])
        except UserError:
            missing.append(entry["url"])
            continue
        if manifest.data_version == entry["version"]:
            found.append(manifest)
        else:
            missing.append(f"{entry['url']} (now another version)")
    return found, missing


def data_card(manifest: Manifest) -> dict[str, Any]:
    """Counts of a data set with its URL and `label_counts` of each source."""
    counts = manifest.counts()
    labels = {dataset: label_counts(names) for dataset, names in counts["labels"].items()}
    return counts | {"url": manifest.root.url, "label_counts": {name: found for name, found in labels.items() if found}}


class LabelCount(NamedTuple):
    """Images of a label: what is counted, and split → the counts as text."""

    counted: Literal["positive/known", "images of each class"]
    by_split: dict[str, str]


def label_counts(names: dict[str, dict[str, dict[str, int]]]) -> dict[str, LabelCount]:
    """label → its images in each split; labels that nobody knows are left out."""
    found: dict[str, LabelCount] = {}
    for name, by_split in sorted(names.items()):
        known = {s: {v: n for v, n in values.items() if v != "unknown"} for s, values in sorted(by_split.items())}
        if any(values.keys() - {"0", "1", "-1"} for values in known.values()):
            cells = {split: listed(dict(sorted(values.items()))) for split, values in known.items()}
            found[name] = LabelCount("images of each class", cells)
        elif any(known.values()):
            found[name] = LabelCount("positive/known", {split: _positive(values) for split, values in known.items()})
    return found


def _positive(values: dict[str, int]) -> str:
    uncertain = f" ({values['-1']} uncertain)" if "-1" in values else ""
    return f"{values.get('1', 0)}/{sum(values.values())}{uncertain}"


def listed(counts: dict[str, int]) -> str:
    """Names and their counts on one line."""
    return ", ".join(f"{name} {count}" for name, count in counts.items())
