"""Files of strangers, read by a process that has imported Ray Data: its extension types are registered there."""

import pickle
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import ray.data
from ray.data._internal.object_extensions.arrow import ArrowPythonObjectType
from ray.exceptions import RayTaskError

from chexworld_ray.errors import UserError
from chexworld_ray.evaluation.features import load_features
from chexworld_ray.evaluation.results_file import NAME, read_results
from chexworld_ray.runtime.chunks import what_to_mend
from chexworld_ray.runtime.cluster import user_error
from chexworld_ray.shards.reader import read_row_group
from chexworld_ray.storage import place


class Touches:
    """Unpickled, it writes a file."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> tuple[object, tuple[str, str]]:
        return open, (str(self.file), "w")


def test_a_pickled_column_is_refused_by_every_reader(tmp_path: Path) -> None:
    assert ray.data is not None
    mark = tmp_path / "ran"
    pickled = pa.array([pickle.dumps(Touches(mark))], pa.large_binary())
    column = pa.ExtensionArray.from_storage(ArrowPythonObjectType(), pickled)
    names = ("image_id", "dataset", "patient_id", "split", "features", "task")
    (tmp_path / "parts").mkdir()
    for file in (tmp_path / "parts" / "a.parquet", tmp_path / NAME):
        pq.write_table(pa.table(dict.fromkeys(names, column)), file)
    for read in (
        lambda: load_features(place(str(tmp_path / "parts")), "a"),
        lambda: read_results(place(str(tmp_path))),
        lambda: read_row_group(str(tmp_path / NAME), 0, ("image_id",)),
    ):
        with pytest.raises(UserError, match=r"'image_id'.* has an extension type"):
            read()
    assert not mark.exists()
    pq.read_table(tmp_path / NAME)["task"].to_pylist()
    assert mark.exists(), "pyarrow alone would have run it"


def test_what_a_task_tells_the_user_is_told_without_a_traceback() -> None:
    wrapped = RayTaskError("read", "Traceback (most recent call last): …", UserError("x.parquet: no column 'a'"))
    for said in (user_error, what_to_mend):
        told = said(wrapped.as_instanceof_cause())
        assert told is not None
        assert str(told) == "x.parquet: no column 'a'"
