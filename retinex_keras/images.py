"""Files to arrays and back, with what a file holds besides its colours."""

import contextlib
import io
import os
import struct
import sys
import threading
import zlib
from pathlib import Path, PurePath

import numpy as np
from PIL import Image, ImageCms, ImageOps, PngImagePlugin, UnidentifiedImageError

CONTEXT = 128  # side of the context of an image, see context_indices
MAX_PIXELS = 250_000_000  # the largest sensors of phones have 200 million
WRITTEN = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff"}
WITH_16_BITS = {".png", ".tif", ".tiff"}
WITH_ALPHA = WITH_16_BITS | {".webp"}
LONGEST_SIDE = {".jpg": 65500, ".jpeg": 65500, ".webp": 16383}
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
_opening = threading.Lock()


def read_image(path, max_pixels=MAX_PIXELS):
    """Reads an image as `read_photo` does, its colours alone.

    Args:
        path, max_pixels: as there.

    Returns:
        (H, W, 3) array, uint8 or uint16, read-only.

    Raises:
        FileNotFoundError, ValueError: as there.

    >>> read_image("dark.png").shape
    (20, 24, 3)
    """
    return read_photo(path, max_pixels)[0]


def read_photo(path, max_pixels=MAX_PIXELS):
    """Reads an image in any format that Pillow reads, turned upright by its EXIF orientation, and what else its file holds.

    Grey, palette and CMYK images become RGB. 16 bits are kept of grey images and of RGB in PNG and TIFF; CMYK, premultiplied
    alpha and other formats give 8. Where a colour profile fits no RGB picture, it is used up: grey and CMYK of 8 bits are
    converted to sRGB by it. It is dropped where that cannot be done: grey of 16 bits or with alpha.

    Args:
        path: of the file.
        max_pixels: larger images are refused, since a small file can hold one that fills the memory.

    Returns:
        The colours, an (H, W, 3) array, uint8 or uint16, read-only; and the extras that the file has, a dict: `alpha`,
        (H, W, 1) of the same type, `icc_profile`, `exif` (without orientation, thumbnail and layout), `xmp` and `comment`,
        bytes, `dpi`, two floats, and `text`, the dict of a PNG.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is not an image, is truncated, too large, has several frames, or holds no whole numbers of up to
            16 bits.

    >>> image, extras = read_photo("dark.png")
    >>> image.dtype, extras
    (dtype('uint8'), {})
    """
    try:
        with _opened(path) as file:
            problem = _problem(file, max_pixels)
            if not problem:
                values = _decode(file, path)
                colours = values.shape[-1] - 1 | 1  # 1 or 3; the rest is alpha
                extras = {"alpha": values[..., colours:]} if colours < values.shape[-1] else {}
                return np.broadcast_to(values[..., :colours], (*values.shape[:2], 3)), extras | _metadata(file)
    except UnidentifiedImageError:
        raise ValueError(
            f"{path} is not an image in a format that Pillow reads; pass a JPEG, PNG, WebP, BMP or TIFF."
        ) from None
    except (FileNotFoundError, IsADirectoryError):
        raise FileNotFoundError(f"{path} is not a file; check the path.") from None
    except Exception as error:  # decoders raise errors of all kinds on damaged files
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(f"{path} could not be read ({reason}); is it complete?") from None
    raise ValueError(f"{path} {problem}.")


@contextlib.contextmanager
def _opened(path):
    """Opens a file, of which the header is read. Pillow's own limit of the size, a global, is lifted meanwhile.

    Given a path, Pillow would map TIFF into memory, and turn some of those wrongly by their orientation.
    """
    with open(path, "rb") as stream:
        with _opening:
            limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
            try:
                file = Image.open(stream)
            finally:
                Image.MAX_IMAGE_PIXELS = limit
        yield file
        file.close()  # frees the picture


def _problem(file, max_pixels):
    """What is wrong with an opened file by its header, or None."""
    if file.width * file.height > max_pixels:
        return f"has {file.width}x{file.height} pixels, more than {max_pixels}: if you trust it, raise max_pixels"
    frames = 1 if file.format == "MPO" else getattr(file, "n_frames", 1)  # MPO: a phone's JPEG with further pictures in it
    if frames > 1:
        return f"has {frames} frames or pages, an animation or a document: save the one that you want as a picture"
    if file.mode in ("F", "LAB"):
        return f"holds {'floats of an unknown range' if file.mode == 'F' else 'LAB colours'}: save it as RGB of 8 or 16 bits"
    tags = getattr(file, "tag_v2", {})  # of a TIFF
    bits, layout = tags.get(258, (8,)), (tags.get(284), tags.get(262))
    if max(bits) > 8 and (layout[0] == 2 and len(bits) > 1 or layout[1] == 0 or max(bits) == 12):
        return "is a TIFF of a rare kind (12 bits, planes, or white as zero): save it with 8 bits, or as PNG"
    return None


