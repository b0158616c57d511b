"""A checkpoint is a folder of files: its name, what is in it, and whether it is whole (MANIFEST.json says) or not used.

encoder.safetensors, target.safetensors   timm's keys; the header carries model settings and pixel statistics
predictor.safetensors, optimizer.pt       what is needed to go on
recent.safetensors                        what the monitors remember; not in checkpoints of older programs
state.json                                position and what the run was
MANIFEST.json                             size and sha256 of each of the others
"""

import hashlib
import json
import re
from pathlib import Path

MANIFEST = "MANIFEST.json"
ENCODER, TARGET, PREDICTOR = "encoder.safetensors", "target.safetensors", "predictor.safetensors"
OPTIMIZER, RECENT, STATE = "optimizer.pt", "recent.safetensors", "state.json"
FILES = (ENCODER, TARGET, PREDICTOR, OPTIMIZER, RECENT, STATE)
PREFIX = "checkpoint_"


def folder_name(position: int, attempt: str = "") -> str:
    """Name of the checkpoint at a position; sorts by position.

    With an attempt it is another one than that of an earlier checkpoint there, which was passed over: Ray's list would
    name one folder twice, and remove it when the first of the two is too old.
    """
    return f"{PREFIX}{position:012d}" + (f".{attempt}" if attempt else "")


def position_of(name: str) -> int | None:
    """The position that a folder name tells, None where it is not a checkpoint's."""
    found = re.fullmatch(rf"{PREFIX}(\d+)(\.\w+)?", name)
    return int(found[1]) if found else None


def damage(folder: Path) -> str | None:
    """What is wrong with a local copy of a checkpoint; None where it is whole."""
    try:
        entries = json.loads((folder / MANIFEST).read_text())["files"]
        written = [(name, entry["bytes"], entry["sha256"]) for name, entry in entries.items()]
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return f"no readable {MANIFEST}"
    for name, size, digest in written:
        if name not in FILES:
            return f"{MANIFEST} names {name[:80]!r}, which is no file of a checkpoint"
        file = folder / name
        if not file.is_file():
            return f"{name} is missing"
        if file.stat().st_size != size:
            return f"{name} has {file.stat().st_size} bytes, {size} were written"
        if hashlib.sha256(file.read_bytes()).hexdigest() != digest:
            return f"{name} differs from what was written"
    return None
