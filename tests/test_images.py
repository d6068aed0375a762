import io
import os
import struct
import zlib

import numpy as np
import pytest
import tensorflow as tf
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageCms, ImageOps, PngImagePlugin

from retinex_keras.cli import main
from retinex_keras.imaging.atomic import atomic_path
from retinex_keras.imaging.pixels import to_integers, to_uint8
from retinex_keras.imaging.read import read_image, read_photo, with_all_bytes
from retinex_keras.imaging.write import write_image
from retinex_keras.inference import enhance


@pytest.fixture
def pixels(random):
    return random.integers(0, 256, (7, 9, 3), dtype="uint8")


def upright(pixels):
    return np.rot90(pixels, -1)  # as EXIF orientation 6 asks for


def header(path):
    with Image.open(path) as file:
        return file.format, file.mode


@pytest.mark.parametrize("suffix", [".png", ".bmp", ".tif", ".webp"])
def test_written_and_read_is_the_same(tmp_path, pixels, suffix):
    path = tmp_path / f"a.b{suffix}"
    picture = pixels if suffix != ".webp" else np.full_like(pixels, 128)  # WebP loses a little of noise
    write_image(path, picture)
    np.testing.assert_allclose(read_image(path).astype(int), picture, atol=0 if suffix != ".webp" else 1)
    assert header(path)[0].lower().startswith(suffix[1:4])


def test_jpeg_is_a_jpeg_close_to_the_picture(tmp_path):
    write_image(tmp_path / "a.jpg", np.full((16, 16, 3), 0.5))
    assert header(tmp_path / "a.jpg") == ("JPEG", "RGB")
    assert abs(int(read_image(tmp_path / "a.jpg")[8, 8, 0]) - 128) <= 1


def test_one_channel_is_written_grey(tmp_path):
    write_image(tmp_path / "a.png", np.full((2, 3, 1), 0.2))
    assert header(tmp_path / "a.png") == ("PNG", "L")


def test_exif_orientation_is_applied(tmp_path, pixels):
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees clockwise
    Image.fromarray(pixels).save(tmp_path / "a.png", exif=exif)
    np.testing.assert_array_equal(read_image(tmp_path / "a.png"), upright(pixels))


def chunk(name, data=b""):
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


PNG_CHUNK = chunk(b"teST")


def png(width=2, height=2, depth=8, colour=2, interlace=0, data=bytes(14), before=b"", after=b""):
    """The bytes of a PNG with any header, data that is packed, and other chunks before and after it."""
    header = chunk(b"IHDR", struct.pack(">2I5B", width, height, depth, colour, 0, 0, interlace))
    return b"\x89PNG\r\n\x1a\n" + header + before + chunk(b"IDAT", zlib.compress(data)) + after + chunk(b"IEND")


def random_bytes(count):
    return np.random.default_rng(0).integers(0, 256, count, "uint8").tobytes()


def scans(contents, count):
    """A progressive JPEG that goes over its picture so many times more."""
    at, end = contents.rindex(b"\xff\xda"), contents.rindex(b"\xff\xd9")
    return contents[:end] + contents[at:end] * count + contents[end:]


def icon(contents):
    return struct.pack("<3H4B2H2I", 0, 1, 1, 16, 16, 0, 0, 1, 32, len(contents), 22) + contents


def announcing(contents):
    """A JPEG whose header says that it has 15800x15800 pixels."""
    at = contents.index(b"\xff\xc0") + 5
    return contents[:at] + struct.pack(">HH", 15800, 15800) + contents[at + 4 :]


def saved(form, pixels=None, **options):
    """The bytes of a picture in a format of Pillow's."""
    pixels = np.random.default_rng(0).integers(0, 256, (64, 48, 3), dtype="uint8") if pixels is None else pixels
    file = io.BytesIO()
    picture = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    picture.save(file, form, **options)
    return file.getvalue()


def frames(form):
    pictures = [Image.new("RGB", (8, 8), (shade, 0, 99)) for shade in (0, 120, 240)]
    return saved(form, pictures[0], save_all=True, append_images=pictures[1:])


def tiff(array, **options):
    file = io.BytesIO()
    tifffile.imwrite(file, array, **options)
    return file.getvalue()


def profile(space):
    """A minimal colour profile: grey with gamma 1, or CMYK with a table of two points an ink, dark where there is any."""
    if space == b"GRAY":
        tag, table = b"kTRC", b"curv" + bytes(8)
    else:
        identity = bytes(range(256))
        lab = b"".join(bytes([0 if i else 255, 128, 128]) for i in range(16))
        tag, table = b"A2B0", b"mft1" + bytes(4) + bytes([4, 3, 2, 0]) + struct.pack(">9i", *[65536, 0, 0, 0] * 2, 65536)
        table += 4 * identity + lab + 3 * identity
    white = b"XYZ " + bytes(4) + struct.pack(">3i", 63190, 65536, 54061)
    tags = struct.pack(">I4sII4sII", 2, tag, 156, len(table), b"wtpt", 156 + len(table), len(white))
    body = tags + table + white
    connection = b"XYZ " if space == b"GRAY" else b"Lab "
    head = struct.pack(">I4sI4s4s4s", 128 + len(body), bytes(4), 0x02100000, b"prtr", space, connection)
    head = head + bytes(12) + b"acsp" + bytes(28) + struct.pack(">3i", 63190, 65536, 54061) + bytes(48)
    return head + body


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "LA", "1", "CMYK", "YCbCr"])
def test_other_modes_become_rgb(tmp_path, pixels, mode):
    path = tmp_path / ("a.tif" if mode in ("CMYK", "YCbCr") else "a.png")
    picture = Image.fromarray(pixels).convert(mode)
    # Pillow 12 does not read the YCbCr that it writes without compression.
    picture.save(path, **({"compression": "tiff_lzw"} if mode == "YCbCr" else {}))
    image, extras = read_photo(path)
    assert image.dtype == np.uint8
    np.testing.assert_allclose(image, picture.convert("RGB"), rtol=0, atol=mode == "YCbCr")  # which libtiff converts itself
    assert ("alpha" in extras) == (mode in ("RGBA", "LA"))


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_png_of_16_bits_keeps_its_depth(tmp_path, random, channels):
    """TensorFlow's PNG, which is libpng's, is the oracle of reading and of writing."""
    values = random.integers(0, 65536, (70, 9, channels), dtype="uint16")
    (tmp_path / "a.png").write_bytes(tf.io.encode_png(values).numpy())
    image, extras = read_photo(tmp_path / "a.png")
    colours = values[..., : channels - 1 | 1]
    np.testing.assert_array_equal(image, np.broadcast_to(colours, image.shape))
    write_image(tmp_path / "b.png", colours, extras)
    np.testing.assert_array_equal(tf.io.decode_png((tmp_path / "b.png").read_bytes(), dtype="uint16"), values)


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("compression", [None, "zlib"])
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_tiff_of_16_bits_keeps_its_depth(tmp_path, random, channels, compression, order):
    """tifffile is the oracle of reading and of writing."""
    values = random.integers(0, 65536, (300, 9, channels), dtype="uint16")
    stored = values[..., 0] if channels == 1 else values
    alpha = {"extrasamples": ["unassalpha"]} if channels == 4 else {}
    photometric = "minisblack" if channels == 1 else "rgb"
    tifffile.imwrite(tmp_path / "a.tif", stored, byteorder=order, compression=compression, photometric=photometric, **alpha)
    image, extras = read_photo(tmp_path / "a.tif")
    colours = values[..., : channels - 1 | 1]
    np.testing.assert_array_equal(image, np.broadcast_to(colours, image.shape))
    write_image(tmp_path / "b.tif", colours, extras)
    np.testing.assert_array_equal(tifffile.imread(tmp_path / "b.tif"), stored)
    write_image(tmp_path / "c.png", colours, extras)
    np.testing.assert_array_equal(read_image(tmp_path / "c.png"), image)


