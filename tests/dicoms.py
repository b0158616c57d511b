"""DICOM files as a hospital's archive writes them, with made-up patients."""

import io
from typing import Any

import numpy as np
from pydicom import dcmread
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import JPEG2000, ExplicitVRLittleEndian, JPEGBaseline8Bit, generate_uid

IDENTIFIERS = {
    "PatientID": "MRN-0042-7781",
    "PatientName": "Featherstonehaugh^Wilhelmina",
    "PatientBirthDate": "19610203",
    "AccessionNumber": "ACC9930217",
    "StudyInstanceUID": "1.2.826.0.1.3680043.8.498.111",
    "SeriesInstanceUID": "1.2.826.0.1.3680043.8.498.222",
    "SOPInstanceUID": "1.2.826.0.1.3680043.8.498.333",
}
LOSSY = {JPEG2000: {"j2k_psnr": [60]}}  # encoders that have to be told how much they may lose; decibels


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
        file.compress(syntax, generate_instance_uid=False, **LOSSY.get(syntax, {}))
    return _bytes(file)


def jpeg_dicom(jpeg: bytes, pixels: np.ndarray, **header: Any) -> bytes:
    """The same around a JPEG of `pixels` that was encoded elsewhere."""
    file = dcmread(io.BytesIO(dicom(pixels, LossyImageCompression="01", **header)))
    file.file_meta.TransferSyntaxUID = JPEGBaseline8Bit
    file.PixelData = encapsulate([jpeg])
    file["PixelData"].is_undefined_length = True
    return _bytes(file)


def _bytes(file: FileDataset) -> bytes:
    buffer = io.BytesIO()
    file.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


def sequence(**fields: Any) -> Dataset:
    """An item of a sequence."""
    item = Dataset()
    for keyword, value in fields.items():
        setattr(item, keyword, value)
    return item
