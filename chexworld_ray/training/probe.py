"""A kNN probe on a fixed set of labelled images, beside training: a number that says more than a loss.

It runs in a thread on a copy of the target encoder, one at a time and at most a twentieth of the time; the step never
waits for it. Bank and queries are images of `train` and `val`: no test image is looked at.
"""

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from chexworld_ray.config import ModelSettings
from chexworld_ray.metrics.classification import auroc
from chexworld_ray.metrics.knn import knn_scores
from chexworld_ray.models.encoder import Encoder
from chexworld_ray.models.weights import EncoderInfo, pooled_features
from chexworld_ray.shards.manifest import Manifest
from chexworld_ray.shards.reader import read_row_group
from chexworld_ray.views.batch import whole_view

BANK, QUERIES = "train", "val"
MIN_OF_A_CLASS = 5
PAUSE = 19  # times as long as the last probe took, before the next


@dataclass(frozen=True)
class ProbeSet:
    """Views (uint8, NxSxS) of one dataset's bank and queries, and for each label truth: 1, 0, or NaN where unknown."""

    bank_NSS: np.ndarray
    queries_QSS: np.ndarray
    labels: dict[str, tuple[np.ndarray, np.ndarray]]


def read_probe_sets(manifests: Sequence[Manifest], size: int, images: int) -> list[ProbeSet]:
    """A set for each dataset that has a label with both classes, of at most `images` of bank and of queries."""
    found = []
    for manifest in manifests:
        columns = [f"label_{name}" for name in manifest.labels]
        rows: dict[str, dict[str, list[dict[str, object]]]] = {}
        for split in (BANK, QUERIES):
            for file in manifest.select((split,), ("frontal", "unknown")) if columns else ():
                for index in range(len(file.row_groups)):
                    if sum(len(part.get(split, [])) for part in rows.values()) >= images:
                        break
                    url = (manifest.root / file.path).url
                    for row in read_row_group(url, index, ("image", "dataset", *columns)).to_pylist():
                        rows.setdefault(row["dataset"], {}).setdefault(split, []).append(row)
        found += [_probe_set(of_dataset, columns, size) for of_dataset in rows.values()]
    return [one for one in found if one is not None]


def _probe_set(rows: dict[str, list[dict[str, object]]], columns: list[str], size: int) -> ProbeSet | None:
    parts = [rows.get(BANK, []), rows.get(QUERIES, [])]
    labels = {}
    for column in columns:
        truth = tuple(
            np.array([value if (value := row[column]) in (0, 1) else np.nan for row in part], float) for part in parts
        )
        if all((part == value).sum() >= MIN_OF_A_CLASS for part in truth for value in (0, 1)):
            labels[column.removeprefix("label_")] = truth
    if not labels:
        return None
    views = [np.stack([whole_view(bytes(row["image"]), size) for row in part]) for part in parts]  # pyright: ignore[reportArgumentType]
    return ProbeSet(views[0], views[1], labels)


class OnlineProbe:
    """`offer` a target encoder at the logging cadence; `latest` is what the last finished probe found."""

    def __init__(
        self,
        sets: Sequence[ProbeSet],
        model: ModelSettings,
        pixels: tuple[float, float],
        keep: Callable[[Encoder, float, int], None],
    ) -> None:
        """`keep` is called in the probe's thread with the weights, their value, and the images they have seen."""
        self._keep = keep
        self._sets, self._info = sets, EncoderInfo(model, *pixels, 0)
        self._copy = Encoder(model).requires_grad_(False).eval()
        self._thread: threading.Thread | None = None
        self._result: dict[str, float] = {}
        self._rested = 0.0

    def offer(self, target: Encoder, position: int) -> None:
        """Start a probe of these weights, unless one is running or ran a moment ago."""
        if not self._sets or (self._thread is not None and self._thread.is_alive()) or time.monotonic() < self._rested:
            return
        device = next(target.parameters()).device
        self._copy.to(device)
        self._copy.load_state_dict(target.state_dict())
        ready = torch.cuda.current_stream(device).record_event() if device.type == "cuda" else None
        self._thread = threading.Thread(target=self._probe, args=(position, device, ready), daemon=True)
        self._thread.start()

    def latest(self) -> dict[str, float]:
        """`probe_knn` (mean AUROC over labels and datasets) and the images seen that it belongs to; once."""
        result, self._result = self._result, {}
        return result

    def close(self) -> None:
        """Wait for a probe that is running."""
        if self._thread is not None:
            self._thread.join()

    def _probe(self, position: int, device: torch.device, ready: torch.cuda.Event | None) -> None:
        began = time.monotonic()
        if ready is None:
            value = self._mean_auroc(device)
        else:
            own_stream = torch.cuda.Stream(device)
            own_stream.wait_event(ready)
            with torch.cuda.stream(own_stream):
                value = self._mean_auroc(device)
        self._result = {"probe_knn": value, "probe_images_seen": position}
        self._rested = time.monotonic() + PAUSE * (time.monotonic() - began)
        self._keep(self._copy, value, position)

    def _mean_auroc(self, device: torch.device) -> float:
        values = []
        for one in self._sets:
            bank_ND, queries_QD = (
                pooled_features(self._copy, self._info, views, device) for views in (one.bank_NSS, one.queries_QSS)
            )
            for bank_truth, truth in one.labels.values():
                known, asked = np.isfinite(bank_truth), np.isfinite(truth)
                scores = knn_scores(bank_ND[known], bank_truth[known], queries_QD[asked])
                values.append(float(auroc(truth[asked], scores)[0]))
        return float(np.mean(values))
