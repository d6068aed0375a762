"""Arrays to files."""

import io
import os
import struct
import tempfile
import zlib
from pathlib import Path

import numpy as np
from PIL import Image, PngImagePlugin

from retinex_keras.imaging import PathLike, cameras, png
from retinex_keras.imaging.atomic import atomic_path
from retinex_keras.imaging.pixels import to_integers
from retinex_keras.imaging.read import with_all_bytes

WRITTEN = {".png", ".jpg", ".jpeg", ".webp", ".avif", ".bmp", ".tif", ".tiff"}
WITH_16_BITS = {".png", ".tif", ".tiff"}
WITH_ALPHA = WITH_16_BITS | {".webp", ".avif"}
LONGEST_SIDE = {".jpg": 65500, ".jpeg": 65500, ".webp": 16383, ".avif": 32768}  # AVIF: as far as libavif reads


def check_writable(path: PathLike, quality: int = 95) -> None:
    """Raises an error if an image could not be written: ValueError or OSError; `check_sides` tells of its size."""
    path = Path(path)
    if path.suffix.lower() not in WRITTEN:
        raise ValueError(
            f"The suffix decides the format of an image. Received {str(path)!r}: "
            "end it in .png, .jpg, .webp, .avif, .bmp or .tif."
        )
    if path.suffix.lower() == ".avif" and not cameras.has_avif():
        raise ValueError(f"{path.name}: this Pillow cannot write AVIF: pip install 'pillow>=11.3', or write a .png.")
    if os.path.isdir(path):  # which a name that is too long is not
        raise ValueError(f"{path} is a folder. Expected the name of a picture to write.")
    if not path.parent.is_dir():
        raise FileNotFoundError(f"There is no folder {path.parent} to write {path.name} to; make it first.")
    check_folder(path.parent)
    check_quality(quality)


def check_sides(path: PathLike, sides: tuple[int, ...]) -> None:
    """Raises a ValueError if a side is longer than the format of a path's suffix allows."""
    path = Path(path)
    longest = LONGEST_SIDE.get(path.suffix.lower())
    if longest and max(sides) > longest:
        raise ValueError(f"{path.name}: its format ends at {longest} pixels a side, {max(sides)} are too many; write a .png.")


def check_folder(folder: PathLike) -> None:
    """Raises a PermissionError if files cannot be written into a folder that exists."""
    if not os.access(folder, os.W_OK | os.X_OK):
        raise PermissionError(f"The folder {folder} cannot be written to; change its permissions, or name another one.")


def check_quality(quality: int) -> None:
    """Raises a ValueError if a quality of JPEG, WebP and AVIF is not from 1 to 100."""
    if not 1 <= quality <= 100:
        raise ValueError(f"The quality of JPEG, WebP and AVIF is a number from 1 to 100. Received {quality}.")


def check_is_not_input(out: PathLike, image: PathLike) -> None:
    """Raises a ValueError if the path of a result is the file of the image that it is made of, under whatever name."""
    out, image = Path(out), Path(image)
    if out.exists() and image.exists() and out.samefile(image):
        raise ValueError(f"{out} is the input; inputs are never overwritten, so give the result another name.")


def write_image(path: PathLike, image: np.ndarray, extras: dict | None = None, quality: int = 95) -> None:
    """Writes an image in the format of the path's suffix, whole or not at all.

    Args:
        path: of the file; an existing one is replaced.
        image: (H, W, 3) or (H, W, 1), uint8, uint16 or float in [0, 1]. PNG and TIFF keep the 16 bits of uint16; all else
            becomes 8 bits, clipped and rounded.
        extras: from `read_photo`. What the format cannot hold is left out: alpha in JPEG and BMP, metadata in BMP but for
            dpi, text outside PNG.
        quality: of JPEG, WebP and AVIF, 1 to 100.

    Raises:
        ValueError: if the suffix names none of PNG, JPEG, WebP, AVIF, BMP and TIFF, or AVIF and Pillow is older than 11.3; if
            the array is not as above, or a side longer than the format allows; if alpha has another size; if the quality is
            out of range.
        FileNotFoundError, PermissionError: if there is no such folder, or it cannot be written to.

    >>> write_image("red.png", np.full((2, 3, 3), (1.0, 0.0, 0.0)))
    >>> read_image("red.png")[0, 0].tolist()
    [255, 0, 0]
    """
    suffix, extras = Path(path).suffix.lower(), extras or {}
    of_type = image.dtype in (np.uint8, np.uint16) or image.dtype.kind == "f"
    if image.ndim != 3 or image.shape[-1] not in (1, 3) or 0 in image.shape or not of_type:
        raise ValueError(
            "Expected an array (H, W, 3) or (H, W, 1), uint8, uint16 or float. "
            f"Received {image.dtype} of shape {image.shape}: convert it."
        )
    if image.dtype.kind == "f" and np.isnan(image.min()):
        raise ValueError("The image holds NaN: replace it by numbers in [0, 1].")
    check_writable(path, quality)
    check_sides(path, image.shape[:2])
    pixels = to_integers(image, "uint16" if image.dtype == np.uint16 and suffix in WITH_16_BITS else "uint8")
    if "alpha" in extras and suffix in WITH_ALPHA:
        if extras["alpha"].shape[:2] != image.shape[:2]:
            raise ValueError(f"Alpha of shape {extras['alpha'].shape} does not fit an image of {image.shape}: leave it out.")
        pixels = np.concatenate([pixels, to_integers(extras["alpha"], pixels.dtype)], axis=-1)
        if pixels.shape[-1] == 2 and pixels.dtype == np.uint16 and suffix != ".png":  # a TIFF that Pillow would not read
            pixels = pixels[..., [0, 0, 0, 1]]
    options = _options(suffix, extras, quality)
    with atomic_path(path) as temporary:
        if pixels.dtype == np.uint8:
            Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels).save(temporary, **options)
        else:
            with open(temporary, "wb") as file:
                (_write_png_16 if suffix == ".png" else _write_tiff_16)(file, pixels, options)


def encode_png(image: np.ndarray, extras: dict | None = None) -> bytes:
    """The bytes of the PNG that `write_image` makes of an image and extras.

    >>> encode_png(np.zeros((2, 3, 3), "uint16"))[:4]
    b'\\x89PNG'
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "picture.png")
        write_image(path, image, extras)
        return path.read_bytes()


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
        with_all_bytes(exif)
        if "xmp" in extras:
            exif[700] = extras["xmp"]
    else:
        options |= {name: extras[name] for name in ("xmp", "comment") if name in extras} | {"quality": quality}
        if suffix in (".jpg", ".jpeg"):  # a segment ends at 64 KiB
            if len(options.get("exif", b"")) >= 65500:  # mostly the notes of the camera's maker
                exif = Image.Exif()
                exif.load(options["exif"])
                exif.get_ifd(cameras.EXIF).pop(cameras.MAKER_NOTE, None)
                options["exif"] = with_all_bytes(exif).tobytes()
            options = {n: v for n, v in options.items() if n not in ("xmp", "exif", "comment") or len(v) < 65500}
    return options


def _write_png_16(file, pixels, options):
    """A PNG of 16 bits a channel, which Pillow does not write; the chunks of its extras are those of a PNG of one pixel."""
    height, width, channels = pixels.shape
    pixel = io.BytesIO()
    Image.new("L", (1, 1)).save(pixel, "png", **options)
    file.write(png.SIGNATURE)
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
