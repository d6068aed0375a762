"""Files of phones and cameras: HEIF by pillow-heif and raw files by LibRaw, which are the extra `formats`; AVIF by Pillow."""

import contextlib
import importlib.util
import io
from pathlib import PurePath
from typing import BinaryIO

import numpy as np
from PIL import Image, TiffImagePlugin

HEIF = frozenset({".heic", ".heif", ".hif"})
NAMES = "3fr arw cr2 cr3 crw dng erf iiq kdc mef mos mrw nef nrw orf pef raf rw2 rwl sr2 srf srw"
RAW = frozenset(f".{name}" for name in NAMES.split())
EXTRA = HEIF | RAW  # the suffixes of what the extra reads
MISSING = "which needs the extra formats: pip install '.[formats]' in retinex_keras's folder; or save it as JPEG, PNG or TIFF"
# What raw files begin with that are no plain TIFF: Fujifilm's, Olympus's (three), Panasonic's.
RAW_HEADS = (b"FUJIFILMCCD-RAW", b"IIRO", b"IIRS", b"MMOR", b"IIU\0")
PLAIN_TIFF = (b"II*\0", b"MM\0*")
DNG_VERSION, SUBFILES, PHOTOMETRIC, EXIF, MAKER_NOTE = 50706, 330, 262, 34665, 37500
RAW_PHOTOMETRICS = (32803, 34892)  # a mosaic of colours, linear colours
# Who made a file that consists of boxes says so in its first one.
HEVC_BRANDS = {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs"}
AVIF_BRANDS = {b"avif", b"avis"}
HEIF_BRANDS = {b"mif1", b"msf1"}  # of pictures in any code


class FormatError(Exception):
    """A file in a format that cannot be read here; the message says why, and follows the file's name."""


def readable_suffixes() -> frozenset[str]:
    """Those of `EXTRA` whose package is installed."""
    found = [suffixes for package, suffixes in (("pillow_heif", HEIF), ("rawpy", RAW)) if importlib.util.find_spec(package)]
    return frozenset().union(*found)


def has_avif() -> bool:
    """Whether the installed Pillow reads and writes AVIF."""
    Image.init()
    return "AVIF" in Image.SAVE


def open_file(stream: BinaryIO, name: str) -> Image.Image | None:
    """Opens a HEIF or raw file as a Pillow picture, of which only the header is read; None if it is another one.

    The content decides, and for raw files the suffix of the name too, since many of them look like a TIFF of their preview.
    A `FormatError` says what is missing to read it. The picture is upright, and the primary one of its file.
    """
    kind = _kind(stream, name)
    stream.seek(0)
    if kind == "AVIF" and not has_avif():
        raise FormatError("is an AVIF, which this Pillow cannot read: pip install 'pillow>=11.3'")
    try:
        if kind == "HEIF":
            from pillow_heif import HeifImageFile

            return HeifImageFile(stream)
        return _RawFile(stream) if kind == "raw" else None
    except ModuleNotFoundError:
        raise FormatError(f"is a {kind} file, {MISSING}") from None


def decode_deep(file: Image.Image) -> np.ndarray | None:
    """The values of 16 bits, (H, W, C), of an opened raw file, or HEIF of more than 8 bits; None if Pillow can hold them."""
    if isinstance(file, _RawFile):
        return file.values()
    bits = file.info["bit_depth"] if file.format == "HEIF" else 8
    if bits == 8 or file.mode.endswith("a"):  # premultiplied alpha
        return None
    from pillow_heif import open_heif

    pictures = open_heif(file.fp, convert_hdr_to_8bit=False)
    values = np.asarray(pictures[pictures.primary_index])
    values = values | values >> bits  # they are in the upper bits, and white is to be 65535
    return values.reshape(*values.shape[:2], -1)


class _RawFile(Image.Image):
    """A raw file; colours are sRGB, with the camera's white balance, in the brightness of the exposure."""

    format = "RAW"

    def __init__(self, stream):
        import rawpy

        super().__init__()
        self._stream, self._raw = stream, rawpy.imread(stream)
        self._mode, self._size = "RGB", (self._raw.sizes.iwidth, self._raw.sizes.iheight)

    def values(self):
        values = self._raw.postprocess(use_camera_wb=True, no_auto_bright=True, output_bps=16, gamma=(2.4, 12.92))
        return values.reshape(*values.shape[:2], -1)

    def getexif(self):
        """EXIF from a TIFF's directories, elsewhere from the preview; without the maker's note, which can be of megabytes."""
        exif = Image.Exif()
        self._stream.seek(0)
        if self._stream.read(4) in PLAIN_TIFF:
            self._stream.seek(0)
            exif.load_from_fp(self._stream)
        else:
            exif = Image.open(io.BytesIO(self._raw.extract_thumb().data)).getexif()
        if EXIF in exif:
            exif.get_ifd(EXIF).pop(MAKER_NOTE, None)
        return exif


def _kind(stream, name):
    """What a file is: "HEIF", "AVIF", "raw", or None for another one."""
    stream.seek(0)
    head = stream.read(256)
    if head[4:8] == b"ftyp":
        brands = {head[at : at + 4] for at in range(8, min(int.from_bytes(head[:4], "big"), len(head)), 4)}
        if brands & HEVC_BRANDS or brands & HEIF_BRANDS and not brands & AVIF_BRANDS:
            return "HEIF"
        if brands & AVIF_BRANDS:
            return "AVIF"
        if b"crx " in brands:  # Canon's CR3
            return "raw"
    is_raw = head.startswith(RAW_HEADS) or head.startswith(PLAIN_TIFF) and (head[8:10] == b"CR" or _is_raw_tiff(stream))
    return "raw" if is_raw or PurePath(name).suffix.lower() in RAW else None


def _is_raw_tiff(stream):
    """Whether a TIFF says that it is a DNG, or holds a sensor's values in its first directory or those below."""
    stream.seek(0)
    head, offsets = stream.read(8), None
    with contextlib.suppress(Exception):  # damage, of which Pillow will tell
        while offsets is None or offsets:
            directory = TiffImagePlugin.ImageFileDirectory_v2(head)
            stream.seek(directory.next if offsets is None else offsets.pop())
            directory.load(stream)
            if DNG_VERSION in directory or directory.get(PHOTOMETRIC) in RAW_PHOTOMETRICS:
                return True
            offsets = list(directory.get(SUBFILES, ())) if offsets is None else offsets
    return False
