"""Files to arrays, with what a file holds besides its colours."""

import contextlib
import ctypes
import io
import logging
import os
import re
import struct
import sys
import threading
from pathlib import Path, PurePath
from typing import BinaryIO

import numpy as np
from PIL import ExifTags, Image, ImageCms, ImageOps, UnidentifiedImageError

from retinex_keras.imaging import BMP, DEFLATE, FORMATS, JPEG, LZW, MAX_PIXELS, SCAN_BYTES, SCANS, PathLike, cameras, png
from retinex_keras.imaging.pixels import split_alpha

Source = PathLike | bytes | bytearray | memoryview | BinaryIO | Image.Image
# EXIF tags that tell of the photo, not of the layout of its file: name, description, camera, software, date, artist, host,
# rating, copyright, Microsoft's five, and the directories of exposure and position. 700 is where TIFF keeps XMP.
EXIF_TAGS = {269, 270, 271, 272, 305, 306, 315, 316, 18246, 18249, 33432, 34665, 34853, *range(40091, 40096)}
ORIENTATION = 274
# Pillow holds 8 bits a colour: of "RGB;16B", big-endian, it takes the first byte of each value, the high one. As "RGB;16L",
# little-endian, it takes the second one of the same file. N is the order of the machine.
OTHER_BYTES = {
    f"{bands};16{order}": f"{bands};16{other}"
    for bands in ("RGB", "RGBA", "RGBX")
    for order, other in ("BL", "LB", "NB" if sys.byteorder == "little" else "NL")
}
HIGH_RANGE_ADVICE = "colours of a high dynamic range (PQ or HLG): save it as RGB of 8 or 16 bits"
# Suffixes of photos that are read nowhere here, or only by some Pillows; those of `cameras.EXTRA` are others.
OTHER_PHOTOS = {".heics", ".heifs", ".avif", ".avifs", ".jxl", ".jxr", ".jp2", ".exr", ".hdr", ".psb", ".xcf", ".eps", ".fff"}
OTHER_PHOTOS |= {".gpr", ".raw", ".x3f"}
PIXELS_PER_BYTE = {"JPEG": JPEG, "MPO": JPEG, "BMP": BMP, "GIF": LZW}
# By TIFF's numbers of compressions: none (colours may have fewer pixels than grey), LZW, JPEG, deflate twice, packed runs.
TIFF_BYTES_PER_BYTE = {1: 4, 5: LZW, 7: 3 * JPEG, 8: DEFLATE, 32946: DEFLATE, 32773: 64}
# What Pillow raises, libtiff and Pillow's logger would print too.
with contextlib.suppress(AttributeError, OSError):
    ctypes.CDLL(Image.core.__file__).TIFFSetErrorHandler(None)
logging.getLogger("PIL").addHandler(logging.NullHandler())


class _NoLimit:
    """Takes off Pillow's own limit of pixels, a global, while any thread reads a file."""

    lock, count, limit = threading.Lock(), 0, None

    def __enter__(self):
        with self.lock:
            if not _NoLimit.count:
                _NoLimit.limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
            _NoLimit.count += 1

    def __exit__(self, *_):
        with self.lock:
            _NoLimit.count -= 1
            if not _NoLimit.count:
                Image.MAX_IMAGE_PIXELS = _NoLimit.limit