def _decode(file, path):
    """The picture in a file, upright: (H, W, C), uint8 or uint16; C is 1 for grey, 3 for RGB, with alpha 2 or 4."""
    args = file.tile[0].args if file.format in ("PNG", "TIFF") else ""
    raw = args if isinstance(args, str) else args[0]
    if raw == "LA;16B":  # no 16 bits in Pillow, but four bytes: those of grey and those of alpha
        return _array(_upright(file, "RGBA")).view(">u2").astype("uint16")
    if raw in OTHER_BYTES:
        with _opened(path) as low:
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
        mode = "RGBA" if file.has_transparency_data else "L" if file.mode in ("1", "L") else "RGB"
        return _array(file if file.mode == mode else file.convert(mode))
    clear = file.info.get("transparency")  # the colour that a PNG declares to be transparent
    if clear is None:
        return values
    alpha = np.any(values != np.array(clear, "uint16"), axis=-1, keepdims=True)
    return np.concatenate([values, alpha * np.uint16(65535)], axis=-1)


def _upright(file, raw=None):
    """Decodes an opened file in place, with another raw mode if one is given, and turns it upright."""
    if raw:
        old = [tile.args for tile in file.tile]
        new = [raw if isinstance(args, str) else (raw, *args[1:]) for args in old]
        file.tile = [tile._replace(args=args) for tile, args in zip(file.tile, new)]
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
        extras["dpi"] = float(dpi[0]), float(dpi[1])
    text = getattr(file, "text", {}).items()
    if text := {name: value for name, value in text if not name.startswith(("XML:com.adobe.xmp", "Raw profile type "))}:
        extras["text"] = text
    return extras


