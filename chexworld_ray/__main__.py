"""`python -m chexworld_ray` is the same as `chexworld`."""

import sys

from chexworld_ray.cli import main

if __name__ == "__main__":
    sys.exit(main())
