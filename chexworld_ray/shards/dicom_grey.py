"""Grey DICOM pixels as they are meant to be seen: the transformations of PS3.4 N.2, one after the other.

Stored value → modality table or rescale (PS3.3 C.11.1) → table or window of interest (C.11.2) → polarity. Of each
stored value that occurs, not of each pixel.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from chexworld_ray.shards.decode import MIN_LEVELS, stretch_to_uint8
from chexworld_ray.shards.dicom_levels import Levels, grey_levels
from chexworld_ray.shards.dicom_tables import lookup_tables
from chexworld_ray.shards.rejected import Rejected

if TYPE_CHECKING:
    from pydicom import Dataset

MIN_WINDOW_CONTRAST = 8.0  # grey levels; a window that leaves less is a wrong window
MAX_WINDOW_CLIPPED = 0.75  # part of the image that a window may turn all black or all white
LEAST_SPREAD = 1e-5  # of what stored values measure
_RAW_CLASSES = frozenset(  # classes of images for processing: digital X-ray, mammography, intra-oral
    {"1.2.840.10008.5.1.4.1.1.1.1.1", "1.2.840.10008.5.1.4.1.1.1.2.1", "1.2.840.10008.5.1.4.1.1.1.3.1"}
)


def grey_picture(header: "Dataset", cells_HW: np.ndarray) -> tuple[np.ndarray, list[str]]:
    """uint8 HxW of a picture's cells (unsigned HxW) with black for little, and flags.

    Raises:
        Rejected: the values hardly differ.
    """
    levels = grey_levels(header, cells_HW)
    occurring = levels.values[levels.counts > 0]
    if occurring.size == 0 or occurring.max() - occurring.min() < MIN_LEVELS:
        raise Rejected("constant image", "stored values hardly differ")
    output, modality_flags = _modality(header, levels)
    table, interest_flags = _of_interest(header, output, levels.counts)
    table, polarity_flags = _turned(header, levels, table)
    table[levels.padding] = 0
    return table[levels.index_HW], [*levels.flags, *modality_flags, *interest_flags, *polarity_flags]


def _modality(header: "Dataset", levels: Levels) -> tuple[np.ndarray, list[str]]:
    """What the stored values measure; flagged where what the header has can't be applied."""
    found = list(lookup_tables(header, "ModalityLUTSequence", bool((levels.values < 0).any())))
    if found and (table := found[0]) is not None and table.reaches(levels.values, levels.counts):
        output = table.apply(levels.values)
        if np.ptp(output[levels.counts > 0]) > 0:
            return output, []
    slope, intercept = _numbers(header, "RescaleSlope"), _numbers(header, "RescaleIntercept")
    unread = (_written(header, "RescaleSlope") and slope in ([], [0.0])) or (
        _written(header, "RescaleIntercept") and not intercept
    )
    rescaled = levels.values if unread else levels.values * (*slope, 1.0)[0] + (*intercept, 0.0)[0]
    unread = unread or not _told_apart(rescaled[levels.counts > 0])
    return levels.values if unread else rescaled, ["modality_lut_not_applied"] if found or unread else []


def _told_apart(values: np.ndarray) -> bool:
    """Whether single precision, in which values are stretched, tells them apart: not after a slope of 1e308."""
    low, high = np.float32(values.min()), np.float32(values.max())
    spread = float(high) - float(low)
    return spread > LEAST_SPREAD and 256 * np.spacing(max(abs(low), abs(high))) <= spread < np.inf


def _of_interest(header: "Dataset", values: np.ndarray, counts: np.ndarray) -> tuple[np.ndarray, list[str]]:
    """uint8 of each value by the first table or window that shows anything; by robust percentiles where none does."""
    tables = list(lookup_tables(header, "VOILUTSequence", bool((values < 0).any())))
    for table in tables:
        if table is not None and table.reaches(values, counts):
            shown = _shown(table.apply(values).astype(np.float64), counts)
            if shown is not None:
                return shown, []
    flags = ["voi_lut_not_applied"] if tables else []
    for windowed in _windows(header, values):
        shown = _shown(windowed, counts)
        if shown is not None:
            return shown, flags
    return _by_percentiles(values, counts), flags


def _windows(header: "Dataset", values: np.ndarray) -> Iterator[np.ndarray]:
    """Values through each window of the header, on [0, 1] (PS3.3 C.11.2.1.2 and C.11.2.1.3)."""
    function = str(header.get("VOILUTFunction") or "LINEAR").strip().upper()
    centers, widths = _numbers(header, "WindowCenter"), _numbers(header, "WindowWidth")
    for center, width in zip(centers, widths, strict=False):
        if function == "LINEAR" and width >= 1:
            yield np.clip((values - (center - 0.5)) / max(width - 1, 1e-6) + 0.5, 0.0, 1.0)
        elif function == "LINEAR_EXACT" and width > 0:
            yield np.clip((values - center) / width + 0.5, 0.0, 1.0)
        elif function == "SIGMOID" and width > 0:
            yield 1.0 / (1.0 + np.exp(np.clip(-4.0 * (values - center) / width, -500.0, 500.0)))


