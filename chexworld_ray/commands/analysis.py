"""What a trained model knows: analyze. Arguments only; what does the work is imported inside `run`."""

import dataclasses
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
    settings: Annotated[AnalysisSettings, UNPREFIXED] = field(default_factory=AnalysisSettings)
    json: bool = False
    """Print one JSON object on stdout at the end."""

    def run(self) -> None:
        from chexworld_ray.reports.analyses import analysis_table
        from chexworld_ray.runtime.analyze import analyze

        found = analyze(self.run_url, self.data, self.settings)
        text = "\n\n".join(analysis_table(outcome) for outcome in found)
        print(text, file=sys.stderr if self.json else sys.stdout)
        if self.json:
            json_line({"analyses": [dataclasses.asdict(outcome) for outcome in found]})
