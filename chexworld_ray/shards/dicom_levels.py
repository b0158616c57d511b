"""Stored values of a grey DICOM picture: which bits of a cell count, and which values are padding."""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple

import cv2
import numpy as np
from pydicom.uid import (
    HTJ2K,
    JPEG2000,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLSNearLossless,
)

if TYPE_CHECKING:
    from pydicom import Dataset

_MAY_LOSE = frozenset({HTJ2K, JPEG2000, JPEGBaseline8Bit, JPEGExtended12Bit, JPEGLSNearLossless})
NEAR = 0.25  # part of steps below half the range; overlays have hardly any, pictures more, but for their noise


class Levels(NamedTuple):
    """A picture as indices into the values that it may have: each value is mapped once, so that what follows hardly
    depends on the size of the picture.
    """

    index_HW: np.ndarray
    """uint8 or uint16."""
    values: np.ndarray
    """Stored value (int64) of each index; above 16 bits, values that are near one another are merged."""
    counts: np.ndarray
    """Pixels (int64) of each index; 0 for padding."""
    padding: np.ndarray
    """Whether an index is padding (bool)."""
    flags: list[str]


@dataclass(frozen=True)
class Cell:
    """Where a stored value stands in its cell (PS3.5 8.1.1); bits of a cell beside it mean nothing."""

    width: int
    """Bits of the cell."""
    stored: int
    """Bits of the value."""
    shift: int
    """Bits below the value: of files from before 2014, whose High Bit need not be Bits Stored - 1."""
    signed: bool
    """Two's complement."""
    may_lose: bool
    """The codec may change values a little, also beyond the range of the stored bits."""

    @classmethod
    def of(cls, header: "Dataset", width: int) -> "Cell":
        """What a header says of cells that are `width` bits wide once they are decoded."""
        stored = min(_whole(header.get("BitsStored"), width), width)
        high = _whole(header.get("HighBit"), stored - 1)
        shift = high + 1 - stored if stored - 1 < high < width else 0
        syntax = header.file_meta.get("TransferSyntaxUID") if "file_meta" in header.__dict__ else None
        return cls(width, stored, shift, header.get("PixelRepresentation") == 1, syntax in _MAY_LOSE)

    @property
    def range(self) -> tuple[int, int]:
        """Least and largest value."""
        half = 1 << (self.stored - 1)
        return (-half, half - 1) if self.signed else (0, 2 * half - 1)

    def values(self, cells: np.ndarray) -> np.ndarray:
        """Stored values (int64) of cells (unsigned)."""
        kept = (cells.astype(np.int64) >> self.shift) & ((1 << self.stored) - 1)
        return kept - (kept >> (self.stored - 1) << self.stored) if self.signed else kept

    def clipped(self, cells: np.ndarray, used: np.ndarray) -> np.ndarray | None:
        """Values of a lossy codec that left the range of the stored bits by a little, brought back into it: their upper
        bits are no overlay, and cut off would make white black. None where it was not so.
        """
        low, high = self.range
        slack = (high + 1 - low) >> 4
        if not self.may_lose or self.shift or self.stored == self.width:
            return None
        negative = cells >= (1 << self.width) - (1 << (self.width - 1) if self.signed else slack)
        whole = np.where(negative, cells - (1 << self.width), cells)
        near = (whole >= low - slack) & (whole <= high + slack)
        return np.clip(whole, low, high) if near[used].all() else None

    def holds_more(self, cells: np.ndarray, values: np.ndarray) -> np.ndarray:
        """Whether a cell's other bits are set (bool), other than to repeat the sign."""
        mask = (1 << self.stored) - 1
        extended = (values << self.shift) & ((1 << self.width) - 1)
        return (cells != extended) & (cells != (values & mask) << self.shift)