def read_image(source: Source, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """Reads the colours of an image, upright, as `read_photo` does.

    Returns:
        (H, W, 3) array, uint8 or uint16, read-only.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is not a good image, or one of more than `max_pixels`.

    >>> read_image("dark.png").shape
    (20, 24, 3)
    """
    return read_photo(source, max_pixels)[0]


def read_photo(source: Source, max_pixels: int = MAX_PIXELS) -> tuple[np.ndarray, dict]:
    """Reads an image, turned upright by its EXIF orientation, and what else its file holds.

    It reads the formats of Pillow that no other program has to decode, such as JPEG, PNG, WebP, AVIF, TIFF, BMP and GIF. With
    the extra `formats` it reads HEIF, of which the primary picture counts, and raw files of cameras: developed to sRGB of
    16 bits with the camera's white balance, and not brightened. Of these it keeps EXIF without the maker's note.

    Grey, palette and CMYK images become RGB. 16 bits are kept of grey images, of RGB in PNG and TIFF, and of HEIF of 10 or 12
    bits; CMYK, premultiplied alpha and other formats give 8. Where a colour profile fits no RGB picture, it is used up: grey
    and CMYK of 8 bits are converted to sRGB by it. It is dropped where that cannot be done: grey of 16 bits or with
    alpha, or a profile that lacks a part.

    Args:
        source: a path; the content of a file, as bytes, bytearray or memoryview; a binary file object, which is read from
            its beginning and stays open; or a Pillow picture of any mode, which stays as it is. A picture has the depth that
            Pillow gave it, and is the current frame of its file.
        max_pixels: larger images are refused, since a small file can hold one that fills the memory.

    Returns:
        The colours, an (H, W, 3) array, uint8 or uint16, read-only; and the extras that the file has, a dict: `alpha`,
        (H, W, 1) of the same type, `icc_profile`, `exif` (without orientation, thumbnail and layout), `xmp` and `comment`,
        bytes, `dpi`, two floats, and `text`, the dict of a PNG.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is not an image, is truncated, too large, has several frames, holds no whole numbers of up to 16
            bits, or needs the extra `formats`.
        TypeError: if the source is something else.

    >>> image, extras = read_photo("dark.png")
    >>> image.dtype, extras
    (dtype('uint8'), {})
    >>> np.array_equal(image, read_image(Path("dark.png").read_bytes()))
    True
    """
    name = _name(source)
    if isinstance(source, PathLike) and os.path.exists(source) and not (os.path.isfile(source) or os.path.isdir(source)):
        raise ValueError(f"{name} is a pipe, a socket or a device, which may never end; write what comes from it to a file.")
    try:
        if hasattr(source, "read") and not source.seekable():
            source = source.read()
        if isinstance(source, (bytes, bytearray, memoryview)):
            source = io.BytesIO(source)
        with opened(source) as file:
            problem = _problem(file, max_pixels)
            if not problem:
                colours, alpha = split_alpha(_decode(file, source))
                return colours, ({} if alpha is None else {"alpha": alpha}) | _metadata(file)
    except cameras.FormatError as error:
        problem = error
    except UnidentifiedImageError:
        raise ValueError(
            f"{name} is not an image in a format that is read here; pass a JPEG, PNG, WebP, BMP or TIFF."
        ) from None
    except IsADirectoryError:
        raise FileNotFoundError(f"{name} is a folder. Expected a photo: name one that is in it.") from None
    except FileNotFoundError:
        raise FileNotFoundError(f"{name} is not a file; check the path.") from None
    except MemoryError:
        raise ValueError(f"{name} takes more memory than is free; close other programs, or make it smaller.") from None
    except Exception as error:  # decoders raise errors of all kinds on damaged files
        raise ValueError(
            f"{name} could not be read ({reason_of(error)}); it may be damaged: get it again, or save it again as PNG."
        ) from None
    raise ValueError(f"{name} {problem}.")


def reason_of(error: Exception) -> str:
    """What an error says, in one line; its class if it says nothing."""
    said = error.args[0].decode() if error.args and isinstance(error.args[0], bytes) else str(error)  # LibRaw says bytes
    return " ".join(said.split()) or type(error).__name__


def _name(source):
    """How messages call a source."""
    if isinstance(source, PathLike):
        return os.fspath(source)
    if isinstance(source, Image.Image):
        return "The picture"
    if not (isinstance(source, (bytes, bytearray, memoryview)) or hasattr(source, "read")):
        raise TypeError(f"Expected a path, bytes, a binary file or a Pillow picture. Received {type(source).__name__}.")
    name = getattr(source, "name", None)  # of a file opened by a descriptor it is a number
    return name if isinstance(name, str) else "The file"


@contextlib.contextmanager
def opened(source):
    """Opens a path, a file or a picture as a Pillow picture that may be changed; of a file only the header is read."""
    if isinstance(source, Image.Image):
        exif = None
        with contextlib.suppress(Exception):  # damaged EXIF
            exif = source.getexif()  # before the pixels: once it has them, Pillow closes a file
        picture = source.copy()
        picture.text = getattr(source, "text", {})
        with contextlib.suppress(Exception):
            if exif:
                picture.info["exif"] = with_all_bytes(exif).tobytes()
        with _NoLimit():
            yield picture
        return
    # Given a path, Pillow would map TIFF into memory, and turn some of those wrongly. A user's file stays open.
    with open(source, "rb") if isinstance(source, PathLike) else contextlib.nullcontext(source) as stream, _NoLimit():
        stream.seek(0)
        head = stream.read(8)
        if head == png.SIGNATURE:
            whole, stream = stream, png.without_damage(stream)
            if png.is_high_range(whole):
                raise cameras.FormatError(f"holds {HIGH_RANGE_ADVICE}")
        elif head.startswith(b"\0\0\1\0"):
            _check_icon(stream)
        Image.init()
        try:
            formats = [name for name in FORMATS if name in Image.OPEN]  # those of the installed Pillow
            file = cameras.open_file(stream, _name(source)) or Image.open(stream, formats=formats)
        except UnidentifiedImageError:
            if head.startswith(cameras.PLAIN_TIFF):
                raise cameras.FormatError(
                    "is a TIFF that is damaged, or of a rare kind: save it as RGB of 8 or 16 bits"
                ) from None
            raise
        if file.format == "AVIF":  # of which Pillow does not tell the range
            stream.seek(0)
            if re.search(rb"colrnclx..\0[%b]" % bytes(png.HIGH_RANGE), stream.read(4096), re.DOTALL):
                raise cameras.FormatError(f"holds {HIGH_RANGE_ADVICE}")
        yield file
        Image.Image.close(file)  # frees the pixels; `file.close()` would also close the stream


def _check_icon(stream):
    """Raises OSError if an icon is too large to be one: Pillow decodes it when it opens it, by the size that is inside."""
    stream.seek(4)
    for number in range(int.from_bytes(stream.read(2), "little")):
        stream.seek(6 + 16 * number + 12)
        stream.seek(int.from_bytes(stream.read(4), "little"))
        head = stream.read(24).ljust(24, b"\0")
        sides = struct.unpack(">16x2I" if head.startswith(png.SIGNATURE) else "<4x2I12x", head)
        if max(sides) > 4096:
            raise OSError("it holds a picture of {}x{} pixels, which is no icon".format(*sides))


def _problem(file, max_pixels):
    """What is wrong with an opened file by its header, or None."""
    width, height = file.size
    if width * height > max_pixels:
        return f"has {width}x{height} pixels, more than {max_pixels}: if you trust it, raise max_pixels"
    if width * height > _room(file):
        return f"announces {width}x{height} pixels, more than a file of its size can hold: it may be damaged, get it again"
    if file.format in ("JPEG", "MPO"):
        file.fp.seek(0)
        contents = file.fp.read()
        if contents.count(b"\xff\xda") > SCANS + len(contents) // SCAN_BYTES:
            return "has more scans than any encoder writes: it may be damaged, get it again"
    frames = _frames(file)
    if frames > 1:
        frames = "99 or more" if frames == 99 else frames
        return f"has {frames} frames or pages, an animation or a document: save the one that you want as a picture"
    if file.mode in ("F", "LAB"):
        return f"holds {'floats of an unknown range' if file.mode == 'F' else 'LAB colours'}: save it as RGB of 8 or 16 bits"
    nclx = file.info.get("nclx_profile")
    if isinstance(nclx, dict) and nclx.get("transfer_characteristics") in png.HIGH_RANGE:
        return f"holds {HIGH_RANGE_ADVICE}"
    tags = getattr(file, "tag_v2", {})  # of a TIFF
    bits, layout = tags.get(258, (8,)), (tags.get(284), tags.get(262))
    if max(bits) > 8 and (layout[0] == 2 and len(bits) > 1 or layout[1] == 0 or max(bits) == 12):
        return "is a TIFF of a rare kind (12 bits, planes, or white as zero): save it with 8 bits, or as PNG"
    return None


def _room(file):
    """How many pixels an opened file can hold at most, by its length; without a limit where that is not known."""
    if not getattr(file, "fp", None):
        return float("inf")
    at = file.fp.tell()
    size = file.fp.seek(0, io.SEEK_END)
    file.fp.seek(at)
    if file.format == "TIFF":
        bits = sum(file.tag_v2.get(258, (1,)))
        return size * TIFF_BYTES_PER_BYTE.get(file.tag_v2.get(259, 1), float("inf")) * 8 / max(bits, 1)
    return size * PIXELS_PER_BYTE.get(file.format, float("inf"))


def _frames(file):
    """How many frames an opened file has; of a TIFF, where counting takes long, at most 99."""
    if file.format in ("MPO", "HEIF", "PSD"):
        return 1  # a phone's JPEG with further pictures in it, a burst, or the layers of one picture
    if file.format != "TIFF":
        return getattr(file, "n_frames", 1)
    frames = 1
    with contextlib.suppress(EOFError):
        for number in range(1, 99):
            file.seek(number)
            frames += not file.tag_v2.get(254, 0) & 1  # which marks a smaller copy of the picture
    file.seek(0)
    return frames


def _decode(file, source):
    """The picture in a file, upright: (H, W, C), uint8 or uint16; C is 1 for grey, 3 for RGB, with alpha 2 or 4."""
    if file.format == "BMP":
        file.fp.seek(10)
        start, head, bits = struct.unpack("<II10xB", file.fp.read(19))
        if 0 < start < 14 + head:
            raise OSError("its pixels begin inside its header")
        if file.mode == "1" and bits == 8:  # Pillow would read one bit for each
            file.tile = [tile._replace(args=("1;8", *tile.args[1:])) for tile in file.tile]
    values = cameras.decode_deep(file)
    if values is not None:
        return values
    args = file.tile[0].args if file.format in ("PNG", "TIFF") else ""
    raw = args if isinstance(args, str) else args[0]
    if raw == "LA;16B":  # no 16 bits in Pillow, but four bytes: those of grey and those of alpha
        return _array(_upright(file, "RGBA")).view(">u2").astype("uint16")
    if raw in OTHER_BYTES:
        with opened(source) as low:
            values = np.empty((*_upright(low, OTHER_BYTES[raw]).size[::-1], len(low.getbands()), 2), "uint8")
            _array(low, values[..., 0])
        _array(_upright(file), values[..., 1])
        values = values.view("<u2")[..., 0].astype("uint16", copy=False)
    elif _upright(file).mode.startswith("I"):
        values = np.asarray(file)[..., None]
        if values.dtype != "uint16" and not (values.min() >= 0 and values.max() <= 65535):
            raise OSError(f"its values from {values.min()} to {values.max()} do not fit into 16 bits")
        values = values.astype("uint16", copy=False)
    else:
        profile = _profile(file)
        space = None if file.has_transparency_data else profile and profile.profile.xcolor_space
        if (file.mode, space) in (("L", "GRAY"), ("CMYK", "CMYK")):
            with contextlib.suppress(ImageCms.PyCMSError):  # the profile lacks a part
                file = ImageCms.profileToProfile(file, profile, ImageCms.createProfile("sRGB"), outputMode="RGB")
        with_alpha = "LA" if file.mode in ("LA", "La") else "RGBA"
        mode = with_alpha if file.has_transparency_data else "L" if file.mode in ("1", "L") else "RGB"
        return _array(file if file.mode == mode else file.convert(mode))
    clear = file.info.get("transparency")  # the colour that a PNG declares to be transparent
    if clear is None:
        return values
    alpha = np.any(values != np.array(clear, "uint16"), axis=-1, keepdims=True)
    return np.concatenate([values, alpha * np.uint16(65535)], axis=-1)


def _upright(file, raw=None):
    """Decodes an opened file in place, with another raw mode if one is given, and turns it upright."""
    if raw:
        args = [raw if isinstance(tile.args, str) else (raw, *tile.args[1:]) for tile in file.tile]
        file.tile = [tile._replace(args=new) for tile, new in zip(file.tile, args)]
    stream = getattr(file, "fp", None)
    file.load()
    if file.format == "PNG" and stream:  # Pillow leaves rows black that the data does not hold
        last = np.asarray(file.crop((0, file.height - 1, file.width, file.height)))
        if (file.info.get("interlace") or not last.any()) and not png.is_whole(stream):
            raise OSError("its data ends before its last row")
    exif = file.info.pop("exif", None)  # Pillow would stop at damage in it, and a server would not
    with contextlib.suppress(Exception):  # damaged EXIF is no reason to refuse a picture, here and below
        file.getexif()  # what is not in `exif`: TIFF's, and the orientation in XMP
    file.info.pop("Raw profile type exif", None)  # or Pillow would write it anew
    orientation = exif_orientation(exif or b"")
    if orientation is not None:
        file.getexif()[ORIENTATION] = orientation
    ImageOps.exif_transpose(file, in_place=True)
    if exif:
        file.info["exif"] = exif
    return file


def exif_orientation(exif: bytes) -> int | None:
    """The orientation in EXIF data, None if there is none; what `serving.decode` takes for it, so that both turn alike.

    >>> exif = Image.Exif()
    >>> exif[274] = 6
    >>> exif_orientation(exif.tobytes()), exif_orientation(b"")
    (6, None)
    """
    exif = exif.removeprefix(b"Exif\0\0")
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(exif[:4])
    found = None
    if order and len(exif) >= 8:
        (start,) = struct.unpack_from(order + "I", exif, 4)
        (count,) = struct.unpack_from(order + "H", exif, start) if start + 2 <= len(exif) else (0,)
        for at in range(start + 2, min(start + 2 + 12 * count, len(exif) - 11), 12):
            tag, kind, number = struct.unpack_from(order + "HHI", exif, at)
            if tag == ORIENTATION and number == 1 and kind in (3, 4):
                (found,) = struct.unpack_from(order + ("H" if kind == 3 else "I"), exif, at + 8)
    return found


def _array(picture, values=None):
    """A Pillow picture as an array (H, W, C), uint8; rows at a time, so that it is in memory twice and not three times."""
    width, height = picture.size
    values = np.empty((height, width, len(picture.getbands())), "uint8") if values is None else values
    for top in range(0, height, 256):
        rows = np.asarray(picture.crop((0, top, width, min(top + 256, height))))
        values[top : top + 256] = rows.reshape(len(rows), width, -1)
    return values


def _profile(file):
    """The colour profile of a file; None if it has none, or a damaged one."""
    try:
        return ImageCms.ImageCmsProfile(io.BytesIO(file.info["icc_profile"]))
    except (KeyError, TypeError, OSError):
        return None


def _metadata(file):
    """The extras of a decoded file but alpha, see `read_photo`."""
    extras = {name: file.info[name] for name in ("xmp", "comment") if isinstance(file.info.get(name), bytes)}
    if "xmp" in extras:  # else an orientation that does not hold would turn the result
        extras["xmp"] = re.sub(rb'(tiff:Orientation(?:="|>))[0-9]', rb"\g<1>1", extras["xmp"])
    profile = _profile(file)
    if profile and profile.profile.xcolor_space == "RGB " and file.mode != "CMYK":
        extras["icc_profile"] = file.info["icc_profile"]
    with contextlib.suppress(Exception):
        exif = file.getexif()
        if "exif" in file.info:
            exif = Image.Exif()
            exif.load(file.info["exif"])
        for tag in set(exif) - EXIF_TAGS:
            del exif[tag]
        for tag in (40962, 40963) if ExifTags.IFD.Exif in exif else ():  # width and height, before the photo was turned
            exif.get_ifd(ExifTags.IFD.Exif).pop(tag, None)
        if len(exif):
            extras["exif"] = with_all_bytes(exif).tobytes()
    dpi = file.info.get("dpi", ())
    if isinstance(dpi, tuple) and len(dpi) == 2 and all(1 < value < 65536 for value in dpi):  # 1 is Pillow's for none
        extras["dpi"] = tuple(map(float, dpi))
    text = getattr(file, "text", {}).items()
    if text := {name: value for name, value in text if not name.startswith(("XML:com.adobe.xmp", "Raw profile type "))}:
        extras["text"] = text
    return extras


class _Text(str):
    """A text of EXIF, of which Pillow reads each byte as a character, but would write those of ASCII alone."""

    def encode(self, *_):
        return super().encode("latin-1" if max(self, default="") < "\u0100" else "utf-8")  # the latter is a program's


def with_all_bytes(exif: Image.Exif) -> Image.Exif:
    """The same object, whose texts are written with the bytes that they were read from, in whatever code.

    >>> exif = Image.Exif()
    >>> exif[0x013B] = "J\u00f6rg"
    >>> "J\u00f6rg".encode("latin-1") in with_all_bytes(exif).tobytes()
    True
    """
    for tags in (exif, *(exif.get_ifd(tag) for tag in (ExifTags.IFD.Exif, ExifTags.IFD.GPSInfo) if tag in exif)):
        for tag, value in list(tags.items()):
            if isinstance(value, str):
                tags[tag] = _Text(value)
    return exif


def list_images(folder: PathLike, nested: bool = True) -> list[Path]:
    """The images of a folder, or of all its subfolders too, by their suffix, sorted; hidden ones are left out.

    It raises FileNotFoundError if there is no such folder, ValueError if it holds no image.
    """
    names, skipped = scan_folder(folder, nested)
    if not names:
        first = f" {skipped[0][0]} is there: {skipped[0][1]}" if skipped else ""
        if not nested and any(path.is_dir() for path in Path(folder).iterdir()):
            first += " Its subfolders are not read here: you can name one of them."
        raise ValueError(f"{folder} holds no image in a format that is read here; put some there.{first}")
    return [Path(folder, name) for name in names]


def scan_folder(folder: PathLike, nested: bool = True) -> tuple[list[str], list[tuple[str, str]]]:
    """The names of the images of a folder, as `list_images` has them, and those of what it leaves out, with the reasons.

    They are photos in a format that cannot be read here, subfolders that cannot be listed, links to folders, which are not
    followed, and names of images behind which there is no file, as broken links. All names are relative to the folder.

    Raises:
        FileNotFoundError: if there is no such folder.
        OSError: if it cannot be listed.
    """
    if os.path.isfile(folder):
        raise FileNotFoundError(f"{folder} is a file. Expected a folder of images.")
    if not os.path.isdir(folder):
        raise FileNotFoundError(f"There is no folder {folder}; check the path.")
    images, skipped, waiting = [], [], [""]
    while waiting:
        parent = waiting.pop()
        try:
            with os.scandir(os.path.join(folder, parent)) as entries:
                shown = [entry for entry in entries if not entry.name.startswith(".")]
        except OSError as error:
            reason = f"cannot be listed ({error.strerror}); check its permissions."
            if not parent:
                raise OSError(f"The folder {folder} {reason}") from error
            skipped.append((parent, f"The folder {reason}"))
            continue
        for entry in shown:
            name = f"{parent}/{entry.name}" if parent else entry.name
            if entry.is_dir(follow_symlinks=False):
                waiting.extend([name] if nested else [])
            elif entry.is_symlink() and os.path.isdir(entry.path):
                skipped.append((name, "A link to a folder is not followed; name that folder itself."))
            elif is_image_name(name):
                if entry.is_file(follow_symlinks=False) or os.path.isfile(entry.path):
                    images.append(name)
                else:
                    skipped.append((name, "There is no file behind this name; check where it leads."))
            elif reason := why_unread(name):
                skipped.append((name, reason))
    return sorted(images), sorted(skipped)


def is_image_name(path: PathLike) -> bool:
    """Whether a path, relative to a folder, is not hidden there and has the suffix of a format that is read here."""
    suffix = PurePath(path).suffix.lower()
    form = Image.registered_extensions().get(suffix)
    by_pillow = form in FORMATS and (form in Image.OPEN or form == "MPO")  # which is opened as JPEG
    return not _is_hidden(path) and (by_pillow or suffix in cameras.EXTRA and suffix in cameras.readable_suffixes())


def why_unread(path: PathLike) -> str | None:
    """Why a file of this name, relative to a folder, is a photo that cannot be read here; None for all other files."""
    suffix = PurePath(path).suffix.lower()
    if _is_hidden(path) or is_image_name(path) or suffix not in cameras.EXTRA and suffix not in OTHER_PHOTOS:
        return None
    missing = cameras.MISSING if suffix in cameras.EXTRA else "a format that is not read here; save it as a JPEG, PNG or TIFF"
    return f"It is a {suffix} file, {missing}."


def _is_hidden(path):
    return any(part.startswith(".") for part in PurePath(path).parts)
