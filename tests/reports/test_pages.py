"""Pages as a reader has them before him."""

from pathlib import Path

import pytest
from browser import looked_at
from pages import page_of_one, page_of_two, sweep_page

from chexworld_ray.shards.manifest import Manifest


@pytest.mark.slow
def test_all_pages_read_well_in_a_browser(phantom_set: Manifest, tmp_path: Path) -> None:
    """A run's report, a sweep's, and that of two runs."""
    pages = [page(tmp_path, phantom_set) for page in (page_of_one, sweep_page, page_of_two)]
    looked_at([Path(page) for page in pages], tmp_path)
