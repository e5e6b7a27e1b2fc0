"""Whether a file is an image by its first bytes, so that none is passed over for what it is called."""

from __future__ import annotations

import os
import re
from pathlib import PurePath

from siamese_search.io.files import MARKED, OWN_MARK
from siamese_search.io.images import FORMATS, is_image_name

#: Suffixes of files that are never opened to see whether they are images: a data set may have one beside each image.
#: A file that is being written under another name, or was kept as a copy, counts once it has its own name.
_OTHERS = frozenset(
    """
    .txt .csv .tsv .json .jsonl .xml .yaml .yml .toml .ini .cfg .conf .md .rst .html .htm .css .js .log .py
    .ipynb .sh .c .h .cpp .pdf .doc .docx .xls .xlsx .ods .odt .ppt .pptx .npy .npz .mat .pkl .pt .pth .onnx
    .bin .h5 .hdf5 .parquet .arrow .db .sqlite .lmdb .zip .tar .gz .tgz .bz2 .xz .zst .7z .rar .mp4 .m4v .mov
    .avi .mkv .webm .mpg .mp3 .wav .flac .ttf .exe .dll .so .lnk .url .pose .mask .caffemodel .part .partial
    .tmp .temp .crdownload .filepart .bak .swp .lock
    """.split()  # noqa: SIM905
)
_HEAD = 32
_READ = re.compile(
    rb"\xff\xd8\xff|\x89PNG\r\n\x1a\n|GIF8[79]a|RIFF....WEBP|P[1-6][ \t\r\n]+[0-9#]"
    rb"|BM....\0\0\0\0....[\x0c\x28\x34\x38\x40\x6c\x7c]\0\0\0"
    rb"|....ftyp(?:heic|heix|heim|heis|hevc|hevx|mif1|msf1)",
    re.DOTALL,
)
_TIFF = re.compile(rb"II\*\0|MM\0\*")
#: Kinds that no decoder of ours reads (see ``io.images.FORMATS``).
_UNREAD = {
    "AVIF": re.compile(rb"....ftypavi[fs]", re.DOTALL),
    "JPEG 2000": re.compile(rb"\0\0\0\x0cjP  \r\n\x87\n|\xff\x4f\xff\x51"),
    "JPEG XL": re.compile(rb"\0\0\0\x0cJXL \r\n\x87\n|\xff\x0a"),
    "Photoshop": re.compile(rb"8BPS\0[\x01\x02]"),
    "OpenEXR": re.compile(rb"v/1\x01"),
    "QOI": re.compile(rb"qoif"),
    "camera raw": re.compile(rb"....ftypcrx |FUJIFILMCCD-RAW|IIU\0|IIR[OS]", re.DOTALL),
}
#: Their suffixes: for objects, whose first bytes would cost a request each, and where no first bytes tell.
_UNREAD_SUFFIXES = {
    **dict.fromkeys((".avif", ".avifs"), "AVIF"),
    **dict.fromkeys((".jp2", ".j2k", ".jpx", ".jpf", ".j2c"), "JPEG 2000"),
    ".jxl": "JPEG XL", ".psd": "Photoshop", ".exr": "OpenEXR", ".qoi": "QOI", ".pcx": "PCX", ".tga": "TGA",
    ".ico": "an icon", ".svg": "SVG", ".dcm": "DICOM",
    **dict.fromkeys((".dng", ".cr2", ".cr3", ".nef", ".arw", ".orf", ".raf", ".rw2", ".pef"), "camera raw"),
}  # fmt: skip


def may_be_image(name: str) -> bool:
    """Whether a file of this name is worth a look: :func:`refused_file` then says whether it is an image."""
    if is_image_name(name):
        return True
    return not name.endswith("~") and PurePath(name).suffix.lower() not in _OTHERS


def refused_file(path: str, name: str) -> str | None:
    """Why a regular file is no image that is read: ``None`` for one that is, "" for what is no image at all.

    What has the suffix of an image is one, unread; of the others the first bytes decide.
    """
    if is_image_name(name):
        return None
    if not may_be_image(name):
        return ""
    try:
        head = _head(path)
    except FileNotFoundError:
        return ""
    except OSError as error:
        return f"it cannot be seen whether it is an image ({(error.strerror or 'cannot be read').lower()})"
    if _READ.match(head):
        return None
    if _TIFF.match(head):
        if "." not in name:
            return None
        return "a TIFF or a camera's raw file by another suffix; convert it, or rename it to .tif"
    kind = next((kind for kind, pattern in _UNREAD.items() if pattern.match(head)), None)
    return refused_name(name) if kind is None else _unread(kind)


def is_own_picture(base: str, relative: str) -> bool:
    """Whether an image right below a root is a sheet or a curve that was drawn here, and so no image of the root.

    Deeper ones are not looked at: it costs to open each file, and ``--save`` writes where one stands.
    """
    if "/" in relative or not relative.lower().endswith(".png"):
        return False
    try:
        return OWN_MARK in _head(os.path.join(base, relative), MARKED)  # noqa: PTH118 - surrogate-escaped names
    except OSError:
        return False


def refused_name(name: str) -> str | None:
    """As :func:`refused_file`, where there is no more than a name to tell by."""
    if is_image_name(name):
        return None
    kind = _UNREAD_SUFFIXES.get(PurePath(name).suffix.lower())
    return "" if kind is None else _unread(kind)


def _unread(kind: str) -> str:
    return f"{kind} is not read; convert it to one of {', '.join(FORMATS)}"


def _head(path: str, size: int = _HEAD) -> bytes:
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        return os.read(descriptor, size)
    finally:
        os.close(descriptor)
