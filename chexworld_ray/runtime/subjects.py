"""Encoders under evaluation, copied out of reach of their run's retention.

`<run>/evaluations/<data version>/<random_2 | start | checkpoint_…>/` holds an encoder, its features and tokens, and
the scores; names of these tell what they depend on (`evaluation.dependence`).
"""

import hashlib
import re
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

from safetensors.torch import save

from chexworld_ray import storage
from chexworld_ray.errors import UserError
from chexworld_ray.evaluation.dependence import features_key
from chexworld_ray.evaluation.results import Kind
from chexworld_ray.models.backbone import timm_bytes
from chexworld_ray.models.weights import encoder_bytes
from chexworld_ray.runtime.cluster import say
from chexworld_ray.runtime.extraction import Extraction, Inputs
from chexworld_ray.shards.manifest import Manifest
from chexworld_ray.training import checkpoint_files, run
from chexworld_ray.training.run import Run
from chexworld_ray.training.start import START, start_of
from chexworld_ray.training.state import initial_model

FOLDER = "evaluations"
RANDOM = "random_2"  # in "random", as versions before wrote it, the predictor is not the one that the run started with
ENCODER, PREDICTOR = "target.safetensors", "predictor.safetensors"


@dataclass(frozen=True)
class Subject:
    """An encoder under evaluation."""

    name: str
    kind: Kind
    images_seen: int
    seed: int | None
    folder: storage.Place
    image_size: int | None
    digest: str = ""
    """sha256 of its file."""

    @property
    def encoder(self) -> storage.Place:
        """Its file."""
        return self.folder / ENCODER

    @cached_property
    def predictor_digest(self) -> str:
        """sha256 of its predictor's file."""
        return _digest_of(self.folder / PREDICTOR)

    def extraction(self, kind: Inputs) -> Extraction:
        """Where its features or tokens are, and what they are made with."""
        name = kind if self.image_size is None else f"{kind}-{self.image_size}"
        folder = self.folder / f"{name}-{features_key(self.digest)}"
        return Extraction(self.encoder.url, self.image_size, folder, kind)


def subjects_of(one: Run, manifest: Manifest, image_size: int | None, *, every: bool) -> list[Subject]:
    """A run before training, and its newest (or every) whole checkpoint.

    Raises:
        UserError: the run has no checkpoint, or none that is whole.
    """
    if not every:
        return [*floors(one, manifest, image_size), newest_subject(one, manifest, image_size)]
    found = [checkpoint_subject(one, stored, manifest, image_size) for stored in reversed(run.checkpoints(one.root))]
    whole = [subject for subject in found if subject is not None]
    if not whole:
        raise UserError(f"{one.root.url}: no whole checkpoint yet")
    return [*floors(one, manifest, image_size), *whole]


def newest_subject(one: Run, manifest: Manifest, image_size: int | None) -> Subject:
    """A run's newest whole checkpoint.

    Raises:
        UserError: there is none.
    """
    for candidate in reversed(run.checkpoints(one.root)):
        subject = checkpoint_subject(one, candidate, manifest, image_size)
        if subject is not None:
            return subject
    raise UserError(f"{one.root.url}: no whole checkpoint yet")


def checkpoint_subject(
    one: Run, candidate: run.StoredCheckpoint, manifest: Manifest, image_size: int | None
) -> Subject | None:
    """A checkpoint, its files copied; None, and a line, where it is not whole."""
    return _copied(one, candidate, "checkpoint", manifest, image_size)