def test_a_photo_of_16_bits_is_turned_upright(tmp_path, random):
    values = random.integers(0, 65536, (4, 6, 3), dtype="uint16")
    exif = Image.Exif()
    exif[0x0112] = 6
    for suffix in (".png", ".tif"):
        write_image(tmp_path / f"a{suffix}", values, {"exif": exif.tobytes()})
        image, extras = read_photo(tmp_path / f"a{suffix}")
        np.testing.assert_array_equal(image, upright(values))
        assert "exif" not in extras


def test_16_bits_become_8_where_the_format_has_no_more(tmp_path):
    values = np.full((8, 8, 3), [257, 30000, 65535], "uint16")
    write_image(tmp_path / "a.bmp", values)
    np.testing.assert_array_equal(read_image(tmp_path / "a.bmp")[0, 0], [1, 117, 255])


def test_the_transparent_colour_of_a_16_bit_png(tmp_path):
    Image.fromarray(np.array([[5, 300], [5, 7]], "uint16")).save(tmp_path / "a.png", transparency=5)
    image, extras = read_photo(tmp_path / "a.png")
    np.testing.assert_array_equal(image[..., 0], [[5, 300], [5, 7]])
    np.testing.assert_array_equal(extras["alpha"][..., 0], [[0, 65535], [0, 65535]])


