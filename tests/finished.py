"""Runs that have ended, and are looked at by several tests: who changes one works on a copy."""

import shutil
from pathlib import Path

from chexworld_ray.training.run import Run


def copy_of(run: Run, folder: Path) -> Path:
    """The run's folder once more, below another storage and under its name."""
    return Path(shutil.copytree(run.root.path, folder / run.root.name))