def _copied(
    one: Run,
    candidate: run.StoredCheckpoint,
    kind: Literal["checkpoint", "start"],
    manifest: Manifest,
    image_size: int | None,
) -> Subject | None:
    name = START if kind == "start" else checkpoint_files.folder_name(candidate.position)
    folder = one.root / FOLDER / manifest.data_version / name
    subject = Subject(one.root.name, kind, candidate.position, one.science.seed, folder, image_size)
    if storage.exists(subject.encoder):
        subject = _told(subject)
    if not subject.digest or _written_anew(candidate, subject.digest):
        try:
            with run.local_copy(candidate) as (copy, damage):
                if damage is None:
                    _keep(folder / PREDICTOR, (copy / checkpoint_files.PREDICTOR).read_bytes())
                    _keep(subject.encoder, (copy / checkpoint_files.TARGET).read_bytes())
        except FileNotFoundError:
            damage = "removed while it was copied"
        if damage is not None:
            say(f"{candidate.root.url} is passed over: {damage}")
            return None
        subject = _told(subject)
    return subject


def _written_anew(candidate: run.StoredCheckpoint, copied: str) -> bool:
    """Whether the run has other weights at this position than those that were copied: it was begun again, say."""
    try:
        entries = storage.read_json(candidate.root / checkpoint_files.MANIFEST)["files"]
        return entries[checkpoint_files.TARGET]["sha256"] != copied
    except (FileNotFoundError, UserError, LookupError, TypeError):  # gone or damaged: the copy is what there is
        return False


def _told(subject: Subject) -> Subject:
    """With the digest of the file that is there."""
    return replace(subject, digest=_digest_of(subject.encoder))


def _keep(file: storage.Place, data: bytes) -> None:
    """Write a copy, and its sha256 beside it, which is never that of another, wherever a kill comes."""
    beside = _beside(file)
    storage.remove(beside)
    storage.write_bytes(file, data)
    storage.write_bytes(beside, hashlib.sha256(data).hexdigest().encode())


def _digest_of(file: storage.Place) -> str:
    """sha256 of a copy. It stands beside it, so that nobody fetches the weights to know their name."""
    beside = _beside(file)
    told = storage.fetch(beside).decode(errors="replace") if storage.exists(beside) else ""
    if not re.fullmatch(r"[0-9a-f]{64}", told):
        told = hashlib.sha256(storage.fetch(file)).hexdigest()
        storage.write_bytes(beside, told.encode())
    return told


def _beside(file: storage.Place) -> storage.Place:
    return file.parent / f"{file.name}.sha256"


def floors(one: Run, manifest: Manifest, image_size: int | None) -> list[Subject]:
    """What a run is held against: its model with the random weights of its seed and, where it was told `--init`, with
    those that it started from.
    """
    random = random_subject(one, manifest, image_size)
    if one.science.init is None:
        return [random]
    stored = start_of(one)
    start = None if stored is None else _copied(one, stored, "start", manifest, image_size)
    if start is None:
        say(f"{one.root.url} kept no start of its own: it is compared with random weights only, not with --init")
        return [random]
    return [random, start]


def random_subject(one: Run, manifest: Manifest, image_size: int | None) -> Subject:
    """The run's model with the random weights of its seed: where it started, unless it was told `--init`."""
    folder = one.root / FOLDER / manifest.data_version / RANDOM
    subject = Subject(one.root.name, "random", 0, one.science.seed, folder, image_size)
    if not storage.exists(subject.encoder):
        model = initial_model(one.science)
        tensors = model.encoder.vit.state_dict()
        _keep(folder / PREDICTOR, save(model.predictor.state_dict()))
        _keep(subject.encoder, encoder_bytes(tensors, one.science.model, one.pixels, 0))
    return _told(subject)


def foreign_subject(source: str, home: storage.Place, manifest: Manifest, image_size: int | None) -> Subject:
    """Somebody else's encoder, from timm:NAME or timm:NAME@FILE.

    Raises:
        UserError: not such a name, or it can't be had.
    """
    data = timm_bytes(source)
    name = source.partition("@")[0]
    digest = hashlib.sha256(data).hexdigest()[:8]
    folder = home / FOLDER / manifest.data_version / f"{name.replace(':', '-').replace('/', '-')}-{digest}"
    shown = name if image_size is None else f"{name}@{image_size}px"
    subject = Subject(shown, "foreign", 0, None, folder, image_size)
    if not storage.exists(subject.encoder):
        _keep(subject.encoder, data)
    return _told(subject)