@pytest.mark.parametrize("suffix", [".png", ".webp", ".tif", ".jpg", ".bmp"])
@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_alpha_goes_unchanged_into_formats_that_hold_it(tmp_path, random, suffix, mode):
    picture = Image.fromarray(random.integers(0, 256, (7, 9, 4), dtype="uint8"))
    alpha = np.asarray(picture)[..., 3:]
    if mode == "P":
        picture = Image.fromarray(random.integers(0, 3, (7, 9), dtype="uint8"), "L").convert("P")
        alpha = np.array([0, 99, 255], "uint8")[np.asarray(picture)][..., None]
    picture.convert(mode).save(tmp_path / "a.png", **({"transparency": b"\0\x63\xff"} if mode == "P" else {}))
    image, extras = read_photo(tmp_path / "a.png")
    write_image(tmp_path / f"b{suffix}", image // 2, extras)
    again, others = read_photo(tmp_path / f"b{suffix}")
    assert again.shape == image.shape
    if suffix in (".jpg", ".bmp"):
        assert "alpha" not in others
    else:
        np.testing.assert_array_equal(others["alpha"], alpha)


NAME = "J\u00f6rg".encode().decode("latin-1")  # as Pillow reads a name in UTF-8


@pytest.fixture
def described():
    """Metadata of each kind, for Pillow's `save`, and an orientation."""
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = 6, "Camera"
    exif.get_ifd(0x8769)[0x829A] = 0.125  # exposure
    exif.get_ifd(0x8825)[0x0002] = (48.0, 8.0, 15.0)  # latitude
    icc = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    loaded = Image.Exif()  # Pillow writes the directories of loaded EXIF alone into a TIFF
    loaded.load(exif.tobytes())
    loaded[0x8298] = loaded.get_ifd(0x8769)[0xA430] = NAME  # of who has the rights, and the camera
    return {"exif": with_all_bytes(loaded), "icc_profile": icc, "dpi": (300, 300)}


XMP = b'<x:xmpmeta xmlns:x="adobe:ns:meta/">dark</x:xmpmeta>'


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("source", ["jpg", "png", "webp", "tif"])
@pytest.mark.parametrize("target", ["jpg", "png", "webp", "tif"])
def test_metadata_goes_from_format_to_format(tmp_path, pixels, described, source, target, bits):
    info = PngImagePlugin.PngInfo()
    info.add_itxt("XML:com.adobe.xmp", XMP.decode())
    if source == "tif":
        described["exif"][700] = XMP
    Image.fromarray(pixels).save(tmp_path / f"a.{source}", **described, xmp=XMP, pnginfo=info)
    image, extras = read_photo(tmp_path / f"a.{source}")
    assert image.shape == upright(pixels).shape
    if bits == 16:
        image = to_integers(image, "uint16")
    write_image(tmp_path / f"b.{target}", image, extras)
    for file in (Image.open(tmp_path / f"b.{target}"), Image.open(tmp_path / f"a.{source}")):
        with file:
            file.load()
            exif = file.getexif()
            assert (exif[0x010F], exif[0x8298], exif.get_ifd(0x8769)[0x829A]) == ("Camera", NAME, 0.125)
            assert exif.get_ifd(0x8769)[0xA430] == NAME
            assert exif.get_ifd(0x8825)[0x0002] == (48.0, 8.0, 15.0)
            assert file.info["icc_profile"] == described["icc_profile"]
            assert "webp" in (source, target) or file.info["dpi"] == pytest.approx((300, 300), abs=0.01)
            xmp = file.info["xmp"]
            assert (xmp if isinstance(xmp, bytes) else xmp.encode()) == XMP
    assert read_image(tmp_path / f"b.{target}").shape == upright(pixels).shape  # it is not turned again


@pytest.mark.parametrize("target", ["jpg", "png", "webp", "tif"])
@pytest.mark.parametrize("orientation", [b'="6"', b">6<"])
def test_an_orientation_in_xmp_turns_nothing_twice(tmp_path, pixels, orientation, target):
    exif = Image.Exif()
    exif[0x0112] = 1  # the picture is upright, whatever XMP says
    Image.fromarray(pixels).save(tmp_path / "a.jpg", exif=exif, xmp=b"<x tiff:Orientation" + orientation + b"/>")
    image, extras = read_photo(tmp_path / "a.jpg")
    assert image.shape == pixels.shape
    write_image(tmp_path / f"b.{target}", image, extras)
    assert read_photo(tmp_path / f"b.{target}")[0].shape == pixels.shape


def test_the_texts_of_a_picture_are_kept_in_any_letters(tmp_path, pixels, described):
    Image.fromarray(pixels).save(tmp_path / "a.jpg", **described)
    with Image.open(tmp_path / "a.jpg") as picture:
        picture.getexif()[0x013B] = "\u6771\u4eac"  # set by a program
        write_image(tmp_path / "b.png", *read_photo(picture))
    with Image.open(tmp_path / "b.png") as file:
        exif = file.getexif()
    assert (exif[0x8298], exif.get_ifd(0x8769)[0xA430]) == (NAME, NAME)
    assert exif[0x013B].encode("latin-1").decode() == "\u6771\u4eac"


def test_text_of_a_png_and_the_comment_of_a_jpeg(tmp_path, pixels):
    info = PngImagePlugin.PngInfo()
    info.add_text("Title", "Night")
    info.add_itxt("Place", "K\u00f6ln")
    info.add_text("Raw profile type exif", "stale")
    Image.fromarray(pixels).save(tmp_path / "a.png", pnginfo=info)
    extras = read_photo(tmp_path / "a.png")[1]
    for name, image in (("b", pixels), ("c", to_integers(pixels, "uint16"))):
        write_image(tmp_path / f"{name}.png", image, extras)
        assert read_photo(tmp_path / f"{name}.png")[1]["text"] == {"Title": "Night", "Place": "K\u00f6ln"}
    Image.fromarray(pixels).save(tmp_path / "a.jpg", comment=b"dark")
    write_image(tmp_path / "b.jpg", pixels, read_photo(tmp_path / "a.jpg")[1])
    assert read_photo(tmp_path / "b.jpg")[1]["comment"] == b"dark"


def psd(pixels, layers):
    """A document of Photoshop: its picture, and layers that each hold the picture's negative."""
    height, width = pixels.shape[:2]
    negative = [b"\0\0" + plane.tobytes() for plane in np.moveaxis(255 - pixels, -1, 0)]
    channels = b"".join(struct.pack(">hI", i, len(plane)) for i, plane in enumerate(negative))
    record = struct.pack(">4iH", 0, 0, height, width, 3) + channels + b"8BIMnorm\xff\0\0\0" + struct.pack(">I", 12) + bytes(12)
    info = struct.pack(">h", layers) + layers * record + layers * b"".join(negative)
    info += bytes(len(info) % 2)
    head = b"8BPS" + struct.pack(">H6xHIIHH", 1, 3, height, width, 8, 3) + bytes(8)
    return (
        head + struct.pack(">II", len(info) + 8, len(info)) + info + bytes(4) + b"\0\0" + np.moveaxis(pixels, -1, 0).tobytes()
    )


@pytest.mark.parametrize("layers", [1, 3])
def test_the_layers_of_a_document_are_one_picture(tmp_path, pixels, layers):
    (tmp_path / "a.psd").write_bytes(psd(pixels, layers))
    with Image.open(tmp_path / "a.psd") as file:
        assert file.n_frames == layers
    np.testing.assert_array_equal(read_image(tmp_path / "a.psd"), pixels)


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_grey_of_16_bits_keeps_its_alpha(tmp_path, random, suffix):
    grey, alpha = random.integers(0, 65536, (2, 5, 4, 1), "uint16")
    write_image(tmp_path / f"a.{suffix}", grey, {"alpha": alpha})
    image, extras = read_photo(tmp_path / f"a.{suffix}")
    np.testing.assert_array_equal(image, grey.repeat(3, axis=-1))
    np.testing.assert_array_equal(extras["alpha"], alpha)


def test_the_thumbnail_of_a_tiff_is_no_page(tmp_path, pixels):
    stream = io.BytesIO()
    with tifffile.TiffWriter(stream) as writer:
        writer.write(pixels, photometric="rgb")
        writer.write(pixels[::2, ::2].copy(), photometric="rgb", subfiletype=1)
    np.testing.assert_array_equal(read_image(stream), pixels)


def test_exif_forgets_the_sides_from_before_the_photo_was_turned(pixels):
    exif = Image.Exif()
    exif[0x0112] = 6
    exif.get_ifd(0x8769).update({0xA002: pixels.shape[1], 0xA003: pixels.shape[0], 0x829A: 0.5})
    exif.load(read_photo(saved("PNG", pixels, exif=exif))[1]["exif"])
    assert dict(exif.get_ifd(0x8769)) == {0x829A: 0.5}


def test_a_long_note_of_the_maker_costs_a_jpeg_no_other_exif(tmp_path, pixels):
    exif = Image.Exif()
    exif.get_ifd(0x8769).update({0x927C: bytes(66000), 0x829A: 0.5})
    write_image(tmp_path / "a.jpg", pixels, {"exif": exif.tobytes()})
    exif.load(read_photo(tmp_path / "a.jpg")[1]["exif"])
    assert dict(exif.get_ifd(0x8769)) == {0x829A: 0.5}


def test_metadata_too_long_for_a_jpeg_is_left_out(tmp_path, pixels):
    write_image(tmp_path / "a.jpg", pixels, {"xmp": bytes(70000), "comment": b"dark"})
    assert set(read_photo(tmp_path / "a.jpg")[1]) == {"comment"}


def test_a_grey_profile_is_used_up(tmp_path):
    """Gamma 1 says that half the value is half the light, which sRGB writes as 188."""
    Image.new("L", (4, 4), 128).save(tmp_path / "a.png", icc_profile=profile(b"GRAY"))
    image, extras = read_photo(tmp_path / "a.png")
    assert abs(image.astype(int) - 188).max() <= 1
    assert not extras


def test_a_cmyk_profile_is_used_up(tmp_path):
    """The test's profile makes a little of any ink much darker than the formula without a profile."""
    for name, options in (("with", {"icc_profile": profile(b"CMYK")}), ("without", {})):
        Image.new("CMYK", (4, 4), (128, 0, 0, 0)).save(tmp_path / f"{name}.tif", **options)
    image, extras = read_photo(tmp_path / "with.tif")
    np.testing.assert_allclose(image.astype(int), 118, atol=3)  # half of the lightness, neutral
    assert not extras
    np.testing.assert_array_equal(read_image(tmp_path / "without.tif")[0, 0], [127, 255, 255])


def test_transparency_goes_before_a_grey_profile(tmp_path):
    Image.new("L", (4, 4), 128).save(tmp_path / "a.png", icc_profile=profile(b"GRAY"), transparency=128)
    image, extras = read_photo(tmp_path / "a.png")
    assert not (image - 128).any()
    assert not extras["alpha"].any()


@pytest.mark.parametrize(("mode", "space", "tag"), [("L", b"GRAY", b"kTRC"), ("CMYK", b"CMYK", b"A2B0")])
def test_a_profile_that_lacks_a_part_is_dropped(tmp_path, mode, space, tag):
    for name, icc in (("with", profile(space).replace(tag, b"none")), ("without", None)):
        Image.new(mode, (4, 4), 99 if mode == "L" else (99, 0, 0, 0)).save(tmp_path / f"{name}.tif", icc_profile=icc)
    np.testing.assert_array_equal(*(read_image(tmp_path / f"{name}.tif") for name in ("with", "without")))


def test_too_little_memory_is_no_damage(tmp_path, pixels, monkeypatch):
    Image.fromarray(pixels).save(tmp_path / "a.png")

    def load(self):
        raise MemoryError

    monkeypatch.setattr(PngImagePlugin.PngImageFile, "load", load)
    with pytest.raises(ValueError, match="a.png takes more memory than is free; close other programs"):
        read_photo(tmp_path / "a.png")


@pytest.mark.parametrize("mode", ["RGB", "LA", "I;16"])
def test_a_profile_that_does_not_fit_is_dropped(tmp_path, mode):
    for name, icc in (("a", profile(b"GRAY")), ("b", b"junk")):
        Image.new(mode, (4, 4)).save(tmp_path / f"{name}.png", icc_profile=icc)
        image, extras = read_photo(tmp_path / f"{name}.png")
        assert not image.any()
        assert "icc_profile" not in extras


def test_rounding_not_truncation():
    np.testing.assert_array_equal(to_uint8(np.array([-1, 0.4999, 127.6 / 255, 2])), [0, 127, 128, 255])


@pytest.mark.parametrize("name", ["a", "a.xyz", "a.mp4"])
def test_unknown_suffix_is_refused_and_nothing_written(tmp_path, pixels, name):
    with pytest.raises(ValueError, match="suffix decides the format"):
        write_image(tmp_path / name, pixels)
    assert not list(tmp_path.iterdir())


def test_a_file_appears_whole_or_not_at_all(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("before")
    with pytest.raises(RuntimeError), atomic_path(path) as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert path.read_text() == "before"
    assert list(tmp_path.iterdir()) == [path]


class Pipe(io.BytesIO):
    """A file that can be read once, from its beginning to its end."""

    def seekable(self):
        return False

    def seek(self, *_):
        raise io.UnsupportedOperation("seek")


@pytest.mark.parametrize("suffix", [".png", ".tif", ".webp", ".jpg"])
@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
def test_a_photo_is_the_same_from_a_path_bytes_or_an_open_file(tmp_path, random, suffix, dtype):
    path = tmp_path / f"a{suffix}"
    values = random.integers(0, np.iinfo(dtype).max, (300, 9, 4), dtype=dtype)
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = 6, "Camera"
    write_image(path, values[..., :3], {"alpha": values[..., 3:], "exif": exif.tobytes(), "dpi": (300.0, 300.0)})
    expected, extras = read_photo(path)
    assert expected.dtype == (dtype if suffix in (".png", ".tif") else "uint8")
    contents = path.read_bytes()
    with path.open("rb") as file:
        file.read(5)  # it is read from its beginning all the same
        for source in (
            str(path),
            contents,
            bytearray(contents),
            memoryview(contents),
            io.BytesIO(contents),
            Pipe(contents),
            file,
        ):
            image, others = read_photo(source)
            np.testing.assert_array_equal(image, expected)
            np.testing.assert_array_equal(others.pop("alpha", 0), extras.get("alpha", 0))
            assert others == {name: value for name, value in extras.items() if name != "alpha"}
        assert not file.closed


def test_a_compressed_tiff_of_16_bits_from_an_open_file(tmp_path, random):
    values = random.integers(0, 65536, (300, 9, 3), dtype="uint16")
    tifffile.imwrite(tmp_path / "a.tif", values, compression="zlib", photometric="rgb")
    with open(tmp_path / "a.tif", "rb") as file:
        np.testing.assert_array_equal(read_image(file), values)
    np.testing.assert_array_equal(read_image((tmp_path / "a.tif").read_bytes()), values)


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "RGBA", "LA", "La", "PA", "CMYK", "YCbCr", "HSV", "I;16", "I"])
def test_a_picture_of_any_mode_is_read_and_left_as_it_is(random, mode):
    picture = Image.fromarray(random.integers(0, 256, (7, 9, 4), dtype="uint8"))
    if mode in ("PA", "La"):
        picture = picture.convert("LA")
    picture = Image.fromarray(random.integers(0, 65536, (7, 9), dtype="uint16")) if mode.startswith("I") else picture
    picture = picture if picture.mode == mode else picture.convert(mode)
    picture.info["exif"] = b"Exif\0\0" + b"MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0"
    before = picture.tobytes()
    image, extras = read_photo(picture)
    assert (picture.size, picture.tobytes(), picture.getexif()[0x0112]) == ((9, 7), before, 6)
    if mode.startswith("I"):
        expected = np.repeat(np.asarray(picture)[..., None], 3, axis=-1).astype("uint16")
    else:
        expected = np.asarray((picture.convert("LA") if mode == "La" else picture).convert("RGBA"))
        np.testing.assert_array_equal(extras.get("alpha", np.full((9, 7, 1), 255)), upright(expected[..., 3:]))
    np.testing.assert_array_equal(image, upright(expected[..., :3]))
    assert "exif" not in extras


