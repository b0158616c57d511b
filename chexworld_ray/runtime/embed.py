"""A data set's features into a folder, by Ray Data; killed, the same command goes on."""

from collections.abc import Sequence
from dataclasses import asdict, replace

from chexworld_ray import storage
from chexworld_ray.analysis.embeddings import (
    ENCODER,
    FACTS,
    PARTS,
    Embeddings,
    Neighbour,
    nearest,
    query_image,
    read_facts,
    write_facts,
)
from chexworld_ray.config import difference
from chexworld_ray.errors import UserError
from chexworld_ray.evaluation.features import PROJECTIONS, VERSION, embed
from chexworld_ray.models.backbone import timm_bytes
from chexworld_ray.runtime.cluster import connect, say
from chexworld_ray.runtime.extraction import Extraction, Inputs, device, extract, open_encoder
from chexworld_ray.runtime.subjects import newest_subject
from chexworld_ray.shards import manifest as manifests
from chexworld_ray.shards.manifest import Manifest
from chexworld_ray.shards.rejected import Rejected, largest_file
from chexworld_ray.training import run
from chexworld_ray.trust import allowed_prefixes, recorded

SPLITS = ("train", "val", "test")


def embed_data(
    run_url: str | None, foreign: str | None, data_url: str, out_url: str, image_size: int | None, *, tokens: bool
) -> int:
    """Features of every frontal image; returns how many there are. `foreign`: timm:NAME[@FILE], where there is no run.

    The encoder is copied beside them, so that a run that trains on changes nothing, and what comes later is comparable.

    Raises:
        UserError: no such encoder or data, both or none, or the folder holds other embeddings.
    """
    source = run_url or foreign
    if source is None or (run_url and foreign):
        raise UserError("embed: --run URL or --encoder timm:NAME, one of them")
    manifest, out = manifests.load(data_url), storage.place(out_url)
    kind: Inputs = "tokens" if tokens else "features"
    asked = Embeddings(source.partition("@")[0], 0, manifest.url, manifest.data_version, kind, image_size, VERSION)
    if storage.exists(out / FACTS):
        _refuse_others(read_facts(out), asked, out)
    else:
        data, images_seen = _encoder(run_url, manifest) if run_url else (timm_bytes(source), 0)
        storage.write_bytes(out / ENCODER, data)
        write_facts(out, replace(asked, images_seen=images_seen))
    connect(manifest.root.url, out.url)
    files = manifest.select(SPLITS, PROJECTIONS)
    extract([Extraction((out / ENCODER).url, image_size, out / PARTS, kind)], manifest, files)
    count = sum(file.rows for file in files)
    say(f"{kind} of {count} images: {out.url}")
    return count


def _encoder(run_url: str, manifest: Manifest) -> tuple[bytes, int]:
    """The file of a run's newest target encoder, and how many images it has seen."""
    subject = newest_subject(run.load_url(run_url), manifest, None)
    return storage.fetch_named(subject.encoder), subject.images_seen


def _refuse_others(there: Embeddings, asked: Embeddings, out: storage.Place) -> None:
    changed = difference(asdict(replace(there, images_seen=0)), asdict(asked))
    if changed:
        raise UserError(f"{out.url} holds other embeddings ({'; '.join(changed)}); choose another --out")


def neighbours(
    embeddings_url: str, image_url: str, count: int, allowed: Sequence[str] = ()
) -> tuple[bytes, list[Neighbour]]:
    """The query as it was looked at (a JPEG), and the images of a data set that are nearest to it.

    Raises:
        UserError: no embeddings, their record leads to data elsewhere, or the file can't become a radiograph.
    """
    folder = storage.place(embeddings_url)
    facts = read_facts(folder)
    if facts.kind == "tokens":
        raise UserError(f"{folder.url} holds tokens; neighbours are looked for among features (embed without --tokens)")
    manifest = manifests.load(recorded(folder, facts.data, allowed_prefixes(allowed)).url)
    try:
        query = query_image(storage.fetch_named(storage.place(image_url), largest_file(100)), manifest)
    except Rejected as error:
        raise UserError(f"--image {image_url}: {error}") from None
    features = embed(open_encoder((folder / ENCODER).url, facts.image_size or 0), [query], device())
    return query, nearest(folder, manifest, features[0], count)
