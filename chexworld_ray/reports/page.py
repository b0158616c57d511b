"""What all pages share: one HTML file with everything in it, escaped, from templates of this package."""

import base64
import time
from typing import Any

import jinja2

from chexworld_ray import __version__
from chexworld_ray.reports.labels import visible


def render(template: str, **values: Any) -> bytes:
    """A page as a file."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("chexworld_ray", "reports"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=lambda value: visible(value) if type(value) is str else value,  # markup of ours is a type of its own
    )
    written = time.strftime("%Y-%m-%d %H:%M:%S %Z")
    return environment.get_template(template).render(version=__version__, written=written, **values).encode()


def embedded(picture: bytes) -> str:
    """A picture for a data URL."""
    return base64.b64encode(picture).decode()
