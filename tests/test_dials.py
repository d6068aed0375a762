import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings, strategies
from PIL import Image

from retinex_keras.cli import main
from retinex_keras.dials import Dials, steer
from retinex_keras.folders.run import enhance_folder
from retinex_keras.imaging.pixels import LUMA, to_uint8
from retinex_keras.imaging.read import read_image
from retinex_keras.inference import decompose, enhance
from retinex_keras.onnx_model import OnnxModel
from retinex_keras.recipes.simple import SimpleCNN
from retinex_keras.serving.export import export_onnx

TURNED = {"exposure": 0.7, "strength": 0.6, "colour": 1.2}


@pytest.fixture
def image(random):
    return (random.random((40, 56, 3)) * 0.4).astype("float32")


def luma(image):
    return float((image @ LUMA).mean())


def brightest(image):
    return image.max(axis=-1)


def test_at_their_defaults_nothing_changes(tiny_natural, image):
    parts = decompose(image, tiny_natural)
    for name, values in steer(parts, image, 0.0, 1.0, 1.0).items():
        np.testing.assert_array_equal(values, parts[name], err_msg=name)
    turned = tiny_natural.runner("enhanced", steered=True)(image[None], image[None], np.float32([0, 1, 1]))["enhanced"][0]
    np.testing.assert_array_equal(turned, tiny_natural.runner("enhanced")(image[None], image[None])["enhanced"][0])


def test_strength_0_is_the_input_to_the_bit_whatever_the_others_say(tiny_natural, image):
    for dials in ({}, {"exposure": 2, "colour": 0}, {"brightness": 0.5}):
        np.testing.assert_array_equal(enhance(image, tiny_natural, strength=0, **dials), image)
        np.testing.assert_array_equal(enhance(to_uint8(image), tiny_natural, strength=0, **dials), to_uint8(image))


