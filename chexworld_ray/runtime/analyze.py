"""Analyses of a run's newest checkpoint beside its random start: each a Ray task on the slots of evaluation."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import ray
from ray.exceptions import RayError

from chexworld_ray import storage
from chexworld_ray.analysis.capacity import Features, capacity
from chexworld_ray.analysis.correspondence import Labelled, correspondence
from chexworld_ray.analysis.layout import layout
from chexworld_ray.analysis.outcome import FOLDER, Outcome
from chexworld_ray.analysis.pictures import pictures
from chexworld_ray.analysis.retrieval import retrieval
from chexworld_ray.analysis.settings import AnalysisSettings
from chexworld_ray.analysis.world import floor_worlds, read_world
from chexworld_ray.errors import UserError
from chexworld_ray.evaluation.augment import whole_mask
from chexworld_ray.evaluation.features import PROJECTIONS, feature_matrix, read_parts
from chexworld_ray.reports.analyses import picture
from chexworld_ray.runtime.cluster import connect, evaluation_slot, say, total, user_error
from chexworld_ray.runtime.extraction import device, extract
from chexworld_ray.runtime.subjects import Subject, floors, newest_subject
from chexworld_ray.shards import manifest as manifests
from chexworld_ray.shards.decode import decode_grey_jpeg
from chexworld_ray.shards.manifest import Manifest
from chexworld_ray.shards.parquet import tables
from chexworld_ray.shards.reader import read_row_group
from chexworld_ray.training import run
from chexworld_ray.trust import allowed_prefixes, recorded
from chexworld_ray.views.batch import whole_view


def analyze(
    run_url: str, data_url: str | None, settings: AnalysisSettings, allowed: Sequence[str] = ()
) -> list[Outcome]:
    """Run the analyses asked for; each is written to `<run>/analyses/` as JSON and as a picture when it is done.

    `data_url`: by default what the run was trained on, where its record may lead there (`trust.recorded`).

    Raises:
        UserError: no such run, data or analysis, no whole checkpoint, or no image in the split.
    """
    wanted = settings.analyses
    one = run.load_url(run_url)
    manifest = manifests.load(data_url or _own_data(one, allowed))
    if not manifest.select((settings.split,), PROJECTIONS):
        raise UserError(f"{manifest.root.url}: no frontal images in split {settings.split}")
    connect(one.root.url, manifest.root.url)
    on_slot = ray.remote(_of_worlds).options(num_cpus=1, num_gpus=float(total("GPU") > 0), resources=evaluation_slot())
    pending = {on_slot.remote(name, one.root.url, manifest, settings): name for name in wanted if name != "capacity"}
    say(f"{len(wanted)} analyses of {settings.images} images: some minutes on CPU cores")
    done: dict[str, Outcome] = {}

    def keep(name: str, outcome: Outcome) -> None:
        storage.write_json(one.root / FOLDER / f"{name}.json", outcome.record())
        storage.write_bytes(one.root / FOLDER / f"{name}.png", picture(outcome))
        say(f"{name}: {(one.root / FOLDER / name).url}.png")
        done[name] = outcome

    if "capacity" in wanted:
        subjects = [newest_subject(one, manifest, None), *reversed(floors(one, manifest, None))]
        keep("capacity", _capacity(subjects, manifest, settings))
    while pending:
        (ready,), _ = ray.wait(list(pending))
        try:
            keep(pending.pop(ready), ray.get(ready))
        except RayError as error:
            raise user_error(error) or error from None
    return [done[name] for name in wanted]


def _own_data(one: run.Run, allowed: Sequence[str]) -> str:
    if not one.data:
        raise UserError(f"{one.root.url}: the run names no data set; --data URL, please")
    return recorded(one.root, one.data[0]["url"], allowed_prefixes(allowed)).url


def _of_worlds(name: str, run_url: str, manifest: Manifest, settings: AnalysisSettings) -> Outcome:
    """An analysis that asks the predictor, of the trained model and of the same before training."""
    one = run.load_url(run_url)
    with run.newest_whole(run_url) as folder:
        worlds = [read_world(folder, one, device()), *floor_worlds(one, device())]
    rows = list(_rows(manifest, settings.split, settings.images))
    patients = [row["patient_id"] for row in rows]
    if name == "layout":
        return layout(worlds, [decode_grey_jpeg(row["image"]) for row in rows], patients, settings.candidates)
    size = one.science.model.image_size
    if name == "correspondence":
        return correspondence(worlds, [_labelled(row, manifest.masks, size) for row in rows], one.science.seed)
    views = np.stack([whole_view(row["image"], size) for row in rows])
    if name == "pictures":
        train = _rows(manifest, settings.train_split, settings.decoder_images)
        known = np.stack([whole_view(row["image"], size) for row in train])
        whole = [decode_grey_jpeg(row["image"]) for row in rows]
        return pictures(worlds, known, whole, views, patients, settings.decoder_steps)
    return retrieval(worlds, views, patients, settings.candidates)


def _labelled(row: dict[str, Any], organs: Sequence[str], size: int) -> Labelled:
    places = {
        mark["name"]: (mark["row"] / row["height"], mark["col"] / row["width"]) for mark in row["landmarks"] or []
    }
    masks = {organ: row[f"mask_{organ}"] for organ in organs}
    known = {organ: whole_mask(data, size) for organ, data in masks.items() if data is not None}
    return Labelled(whole_view(row["image"], size), row["patient_id"], places, known)


def _rows(manifest: Manifest, split: str, left: int) -> Iterator[dict[str, Any]]:
    """The first images of the split: shards are shuffled."""
    columns = ("image", "height", "width", "patient_id", "landmarks", *(f"mask_{organ}" for organ in manifest.masks))
    for file in manifest.select((split,), PROJECTIONS):
        for index in range(len(file.row_groups)):
            if left > 0:
                table = read_row_group((manifest.root / file.path).url, index, columns)
                yield from table.slice(0, left).to_pylist()
                left -= table.num_rows


def _capacity(subjects: Sequence[Subject], manifest: Manifest, settings: AnalysisSettings) -> Outcome:
    wanted = [subject.extraction("features") for subject in subjects]
    extract(wanted, manifest, manifest.select((settings.train_split, settings.split), PROJECTIONS))
    found, keys = [], {}
    for subject, one in zip(subjects, wanted, strict=True):
        table = read_parts(tables(one.folder))
        assert table is not None, "features of what was selected have just been made"
        parts = {}
        for split in (settings.train_split, settings.split):
            part = table.filter(pa.array([name == split for name in table["split"].to_pylist()], pa.bool_()))
            parts[split] = feature_matrix(part)
            keys[split] = (part["dataset"].to_pylist(), part["patient_id"].to_pylist())
        of = "trained" if subject.kind == "checkpoint" else subject.kind
        found.append(Features(of, parts[settings.train_split], parts[settings.split]))
    return capacity(found, keys[settings.train_split], keys[settings.split])