def list_images(folder, nested=True):
    """The images of a folder by their suffix, sorted; with those of its subfolders. Hidden ones are left out.

    Raises:
        FileNotFoundError: if there is no such folder.
        ValueError: if it holds no image.

    >>> [path.name for path in list_images("pairs/low")]
    ['scene.0.png', 'scene.1.png', 'scene.2.png', 'scene.3.png', 'scene.4.png']
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"There is no folder {folder}; check the path.")
    paths = sorted(folder.rglob("*") if nested else folder.iterdir())
    images = [path for path in paths if is_image_name(path.relative_to(folder)) and path.is_file()]
    if not images:
        raise ValueError(f"{folder} holds no image in a format that Pillow reads; put some there.")
    return images


def is_image_name(path):
    """Whether a path, relative to a folder, is not hidden there and has the suffix of a format that Pillow reads.

    >>> is_image_name("a/b.JPG"), is_image_name("a/.b.jpg"), is_image_name("a.txt")
    (True, False, False)
    """
    path, formats = PurePath(path), Image.registered_extensions()
    hidden = any(part.startswith(".") for part in path.parts)
    return not hidden and formats.get(path.suffix.lower()) in Image.OPEN


def is_address(place):
    """Whether a place is an address, as fsspec knows them, and not the path of a folder or file.

    >>> is_address("s3://bucket/photos"), is_address(Path("photos"))
    (True, False)
    """
    return "://" in str(place)


def result_name(path):
    """The name of the result of an image: its own, with ".png" added to formats that are read only.

    >>> result_name("a/b.jpg"), result_name("a/b.psd")
    ('a/b.jpg', 'a/b.psd.png')
    """
    return path if PurePath(path).suffix.lower() in WRITTEN else f"{path}.png"


def results_of_folder(folder, out, force):
    """Where the results of a folder's images belong, as `inference.enhance_folder` says.

    Returns:
        A dict {image: result} of the results to be made, and a list of those that exist.

    Raises:
        FileNotFoundError, ValueError: as `list_images`; or if `out` is `folder`.

    >>> targets, existing = results_of_folder("pairs/low", "bright", force=False)
    >>> len(targets), existing
    (5, [])
    """
    folder, out = Path(folder), Path(out)
    if out.resolve() == folder.resolve():
        raise ValueError(f"{out} is the folder of the inputs, which are never overwritten; name another folder.")
    images = [path for path in list_images(folder) if not path.resolve().is_relative_to(out.resolve())]
    targets = {path: out / result_name(path.relative_to(folder)) for path in images}
    existing = {} if force else {path: to for path, to in targets.items() if to.exists()}
    return {path: to for path, to in targets.items() if path not in existing}, list(existing.values())


def context_indices(size):
    """The rows, or the columns, of an image that make its context: 128 at equal distances.

    The context is what a network is told of the whole image where it sees a part of it. Integers alone decide which pixels
    it has, so that it is the same wherever it is taken.

    Args:
        size: height or width of the image, a number or a scalar integer tensor.

    Returns:
        128 indices, of the same kind.

    >>> context_indices(256)[:4].tolist()
    [1, 3, 5, 7]
    """
    return (2 * np.arange(CONTEXT, dtype="int32") + 1) * size // (2 * CONTEXT)


def to_float(image):
    """A uint8 or uint16 array as float32 in [0, 1].

    >>> to_float(np.array([0, 255], "uint8"))
    array([0., 1.], dtype=float32)
    """
    return image.astype("float32") / np.float32(np.iinfo(image.dtype).max)


def to_integers(image, dtype):
    """A float array in [0, 1], uint8 or uint16 as uint8 or uint16: clipped and rounded, not truncated.

    >>> to_integers(np.array([0.5, 1.2]), "uint16")
    array([32768, 65535], dtype=uint16)
    """
    if image.dtype == dtype:
        return image
    result = np.empty(image.shape, dtype)
    for top in range(0, len(image), 256):  # so that a large image is never whole as floats
        rows = image[top : top + 256]
        rows = rows if rows.dtype.kind == "f" else to_float(rows)
        result[top : top + 256] = np.round(np.clip(rows, 0.0, 1.0) * np.iinfo(dtype).max)
    return result


def to_uint8(image):
    """A float array in [0, 1], or uint16, as uint8: clipped and rounded, not truncated.

    >>> to_uint8(np.array([0.5, 1.2]))
    array([128, 255], dtype=uint8)
    """
    return to_integers(image, "uint8")


@contextlib.contextmanager
def whole_file(path):
    """Yields a temporary name beside `path`, which replaces `path` if the block ends well and vanishes if not.

    >>> with whole_file("lines.npy") as temporary:
    ...     np.save(temporary, [1, 2])
    """
    path = Path(path)
    temporary = path.with_name(f".{os.getpid()}-{path.name}")  # the same suffixes, which decide formats
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def check_writable(path, quality=95, sides=()):
    """Raises an error if an image cannot be written so: for the suffix, quality or sides (ValueError), or the folder.

    >>> check_writable("bright.gif")
    Traceback (most recent call last):
    ValueError: The suffix decides the format of an image. Received 'bright.gif': end it in .png, ...
    """
    path = Path(path)
    if path.suffix.lower() not in WRITTEN:
        raise ValueError(
            f"The suffix decides the format of an image. Received {str(path)!r}: end it in .png, .jpg, .webp, .bmp or .tif."
        )
    if not path.parent.is_dir():
        raise FileNotFoundError(f"There is no folder {path.parent} to write {path.name} to; make it first.")
    check_quality(quality)
    longest = LONGEST_SIDE.get(path.suffix.lower())
    if longest and max(sides, default=0) > longest:
        raise ValueError(f"{path.name}: its format ends at {longest} pixels a side, {max(sides)} are too many; write a .png.")


def check_quality(quality):
    """Raises a ValueError if it is no quality.

    >>> check_quality(0)
    Traceback (most recent call last):
    ValueError: The quality of JPEG and WebP is a number from 1 to 100. Received 0.
    """
    if not 1 <= quality <= 100:
        raise ValueError(f"The quality of JPEG and WebP is a number from 1 to 100. Received {quality}.")


def write_image(path, image, extras=None, quality=95):
    """Writes an image in the format of the path's suffix, whole or not at all.

    Args:
        path: of the file; an existing one is replaced.
        image: (H, W, 3) or (H, W, 1), uint8, uint16 or float in [0, 1]. PNG and TIFF keep the 16 bits of uint16; all else
            becomes 8 bits, clipped and rounded.
        extras: from `read_photo`. What the format cannot hold is left out: alpha in JPEG and BMP, metadata in BMP but for
            dpi, text outside PNG.
        quality: of JPEG and WebP, 1 to 100.

    Raises:
        ValueError: if the suffix names none of these formats: PNG, JPEG, WebP, BMP, TIFF; if the array is not as above, or
            larger than the format's limit; if alpha has another size.
        FileNotFoundError: if there is no such folder.

    >>> write_image("red.png", np.full((2, 3, 3), (1.0, 0.0, 0.0)))
    >>> read_image("red.png")[0, 0].tolist()
    [255, 0, 0]
    """
    path, suffix, extras = Path(path), Path(path).suffix.lower(), extras or {}
    of_type = image.dtype in (np.uint8, np.uint16) or image.dtype.kind == "f"
    if image.ndim != 3 or image.shape[-1] not in (1, 3) or 0 in image.shape or not of_type:
        raise ValueError(
            "Expected an array (H, W, 3) or (H, W, 1), uint8, uint16 or float. "
            f"Received {image.dtype} of shape {image.shape}: convert it."
        )
    if image.dtype.kind == "f" and np.isnan(image.min()):
        raise ValueError("The image holds NaN: replace it by numbers in [0, 1].")
    check_writable(path, quality, image.shape[:2])
    pixels = to_integers(image, "uint16" if image.dtype == np.uint16 and suffix in WITH_16_BITS else "uint8")
    if "alpha" in extras and suffix in WITH_ALPHA:
        if extras["alpha"].shape[:2] != image.shape[:2]:
            raise ValueError(f"Alpha of shape {extras['alpha'].shape} does not fit an image of {image.shape}: leave it out.")
        pixels = np.concatenate([pixels, to_integers(extras["alpha"], pixels.dtype)], axis=-1)
    options = _options(suffix, extras, quality)
    with whole_file(path) as temporary:
        if pixels.dtype == np.uint8:
            Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels).save(temporary, **options)
        else:
            with open(temporary, "wb") as file:
                (_write_png_16 if suffix == ".png" else _write_tiff_16)(file, pixels, options)


def _options(suffix, extras, quality):
    """What Pillow's `save` takes of the extras for a format."""
    options = {name: extras[name] for name in ("icc_profile", "exif", "dpi") if name in extras}
    if suffix == ".png":
        options["pnginfo"] = info = PngImagePlugin.PngInfo()
        for name, value in extras.get("text", {}).items():
            info.add_text(name, value)
        if "xmp" in extras:
            info.add_itxt("XML:com.adobe.xmp", extras["xmp"].decode(errors="replace"))
    elif suffix in (".tif", ".tiff"):
        exif = options["exif"] = Image.Exif()
        exif.load(extras.get("exif", b""))
        if "xmp" in extras:
            exif[700] = extras["xmp"]
    else:
        options |= {name: extras[name] for name in ("xmp", "comment") if name in extras} | {"quality": quality}
        if suffix in (".jpg", ".jpeg"):  # a segment ends at 64 KiB
            options = {n: v for n, v in options.items() if n not in ("xmp", "exif", "comment") or len(v) < 65500}
    return options