@pytest.mark.parametrize("suffix", ["png", "tif", "jpg", "webp"])
def test_an_opened_picture_has_what_its_file_holds(tmp_path, pixels, described, suffix):
    info = PngImagePlugin.PngInfo()
    info.add_text("Title", "Night")
    Image.fromarray(pixels).save(tmp_path / f"a.{suffix}", **described, pnginfo=info)
    image, extras = read_photo(tmp_path / f"a.{suffix}")
    with Image.open(tmp_path / f"a.{suffix}") as picture:
        same, others = read_photo(picture)
    np.testing.assert_array_equal(same, image)
    loaded, expected = Image.Exif(), Image.Exif()
    loaded.load(others.pop("exif"))
    expected.load(extras.pop("exif"))
    assert dict(loaded) == dict(expected)
    assert others == extras


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (b"", "The file is not an image in a format"),
        (saved("PNG")[:500], r"The file could not be read \(.*truncated"),
        (saved("BMP", Image.new("1", (20000, 13000))), "The file has 20000x13000 pixels, more than 250000000"),
        (frames("GIF"), "The file has 3 frames"),
        (Image.new("F", (4, 4)), "The picture holds floats of an unknown range"),
        (Image.new("LAB", (4, 4)), "The picture holds LAB colours"),
        (Image.fromarray(np.full((4, 4), 70000, "int32")), "The picture could not be read .* do not fit into 16 bits"),
    ],
)
def test_sources_without_a_name_are_refused_with_a_sentence(source, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        read_image(source)


def test_an_open_file_is_called_by_its_name(tmp_path):
    (tmp_path / "a.png").write_bytes(b"text")
    with open(tmp_path / "a.png", "rb") as file, pytest.raises(ValueError, match=f"^{tmp_path}/a.png is not an image"):
        read_image(file)


@pytest.mark.parametrize("source", [None, 3, np.zeros((4, 4, 3), "uint8")])
def test_what_is_no_source_is_a_mistake_of_the_caller(source):
    with pytest.raises(TypeError, match=f"Received {type(source).__name__}"):
        read_image(source)


WHOLE = {form: saved(form) for form in ("PNG", "JPEG", "WEBP", "BMP", "TIFF", "GIF")}
REFUSED = {  # name: content, and words of the message
    "empty.jpg": (b"", "is not an image"),
    "text.png": (b"not an image", "is not an image"),
    "page.jpg": (b"<html><body>404</body></html>", "is not an image"),
    "drawing.svg": (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "is not an image"),
    "archive.png": (b"PK\x03\x04" + bytes(60), "is not an image"),
    "document.jpg": (b"%PDF-1.7\n" + bytes(60), "is not an image"),
    "sound.webp": (b"RIFF\x24\0\0\0WAVEfmt " + bytes(40), "is not an image"),
    "film.jpg": (bytes(4) + b"ftypisom" + bytes(60), "is not an image"),
    "zeros.png": (bytes(1000), "is not an image"),
    "signature.png": (b"\x89PNG\r\n\x1a\n", "truncated"),
    "header.png": (WHOLE["PNG"][:33], "truncated"),
    "half.png": (WHOLE["PNG"][: len(WHOLE["PNG"]) // 2], "truncated"),
    "end.png": (WHOLE["PNG"][:-40], "truncated"),
    "checksum.png": (WHOLE["PNG"][:30] + bytes(3) + WHOLE["PNG"][33:], "checksum of its chunk IHDR"),
    "no_width.png": (png(width=0), "is not an image"),
    "no_height.png": (png(height=0), "is not an image"),
    "depth.png": (png(depth=3), "its header is damaged"),
    "half_16.png": (
        tf.io.encode_png(np.arange(9999, dtype="uint16").reshape(99, 101, 1)[:, :99].repeat(3, 2)).numpy()[:999],
        "truncated",
    ),
    "column.png": (png(width=1, height=200_000_000), "more pixels than a file of its size can hold"),
    "bomb.jpg": (announcing(WHOLE["JPEG"]), "15800x15800 pixels, more than a file of its size can hold"),
    "scans.jpg": (scans(saved("JPEG", progressive=True), 300), "more scans than any encoder writes"),
    "bomb.gif": (WHOLE["GIF"][:6] + struct.pack("<HH", 9999, 9999) + WHOLE["GIF"][10:], "than a file of its size can hold"),
    "drawing.png": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n", "is not an image"),
    "bomb.ico": (icon(png(width=60000, height=60000)), "60000x60000 pixels, which is no icon"),
    "data.png": (png(data=bytes(14) + random_bytes(70_000)), "more data than its pixels need"),
    "chunks.png": (png(before=PNG_CHUNK * 11_000), "too many chunks"),
    "header_inside.bmp": (WHOLE["BMP"][:10] + struct.pack("<I", 20) + WHOLE["BMP"][14:], "begin inside its header"),
    "animation.png": (frames("PNG"), "3 frames"),
    "high_range.png": (png(before=chunk(b"cICP", bytes([9, 16, 0, 1]))), "holds colours of a high dynamic range (PQ or HLG)"),
    "bomb.png": (png(width=60000, height=60000), "more pixels than a file of its size can hold"),
    "bomb_16.png": (png(width=60000, height=60000, depth=16), "more pixels than a file of its size can hold"),
    "start.jpg": (b"\xff\xd8", "is not an image"),
    "half.jpg": (WHOLE["JPEG"][: len(WHOLE["JPEG"]) // 2], "truncated"),
    "header.jpg": (WHOLE["JPEG"][:200], "may be damaged"),
    "noise.jpg": (b"\xff\xd8\xff\xe0" + bytes(range(256)), "is not an image"),
    "half.webp": (WHOLE["WEBP"][: len(WHOLE["WEBP"]) // 2], "may be damaged"),
    "header.webp": (WHOLE["WEBP"][:16], "may be damaged"),
    "animation.webp": (frames("WEBP"), "3 frames"),
    "half.bmp": (WHOLE["BMP"][: len(WHOLE["BMP"]) // 2], "truncated"),
    "header.bmp": (WHOLE["BMP"][:14], "is not an image"),
    "no_width.bmp": (WHOLE["BMP"][:18] + bytes(4) + WHOLE["BMP"][22:], "is not an image"),
    "bomb.bmp": (WHOLE["BMP"][:18] + struct.pack("<ii", 99999, 99999) + WHOLE["BMP"][26:], "raise max_pixels"),
    "half.tif": (WHOLE["TIFF"][: len(WHOLE["TIFF"]) // 2], "may be damaged"),
    "header.tif": (WHOLE["TIFF"][:8], "is a TIFF that is damaged, or of a rare kind"),
    "floats_rgb.tif": (tiff(np.zeros((4, 5, 3), "float32"), photometric="rgb"), "is a TIFF that is damaged, or of a rare kind"),
    "floats.tif": (saved("TIFF", np.full((4, 4), 0.5, "float32")), "floats of an unknown range"),
    "wide.tif": (saved("TIFF", np.full((4, 4), 70000, "int32")), "from 70000 to 70000 do not fit into 16 bits"),
    "signed.tif": (tiff(np.full((4, 4), -3, "int16")), "from -3 to -3 do not fit"),
    "lab.tif": (saved("TIFF", Image.new("LAB", (4, 4))), "LAB colours"),
    "planes.tif": (tiff(np.zeros((3, 4, 5), "uint16"), photometric="rgb", planarconfig="separate"), "rare kind"),
    "white_is_zero.tif": (tiff(np.zeros((4, 5), "uint16"), photometric="miniswhite"), "rare kind"),
    "pages.tif": (frames("TIFF"), "3 frames or pages"),
    "animation.gif": (frames("GIF"), "3 frames"),
    "half.gif": (WHOLE["GIF"][: len(WHOLE["GIF"]) // 2], "truncated"),
    "header.gif": (b"GIF89a", "is not an image"),
    "folder.png": (None, "is a folder. Expected a photo"),
    "missing.png": (..., "is not a file"),
}


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
@pytest.mark.parametrize("name", REFUSED)
def test_a_file_that_is_no_good_picture_is_refused_with_a_sentence(tmp_path, capsys, name):
    content, words = REFUSED[name]
    path = tmp_path / name
    if content is None:
        path.mkdir()
    elif content is not ...:
        path.write_bytes(content)
    before = sorted(tmp_path.iterdir())
    with pytest.raises((ValueError, FileNotFoundError)) as caught:
        read_image(path)
    message = str(caught.value)
    assert message.startswith(str(path))
    assert words in message
    if not path.is_dir():
        assert main(["enhance", str(path), str(tmp_path / "out.png")]) == 2
        assert capsys.readouterr().err == f"retinex: {message}\n"
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize(
    ("image", "words"),
    [
        (np.zeros(4, "uint8"), r"shape \(4,\)"),
        (np.zeros((4, 4, 5), "uint8"), r"shape \(4, 4, 5\)"),
        (np.zeros((1, 1, 4, 4, 3), "uint8"), r"shape \(1, 1, 4, 4, 3\)"),
        (np.zeros((0, 4, 3), "uint8"), r"shape \(0, 4, 3\)"),
        (np.zeros((4, 4, 3), "int64"), "Received int64"),
        (np.zeros((4, 4, 3), "uint32"), "Received uint32"),
        (np.zeros((4, 4, 3), bool), "Received bool"),
        (np.zeros((4, 4, 3), complex), "Received complex128"),
        (np.full((4, 4, 3), np.nan), "NaN|nan"),
        (np.array([[["a", "b", "c"]]]), "Received <U1"),
        (np.array([[[None, 1, 2]]]), "Received object"),
    ],
)
def test_an_array_that_is_no_picture_is_refused_with_a_sentence(tmp_path, image, words):
    for call in (lambda: write_image(tmp_path / "a.png", image), lambda: enhance(image)):
        with pytest.raises(ValueError, match=words) as caught:
            call()
        assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda path: write_image(path / "a.jpg", np.zeros((2, 2, 3)), quality=0), "from 1 to 100. Received 0"),
        (lambda path: write_image(path / "a.webp", np.zeros((2, 2, 3)), quality=101), "from 1 to 100. Received 101"),
        (lambda path: write_image(path / "a.webp", np.zeros((1, 20000, 3))), "ends at 16383 pixels a side"),
        (lambda path: write_image(path / "a.jpg", np.zeros((70000, 1, 3))), "ends at 65500 pixels a side"),
        (lambda path: write_image(path / "a.png", np.zeros((2, 2, 3)), {"alpha": np.zeros((3, 2, 1))}), "does not fit"),
    ],
)
def test_what_a_format_cannot_hold_is_refused_with_a_sentence(tmp_path, call, words):
    with pytest.raises(ValueError, match=words):
        call(tmp_path)
    assert not list(tmp_path.iterdir())


def test_the_limit_of_pixels_can_be_chosen(tmp_path, pixels):
    write_image(tmp_path / "a.png", pixels)
    assert read_image(tmp_path / "a.png", max_pixels=63).shape == pixels.shape
    with pytest.raises(ValueError, match="has 9x7 pixels, more than 62"):
        read_image(tmp_path / "a.png", max_pixels=62)
    with pytest.raises(ValueError, match="The picture has 9x7 pixels, more than 62"):
        read_image(Image.fromarray(pixels), max_pixels=62)
    assert main(["enhance", str(tmp_path / "a.png"), str(tmp_path / "b.png"), "--max-pixels", "62"]) == 2


@pytest.mark.parametrize("suffix", [".png", ".tif", ".jpg", ".webp", ".gif"])
def test_the_limit_of_pillow_does_not_count(tmp_path, pixels, monkeypatch, suffix):
    Image.fromarray(pixels).save(tmp_path / f"a{suffix}")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    assert read_image(tmp_path / f"a{suffix}").shape == pixels.shape
    assert Image.MAX_IMAGE_PIXELS == 10


@pytest.mark.parametrize(
    ("form", "mode", "options"),
    [
        ("PNG", "1", {"optimize": True}),
        ("PNG", "RGB", {"optimize": True}),
        ("GIF", "1", {}),
        ("JPEG", "L", {"quality": 1, "optimize": True}),
        ("JPEG", "RGB", {"quality": 1, "progressive": True}),
        ("WEBP", "RGB", {"lossless": True}),
        ("TIFF", "1", {"compression": "tiff_lzw"}),
        ("TIFF", "L", {"compression": "tiff_lzw"}),
        ("TIFF", "1", {"compression": "tiff_adobe_deflate"}),
        ("TIFF", "1", {"compression": "packbits"}),
        ("TIFF", "1", {"compression": "group4"}),
        ("BMP", "1", {}),
        ("JPEG2000", "RGB", {}),
        ("TGA", "L", {"compression": "tga_rle"}),
    ],
)
@pytest.mark.parametrize("colour", ["black", "white"])
def test_a_plain_picture_in_a_small_file_is_read(form, mode, options, colour):
    picture = Image.new(mode, (2000, 1500), colour)
    image = read_image(saved(form, picture, **options))
    assert abs(image.astype("int16") - (255 if colour == "white" else 0)).max() <= 1


ROW = b"\0" + bytes(range(1, 25))  # eight pixels; zeros are what Pillow leaves where rows are missing
ADAM7 = b"".join(
    rows * (b"\0" + columns * b"\1\2\3") for rows, columns in [(1, 1), (1, 1), (1, 2), (2, 2), (2, 4), (4, 4), (4, 8)]
)


@pytest.mark.parametrize(
    ("options", "data"),
    [
        ({}, 8 * ROW),
        ({}, 4 * ROW + bytes(100)),
        ({"depth": 16, "width": 4}, 8 * ROW),
        ({"depth": 16, "width": 4}, bytes(200)),
        ({"interlace": 1}, ADAM7),
    ],
)
def test_a_png_without_all_its_rows_is_refused(options, data):
    options = {"width": 8, "height": 8} | options
    assert read_image(png(**options, data=data)).shape == (8, options["width"], 3)
    for part in (data[: len(data) // 2], data[:-1]):
        with pytest.raises(ValueError, match=r"its data ends before its last row|is truncated"):
            read_image(png(**options, data=part))


def test_100_megapixels_are_taken_by_default(tmp_path):
    Image.new("L", (12000, 8400)).save(tmp_path / "a.png")
    assert read_image(tmp_path / "a.png").shape == (8400, 12000, 3)


def test_the_further_pictures_in_a_phones_jpeg_do_not_matter(tmp_path, pixels):
    pictures = [Image.fromarray(pixels), Image.new("RGB", (2, 2))]
    pictures[0].save(tmp_path / "a.jpg", "MPO", save_all=True, append_images=pictures[1:])
    assert header(tmp_path / "a.jpg")[0] == "MPO"
    assert read_image(tmp_path / "a.jpg").shape == pixels.shape


JUNK = [
    b"junk",
    b"Exif\0\0junk",
    b"Exif\0\0II*\0",
    b"Exif\0\0MM\0*\0\0\0\x08\xff\xff",
    b"Exif\0\0II*\0\x08\0\0\0\1\0" + bytes(4),
]


@pytest.mark.parametrize("form", ["PNG", "WEBP", "JPEG"])
@pytest.mark.parametrize("exif", JUNK)
@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
def test_junk_for_exif_is_no_reason_to_refuse_a_picture(pixels, form, exif):
    options = {"lossless": True} if form == "WEBP" else {}
    expected = read_image(saved(form, pixels, **options))
    contents = saved(form, pixels, exif=exif, **options)
    np.testing.assert_array_equal(read_image(contents), expected)
    with Image.open(io.BytesIO(contents)) as picture:
        np.testing.assert_array_equal(read_image(picture), expected)


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
def test_the_orientation_in_damaged_exif_counts(pixels):
    entries = b"\x01\x0f\0\2\0\xff\0\0\0\0\xff\xff" + b"\x01\x12\0\3\0\0\0\1\0\6\0\0"  # a maker of 16 MB
    exif = b"Exif\0\0MM\0*\0\0\0\x08\0\x02" + entries
    np.testing.assert_array_equal(read_image(saved("PNG", pixels, exif=exif)), upright(pixels))


BOMB = zlib.compress(bytes(3_000_000))


@pytest.mark.parametrize(
    "damaged",
    [
        chunk(b"tRNS", b"\1"),
        chunk(b"tRNS", bytes(300)),
        chunk(b"iCCP", b"a\0\0" + BOMB),
        chunk(b"iCCP", b"a\0\7"),
        chunk(b"zTXt", b"a\0\0" + BOMB),
        chunk(b"iTXt", b"a\0\1\0\0\0" + BOMB),
        chunk(b"pHYs", b"\1"),
        chunk(b"sRGB"),
        chunk(b"tEXt", b"a\0b")[:-1] + b"\0",  # a wrong checksum
        chunk(b"tEXt", b"interlace\0yes"),
        chunk(b"tEXt", b"transparency\0yes"),
        chunk(b"tEXt", b"bbox\0yes"),
        chunk(b"tEXt", b"dpi\x0072"),
        chunk(b"tEXt", b"xmp\0yes"),
        chunk(b"tEXt", b"nclx_profile\0yes"),
    ],
)
def test_damaged_metadata_of_a_png_is_left_out(damaged):
    data, good = b"".join(b"\0" + random_bytes(24) for _ in range(8)), chunk(b"tEXt", b"Title\0Night")
    expected = read_image(png(8, 8, data=data))
    for place in ("before", "after"):
        image, extras = read_photo(png(8, 8, data=data, **{place: damaged + good}))
        np.testing.assert_array_equal(image, expected)
        assert extras == {"text": {"Title": "Night"}}


def test_a_pipe_is_refused_at_once(tmp_path):
    os.mkfifo(tmp_path / "a.png")
    with pytest.raises(ValueError, match=r"a.png is a pipe, a socket or a device"):
        read_image(tmp_path / "a.png")
    with pytest.raises(ValueError, match=r"/dev/zero is a pipe, a socket or a device"):
        read_image("/dev/zero")


def test_libtiff_prints_nothing(capfd):
    contents = tiff(np.zeros((40, 40, 3), "uint8"), compression="zlib", photometric="rgb")
    place = contents.index(b"x\x9c") if b"x\x9c" in contents else contents.index(b"x\xda")
    with pytest.raises(ValueError, match="may be damaged"):
        read_image(contents[:place] + b"junkjunk" + contents[place + 8 :])
    assert capfd.readouterr().err == ""


def test_a_bmp_of_8_bits_may_be_black_and_white():
    picture = Image.new("P", (9, 7))
    picture.putpalette(b"\0\0\0\xff\xff\xff")
    picture.putpixel((3, 4), 1)
    image = read_image(saved("BMP", picture))
    assert np.argwhere(image).tolist() == [[4, 3, channel] for channel in range(3)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("fuzz")


SUFFIXES = st.sampled_from([".png", ".jpg", ".webp", ".bmp", ".tif"])
FUZZ = settings(deadline=None, max_examples=60, derandomize=True, database=None)


@FUZZ
@given(
    suffix=SUFFIXES,
    mode=st.sampled_from(["1", "L", "P", "RGB", "RGBA", "LA", "PA", "CMYK", "YCbCr", "LAB", "HSV", "I;16", "I;16B", "I", "F"]),
    size=st.tuples(st.integers(1, 20), st.integers(1, 20)),
    orientation=st.integers(1, 8),
    seed=st.integers(0, 9),
)
def test_what_pillow_saves_comes_back_or_is_refused(folder, suffix, mode, size, orientation, seed):
    path = folder / f"a{suffix}"
    random = np.random.default_rng(seed)
    pixels = random.integers(0, 256, (*size, 3), dtype="uint8")
    picture = Image.fromarray(pixels if mode[0] not in "IF" else pixels[..., 0].astype({"I": "int32", "F": "float32"}[mode[0]]))
    picture = picture.convert("I" if mode.startswith("I") else "RGB" if mode in ("LAB", "PA") else mode)
    picture = picture.convert("L").convert(mode) if mode == "PA" else picture
    if mode.startswith("I;"):
        picture = Image.frombytes(mode, size[::-1], pixels[..., :2].tobytes())
    elif mode == "LAB":
        picture = Image.frombytes("LAB", size[::-1], pixels.tobytes())
    exif = Image.Exif()
    exif[0x0112] = orientation
    try:
        picture.save(path, exif=exif, **({"lossless": True, "exact": True} if suffix == ".webp" else {}))
    except (OSError, KeyError):  # Pillow cannot save this mode in this format
        return
    if header(path)[1] in ("LAB", "F"):
        with pytest.raises(ValueError, match="LAB|floats"):
            read_photo(path)
        return
    image, extras = read_photo(path)
    is_16_bit = header(path)[1].startswith("I")
    turned = size[::-1] if orientation > 4 and suffix != ".bmp" else size
    assert image.shape == (*turned, 3)
    assert image.dtype == ("uint16" if is_16_bit else "uint8")
    assert "exif" not in extras
    if suffix == ".jpg":
        return
    with Image.open(io.BytesIO(path.read_bytes())) as file:  # of a path, Pillow turns some TIFF wrongly
        transposed = ImageOps.exif_transpose(file)
        expected = np.asarray(transposed if is_16_bit else transposed.convert("RGBA"))
    if is_16_bit:
        np.testing.assert_array_equal(image, np.repeat(expected[..., None], 3, axis=-1))
    else:
        np.testing.assert_array_equal(image, expected[..., :3])
        np.testing.assert_array_equal(extras.get("alpha", np.full((*turned, 1), 255)), expected[..., 3:])


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
@FUZZ
@given(
    suffix=SUFFIXES,
    cut=st.floats(0, 1),
    changes=st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), max_size=4),
)
def test_a_damaged_file_is_read_or_refused_with_a_sentence(folder, suffix, cut, changes):
    path = folder / f"a{suffix}"
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = 6, "Camera"
    write_image(path, np.random.default_rng(0).integers(0, 65536, (9, 8, 3), dtype="uint16"), {"exif": exif.tobytes()})
    data = bytearray(path.read_bytes())
    data = data[: len(data) if cut > 0.5 else round(2 * cut * len(data))]
    for place, value in changes if data else ():
        data[int(place * len(data))] = value
    path.write_bytes(data)
    try:
        image, extras = read_photo(path)
    except ValueError as error:
        message = str(error)
    else:
        message = f"{path} is good"
        for target in ("b.png", "b.jpg", "b.tif"):
            write_image(path.with_name(target), image, extras)
    assert message.startswith(f"{path} ")
    assert "\n" not in message
