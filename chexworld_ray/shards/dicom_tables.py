"""Lookup tables of DICOM headers (PS3.3 C.11.1.1.1, C.11.2.1.1), also as devices really write them."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from pydicom import DataElement, Dataset

_MOST_TABLES = 16
MOST_BEYOND = 0.001  # part of the pixels whose value a table that breaks off may lack


@dataclass(frozen=True)
class Table:
    """A lookup table; values before and behind it take its first and last entry."""

    first: int
    """Value that the first entry is for."""
    entries: np.ndarray
    """int64."""
    announced: int
    """Entries that it should have."""

    def apply(self, values: np.ndarray) -> np.ndarray:
        """Entries of values."""
        return self.entries[np.clip(np.rint(values).astype(np.int64) - self.first, 0, self.entries.size - 1)]

    def reaches(self, values: np.ndarray, counts: np.ndarray) -> bool:
        """Whether it has an entry for each value that occurs, but for a thousandth of the pixels; what it never
        announced does not count.
        """
        beyond = (values >= self.first + self.entries.size) & (values < self.first + self.announced)
        return float(counts[beyond].sum()) <= MOST_BEYOND * float(counts.sum())


def lookup_tables(header: "Dataset", keyword: str, negative: bool) -> Iterator[Table | None]:
    """Tables of a sequence of the header; None for one that can't be read. `negative`: their input goes below 0."""
    little_endian = "file_meta" not in header.__dict__ or header.file_meta.TransferSyntaxUID.is_little_endian
    try:
        items = list(islice(header.get(keyword) or (), _MOST_TABLES))
    except Exception:  # a damaged element makes pydicom raise anything
        items = [None]
    for item in items:
        try:
            yield _table(item, negative, little_endian)
        except Exception:
            yield None


def _table(item: Any, negative: bool, little_endian: bool) -> Table | None:
    count, first, bits = (int(number) for number in item.LUTDescriptor)
    count = (count & 0xFFFF) or 0x10000
    first -= 0x10000 if negative and first > 0x7FFF else 0  # written as US, meant as SS
    data = _bytes(item["LUTData"], little_endian)
    # entries of 8 bits may stand in 16 (the note of C.11.1.1.1): how many bytes there are tells
    packed = 0 < bits <= 8 and len(data) < 2 * count
    entries = np.frombuffer(data if packed else data[: len(data) // 2 * 2], np.uint8 if packed else "<u2")
    return Table(first, entries[:count].astype(np.int64), count) if entries.size else None


def _bytes(element: "DataElement", little_endian: bool) -> bytes:
    """Table data in little endian, whatever their value representation."""
    value: Any = element.value
    if not isinstance(value, bytes):
        return (np.atleast_1d(np.asarray(value, np.int64)) & 0xFFFF).astype("<u2").tobytes()
    if little_endian or element.VR != "OW":
        return value
    return np.frombuffer(value[: len(value) // 2 * 2], ">u2").astype("<u2").tobytes()
