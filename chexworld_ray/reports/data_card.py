"""What a data set holds, for its description in a terminal and in reports.

Torch stays out: `ingest` and `inspect` would wait for it at their end.
"""

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

from chexworld_ray.errors import UserError
from chexworld_ray.reports.labels import visible
from chexworld_ray.shards.manifest import Manifest, load
from chexworld_ray.training.run import Run
from chexworld_ray.trust import allowed_prefixes, recorded


def data_sets(run: Run, allowed: Sequence[str] = ()) -> tuple[list[Manifest], list[str]]:
    """Data sets that a run's record names, and lines about those that are gone, another version now, or where the
    record may not lead (`trust.recorded`).
    """
    found: list[Manifest] = []
    missing: list[str] = []
    prefixes = allowed_prefixes(allowed)
    for entry in run.data:
        try:
            url = recorded(run.root, entry["url"], prefixes).url
        except UserError as error:
            missing.append(str(error))
            continue
        try:
            manifest = load(url)
        except UserError:
            missing.append(entry["url"])
            continue
        if manifest.data_version == entry["version"]:
            found.append(manifest)
        else:
            missing.append(f"{entry['url']} (now another version)")
    return found, missing


def describe_manifest(manifest: Manifest) -> str:
    """A data set in a screenful."""
    counts = manifest.counts()
    lines = [
        f"{manifest.root.url}: {counts['images']} images in {len(manifest.files)} files, "
        f"{counts['bytes'] / 1e6:.1f} MB, "
        f"version {manifest.version} ({manifest.data_version})",
        f"grey mean {manifest.grey_mean:.4f}, std {manifest.grey_std:.4f} on [0, 1]; views "
        + ", ".join(f"{name} {rows}" for name, rows in sorted(counts["by_view"].items())),
    ]
    for dataset, splits in counts["by_dataset_and_split"].items():
        lines.append(f"{dataset}: " + ", ".join(f"{split} {rows}" for split, rows in sorted(splits.items())))
        for name, (counted, by_split) in label_counts(counts["labels"].get(dataset, {})).items():
            joint = ", " if counted == "positive/known" else "; "
            lines.append(f"  {name}: {counted} " + joint.join(f"{split} {cell}" for split, cell in by_split.items()))
    if manifest.masks:
        lines.append(f"masks: {', '.join(manifest.masks)}")
    if counts["flags"]:
        lines.append(f"flags: {listed(counts['flags'])}")
    for flag, image_ids in counts["flag_examples"].items():
        more = ", …" if counts["flags"].get(flag, 0) > len(image_ids) else ""
        lines.append(f"  {flag}: {', '.join(map(visible, image_ids))}{more}")
    if unchecked := counts["images"] - counts["pictures_checked"]:
        lines.append(f"pictures that were not looked at: {unchecked}")
    rejected, ignored = counts["rejected"], counts["ignored"]
    lines.append(
        f"found {counts['found']} = {counts['images']} accepted + {sum(rejected.values())} rejected"
        + (f" ({listed(rejected)})" if rejected else "")
        + (f"; other files {sum(ignored.values())} ({listed(ignored)})" if ignored else "")
    )
    return "\n".join(lines)


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
