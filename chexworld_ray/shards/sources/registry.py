"""Which adapter reads which data set."""

from collections.abc import Callable, Sequence

from chexworld_ray.errors import UserError
from chexworld_ray.shards.settings import Dataset
from chexworld_ray.shards.source import Source
from chexworld_ray.shards.sources.chestdr import read_chestdr
from chexworld_ray.shards.sources.chexpert import read_chexpert
from chexworld_ray.shards.sources.folder import read_folder
from chexworld_ray.shards.sources.jsrt import read_jsrt
from chexworld_ray.shards.sources.listing import Listing, list_files
from chexworld_ray.shards.sources.mimic import read_mimic
from chexworld_ray.shards.sources.nih14 import read_nih14
from chexworld_ray.shards.sources.rsna import read_rsna
from chexworld_ray.shards.sources.siim import read_siim
from chexworld_ray.shards.sources.tuberculosis import read_montgomery, read_shenzhen
from chexworld_ray.shards.sources.vindr import read_vindr

OWNERS: dict[str, Callable[[Listing, bool], Source]] = {
    "mimic": read_mimic,
    "chexpert": read_chexpert,
    "nih14": read_nih14,
    "vindr": read_vindr,
    "rsna": read_rsna,
    "siim": read_siim,
    "shenzhen": read_shenzhen,
    "montgomery": read_montgomery,
    "jsrt": read_jsrt,
    "chestdr": read_chestdr,
}


def read_source(
    root: str,
    dataset: Dataset = "folder",
    *,
    labels: str | None = None,
    label_columns: tuple[str, ...] | None = None,
    skip_missing: bool = False,
    keep_columns: tuple[str, ...] = (),
    allowed: Sequence[str] = (),
) -> Source:
    """The rows of a data set. `labels` (a table), `label_columns` and `keep_columns` are for plain folders. Tables may
    name files below `root`, and below the prefixes that are `allowed`.

    Raises:
        UserError: no such folder, a table that can't be read, missing files, or a table given for an owner's layout.
    """
    if dataset != "folder" and (labels is not None or label_columns is not None or keep_columns):
        raise UserError(
            f"--dataset {dataset} reads its owner's tables; --labels, --label-columns and --keep-columns are for plain "
            "folders"
        )
    if labels is None and keep_columns:
        raise UserError("--keep-columns: names columns of a table; say which one with --labels")
    listing = list_files(root, allowed)
    if dataset == "folder":
        return read_folder(listing, labels, label_columns, skip_missing, keep_columns)
    return OWNERS[dataset](listing, skip_missing)
