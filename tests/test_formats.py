"""Files of phones and cameras: HEIF, raw files and AVIF, all made here."""

import importlib.util
import io
import sys

import numpy as np
import pytest
import tifffile
from PIL import Image, ImageCms

from retinex_keras.cli import main
from retinex_keras.folders.run import enhance_folder
from retinex_keras.imaging import cameras
from retinex_keras.imaging.read import is_image_name, list_images, read_image, read_photo
from retinex_keras.imaging.write import write_image
from retinex_keras.inference import enhance

EXTRA = {package: importlib.util.find_spec(package) for package in ("pillow_heif", "rawpy")}
with_heif = pytest.mark.skipif(not EXTRA["pillow_heif"], reason="pillow-heif is not installed: the extra formats")
with_raw = pytest.mark.skipif(not EXTRA["rawpy"], reason="rawpy is not installed: the extra formats")
with_avif = pytest.mark.skipif(not cameras.has_avif(), reason="this Pillow has no AVIF")
QUARTERS = np.array([[[0.5, 0.1, 0.1], [0.1, 0.1, 0.5]], [[0.1, 0.5, 0.1], [0.02, 0.02, 0.02]]])  # linear colours
NEUTRAL = (0.5, 1.0, 0.8)  # what the camera saw of something white
FROM_XYZ = np.array([[3.2404542, -1.5371385, -0.4985314], [-0.969266, 1.8760108, 0.041556], [0.0556434, -0.2040259, 1.0572252]])


def fractions(*values):
    return [part for value in values for part in (round(10000 * value), 10000)]


def srgb(linear):
    """IEC 61966-2-1, of values above 0.0031."""
    return 1.055 * linear ** (1 / 2.4) - 0.055