def _shown(values: np.ndarray, counts: np.ndarray) -> np.ndarray | None:
    """uint8 of each level; None where hardly anything could be told apart."""
    used = values[counts > 0]
    low, high = float(used.min()), float(used.max())
    if not high > low:
        return None
    table = stretch_to_uint8(values, low, high)
    part = counts / counts.sum()
    mean = float((part * table).sum())
    contrast = float((part * (table.astype(np.float64) - mean) ** 2).sum()) ** 0.5
    clipped = float(part[(table == 0) | (table == 255)].sum())
    return table if contrast >= MIN_WINDOW_CONTRAST and clipped <= MAX_WINDOW_CLIPPED else None


def _by_percentiles(values: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """uint8 of each level, the used range stretched; a thousandth of the pixels at either end may saturate."""
    order = np.argsort(values, kind="stable")
    part = np.cumsum(counts[order]) / counts.sum()
    low = float(values[order[int(np.searchsorted(part, 0.001))]])
    high = float(values[order[min(int(np.searchsorted(part, 0.999)), part.size - 1)]])
    if high <= low:
        low, high = float(values[counts > 0].min()), float(values[counts > 0].max())
    return stretch_to_uint8(values, low, high)


class _Said(NamedTuple):
    """What a header says of its polarity."""

    monochrome1: bool
    """The least value is white (C.7.6.3.1.2)."""
    inverse: bool
    """Presentation LUT Shape is INVERSE (C.8.11.3)."""
    contradictory: bool
    """Both are there and differ."""
    unknown: bool
    """Neither MONOCHROME1 nor MONOCHROME2, or a presentation table, which images don't have."""
    raw: bool
    """For processing: not meant to be seen."""
    brighter_is_denser: bool | None
    """Pixel Intensity Relationship Sign (C.8.11.3.1.2): higher values are less of the beam; None: not said."""


def _said(header: "Dataset") -> _Said:
    photometric, shape = _term(header, "PhotometricInterpretation"), _term(header, "PresentationLUTShape")
    sign = header.get("PixelIntensityRelationshipSign")
    raw = _term(header, "PresentationIntentType") == "FOR PROCESSING" or str(header.get("SOPClassUID")) in _RAW_CLASSES
    monochrome1, inverse = photometric == "MONOCHROME1", shape == "INVERSE"
    return _Said(
        monochrome1,
        inverse,
        shape in ("INVERSE", "IDENTITY") and inverse != monochrome1,
        photometric not in ("MONOCHROME1", "MONOCHROME2") or bool(header.get("PresentationLUTSequence")),
        raw,
        sign != 1 if sign in (1, -1, 0xFFFF) else None,  # the last is -1, written as US
    )


def _turned(header: "Dataset", levels: Levels, table: np.ndarray) -> tuple[np.ndarray, list[str]]:
    """The table with dark for what lets the beam through, as far as the header says; flags tell how far.

    What is for presentation is turned where it is MONOCHROME1 or INVERSE. The sign of the intensity speaks of the
    beam, not of a screen: it decides for raw data, and where the words on display contradict each other or are missing.
    """
    said = _said(header)
    inverted = said.monochrome1 or said.inverse
    contradictory, unknown = said.contradictory, said.unknown or said.raw
    if said.brighter_is_denser is not None:
        right = _rises(levels, table) == said.brighter_is_denser
        if contradictory or unknown:
            inverted, unknown = not right, False
        else:
            contradictory = right == inverted
    flags = ["for_processing"] if said.raw else []
    if inverted:
        reason = "monochrome1" if said.monochrome1 else "presentation_lut" if said.inverse else "intensity_sign"
        flags.append(f"inverted_{reason}")
    flags += ["polarity_contradictory"] if contradictory else []
    flags += ["polarity_unknown"] if unknown else []
    return (255 - table if inverted else table), flags


def _rises(levels: Levels, table: np.ndarray) -> bool:
    """Whether higher stored values are brighter."""
    part = levels.counts / levels.counts.sum()
    stored = levels.values - float((part * levels.values).sum())
    return float((part * stored * table.astype(np.float64)).sum()) > 0


def _term(header: "Dataset", keyword: str) -> str:
    return str(header.get(keyword) or "").strip().upper()


def _written(header: "Dataset", keyword: str) -> bool:
    return keyword in header and header[keyword].value not in (None, "")


def _numbers(header: "Dataset", keyword: str) -> list[float]:
    """Numbers of an element; none where it is missing or one of them is no finite number."""
    try:
        value: Any = header.get(keyword)
        several: list[Any] = list(value) if type(value).__name__ == "MultiValue" else [value]
        numbers = [float(one) for one in several]
    except Exception:  # a damaged element makes pydicom raise anything
        return []
    return numbers if np.isfinite(numbers).all() else []
