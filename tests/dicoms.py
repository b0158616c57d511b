"""DICOM files as a hospital's archive writes them, with made-up patients."""

import io
from typing import Any

import numpy as np
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, generate_uid

IDENTIFIERS = {
    "PatientID": "MRN-0042-7781",
    "PatientName": "Featherstonehaugh^Wilhelmina",
    "PatientBirthDate": "19610203",
    "AccessionNumber": "ACC9930217",
    "StudyInstanceUID": "1.2.826.0.1.3680043.8.498.111",
    "SeriesInstanceUID": "1.2.826.0.1.3680043.8.498.222",
    "SOPInstanceUID": "1.2.826.0.1.3680043.8.498.333",
}


def dicom(pixels: np.ndarray, bits: int | None = None, syntax: Any = None, **header: Any) -> bytes:
    """A chest radiograph (DX) of `pixels`, HxW uint8 or uint16; keywords set or (None) leave out header fields."""
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.1.1"
    meta.MediaStorageSOPInstanceUID = header.get("SOPInstanceUID") or generate_uid()
    file = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    known: dict[str, Any] = {
        "Modality": "DX",
        "BodyPartExamined": "CHEST",
        "ViewPosition": "PA",
        "PhotometricInterpretation": "MONOCHROME2",
        "SamplesPerPixel": 1,
        "PixelRepresentation": 0,
        "Rows": pixels.shape[0],
        "Columns": pixels.shape[1],
        "BitsAllocated": 8 * pixels.dtype.itemsize,
        "BitsStored": bits or 8 * pixels.dtype.itemsize,
        "HighBit": (bits or 8 * pixels.dtype.itemsize) - 1,
        "SOPClassUID": meta.MediaStorageSOPClassUID,
        **IDENTIFIERS,
        **header,
    }
    for keyword, value in known.items():
        if value is not None:
            setattr(file, keyword, value)
    file.PixelData = pixels.tobytes()
    if syntax is not None:
        file.compress(syntax, generate_instance_uid=False)
    buffer = io.BytesIO()
    file.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


def sequence(**fields: Any) -> Dataset:
    """An item of a sequence."""
    item = Dataset()
    for keyword, value in fields.items():
        setattr(item, keyword, value)
    return item