def grey_levels(header: "Dataset", cells_HW: np.ndarray) -> Levels:
    """The levels of cells (unsigned integers, as `stored_pixels` gives them)."""
    cell = Cell.of(header, 8 * cells_HW.dtype.itemsize)
    flags: list[str] = []
    if cells_HW.dtype.itemsize > 2:
        index_HW, values = _merged(cell.values(cells_HW))
        cells = values
        counts = _counts(index_HW, values.size)
    else:
        index_HW, cells = cells_HW, np.arange(int(cells_HW.max()) + 1)
        counts = _counts(index_HW, cells.size)
        used = counts > 0
        cell, flags = _trusted(cell, cells[used])
        clipped = cell.clipped(cells, used)
        values = cell.values(cells) if clipped is None else clipped
        if clipped is None and cell.holds_more(cells[used], values[used]).any():
            cell, flag = _widened(cell, cells_HW, (cells - (values << cell.shift)).astype(cells_HW.dtype))
            values, flags = cell.values(cells), [*flags, flag]
    padding = _padding(header, cell, cells, values)
    if padding[counts > 0].all():
        padding[:] = False
    return Levels(index_HW, values, np.where(padding, 0, counts), padding, flags)


def _trusted(cell: Cell, occurring: np.ndarray) -> tuple[Cell, list[str]]:
    """The cell without its shift where all bits above are unused and those below are not: High Bit is wrong then."""
    below = occurring & ((1 << cell.shift) - 1)
    if cell.shift and below.any() and occurring.max() < 1 << cell.stored:
        return Cell(cell.width, cell.stored, 0, cell.signed, cell.may_lose), ["high_bit_contradictory"]
    return cell, []


def _widened(cell: Cell, cells_HW: np.ndarray, beside: np.ndarray) -> tuple[Cell, str]:
    """The whole cell where the bits above those stored go on with the value: neighbours that differ in what stands
    `beside` the value of each cell are near each other then. An overlay's bit is a jump.
    """
    left_HW, right_HW = cells_HW[:, :-1], cells_HW[:, 1:]
    differ_HW = beside[left_HW] != beside[right_HW]
    steps = np.abs((left_HW - right_HW)[differ_HW].view(f"i{cells_HW.dtype.itemsize}").astype(np.int64))
    top = cell.shift + cell.stored
    if top < cell.width and steps.size and (steps < 1 << (top - 1)).mean() > NEAR:
        return replace(cell, stored=cell.width - cell.shift), "bits_stored_contradictory"
    return cell, "unused_bits_set"


def _merged(values_HW: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    lowest, highest = int(values_HW.min()), int(values_HW.max())
    shift = max(0, (highest - lowest).bit_length() - 16)
    levels = lowest + (np.arange((highest - lowest >> shift) + 1) << shift)
    return ((values_HW - lowest) >> shift).astype(np.uint16), levels


def _counts(index_HW: np.ndarray, levels: int) -> np.ndarray:
    return cv2.calcHist([index_HW], [0], None, [levels], [0, levels]).ravel().astype(np.int64)


def _padding(header: "Dataset", cell: Cell, cells: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Levels that the header calls padding (PS3.3 C.7.5.1.1.2), which may be written as the other of US and SS."""
    ends = [header.get("PixelPaddingValue"), header.get("PixelPaddingRangeLimit")]
    whole = [end for end in ends if isinstance(end, int)]
    if not isinstance(ends[0], int):
        return np.zeros(values.size, bool)
    meant = [_as_stored(end, cell) for end in whole]
    known = [end for end in meant if end is not None]
    if len(known) == len(whole):
        return (values >= min(known)) & (values <= max(known))
    patterns = [end & ((1 << cell.width) - 1) for end in whole]  # whole cells, with the bits that are not stored
    return (cells >= min(patterns)) & (cells <= max(patterns))


def _as_stored(number: int, cell: Cell) -> int | None:
    """The stored value that a number stands for, itself or as its bits; None where none does."""
    low, high = cell.range
    if cell.signed and high < number < 1 << cell.stored:
        number -= 1 << cell.stored
    return number if low <= number <= high else None


def _whole(value: Any, otherwise: int) -> int:
    return value if isinstance(value, int) and value > 0 else otherwise
