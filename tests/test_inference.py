import io
import json
import sys
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
import tqdm
from hypothesis import given, strategies
from PIL import Image

from retinex_keras.imaging.pixels import to_uint8
from retinex_keras.imaging.read import read_image
from retinex_keras.imaging.tiling import cut
from retinex_keras.inference import decompose, enhance, load_pretrained
from retinex_keras.recipes.paper import EnhanceNet


@pytest.mark.parametrize(("height", "width"), [(96, 200), (131, 77), (64, 8)])
def test_tiled_is_whole_to_the_bit(seeded, random, height, width):
    image = random.random((height, width, 3), dtype="float32")
    whole = decompose(image, seeded, tile=256)
    for tile in (32, 72):
        for name, values in decompose(image, seeded, tile=tile).items():
            np.testing.assert_array_equal(values, whole[name], err_msg=name)


def test_long_work_shows_its_progress_in_a_terminal(tiny, random, monkeypatch):
    terminal, bar, delays = io.StringIO(), tqdm.tqdm, []
    terminal.isatty = lambda: True
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setattr(tqdm, "tqdm", lambda *args, delay, **options: delays.append(delay) or bar(*args, **options))
    image = random.random((64, 48, 3), dtype="float32")
    decompose(image, tiny)
    assert terminal.getvalue() == ""  # one tile is all that there is
    decompose(image, tiny, tile=8)
    assert "computing:   0%|" in terminal.getvalue()
    assert terminal.getvalue().endswith("\r")  # the bar goes when the work is done
    assert delays == [5]


@given(
    size=strategies.integers(1, 3000),
    tile=strategies.integers(1, 90).map(lambda n: n * 8),
    halo=strategies.integers(0, 20).map(lambda n: n * 8),
    grid=strategies.sampled_from([1, 8]),
)
def test_the_tiles_cover_an_axis_once_and_see_equally_much_of_it(size, tile, halo, grid):
    axis = cut(size, tile, halo, grid)
    tiles, seen = zip(*axis.slices(), strict=True)
    assert [i for span in tiles for i in range(size)[span]] == list(range(size))
    assert len({span.stop - span.start for span in seen}) == 1
    end = size + -size % grid
    assert axis.padded == end
    for inner, outer in zip(tiles, seen, strict=True):
        assert outer.start % grid == outer.stop % grid == 0
        assert outer.start >= 0
        assert outer.stop <= end
        assert outer.start == 0 or inner.start - outer.start >= halo
        assert outer.stop == end or outer.stop - inner.stop >= halo
        assert outer.stop - outer.start <= tile + 2 * halo
    pixels = np.arange(size, dtype="int32")  # where each pixel is, once the windows lie one after the other
    starts = [i * axis.window - window.start for i, window in enumerate(seen)]
    places = [start + pixel for start, own in zip(starts, tiles, strict=True) for pixel in range(size)[own]]
    np.testing.assert_array_equal(axis.position(pixels), places)
    tensors = cut(tf.constant(size), tile, halo, grid)
    np.testing.assert_array_equal(tensors, axis)
    np.testing.assert_array_equal(tensors.position(tf.constant(pixels)), places)


def test_sizes_on_the_grid_are_the_bare_network(tiny, random):
    image = random.random((24, 16, 3), dtype="float32")
    bare = tiny(image[None])
    for name, values in decompose(image, tiny).items():
        np.testing.assert_allclose(values, bare[name][0], rtol=0, atol=1e-6)


@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (7, 3), (17, 33)])
def test_small_and_odd_sizes(tiny, random, shape):
    result = decompose(random.random((*shape, 3), dtype="float32"), tiny)
    assert {name: values.shape[:2] for name, values in result.items()} == dict.fromkeys(result, shape)


def test_enhance_takes_paths_and_arrays_of_each_type(tmp_path, tiny, random):
    pixels = random.integers(0, 60, (12, 10, 3), dtype="uint8")
    Image.fromarray(pixels).save(tmp_path / "a.png")
    from_file = enhance(tmp_path / "a.png", tiny)
    assert from_file.dtype == np.uint8
    np.testing.assert_array_equal(enhance(pixels, tiny), from_file)
    deep = enhance(pixels.astype("uint16") * 257, tiny)
    assert deep.dtype == np.uint16
    np.testing.assert_array_equal(to_uint8(deep), from_file)
    as_float = enhance(pixels / 255.0, tiny)
    assert as_float.dtype == np.float32
    np.testing.assert_array_equal(np.round(as_float * 255).astype("uint8"), from_file)


