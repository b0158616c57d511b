"""What a model knows: analyze, embed, neighbours. Arguments only; what does the work is imported inside `run`."""

import sys
from dataclasses import dataclass, field
from typing import Annotated

import tyro

from chexworld_ray.analysis.settings import AnalysisSettings
from chexworld_ray.commands.common import UNPREFIXED, json_line


@dataclass(frozen=True, kw_only=True)
class Analyze:
    """Show whether a run's newest checkpoint has learnt layout and domain variation, and whether it collapsed."""

    run_url: Annotated[str, tyro.conf.arg(name="run")]
    """URL of the run."""
    data: str | None = None
    """Data set to look at; unset: what the run was trained on."""
    allow_prefix: tuple[str, ...] = ()
    """Where the run's record may lead to its data outside of the store that holds it: paths, URLs or protocols."""
    settings: Annotated[AnalysisSettings, UNPREFIXED] = field(default_factory=AnalysisSettings)
    json: bool = False
    """Print one JSON object on stdout at the end."""

    def run(self) -> None:
        from chexworld_ray.reports.analyses import analysis_table
        from chexworld_ray.runtime.analyze import analyze

        found = analyze(self.run_url, self.data, self.settings, self.allow_prefix)
        text = "\n\n".join(analysis_table(outcome) for outcome in found)
        print(text, file=sys.stderr if self.json else sys.stdout)
        if self.json:
            json_line({"analyses": [outcome.record() for outcome in found]})


@dataclass(frozen=True, kw_only=True)
class Embed:
    """Write the features of a data set as Parquet: one row an image, with ids and labels. Killed, it goes on."""

    run_url: Annotated[str | None, tyro.conf.arg(name="run")] = None
    """URL of the run whose newest target encoder is used."""
    encoder: str | None = None
    """Somebody else's encoder instead: timm:NAME or timm:NAME@FILE."""
    data: str
    """Data set."""
    out: str
    """Folder for the features."""
    tokens: bool = False
    """All tokens of each image instead of their mean."""
    image_size: int | None = None
    """Side of the view (pixels); unset: what the encoder was trained on."""
    json: bool = False
    """Print one JSON object on stdout at the end."""

    def run(self) -> None:
        from chexworld_ray.runtime.embed import embed_data

        count = embed_data(self.run_url, self.encoder, self.data, self.out, self.image_size, tokens=self.tokens)
        if self.json:
            json_line({"images": count, "out": self.out})


@dataclass(frozen=True, kw_only=True)
class Neighbours:
    """Show the images of an embedded data set that look most like a file."""

    embeddings: str
    """Folder that `embed` wrote."""
    image: str
    """File of any kind that ingest reads."""
    count: int = 9
    """How many."""
    out: str = "neighbours.png"
    """Picture to write."""
    allow_prefix: tuple[str, ...] = ()
    """Where the record there may lead to its data outside of the store that holds it: paths, URLs or protocols."""

    def run(self) -> None:
        from chexworld_ray.reports.neighbours import neighbours_picture, neighbours_table
        from chexworld_ray.runtime.embed import neighbours
        from chexworld_ray.storage import place, write_bytes

        query, found = neighbours(self.embeddings, self.image, self.count, self.allow_prefix)
        write_bytes(place(self.out), neighbours_picture(query, found))
        print(neighbours_table(found))  # noqa: T201
