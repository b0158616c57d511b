"""Storage as Ray takes it: a pyarrow file system around the fsspec one that `storage` opened."""

from typing import Any

from pyarrow.fs import FSSpecHandler, PyFileSystem

from chexworld_ray.errors import UserError
from chexworld_ray.storage import place


def ray_storage(url: str) -> dict[str, Any]:
    """`storage_path` and `storage_filesystem` of a RunConfig.

    Raises:
        UserError: the place lives in one process's memory, where workers can't see it.
    """
    root = place(url)
    if root.is_local:
        return {"storage_path": root.path}
    if "memory" in root.fs.protocol:
        raise UserError(f"{url}: memory:// is seen by one process only; name a place that all workers see")
    return {"storage_path": root.path, "storage_filesystem": PyFileSystem(FSSpecHandler(root.fs))}
