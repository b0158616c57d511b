"""Where a run began that was told `--init`: kept beside its checkpoints, as what its training is held against.

What `--init` names may be gone, or changed, when the run is evaluated; and a record must not say what is read.
"""

from chexworld_ray.storage import Place, children, exists, fetch, write_bytes
from chexworld_ray.training.checkpoint_files import FILES, MANIFEST
from chexworld_ray.training.run import Run, StoredCheckpoint

START = "start"
"""Folder of a run; its files are those of a checkpoint without optimizer."""


def start_of(one: Run) -> StoredCheckpoint | None:
    """The start of a run; None where it began with the random weights of its seed, or left none (earlier versions)."""
    folder = one.root / START
    return StoredCheckpoint(folder, 0) if one.science.init is not None and exists(folder / MANIFEST) else None


def copy_start(source: Run, root: Place) -> None:
    """Have a run that goes on from another one begin where that began.

    Raises:
        StorageError: a store can't be reached or refuses.
    """
    found = start_of(source)
    if found is None or exists(root / START / MANIFEST):
        return
    there = {file.name: file for file in children(found.root)}
    for name in (*FILES, MANIFEST):
        if name in there:
            write_bytes(root / START / name, fetch(there[name]))
