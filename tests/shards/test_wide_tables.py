"""Tables of many rows, each with cells of its own: ids, boxes, masks."""

import tracemalloc

import pyarrow as pa

from chexworld_ray.shards.sources.folder import _Layout
from chexworld_ray.storage import place

ROWS = 20_000


def test_the_different_cells_of_all_columns_are_never_in_memory_at_once() -> None:
    """One column of these takes some 3 MB as Python's texts, all of them nine times as much."""
    path = {"path": [f"{row:08}.png" for row in range(ROWS)], "cough": ["yes", "no"] * (ROWS // 2)}
    wide = {f"mask_{organ}": [f"masks of {organ}/{row:08}.png" for row in range(ROWS)] for organ in "abcd"}
    wide |= {name: [f"{name}{row:08}" for row in range(ROWS)] for name in ("patient_id", "study_id", "boxes")}
    wide |= {name: [f"0.{row:08}" for row in range(ROWS)] for name in ("score", "dose")}

    def peak(columns: dict[str, list[str]]) -> int:
        table = pa.table(path | columns)
        tracemalloc.start()
        layout = _Layout(place("/labels.csv"), table, None, ())
        found = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert layout.labels == ("cough",)
        return found

    assert peak(wide) < 1.5 * peak({"score": wide["score"]})