def test_enhance_takes_pictures_and_tensors_and_names_of_weights(random):
    pixels = random.integers(0, 60, (12, 10, 3), dtype="uint8")
    expected = enhance(pixels, load_pretrained("natural"))
    np.testing.assert_array_equal(enhance(Image.fromarray(pixels), "natural"), expected)
    np.testing.assert_array_equal(enhance(tf.constant(pixels)), expected)


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (np.zeros(4), r"shape \(4,\)"),
        (np.zeros((4, 4, 5)), r"shape \(4, 4, 5\)"),
        (np.zeros((0, 4, 3)), r"shape \(0, 4, 3\)"),
        (np.zeros((1, 1, 4, 4, 3)), r"shape \(1, 1, 4, 4, 3\)"),
        (np.zeros((4, 4, 3), "int64"), "Received int64"),
        (np.zeros((4, 4, 3), bool), "Received bool"),
        (np.full((4, 4, 3), np.nan), "values from nan to nan"),
        (np.full((4, 4, 3), 255.0), "values from 255 to 255"),
        (np.full((4, 4, 3), -0.1), "values from -0.1"),
    ],
)
def test_arrays_that_are_no_images(tiny, image, message):
    with pytest.raises(ValueError, match=message):
        enhance(image, tiny)


@pytest.mark.parametrize("tile", [0, -8, 12])
def test_tiles_off_the_grid(tiny, tile):
    with pytest.raises(ValueError, match="multiple of 8"):
        decompose(np.zeros((8, 8, 3), "uint8"), tiny, tile=tile)


@pytest.mark.parametrize(("weights", "share"), [("paper", 0.25), ("natural", 0.08)])
def test_shipped_weights_brighten_a_dark_photo(weights, share):
    """The demo's photo and what it was darkened from, both in notebooks/photos."""
    photos = Path(__file__).parents[1] / "notebooks" / "photos"
    dark, bright = (read_image(photos / f"coffee{name}.png") / 255 for name in ("_dark", ""))
    result = enhance(photos / "coffee_dark.png", load_pretrained(weights)) / 255
    assert np.mean((result - bright) ** 2) < share * np.mean((dark - bright) ** 2)


def test_natural_weights_leave_a_well_lit_photo_nearly_alone():
    photo = read_image(Path(__file__).parents[1] / "notebooks" / "photos" / "coffee.png") / 255
    assert -10 * np.log10(np.mean((enhance(photo, "natural") - photo) ** 2)) > 30


def test_unknown_weights_name_the_shipped_ones():
    with pytest.raises(FileNotFoundError, match="no weights 'nothing'. Shipped ones: .*paper"):
        load_pretrained("nothing")


def test_files_that_are_no_retinexnet(tmp_path):
    (tmp_path / "a.keras").write_bytes(b"junk")
    with pytest.raises(ValueError, match="could not be loaded"):
        load_pretrained(tmp_path / "a.keras")
    net = EnhanceNet(4)
    net.build((None, None, None, 3))
    net.save(tmp_path / "b.keras")
    with pytest.raises(ValueError, match="holds the model EnhanceNet"):
        load_pretrained(tmp_path / "b.keras")