def _write_png_16(file, pixels, options):
    """A PNG of 16 bits a channel, which Pillow does not write; the chunks of its extras are those of a PNG of one pixel."""
    height, width, channels = pixels.shape
    pixel = io.BytesIO()
    Image.new("L", (1, 1)).save(pixel, "png", **options)
    file.write(b"\x89PNG\r\n\x1a\n")
    colour_type = (0, 4, 2, 6)[channels - 1]
    PngImagePlugin.putchunk(file, b"IHDR", struct.pack(">2I5B", width, height, 16, colour_type, 0, 0, 0))
    file.write(pixel.getvalue()[33 : pixel.getvalue().rindex(b"IDAT") - 4])  # 33: the signature and IHDR
    compressor = zlib.compressobj()
    for top in range(0, height, 64):
        rows = pixels[top : top + 64].astype(">u2").view("uint8").reshape(-1, 2 * channels * width)
        lines = np.pad(rows, ((0, 0), (1, 0)), constant_values=1)  # the filter of each line: what it adds to the pixel before
        lines[:, 1 + 2 * channels :] -= rows[:, : -2 * channels]
        PngImagePlugin.putchunk(file, b"IDAT", compressor.compress(lines))
    PngImagePlugin.putchunk(file, b"IDAT", compressor.flush())
    PngImagePlugin.putchunk(file, b"IEND")


def _write_tiff_16(file, pixels, options):
    """A TIFF of 16 bits a channel, which Pillow does not write: EXIF is a TIFF that lacks the pixels and where they are."""
    height, width, channels = pixels.shape
    exif, dpi = options["exif"], options.get("dpi", ())
    tags = {256: width, 257: height, 258: (16,) * channels, 259: 1, 262: 1 if channels < 3 else 2, 277: channels, 278: height}
    tags |= {273: 0, 279: pixels.nbytes, 338: 2 if channels % 2 == 0 else None, 34675: options.get("icc_profile")}
    tags |= dict(zip((282, 283, 296), (*dpi, 2))) if dpi else {}
    for tag, value in tags.items():
        if value is not None:
            exif[tag] = value
    layout = exif.tobytes()[6:]  # after the word Exif
    file.write(layout)
    for top in range(0, height, 256):
        file.write(pixels[top : top + 256].astype("<u2" if layout.startswith(b"II") else ">u2").tobytes())
