"""Plain-text summaries for a terminal."""

from collections.abc import Sequence

from chexworld_ray.evaluation.results import ResultRow
from chexworld_ray.shards.manifest import Manifest


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
        for name, by_split in sorted(counts["labels"].get(dataset, {}).items()):
            known = {s: {v: n for v, n in values.items() if v != "unknown"} for s, values in by_split.items()}
            if any(values.keys() - {"0", "1", "-1"} for values in known.values()):
                cells = (f"{split} {_listed(dict(sorted(values.items())))}" for split, values in sorted(known.items()))
                lines.append(f"  {name}: images of each class " + "; ".join(cells))
            elif any(known.values()):
                cells = (
                    f"{split} {values.get('1', 0)}/{sum(values.values())}"
                    + (f" ({values['-1']} uncertain)" if "-1" in values else "")
                    for split, values in sorted(known.items())
                )
                lines.append(f"  {name}: positive/known " + ", ".join(cells))
    if manifest.masks:
        lines.append(f"masks: {', '.join(manifest.masks)}")
    if counts["flags"]:
        lines.append(f"flags: {_listed(counts['flags'])}")
    rejected, ignored = counts["rejected"], counts["ignored"]
    lines.append(
        f"found {counts['found']} = {counts['images']} accepted + {sum(rejected.values())} rejected"
        + (f" ({_listed(rejected)})" if rejected else "")
        + (f"; other files {sum(ignored.values())} ({_listed(ignored)})" if ignored else "")
    )
    return "\n".join(lines)


def _listed(counts: dict[str, int]) -> str:
    return ", ".join(f"{name} {count}" for name, count in counts.items())


def results_table(rows: Sequence[ResultRow]) -> str:
    """Results as aligned lines: value, 95 % interval, test images and positives."""
    header = ("task", "protocol", "encoder", "metric", "value", "95 % interval", "n", "positives", "p (Holm)")
    cells = [
        (
            row.task,
            row.protocol,
            row.encoder,
            row.metric,
            f"{row.value:.3f}",
            f"[{row.low:.3f}, {row.high:.3f}]",
            str(row.n),
            str(row.positives),
            "" if row.p_holm is None else f"{row.p_holm:.3f}",
        )
        for row in sorted(rows, key=lambda row: (row.task, row.protocol, row.metric, row.run, row.images_seen))
    ]
    widths = [max(len(line[column]) for line in [header, *cells]) for column in range(len(header))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) for line in [header, *cells]
    )