def dng(orientation=1, preview=False, version=True, size=(64, 96)):
    """A DNG of four quarters by a camera whose colours are those of sRGB, behind filters that let through `NEUTRAL`."""
    values = np.kron(QUARTERS, np.ones((size[0] // 2, size[1] // 2, 1))) * NEUTRAL * 65535
    mosaic = np.empty(size)
    for channel, row, column in ((0, 0, 0), (1, 0, 1), (1, 1, 0), (2, 1, 1)):
        mosaic[row::2, column::2] = values[row::2, column::2, channel]
    tags = [(33421, "H", 2, (2, 2)), (33422, "B", 4, (0, 1, 1, 2)), (50717, "I", 1, 65535)]  # the mosaic and its white
    colours = np.diag(NEUTRAL) @ FROM_XYZ
    shared = [(271, "s", 0, "Maker"), (272, "s", 0, "Model"), (50708, "s", 0, "Maker Model"), (274, "H", 1, orientation)]
    shared += [(50721, "2i", 9, fractions(*colours.ravel())), (50778, "H", 1, 21), (50728, "2I", 3, fractions(*NEUTRAL))]
    shared += [(50706, "B", 4, (1, 4, 0, 0)), (700, "B", 4, b"<x/>")] if version else []
    file = io.BytesIO()
    options = {"metadata": None, "software": False}
    with tifffile.TiffWriter(file) as writer:
        if preview:
            small = np.full((16, 24, 3), 255, "uint8")
            writer.write(small, photometric="rgb", subifds=1, subfiletype=1, extratags=[(*t, True) for t in shared], **options)
            shared = []
        extratags = [(*tag, True) for tag in tags + shared]
        writer.write(np.round(mosaic).astype("uint16"), photometric=32803, subfiletype=0, extratags=extratags, **options)
    return file.getvalue()


def gradient(mode="RGB"):
    rows, columns = np.mgrid[:64, :96]
    return Image.fromarray(np.stack([columns * 2, rows * 3, 0 * rows + 30], -1).astype("uint8")).convert(mode)


def heic(*pictures, quality=90, **options):
    import pillow_heif

    heif = pillow_heif.from_pillow(pictures[0])
    for picture in pictures[1:]:
        heif.add_from_pillow(picture)
    file = io.BytesIO()
    heif.save(file, quality=quality, **options)
    return file.getvalue()


def deep_heic(value=65535):
    import pillow_heif

    file = io.BytesIO()
    pillow_heif.from_bytes("RGB;16", (96, 64), np.full((64, 96, 3), value, "uint16").tobytes()).save(file, quality=-1)
    return file.getvalue()


def avif(picture=None, **options):
    file = io.BytesIO()
    (picture or gradient()).save(file, "AVIF", **options)
    return file.getvalue()


def form_of(path):
    with Image.open(path) as file:
        return file.format


@pytest.fixture
def described():
    """EXIF that asks to be turned by 90 degrees clockwise, a colour profile, and XMP."""
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = 6, "Camera"
    exif.get_ifd(0x8769)[0x829A] = 0.125  # exposure
    icc = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    return {"exif": exif.tobytes(), "icc_profile": icc, "xmp": b"<x:xmpmeta/>"}


@pytest.mark.parametrize("form", [pytest.param("heic", marks=with_heif), pytest.param("avif", marks=with_avif)])
def test_a_photo_of_a_phone_is_read_upright_with_its_metadata(tmp_path, described, form):
    contents = heic(gradient(), **described) if form == "heic" else avif(quality=95, **described)
    path = tmp_path / f"a.{form}"
    path.write_bytes(contents)
    image, extras = read_photo(path)
    upright = np.rot90(np.asarray(gradient()), -1).astype(int)
    assert image.shape == upright.shape
    assert image.dtype == np.uint8
    assert np.abs(image - upright).max() <= 12  # a lossy code
    assert {name: extras[name] for name in ("icc_profile", "xmp")} == {name: described[name] for name in ("icc_profile", "xmp")}
    exif = Image.Exif()
    exif.load(extras["exif"])
    assert (dict(exif)[0x010F], exif.get_ifd(0x8769)[0x829A], 0x0112 in exif) == ("Camera", 0.125, False)
    with open(path, "rb") as file:
        for source in (contents, file):
            np.testing.assert_array_equal(read_image(source), image)
        assert not file.closed


@with_heif
@pytest.mark.parametrize("mode", ["L", "RGBA"])
def test_grey_and_alpha_in_heif(mode):
    image, extras = read_photo(heic(gradient(mode), quality=-1))
    expected = np.asarray(gradient(mode))
    assert image.shape == (64, 96, 3)
    assert np.abs(image.astype(int) - np.asarray(gradient(mode).convert("RGB"))).max() <= 3
    assert set(extras) == ({"alpha"} if mode == "RGBA" else set())
    if mode == "RGBA":
        np.testing.assert_array_equal(extras["alpha"], expected[..., 3:])


@with_heif
def test_heif_of_10_bits_gives_16_and_white_is_white():
    for value in (0, 65535):
        image, extras = read_photo(deep_heic(value))
        assert image.dtype == np.uint16
        assert (image == value).all()
        assert extras == {}
    values = np.unique(read_image(deep_heic(30000)))
    assert np.abs(values.astype(int) - 30000).max() <= 2 * 65535 / 1023


@with_heif
def test_of_several_pictures_the_primary_one_is_read():
    other = gradient().transpose(Image.Transpose.FLIP_TOP_BOTTOM)
    image = read_image(heic(gradient(), other, primary_index=1))
    assert np.abs(image.astype(int) - np.asarray(other)).max() <= 12


@with_heif
def test_colours_of_a_high_range_are_refused():
    hdr = heic(gradient(), color_primaries=9, transfer_characteristics=16, matrix_coefficients=9, full_range_flag=1)
    with pytest.raises(ValueError, match=r"^The file holds colours of a high dynamic range \(PQ or HLG\): save it as RGB"):
        read_photo(hdr)


@with_raw
@pytest.mark.parametrize(("orientation", "turns"), [(1, 0), (3, 2), (6, -1), (8, 1)])
def test_a_raw_file_is_developed_upright_with_the_cameras_white_balance(tmp_path, orientation, turns):
    contents = dng(orientation)
    (tmp_path / "a.dng").write_bytes(contents)
    image, extras = read_photo(tmp_path / "a.dng")
    assert image.dtype == np.uint16
    assert image.shape == ((64, 96, 3) if turns % 2 == 0 else (96, 64, 3))
    turned_back = np.rot90(image, -turns) / 65535
    np.testing.assert_allclose(turned_back[16::32, 24::48], srgb(QUARTERS), atol=0.005)  # which is not brightened
    assert set(extras) == {"exif"}
    exif = Image.Exif()
    exif.load(extras["exif"])
    assert dict(exif) == {271: "Maker", 272: "Model"}
    (tmp_path / "b.tif").write_bytes(contents)
    with open(tmp_path / "b.tif", "rb") as file:  # no name tells of it
        for source in (contents, file):
            np.testing.assert_array_equal(read_image(source), image)


@with_raw
@pytest.mark.parametrize("name", ["a.dng", "a.tif"])
def test_the_preview_of_a_raw_file_is_not_taken_for_it(tmp_path, name):
    (tmp_path / name).write_bytes(dng(preview=True))
    with Image.open(tmp_path / name) as file:
        assert file.size == (24, 16)  # what Pillow takes it for
    assert read_image(tmp_path / name).shape == (64, 96, 3)
    (tmp_path / name).write_bytes(dng(preview=True, version=False))  # as other makers' files are
    assert read_image(tmp_path / name).shape == (64, 96, 3)


@with_raw
def test_metadata_of_a_raw_file_goes_into_the_result(tmp_path):
    image, extras = read_photo(dng())
    for suffix in (".jpg", ".png", ".tif"):
        write_image(tmp_path / f"a{suffix}", image, extras)
        again, others = read_photo(tmp_path / f"a{suffix}")
        assert others["exif"] == extras["exif"]
        assert again.dtype == (np.uint8 if suffix == ".jpg" else np.uint16)


def test_a_plain_tiff_is_no_raw_file(tmp_path):
    picture = np.full((6, 8, 3), 1000, "uint16")
    with tifffile.TiffWriter(tmp_path / "a.tif") as writer:
        writer.write(picture, photometric="rgb", subifds=1, metadata=None)
        writer.write(picture[::2, ::2] // 256, photometric="rgb", subfiletype=1, metadata=None)
    np.testing.assert_array_equal(read_image(tmp_path / "a.tif"), picture)


@pytest.mark.parametrize(
    ("name", "make"),
    [
        pytest.param("a.heic", lambda: heic(gradient()), marks=with_heif),
        pytest.param("a.dng", dng, marks=with_raw),
        pytest.param("a.avif", avif, marks=with_avif),
    ],
)
def test_damaged_and_large_files_get_a_sentence(tmp_path, name, make):
    contents, path = make(), tmp_path / name
    path.write_bytes(contents)
    with pytest.raises(ValueError, match=rf"{name} has 96x64 pixels, more than 6143"):
        read_photo(path, max_pixels=96 * 64 - 1)
    for damaged in (contents[: len(contents) // 2], contents[:40], contents[:40] + bytes(len(contents))):
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match=rf"{name} (could not be read|is not an image)") as error:
            read_photo(path)
        assert "\n" not in str(error.value)
        assert "b'" not in str(error.value)


@with_heif
def test_without_the_extra_the_sentence_names_it(tmp_path, capsys, monkeypatch):
    contents = {"a.heic": heic(gradient()), "b.dng": dng(), "c.cr2": b"II*\0\x10\0\0\0CR\2\0" + bytes(99)}
    for package in EXTRA:
        monkeypatch.setitem(sys.modules, package, None)
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
        assert main(["enhance", str(tmp_path / name), str(tmp_path / "out.png")]) == 2
        kind = "HEIF" if name == "a.heic" else "raw"
        message = f"{tmp_path / name} is a {kind} file, which needs the extra formats: pip install '.[formats]' in"
        assert message in capsys.readouterr().err
        assert not is_image_name(name)
        with pytest.raises(ValueError, match="The file is a"):
            read_photo(content)
    assert cameras.readable_suffixes() == frozenset()


def test_a_pillow_without_avif_is_named(tmp_path, monkeypatch):
    (tmp_path / "a.avif").write_bytes(b"\0\0\0\x1cftypavif\0\0\0\0avifmif1miaf")
    Image.init()
    for formats in (Image.SAVE, Image.OPEN):
        monkeypatch.delitem(formats, "AVIF", raising=False)
    with pytest.raises(ValueError, match=r"a.avif is an AVIF, which this Pillow cannot read: pip install 'pillow>=11.3'\.$"):
        read_photo(tmp_path / "a.avif")
    with pytest.raises(ValueError, match=r"b.avif: this Pillow cannot write AVIF: pip install 'pillow>=11.3', or write a .png"):
        write_image(tmp_path / "b.avif", np.zeros((4, 4, 3)))


@with_avif
def test_avif_is_written_by_its_quality(tmp_path, random):
    noise = random.integers(0, 256, (64, 96, 3), dtype="uint8")
    sizes = []
    for quality in (20, 90):
        write_image(tmp_path / "a.avif", noise, quality=quality)
        sizes.append((tmp_path / "a.avif").stat().st_size)
    assert 2 * sizes[0] < sizes[1]
    assert form_of(tmp_path / "a.avif") == "AVIF"
    write_image(tmp_path / "a.avif", np.full((8, 8, 3), [257, 30000, 65535], "uint16"))
    assert np.abs(read_image(tmp_path / "a.avif")[0, 0] - [1, 117, 255]).max() <= 2
    with pytest.raises(ValueError, match="a.avif: its format ends at 32768 pixels a side"):
        write_image(tmp_path / "a.avif", np.zeros((1, 32769, 3), "uint8"))


@with_avif
def test_metadata_and_alpha_go_into_avif(tmp_path, described):
    gradient().save(tmp_path / "a.png", **{name: described[name] for name in ("exif", "icc_profile")})
    image, extras = read_photo(tmp_path / "a.png")
    extras |= {"alpha": np.tile(np.arange(0, 192, 3, "uint8")[None, :, None], (96, 1, 1)), "xmp": b"<x/>", "comment": b"c"}
    write_image(tmp_path / "a.avif", image, extras)
    again, others = read_photo(tmp_path / "a.avif")
    assert again.shape == image.shape == (96, 64, 3)
    assert {name: others[name] for name in ("exif", "icc_profile", "xmp")} == {
        name: extras[name] for name in ("exif", "icc_profile", "xmp")
    }
    assert np.abs(others["alpha"].astype(int) - extras["alpha"]).max() <= 6


@with_avif
@pytest.mark.parametrize("transfer", [16, 18])
def test_colours_of_a_high_range_in_avif_are_refused(transfer):
    contents = avif(gradient())
    at = contents.index(b"colrnclx") + 10
    with pytest.raises(ValueError, match="holds colours of a high dynamic range"):
        read_photo(contents[:at] + transfer.to_bytes(2) + contents[at + 2 :])


@with_avif
def test_animations_in_avif_are_refused():
    pictures = [Image.new("RGB", (8, 8), (shade, 0, 99)) for shade in (0, 120, 240)]
    with pytest.raises(ValueError, match="has 3 frames"):
        read_photo(avif(pictures[0], save_all=True, append_images=pictures[1:]))


@with_heif
@with_raw
@with_avif
def test_a_folder_of_a_phone_and_a_camera(tmp_path, tiny):
    folder = tmp_path / "photos"
    folder.mkdir()
    for name, contents in (("IMG.HEIC", heic(gradient())), ("b.dng", dng(6)), ("c.avif", avif()), ("d.cr3", b"no photo")):
        (folder / name).write_bytes(contents)
    assert [path.name for path in list_images(folder)] == ["IMG.HEIC", "b.dng", "c.avif", "d.cr3"]
    made, _, bad, _ = enhance_folder(folder, tmp_path / "out", tiny)
    assert [path.name for path in made] == ["IMG.HEIC.png", "b.dng.png", "c.avif"]
    assert [path.name for path, _ in bad] == ["d.cr3"]
    for name in ("IMG.HEIC", "b.dng"):
        np.testing.assert_array_equal(read_image(tmp_path / "out" / f"{name}.png"), enhance(folder / name, tiny))
    result = read_image(tmp_path / "out" / "b.dng.png")
    assert (result.shape, result.dtype) == ((96, 64, 3), np.uint16)
    assert form_of(tmp_path / "out" / "c.avif") == "AVIF"