@pytest.fixture
def changed(tiny, tmp_path):
    """Makes the file of a tiny model with parts that are changed: changed({name: bytes}, filters=...)."""

    def change(parts=None, **decom):
        tiny.save(tmp_path / "good.keras")
        with zipfile.ZipFile(tmp_path / "good.keras") as file:
            contents = {name: file.read(name) for name in file.namelist()}
        config = json.loads(contents["config.json"])
        config["config"]["decom_net"]["config"].update(decom)
        contents |= {"config.json": json.dumps(config).encode()} | (parts or {})
        with zipfile.ZipFile(tmp_path / "changed.keras", "w", zipfile.ZIP_DEFLATED) as file:
            for name, content in contents.items():
                file.writestr(name, content)
        return tmp_path / "changed.keras"

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"filters": 10**9}, "more layers or weights than the file holds"),
        ({"filters": 3000}, "more layers or weights than the file holds"),
        ({"filters": 10**40}, "more layers or weights than the file holds"),
        ({"depth": 10**9}, "more layers or weights than the file holds"),
        ({"filters": None}, "could not be loaded"),
        ({"filters": -1}, "could not be loaded"),
        ({"parts": {"config.json": b'{"a":' * 10**5 + b"1" + b"}" * 10**5}}, "RecursionError"),
        ({"parts": {"config.json": b" " * 10**8}}, "far larger than the file"),
        ({"parts": {"model.weights.h5": bytes(10**8)}}, "far larger than the file"),
        ({"parts": {f"assets/{i}": b"" for i in range(1000)}}, "too many"),
    ],
)
def test_files_that_announce_more_than_they_hold(changed, change, message):
    path, start = changed(**change), time.monotonic()
    with pytest.raises(ValueError, match=message) as error:
        load_pretrained(path)
    assert time.monotonic() - start < 5
    assert "\n" not in str(error.value)


def test_weights_that_are_far_larger_than_their_file(changed):
    h5py = pytest.importorskip("h5py")
    stream = io.BytesIO()
    with h5py.File(stream, "w") as file:
        file.create_dataset("vars/0", (10**9,), "float32")  # takes no bytes until it is written to
    with pytest.raises(ValueError, match="its weights are far larger than the file"):
        load_pretrained(changed({"model.weights.h5": stream.getvalue()}))


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_weights_that_are_not_finite(tiny, tmp_path, value):
    kernel = tiny.enhance_net.fusion.kernel
    values = kernel.numpy()
    values[0, 0, 1, 2] = value
    kernel.assign(values)
    tiny.save(tmp_path / "a.keras")
    with pytest.raises(ValueError, match="weights that are NaN or infinite, in .*fusion/kernel"):
        load_pretrained(tmp_path / "a.keras")


def test_a_good_file_loads_again_after_a_bad_one(changed, tiny):
    with pytest.raises(ValueError, match="more layers"):
        load_pretrained(changed(depth=10**9))
    for one, two in zip(load_pretrained(changed()).get_weights(), tiny.get_weights(), strict=True):
        np.testing.assert_array_equal(one, two)


def test_enhance_takes_what_people_have(tmp_path, tiny, random):
    """Grey, alpha, bytes, open files, pictures of any mode, batches and lists; each as the RGB array that it stands for."""
    rgba = random.integers(0, 60, (12, 10, 4), dtype="uint8")
    expected = enhance(rgba[..., :3], tiny)
    np.testing.assert_array_equal(enhance(rgba, tiny), np.concatenate([expected, rgba[..., 3:]], axis=-1))
    grey = rgba[..., 0]
    from_grey = enhance(np.stack([grey] * 3, axis=-1), tiny)
    np.testing.assert_array_equal(enhance(grey, tiny), from_grey)
    np.testing.assert_array_equal(enhance(grey[..., None], weights=tiny), from_grey)
    np.testing.assert_array_equal(enhance(np.stack([rgba, rgba])[..., :3], model=tiny), [expected, expected])
    some = enhance([rgba[..., :3], grey], tiny)
    np.testing.assert_array_equal(some[0], expected)
    np.testing.assert_array_equal(some[1], from_grey)
    Image.fromarray(rgba[..., :3]).save(tmp_path / "a.png")
    contents = (tmp_path / "a.png").read_bytes()
    with open(tmp_path / "a.png", "rb") as file:
        for source in (contents, bytearray(contents), file, str(tmp_path / "a.png")):
            np.testing.assert_array_equal(enhance(source, tiny), expected)
    for mode in ("L", "P", "CMYK", "YCbCr", "1", "RGBX"):
        picture = Image.fromarray(rgba[..., :3]).convert(mode)
        np.testing.assert_array_equal(enhance(picture, tiny), enhance(np.asarray(picture.convert("RGB")), tiny))
    parts = decompose(np.stack([rgba, rgba]), tiny)
    assert parts["illumination"].shape == (2, 12, 10, 1)
    np.testing.assert_array_equal(parts["illumination"][1], decompose(rgba, tiny)["illumination"])