def test_strength_between_mixes_the_parts(tiny_natural, image):
    parts = decompose(image, tiny_natural)
    mixed = decompose(image, tiny_natural, strength=0.25)
    light = parts["illumination"] ** 0.75 * np.maximum(parts["adjusted_illumination"], 0) ** 0.25
    np.testing.assert_allclose(mixed["adjusted_illumination"], light, rtol=1e-5)
    reflectance = 0.75 * parts["reflectance"] + 0.25 * parts["restored_reflectance"]
    np.testing.assert_allclose(mixed["restored_reflectance"], reflectance, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(mixed["enhanced"], np.clip(light * reflectance, 0, 1), atol=1e-5)


def test_colour_0_is_grey_and_2_twice_as_far_from_it(tiny_natural, image):
    grey = enhance(image, tiny_natural, colour=0)
    np.testing.assert_array_equal(grey[..., :1] * np.ones(3, "float32"), grey)
    plain, strong = (decompose(image, tiny_natural, colour=colour)["restored_reflectance"] for colour in (1, 2))
    np.testing.assert_allclose(strong - plain, plain - (plain @ LUMA)[..., None], atol=1e-5)


values = strategies.floats(0, 1.25, width=32)


@settings(max_examples=200)
@given(
    strategies.lists(values, min_size=4, max_size=4),
    strategies.floats(-3, 3, width=32),
    strategies.floats(-3, 3, width=32),
)
def test_exposure_is_monotone_and_clips_nothing_that_was_not_clipped(numbers, one, other):
    reflectance, light = np.array(numbers[:3])[None, None], np.array(numbers[3:])[None, None]
    parts = {"reflectance": reflectance, "illumination": light, "restored_reflectance": reflectance}
    parts["adjusted_illumination"] = light
    low, high = (steer(parts, reflectance, exposure, 1.0, 1.0)["enhanced"] for exposure in (min(one, other), max(one, other)))
    assert np.all(high - low >= -1e-6)
    plain = np.clip(reflectance * light, 0, 1)
    for result in (low, high):
        assert np.all(result[plain == 0] <= 1e-12)
        assert brightest(result).max() < 1 or brightest(plain).max() > 0.95


def test_the_darkest_parts_change_by_so_many_stops():
    faint = np.full((1, 1, 3), 1e-4)
    parts = dict.fromkeys(("reflectance", "restored_reflectance"), np.ones((1, 1, 3)))
    parts |= dict.fromkeys(("illumination", "adjusted_illumination"), np.full((1, 1, 1), 1e-4))
    for stops in (-2, 1, 3):
        np.testing.assert_allclose(steer(parts, faint, stops, 1.0, 1.0)["enhanced"], faint * 2.0**stops, rtol=1e-3)


@pytest.mark.parametrize("dials", [{}, {"strength": 0.8}, {"colour": 1.5}])
def test_brightness_is_reached_and_tiles_change_nothing(tiny_natural, dials):
    y, x = np.mgrid[:140, :90] / 140
    image = np.stack([y, x, y * x], -1).astype("float32") * 0.3
    brightest_of_all = luma(enhance(image, tiny_natural, exposure=3, **dials))
    darkest_of_all = luma(enhance(image, tiny_natural, exposure=-3, **dials))
    between = [darkest_of_all + share * (brightest_of_all - darkest_of_all) for share in (0.2, 0.7)]
    for wanted in (0.7 * darkest_of_all, *between):
        parts = decompose(image, tiny_natural, brightness=wanted, **dials)
        assert luma(parts["enhanced"]) == pytest.approx(wanted, abs=0.01)
        for name, values in decompose(image, tiny_natural, tile=16, brightness=wanted, **dials).items():
            np.testing.assert_array_equal(values, parts[name], err_msg=name)


@pytest.mark.parametrize("version", [1, 2])
def test_tiles_change_nothing(exports, version, random):
    image, model = random.random((140, 90, 3), "float32"), exports[1][version]
    whole = decompose(image, model, **TURNED)
    for name, values in decompose(image, model, tile=16, **TURNED).items():
        np.testing.assert_array_equal(values, whole[name], err_msg=name)
    assert not np.array_equal(whole["enhanced"], enhance(image, model))


@pytest.mark.parametrize(
    ("dials", "message"),
    [
        ({"exposure": 3.5}, r"exposure goes from -3 to 3. Received 3.5"),
        ({"strength": -0.1}, r"strength goes from 0 to 1"),
        ({"colour": float("nan")}, r"colour goes from 0 to 2. Received nan"),
        ({"brightness": 1.5}, r"brightness goes from 0 to 1"),
        ({"brightness": 0}, r"brightness 0 is black"),
        ({"exposure": None}, r"exposure goes from -3 to 3. Received None"),
        ({"strength": "1"}, r"strength goes from 0 to 1. Received '1'"),
        ({"brightness": 0.5, "exposure": 1}, r"Received both: leave one out"),
    ],
)
def test_what_is_out_of_range_is_refused(tiny_natural, image, dials, message):
    for function in (enhance, decompose):
        with pytest.raises(ValueError, match=message):
            function(image, tiny_natural, **dials)


def test_weights_that_do_not_decompose_have_no_dials(image, make_pairs, tmp_path, capsys):
    with pytest.raises(ValueError, match="do not split an image"):
        enhance(image, SimpleCNN(), exposure=1)
    photos = make_pairs("pairs", 2) / "low"
    for command in (["enhance", photos], ["decompose", *sorted(photos.iterdir())]):
        out = tmp_path / "out"
        assert main([*map(str, command), str(out), "--weights", "simple", "--exposure", "1"]) == 2
        error = capsys.readouterr().err
        assert "do not split an image" in error
        assert error.count("\n") == 1
        assert not out.exists()


def test_onnx_runtime_gives_the_same(tiny_natural, image, tmp_path):
    export_onnx(tiny_natural, tmp_path / "natural.onnx")
    for dials in (TURNED, {"brightness": 0.3}):
        here, there = (enhance(image, model, **dials) for model in (tiny_natural, OnnxModel(tmp_path / "natural.onnx")))
        np.testing.assert_allclose(there, here, atol=1e-4)


@pytest.mark.parametrize("version", [1, 2])
def test_a_server_gives_the_same_bits(exports, version):
    steered = tf.saved_model.load(str(exports[0] / str(version))).signatures["steered"]
    random = np.random.default_rng(0)
    images = [random.integers(0, 90, size, "uint8") for size in ((13, 17, 3), (1100, 9, 3), (24, 16, 3), (140, 150, 3))]
    images.append(random.integers(0, 20000, (30, 31, 3), "uint16"))
    dials = [Dials(), Dials(-1.3, 0.5, 2), Dials(0.7, 0.6, 1.2), Dials(0, 1, 0.5, 0.3), Dials(0, 0.9, 1, 0.2)]
    columns = [tf.constant(np.float32([value or 0 for value in column])) for column in zip(*dials)]
    contents = tf.constant([tf.io.encode_png(image).numpy() for image in images])
    results = steered(image_bytes=contents, **dict(zip(Dials._fields, columns)))["enhanced_bytes"].numpy()
    for image, turned, result in zip(images, dials, results, strict=True):
        result = tf.io.decode_png(result, dtype=image.dtype)
        np.testing.assert_array_equal(result, enhance(image, exports[1][version], **turned._asdict()), err_msg=str(turned))


def test_a_server_refuses_what_is_out_of_range(exports):
    steered = tf.saved_model.load(str(exports[0] / "2")).signatures["steered"]
    contents = tf.io.encode_png(np.zeros((8, 8, 3), "uint8"))[None]
    for dials in (Dials(4, 1, 1, 0), Dials(0, 1, -1, 0), Dials(1, 1, 1, 0.5), Dials(np.nan, 1, 1, 0)):
        with pytest.raises(tf.errors.InvalidArgumentError, match="Expected exposure from -3 to 3"):
            steered(image_bytes=contents, **{name: tf.constant([value], tf.float32) for name, value in dials._asdict().items()})


def test_a_folder_takes_them_too(tiny_natural, make_pairs, tmp_path):
    photos = make_pairs("pairs", 2) / "low"
    made = enhance_folder(photos, tmp_path / "out", tiny_natural, **TURNED).made
    assert [path.name for path in made] == ["scene.0.png", "scene.1.png"]
    for path in made:
        np.testing.assert_array_equal(read_image(path), enhance(photos / path.name, tiny_natural, **TURNED))
    with pytest.raises(ValueError, match="strength goes from 0 to 1"):
        enhance_folder(photos, tmp_path / "other", tiny_natural, strength=2)


def test_an_oracle_of_brightness_shows_what_the_dial_is_worth(tiny_natural, make_pairs, tmp_path, capsys):
    folder = make_pairs("pairs", 3)
    tiny_natural.save(tmp_path / "tiny.keras")
    command = ["evaluate", str(folder / "low"), str(folder / "high"), "--weights", str(tmp_path / "tiny.keras")]
    assert main([*command, "--oracle-brightness", "--format", "csv"]) == 0
    rows = [line.split(",") for line in capsys.readouterr().out.splitlines()[2:]]
    for row in rows[1:4]:
        low, high = (read_image(folder / side / f"{row[0]}.png") for side in ("low", "high"))
        picture = enhance(low, tiny_natural, brightness=luma(high) / 255)
        error = np.mean(np.square(picture / 255 - high / 255))
        assert float(row[rows[0].index("PSNR")]) == pytest.approx(-10 * np.log10(error), abs=1e-3)
    assert main([*command[:2], "--oracle-brightness"]) == 2
    assert "name both folders" in capsys.readouterr().err
    Image.new("RGB", (24, 20)).save(folder / "high" / "scene.0.png")
    assert main([*command, "--oracle-brightness"]) == 2
    assert "scene.0.png: A picture of brightness 0 is black" in capsys.readouterr().err


def test_commands_take_them(tiny_natural, make_pairs, tmp_path, capsys):
    photos = make_pairs("pairs", 2) / "low"
    tiny_natural.save(tmp_path / "tiny.keras")
    photo, out = str(photos / "scene.0.png"), str(tmp_path / "out")
    options = ["--weights", str(tmp_path / "tiny.keras"), *(f"--{name}={value}" for name, value in TURNED.items())]
    expected = enhance(photo, tiny_natural, **TURNED)
    assert main(["enhance", photo, str(tmp_path / "one.png"), *options]) == 0
    assert main(["enhance", str(photos), out, *options]) == 0
    assert main(["decompose", photo, out, *options]) == 0
    for result in (tmp_path / "one.png", tmp_path / "out" / "scene.0.png", tmp_path / "out" / "scene.0_enhanced.png"):
        np.testing.assert_array_equal(read_image(result), expected)
    capsys.readouterr()
    for command in (["enhance", photo, str(tmp_path / "no.png")], ["decompose", photo, str(tmp_path / "no")]):
        assert main([*command, "--exposure", "+4"]) == 2
        assert capsys.readouterr().err == "retinex: The dial exposure goes from -3 to 3. Received 4.0.\n"
        assert main([*command, "--exposure", "-1", "--brightness", "0.5"]) == 2
        assert "leave one out" in capsys.readouterr().err
