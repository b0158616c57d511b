"""The key of pseudonyms: from the environment, or a random one that lives as long as an ingest does."""

import hashlib
import os
import secrets
from dataclasses import dataclass
from pathlib import Path

import platformdirs

from chexworld_ray.errors import UserError
from chexworld_ray.shards.identity import KEY_VARIABLE, Pseudonyms

SHORT_KEY = 16  # characters; a shorter key can be guessed
NO_KEY = (
    f"what DICOM files tell of who they are was hashed with a random key, for {KEY_VARIABLE} is not set. It is gone "
    "now, so that no images can be added to this set later. To keep that open: openssl rand -hex 32, put the key "
    "there, and ingest again"
)
"""What to say at the end of an ingest that went by a random key."""


@dataclass(frozen=True)
class IngestKey:
    """The key of one ingest, and where it is kept if it is a random one."""

    pseudonyms: Pseudonyms
    random: bool
    kept_in: Path | None = None
    note: str | None = None
    """What to tell the user about the key."""

    def forget(self) -> None:
        """Remove a random key: the ingest is complete."""
        if self.kept_in is not None:
            self.kept_in.unlink(missing_ok=True)


def given_key() -> Pseudonyms | None:
    """CHEXWORLD_PATIENT_KEY; None where it is not set.

    Raises:
        UserError: the variable is set and empty.
    """
    given = os.environ.get(KEY_VARIABLE)
    if given is not None and not given.strip():
        raise UserError(f"{KEY_VARIABLE} is empty; unset it, or put a secret of at least {SHORT_KEY} characters there")
    return None if given is None else Pseudonyms(given.encode())


def ingest_key(out_url: str) -> IngestKey:
    """CHEXWORLD_PATIENT_KEY; else a random key, readable by its owner only, in the user's state directory.

    Raises:
        UserError: the variable is set and empty.
    """
    if (given := given_key()) is not None:
        short = f"{KEY_VARIABLE} is short and can be guessed; make one with `openssl rand -hex 32`"
        return IngestKey(given, False, note=short if len(given.key) < SHORT_KEY else None)
    folder = Path(platformdirs.user_state_dir("chexworld_ray", appauthor=False))
    file = folder / f"{hashlib.sha256(out_url.encode()).hexdigest()[:32]}.key"
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not file.exists():
            draft = file.with_suffix(f".{secrets.token_hex(4)}")
            descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(descriptor, "w") as handle:
                handle.write(secrets.token_hex(32))
            os.replace(draft, file)
        return IngestKey(Pseudonyms(file.read_text().encode()), True, file)
    except OSError as error:
        note = (
            f"{folder}: a random key can't be kept there ({error.strerror}): should this ingest be interrupted after "
            f"DICOM files were read, it can't go on; set {KEY_VARIABLE} to avoid that"
        )
        return IngestKey(Pseudonyms(secrets.token_hex(32).encode()), True, note=note)
