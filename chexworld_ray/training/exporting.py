"""`chexworld export`: a run's encoder into a folder, anywhere."""

from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal

from chexworld_ray.models.export import Exported, Format, default_channels, export
from chexworld_ray.storage import exists, place, write_bytes
from chexworld_ray.training.encoders import load_encoder
from chexworld_ray.training.run import CONFIG

FOLDER = "exports"


def export_run(
    url: str,
    kind: Format,
    out: str | None,
    which: Literal["target", "encoder"],
    channels: int | None,
    image_size: int | None,
    patch_size: int | None,
) -> tuple[str, Exported]:
    """Write the encoder of a run (checkpoint, encoder file) below `out`; where it is, and what was checked.

    Raises:
        UserError: no such run, a package is missing, or the export is not exact.
    """
    encoder, info = load_encoder(url, which, image_size=image_size, patch_size=patch_size)
    root = place(url)
    target = place(out) if out is not None else root / FOLDER if exists(root / CONFIG) else place(".")
    with TemporaryDirectory(prefix="export-") as name:
        done = export(encoder, info, Path(name), kind, channels or default_channels(kind))
        files = [done.path] if done.path.is_file() else sorted(file for file in done.path.rglob("*") if file.is_file())
        for file in files:
            write_bytes(target / str(file.relative_to(name)), file.read_bytes())
    path = (target / done.path.name).url
    return path, replace(done, line=done.line.replace("{path}", path))
