"""`ray job submit --working-dir . -- python jobs/analyze.py …`: the same arguments as `chexworld analyze`."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))  # the uploaded working directory, where the package is not installed

from chexworld_ray.cli import main

if __name__ == "__main__":
    sys.exit(main(["analyze", *sys.argv[1:]]))
