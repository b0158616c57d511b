"""Curves of a run whose workers came and went."""

import re

from chexworld_ray.reports.figures import elastic_curves


def record(minute: float, workers: int) -> dict[str, float]:
    return {"time": 60 * minute, "workers": workers, "images_per_second": 20.0 * workers, "loss": 1.0 / (1 + minute)}


def test_workers_over_time_are_drawn_where_they_changed() -> None:
    assert elastic_curves([record(at, 2) for at in range(5)]) is None
    assert elastic_curves([{"loss": 1.0}]) is None, "records of an earlier version"
    svg = elastic_curves([record(at, workers) for at, workers in enumerate((1, 1, 2, 2, 1))])
    assert svg is not None
    assert svg.startswith("<svg")
    for title in ("workers", "images/s", "loss"):
        assert re.search(rf"<!-- {title} -->", svg)
