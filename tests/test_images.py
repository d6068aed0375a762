import numpy as np
import pytest
from PIL import Image

from retinex_keras.images import read_image, to_float, to_uint8, whole_file, write_image


@pytest.fixture
def pixels(random):
    return random.integers(0, 256, (7, 9, 3), dtype="uint8")


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
    np.testing.assert_array_equal(read_image(tmp_path / "a.png"), np.rot90(pixels, -1))


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "LA", "1", "CMYK"])
def test_other_modes_become_rgb(tmp_path, pixels, mode):
    path = tmp_path / ("a.tif" if mode == "CMYK" else "a.png")
    Image.fromarray(pixels).convert(mode).save(path)
    image = read_image(path)
    assert image.shape == pixels.shape
    assert image.dtype == np.uint8


def test_16_bit_grey_keeps_its_depth(tmp_path):
    grey = np.array([[0, 257, 1000], [30000, 65535, 2]], "uint16")
    Image.fromarray(grey).save(tmp_path / "a.png")
    image = read_image(tmp_path / "a.png")
    np.testing.assert_array_equal(image, np.repeat(grey[..., None], 3, axis=-1))
    assert to_float(image).max() == 1.0
    np.testing.assert_array_equal(to_uint8(image)[..., 0], [[0, 1, 4], [117, 255, 0]])


def test_rounding_not_truncation():
    np.testing.assert_array_equal(to_uint8(np.array([-1, 0.4999, 127.6 / 255, 2])), [0, 127, 128, 255])


def test_a_palette_with_transparency_becomes_rgb(tmp_path, pixels):
    Image.fromarray(pixels).quantize(8).save(tmp_path / "a.png", transparency=b"\0\x80")
    assert read_image(tmp_path / "a.png").shape == pixels.shape


def test_floats_are_refused(tmp_path):
    Image.fromarray(np.full((4, 4), 0.5, "float32")).save(tmp_path / "a.tif")
    with pytest.raises(ValueError, match="a.tif could not be read .*floats"):
        read_image(tmp_path / "a.tif")


@pytest.mark.parametrize("content", [b"", b"not an image", b"\x89PNG\r\n\x1a\n"])
def test_not_an_image(tmp_path, content):
    (tmp_path / "a.png").write_bytes(content)
    with pytest.raises(ValueError, match="a.png"):
        read_image(tmp_path / "a.png")


def test_truncated(tmp_path, random):
    Image.fromarray(random.integers(0, 256, (64, 64, 3), dtype="uint8")).save(tmp_path / "a.jpg")
    whole = (tmp_path / "a.jpg").read_bytes()
    (tmp_path / "a.jpg").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match="a.jpg could not be read .*truncated"):
        read_image(tmp_path / "a.jpg")


def test_decompression_bomb(tmp_path, monkeypatch, pixels):
    Image.fromarray(pixels).save(tmp_path / "a.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 30)
    with pytest.raises(ValueError, match="a.png could not be read .*bomb"):
        read_image(tmp_path / "a.png")


@pytest.mark.parametrize("path", ["missing.png", "."])
def test_no_file(tmp_path, path):
    with pytest.raises(FileNotFoundError, match="is not a file"):
        read_image(tmp_path / path)


@pytest.mark.parametrize("name", ["a", "a.xyz", "a.mp4"])
def test_unknown_suffix_is_refused_and_nothing_written(tmp_path, pixels, name):
    with pytest.raises(ValueError, match="suffix decides the format"):
        write_image(tmp_path / name, pixels)
    assert not list(tmp_path.iterdir())


def test_a_file_appears_whole_or_not_at_all(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("before")
    with pytest.raises(RuntimeError), whole_file(path) as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert path.read_text() == "before"
    assert list(tmp_path.iterdir()) == [path]
