"""DICOM files of phantoms: uncompressed, with a window, about nobody."""

import io

import numpy as np
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import UID, DigitalXRayImageStorageForPresentation, ExplicitVRLittleEndian


def dicom_bytes(pixels_HW: np.ndarray, number: int) -> bytes:
    """A chest radiograph (DX) of uint16 values of 12 bits; `number` tells patients apart."""
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.MediaStorageSOPClassUID = DigitalXRayImageStorageForPresentation
    instance = UID(f"1.2.826.0.1.3680043.8.498.1.{number}")
    meta.MediaStorageSOPInstanceUID = instance
    file = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    file.SOPClassUID, file.SOPInstanceUID = DigitalXRayImageStorageForPresentation, instance
    file.Modality, file.BodyPartExamined, file.ViewPosition = "DX", "CHEST", "PA"
    file.PatientID, file.StudyInstanceUID = f"phantom{number}", f"1.2.826.0.1.3680043.8.498.2.{number}"
    file.PhotometricInterpretation, file.SamplesPerPixel, file.PixelRepresentation = "MONOCHROME2", 1, 0
    file.Rows, file.Columns = pixels_HW.shape
    file.BitsAllocated, file.BitsStored, file.HighBit = 16, 12, 11
    file.WindowCenter, file.WindowWidth = 2000, 4000
    file.PixelData = pixels_HW.tobytes()
    buffer = io.BytesIO()
    file.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()
