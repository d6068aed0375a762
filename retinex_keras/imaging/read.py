"""Files to arrays, with what a file holds besides its colours."""

import contextlib
import io
import os
import sys
import threading
from pathlib import Path, PurePath
from typing import BinaryIO

import numpy as np
from PIL import Image, ImageCms, ImageOps, UnidentifiedImageError

from retinex_keras.imaging import MAX_PIXELS, PathLike, cameras

Source = PathLike | bytes | bytearray | memoryview | BinaryIO | Image.Image
# EXIF tags that tell of the photo, not of the layout of its file: name, description, camera, software, date, artist, host,
# rating, copyright, Microsoft's five, and the directories of exposure and position. 700 is where TIFF keeps XMP.
EXIF_TAGS = {269, 270, 271, 272, 305, 306, 315, 316, 18246, 18249, 33432, 34665, 34853, *range(40091, 40096)}
# Pillow holds 8 bits a colour: of "RGB;16B", big-endian, it takes the first byte of each value, the high one. As "RGB;16L",
# little-endian, it takes the second one of the same file. N is the order of the machine.
OTHER_BYTES = {
    f"{bands};16{order}": f"{bands};16{other}"
    for bands in ("RGB", "RGBA", "RGBX")
    for order, other in ("BL", "LB", "NB" if sys.byteorder == "little" else "NL")
}
HIGH_RANGE = (16, 18)  # PQ and HLG, among the transfer characteristics of HEIF
_opening = threading.Lock()


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
    """Reads an image in any format that Pillow reads, turned upright by its EXIF orientation, and what else its file holds.

    With the extra `formats` it reads HEIF, of which the primary picture counts, and raw files of cameras: developed to sRGB of
    16 bits with the camera's white balance, and not brightened. Of these it keeps EXIF without the maker's note.

    Grey, palette and CMYK images become RGB. 16 bits are kept of grey images, of RGB in PNG and TIFF, and of HEIF of 10 or 12
    bits; CMYK, premultiplied alpha and other formats give 8. Where a colour profile fits no RGB picture, it is used up: grey
    and CMYK of 8 bits are converted to sRGB by it. It is dropped where that cannot be done: grey of 16 bits or with alpha.

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
    try:
        if hasattr(source, "read") and not source.seekable():
            source = source.read()
        if isinstance(source, (bytes, bytearray, memoryview)):
            source = io.BytesIO(source)
        with _opened(source) as file:
            problem = _problem(file, max_pixels)
            if not problem:
                values = _decode(file, source)
                colours = values.shape[-1] - 1 | 1  # 1 or 3; the rest is alpha
                extras = {"alpha": values[..., colours:]} if colours < values.shape[-1] else {}
                return np.broadcast_to(values[..., :colours], (*values.shape[:2], 3)), extras | _metadata(file)
    except cameras.FormatError as error:
        problem = error
    except UnidentifiedImageError:
        raise ValueError(
            f"{name} is not an image in a format that Pillow reads; pass a JPEG, PNG, WebP, BMP or TIFF."
        ) from None
    except (FileNotFoundError, IsADirectoryError):
        raise FileNotFoundError(f"{name} is not a file; check the path.") from None
    except Exception as error:  # decoders raise errors of all kinds on damaged files
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(f"{name} could not be read ({reason}); is it complete?") from None
    raise ValueError(f"{name} {problem}.")


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
def _opened(source):
    """Opens a path, a file or a picture as a Pillow picture that may be changed; of a file only the header is read."""
    if isinstance(source, Image.Image):
        exif = source.getexif()  # before the pixels: once it has them, Pillow closes a file
        picture = source.copy()
        picture.text = getattr(source, "text", {})
        if exif:
            picture.info["exif"] = exif.tobytes()
        yield picture
        return
    # Given a path, Pillow would map TIFF into memory, and turn some of those wrongly. A user's file stays open.
    with open(source, "rb") if isinstance(source, PathLike) else contextlib.nullcontext(source) as stream:
        with _opening:
            limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None  # Pillow's own limit of the size, a global
            try:
                file = cameras.open_file(stream, _name(source)) or Image.open(stream)
            finally:
                Image.MAX_IMAGE_PIXELS = limit
        yield file
        Image.Image.close(file)  # frees the pixels; `file.close()` would also close the stream


def _problem(file, max_pixels):
    """What is wrong with an opened file by its header, or None."""
    if file.width * file.height > max_pixels:
        return f"has {file.width}x{file.height} pixels, more than {max_pixels}: if you trust it, raise max_pixels"
    # MPO is a phone's JPEG with further pictures in it, and HEIF holds bursts.
    frames = 1 if file.format in ("MPO", "HEIF") else getattr(file, "n_frames", 1)
    if frames > 1:
        return f"has {frames} frames or pages, an animation or a document: save the one that you want as a picture"
    if file.mode in ("F", "LAB"):
        return f"holds {'floats of an unknown range' if file.mode == 'F' else 'LAB colours'}: save it as RGB of 8 or 16 bits"
    if file.info.get("nclx_profile", {}).get("transfer_characteristics") in HIGH_RANGE:
        return "holds colours of a high dynamic range (PQ or HLG): save it as RGB of 8 or 16 bits"
    tags = getattr(file, "tag_v2", {})  # of a TIFF
    bits, layout = tags.get(258, (8,)), (tags.get(284), tags.get(262))
    if max(bits) > 8 and (layout[0] == 2 and len(bits) > 1 or layout[1] == 0 or max(bits) == 12):
        return "is a TIFF of a rare kind (12 bits, planes, or white as zero): save it with 8 bits, or as PNG"
    return None


def _decode(file, source):
    """The picture in a file, upright: (H, W, C), uint8 or uint16; C is 1 for grey, 3 for RGB, with alpha 2 or 4."""
    values = cameras.decode_deep(file)
    if values is not None:
        return values
    args = file.tile[0].args if file.format in ("PNG", "TIFF") else ""
    raw = args if isinstance(args, str) else args[0]
    if raw == "LA;16B":  # no 16 bits in Pillow, but four bytes: those of grey and those of alpha
        return _array(_upright(file, "RGBA")).view(">u2").astype("uint16")
    if raw in OTHER_BYTES:
        with _opened(source) as low:
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
        if (file.mode, profile and profile.profile.xcolor_space) in (("L", "GRAY"), ("CMYK", "CMYK")):
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
    ImageOps.exif_transpose(file, in_place=True)
    return file


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
    profile = _profile(file)
    if profile and profile.profile.xcolor_space == "RGB " and file.mode != "CMYK":
        extras["icc_profile"] = file.info["icc_profile"]
    with contextlib.suppress(Exception):  # damaged EXIF is no reason to refuse a picture
        exif = file.getexif()
        for tag in set(exif) - EXIF_TAGS:
            del exif[tag]
        if len(exif):
            extras["exif"] = exif.tobytes()
    dpi = file.info.get("dpi", ())
    if len(dpi) == 2 and all(1 < value < 65536 for value in dpi):  # 1 is Pillow's for none
        extras["dpi"] = tuple(map(float, dpi))
    text = getattr(file, "text", {}).items()
    if text := {name: value for name, value in text if not name.startswith(("XML:com.adobe.xmp", "Raw profile type "))}:
        extras["text"] = text
    return extras


def list_images(folder: PathLike, nested: bool = True) -> list[Path]:
    """The images of a folder, or of all its subfolders too, by their suffix, sorted; hidden ones are left out.

    It raises FileNotFoundError if there is no such folder, ValueError if it holds no image.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"There is no folder {folder}; check the path.")
    paths = sorted(folder.rglob("*") if nested else folder.iterdir())
    images = [path for path in paths if is_image_name(path.relative_to(folder)) and path.is_file()]
    if not images:
        raise ValueError(f"{folder} holds no image in a format that Pillow reads; put some there.")
    return images


def is_image_name(path: PathLike) -> bool:
    """Whether a path, relative to a folder, is not hidden there and has the suffix of a format that is read here."""
    path, formats = PurePath(path), Image.registered_extensions()
    hidden, suffix = any(part.startswith(".") for part in path.parts), path.suffix.lower()
    of_camera = suffix in cameras.EXTRA and suffix in cameras.readable_suffixes()
    return not hidden and (of_camera or formats.get(suffix) in Image.OPEN)
