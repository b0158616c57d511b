"""Data: phantoms, ingest, inspect. Arguments only; what does the work is imported inside `run`."""

import shlex
import sys
from dataclasses import dataclass, field
from typing import Annotated

import tyro

from chexworld_ray import recipes
from chexworld_ray.commands.common import UNPREFIXED, json_line
from chexworld_ray.errors import UserError
from chexworld_ray.shards.settings import CleanSettings, Dataset, WriteSettings


@dataclass(frozen=True, kw_only=True)
class Phantoms:
    """Make a folder of phantom radiographs with masks, landmarks and findings, ready to be ingested."""

    out: str
    """Folder or URL to write to."""
    images: int = 384
    """How many; two an imaginary patient."""
    size: int = 320
    """Side in pixels."""
    seed: int = 0
    """Other seeds are other patients."""

    def run(self) -> None:
        from chexworld_ray.phantoms.dataset import TABLE, write_phantoms
        from chexworld_ray.storage import exists, place

        if self.images < 1 or self.size < 64:
            raise UserError("phantoms: --images must be at least 1 and --size at least 64")
        out = place(self.out)
        if exists(out / TABLE):
            raise UserError(f"--out {self.out}: there is a {TABLE} already; choose another folder, or remove it")
        write_phantoms(out, self.images, self.seed, self.size)
        told = f"{self.images} phantoms; next: chexworld ingest {shlex.quote(self.out)} --labels {TABLE} --out DATA"
        sys.stderr.write(f"{told}\n")


@dataclass(frozen=True, kw_only=True)
class Ingest:
    """Turn a folder of radiographs (DICOM, PNG, JPEG, TIFF, …) into Parquet shards."""

    folder: Annotated[str, tyro.conf.Positional]
    """Folder or URL; every image below it, or those that --labels or the owner's tables name."""
    out: str
    """Where the shards go: a local path, s3://…, or whatever fsspec opens."""
    dataset: Dataset = "folder"
    """Whose layout the folder has."""
    labels: str | None = None
    """CSV table of a plain folder, relative to the folder or to where you stand."""
    label_columns: str | None = None
    """Columns that are labels, comma-separated ('' for none); unset: those whose cells are all 1, 0, -1 (or words for
    these, as yes and no) or empty (or NaN, NA, None and the like)."""
    keep_columns: str | None = None
    """Columns of the table that may be stored though they look as if they told who a patient is, comma-separated."""
    keep_paths: bool = False
    """Store the paths of DICOM files as they are, for they are pseudonymous; unset, keyed hashes stand for them."""
    skip_missing: bool = False
    """Set rows aside whose file is missing, instead of stopping."""
    append: bool = False
    """Add a release to the data set at --out: a new version of its manifest."""
    prefix: str = ""
    """Put this before every image id: for releases that use the same file names."""
    allow_prefix: tuple[str, ...] = ()
    """Where tables may lead outside of the folder: paths, URLs or protocols (s3://)."""
    check_pictures: bool = True
    """Look at each picture, and flag what seems to be a negative, turned, mirrored, from the side or no chest; nothing
    is changed or set aside."""
    longest_side: int = 512
    """Larger images are shrunk to this (pixels)."""
    clean: Annotated[CleanSettings, UNPREFIXED] = field(default_factory=CleanSettings)
    val_fraction: float = 0.1
    """Part of the patients that goes to val, where the split is not given."""
    test_fraction: float = 0.2
    """Part of the patients that goes to test, where the split is not given."""
    split_seed: int = 0
    """Seed of splits and shuffling."""
    json: bool = False
    """Print one JSON object on stdout at the end."""

    def run(self) -> None:
        from chexworld_ray.reports.data_card import describe_manifest
        from chexworld_ray.runtime.cluster import say
        from chexworld_ray.runtime.ingest import ingest
        from chexworld_ray.shards.ingest import with_prefix
        from chexworld_ray.shards.source import kept_columns
        from chexworld_ray.shards.sources.registry import read_source

        source = read_source(
            self.folder,
            self.dataset,
            labels=self.labels,
            label_columns=None if self.label_columns is None else _names(self.label_columns),
            skip_missing=self.skip_missing,
            keep_columns=_names(self.keep_columns or ""),
            allowed=self.allow_prefix,
        )
        if source.links:
            say(source.links)
        settings = WriteSettings(
            longest_side=self.longest_side,
            val_fraction=self.val_fraction,
            test_fraction=self.test_fraction,
            split_seed=self.split_seed,
            keep_paths=self.keep_paths,
            check_pictures=self.check_pictures,
            clean=self.clean,
        )
        manifest = ingest(with_prefix(source, self.prefix) if self.prefix else source, self.out, settings, self.append)
        say(describe_manifest(manifest))
        say(kept_columns(source))
        if self.json:
            json_line(manifest.summary())


def _names(text: str) -> tuple[str, ...]:
    return tuple(text.split(",")) if text else ()


@dataclass(frozen=True, kw_only=True)
class Inspect:
    """Show what a data set holds: counts, labels, splits, pixel statistics; and what training makes of it."""

    url: Annotated[str, tyro.conf.Positional]
    """A data set that `chexworld ingest` wrote, or the manifest of one of its versions."""
    views: str | None = None
    """Write a picture (PNG) of crops, actions and masks to this file."""
    recipe: str = "small"
    """Recipe whose views are shown."""
    originals: str | None = None
    """Folder that was ingested: print which of its files each keyed hash of a path is, and why it was rejected."""
    check: bool = False
    """Verify hashes, counts, splits and that every image can be decoded."""
    json: bool = False
    """Print one JSON object on stdout at the end."""

    def run(self) -> None:
        from chexworld_ray.reports.data_card import describe_manifest
        from chexworld_ray.shards.manifest import load

        manifest = load(self.url)
        print(describe_manifest(manifest), file=sys.stderr if self.json else sys.stdout)
        if self.views is not None:
            from chexworld_ray.reports.views import views_picture
            from chexworld_ray.storage import place, write_bytes

            science = recipes.by_name(self.recipe).science
            write_bytes(place(self.views), views_picture(manifest, science))
        if self.originals is not None:
            from chexworld_ray.shards.keys import given_key
            from chexworld_ray.shards.originals import originals
            from chexworld_ray.shards.source import printable
            from chexworld_ray.shards.sources.listing import list_files

            for told in originals(manifest, list_files(self.originals), given_key()):
                sys.stdout.write("\t".join(map(printable, told)) + "\n")
        found: list[str] = []
        if self.check:
            from chexworld_ray.runtime.cluster import say
            from chexworld_ray.shards.check import problems

            found = problems(manifest)
            say("\n".join(found) or "checked: sound")
        if self.json:
            json_line(manifest.counts() | ({"problems": found} if self.check else {}))
        if found:
            raise UserError(
                f"{self.url}: {len(found)} problems, first: {found[0]}; ingest it again, or restore its files"
            )
