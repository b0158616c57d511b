"""What a file is, by its first bytes: the formats that are read, and names for those that are not.

Only these are decoded; every other decoder of Pillow stays unused. Some of them start programs (EPS), are written in
Python and slow (DDS, FITS), or hold an inner image that is larger than what the outside says (ICO, ICNS, BLP).
"""

from typing import Literal

from chexworld_ray.shards.rejected import Rejected

Format = Literal["DICOM", "PNG", "JPEG", "JPEG 2000", "TIFF", "BMP", "GIF", "WebP"]

READ: dict[Format, tuple[bytes, ...]] = {
    "PNG": (b"\x89PNG\r\n\x1a\n",),
    "JPEG": (b"\xff\xd8",),
    "JPEG 2000": (b"\0\0\0\x0cjP  \r\n\x87\n", b"\xff\x4f\xff\x51"),
    "TIFF": (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"),
    "BMP": (b"BM",),
    "GIF": (b"GIF87a", b"GIF89a"),
}
NAMED: dict[str, tuple[bytes, ...]] = {
    "PDF": (b"%PDF",),
    "PostScript": (b"%!PS", b"\xc5\xd0\xd3\xc6"),
    "JPEG XL": (b"\xff\x0a", b"\0\0\0\x0cJXL \r\n\x87\n"),
    "JPEG XR": (b"II\xbc\x01",),
    "icon (ICO)": (b"\0\0\1\0", b"\0\0\2\0"),
    "icon (ICNS)": (b"icns",),
    "BLP": (b"BLP1", b"BLP2"),
    "DDS": (b"DDS ",),
    "Photoshop": (b"8BPS",),
    "HDF5": (b"\x89HDF",),
    "FITS": (b"SIMPLE  =",),
    "GRIB": (b"GRIB",),
    "BUFR": (b"BUFR",),
    "WMF": (b"\xd7\xcd\xc6\x9a",),
    "XPM": (b"/* XPM */",),
    "XBM": (b"#define ",),
    "NumPy": (b"\x93NUMPY", b"\x80\x04"),
    "NRRD": (b"NRRD",),
    "MetaImage": (b"ObjectType",),
    "NIfTI": (b"\x5c\x01\0\0", b"\0\0\x01\x5c"),
    "PGM or PPM": (b"P1\n", b"P2\n", b"P3\n", b"P4\n", b"P5\n", b"P6\n", b"P7\n", b"P5 ", b"P6 ", b"P2 ", b"P3 "),
    "OpenEXR": (b"v/1\x01",),
    "Radiance HDR": (b"#?RADIANCE", b"#?RGBE"),
    "Sun raster": (b"\x59\xa6\x6a\x95",),
    "QOI": (b"qoif",),
    "DjVu": (b"AT&TFORM",),
    "GIMP": (b"gimp xcf",),
    "MATLAB": (b"MATLAB 5.0",),
    "old Office": (b"\xd0\xcf\x11\xe0",),
    "SGI": (b"\x01\xda",),
    "zip archive": (b"PK\3\4",),
    "7-Zip archive": (b"7z\xbc\xaf",),
    "RAR archive": (b"Rar!",),
    "gzip": (b"\x1f\x8b",),
    "Parquet": (b"PAR1",),
}
_MARKUP = (b"<?xml", b"<!doc", b"<html", b"<head", b"<body", b"<svg")
_POINTERS = {
    "Git LFS": ((b"version https://git-lfs.github.com/", b"version https://hawser.github.com/"), "git lfs pull"),
    "git-annex": ((b"/annex/objects/",), "git annex get"),
    "DVC": ((b"outs:\n- md5:",), "dvc pull"),
}
_BRANDS = {b"heic": "HEIC", b"heix": "HEIC", b"mif1": "HEIC", b"msf1": "HEIC", b"hevc": "HEIC", b"avif": "AVIF"}
_LOOKED_AT = 256  # bytes
_NO_TEXT = {*range(32)} - {*b"\t\n\r\f"}
ADVICE = "convert it to PNG, TIFF, JPEG or DICOM"


def recognise(data: bytes) -> Format:
    """The format of a file.

    Raises:
        Rejected: it is none that is read; the format is named where it is known.
    """
    # DICOM with the preamble that the standard asks for, or straight from its first group
    if data[128:132] == b"DICM" or (data[:2] in (b"\x02\x00", b"\x08\x00") and data[3:4] == b"\x00"):
        return "DICOM"
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "WebP"
    for known, starts in READ.items():
        if data.startswith(starts):
            return known
    for keeper, (starts, command) in _POINTERS.items():
        if data.startswith(starts):
            raise Rejected("not downloaded", f"a {keeper} pointer stands here for the file; run {command}")
    name = _name(data)
    if name is None:
        raise Rejected("not an image", _unknown(data))
    raise Rejected("unsupported format", f"{name}; {ADVICE}")


def surely_no_dicom(data: bytes) -> bool:
    """Whether a file is known to be of another format; archives may hold a DICOM file."""
    try:
        return recognise(data) != "DICOM"
    except Rejected:
        return _name(data) not in (None, "zip archive", "gzip")


def _name(data: bytes) -> str | None:
    if data[4:8] == b"ftyp":
        return _BRANDS.get(data[8:12], "video or HEIF")
    if data[:64].lstrip().lower().startswith(_MARKUP):
        return "XML or HTML, perhaps a server's answer"
    return next((name for name, starts in NAMED.items() if data.startswith(starts)), None)


def _unknown(data: bytes) -> str:
    """What can be said of a file of no known format; no byte is quoted, for it may be text that tells a patient."""
    start = data[:_LOOKED_AT]
    if not start.strip(b"\0"):
        return "it begins with zeros, as after a copy that was cut short"
    if set(start) & _NO_TEXT:
        return "no known format"
    return "text" if start.isascii() else "text, or no known format"
