import keras
import numpy as np
import pytest
import scipy.fft
import tensorflow as tf

from retinex_keras.inference import decompose, load_pretrained
from retinex_keras.networks.denoise import Denoise
from retinex_keras.recipes.paper import DecomNet, EnhanceNet, RetinexNet


def noisy(random, height, width, deviation=0.01):
    """A step from dark red to light blue, noise on it."""
    image = np.full((1, height, width, 3), (0.4, 0.3, 0.2), "float32")
    image[:, :, width // 2 :] = 0.6, 0.7, 0.9
    return image, image + deviation * random.standard_normal(image.shape, dtype="float32")


def level(value, image):
    return np.full((*image.shape[:3], 1), value, "float32")


def test_blocks_thresholded_one_by_one_with_scipys_dct(random):
    """The definition, block by block; scipy's DCT-II is orthonormal."""
    image = random.random((11, 14, 3))
    illumination = random.random((11, 14, 1)) * 0.1
    luma = np.array([0.299, 0.587, 0.114])
    planes = np.stack([image @ luma, image[..., 2] - image @ luma, image[..., 0] - image @ luma], axis=-1)
    planes, padded_illumination = (np.pad(x, ((6, 7), (6, 7), (0, 0)), "edge") for x in (planes, illumination))
    window = np.sin(np.pi * np.arange(0.5, 8) / 8) ** 2
    window = np.outer(window, window)
    frequency = np.hypot(*np.mgrid[:8, :8])
    total, result = np.zeros(planes.shape[:2]), np.zeros(planes.shape)
    for y in range(0, 17, 2):
        for x in range(0, 20, 2):
            block = slice(y, y + 8), slice(x, x + 8)
            deviation = 0.0014 / (padded_illumination[block].mean() + 0.05) / (1 + (frequency / 3) ** 2)
            total[block] += window
            for channel, factor in enumerate((1, 4, 4)):
                coefficients = scipy.fft.dctn(planes[block][..., channel], norm="ortho")
                small = np.abs(coefficients) <= 10 * factor * deviation
                small[0, 0] = False
                coefficients[small] = 0
                result[block][..., channel] += window * scipy.fft.idctn(coefficients, norm="ortho")
    result = result[6:17, 6:20] / total[6:17, 6:20, None]
    red, blue = result[..., 2] + result[..., 0], result[..., 1] + result[..., 0]
    expected = np.stack([red, (result[..., 0] - 0.299 * red - 0.114 * blue) / 0.587, blue], axis=-1)
    denoised = Denoise(10)(image[None].astype("float32"), illumination[None].astype("float32"))
    np.testing.assert_allclose(denoised[0], expected, rtol=0, atol=1e-5)
    assert np.abs(expected - image).mean() > 0.01


def test_zero_strength_changes_nothing(random):
    image = random.random((2, 9, 13, 3), dtype="float32")
    np.testing.assert_array_equal(Denoise(0)(image, level(0.1, image)), image)


def test_a_flat_image_gets_flatter_and_more_so_in_the_dark(random):
    image = 0.5 + 0.01 * random.standard_normal((1, 40, 40, 3), dtype="float32")
    left = [np.std(Denoise()(image, level(value, image))) / np.std(image) for value in (0.0, 0.1, 0.9)]
    assert left[0] < 0.35
    assert left[0] < left[1] < left[2] <= 1


def test_edges_are_kept(random):
    clean, image = noisy(random, 32, 40)
    before, after = (np.abs(x - clean)[:, :, 17:23].mean() for x in (image, Denoise()(image, level(0.05, image)).numpy()))
    assert after < 0.8 * before


@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 1, 9), (2, 7, 3), (1, 8, 8), (1, 17, 12)])
def test_any_size_in_a_graph_of_dynamic_size_and_under_xla(random, shape):
    image = random.random((*shape, 3), dtype="float32")
    layer = Denoise()
    expected = layer(image, level(0.1, image))
    assert expected.shape == image.shape
    signature = [tf.TensorSpec((None, None, None, channels)) for channels in (3, 1)]
    np.testing.assert_allclose(tf.function(layer, input_signature=signature)(image, level(0.1, image)), expected, atol=1e-6)
    np.testing.assert_allclose(tf.function(layer, jit_compile=True)(image, level(0.1, image)), expected, atol=1e-5)


def test_a_part_that_sees_the_radius_is_the_whole(random):
    _, image = noisy(random, 40, 48, 0.05)
    illumination = random.random((1, 40, 48, 1), dtype="float32")
    layer = Denoise()
    part = np.s_[:, 16 - 8 : 24 + 7, 8 - 8 : 32 + 7]
    whole = np.asarray(layer(image, illumination))[:, 16:24, 8:32]
    np.testing.assert_array_equal(np.asarray(layer(image[part], illumination[part]))[:, 8:16, 8:32], whole)


def test_gradients_are_finite(random):
    inputs = [tf.constant(random.random((1, 9, 10, channels), dtype="float32")) for channels in (3, 1)]
    with tf.GradientTape() as tape:
        tape.watch(inputs)
        total = tf.reduce_sum(Denoise()(*inputs) ** 2)
    gradient = tape.gradient(total, inputs[0])
    assert np.isfinite(gradient).all()
    assert np.abs(gradient).max() > 0


def test_a_negative_strength():
    with pytest.raises(ValueError, match="Received -1"):
        Denoise(-1)


def test_tiled_is_whole_to_the_bit_with_denoising(random):
    model = RetinexNet(DecomNet(4, 5), EnhanceNet(4), denoise=20)
    model.build((None, None, None, 3))
    image = random.random((131, 77, 3), dtype="float32")
    whole = decompose(image, model, tile=256)
    assert np.abs(whole["restored_reflectance"] - whole["reflectance"]).max() > 1e-3
    for tile in (32, 72):
        for name, values in decompose(image, model, tile=tile).items():
            np.testing.assert_array_equal(values, whole[name], err_msg=name)


def test_the_model_denoises_the_picture_and_nothing_else(random):
    networks = DecomNet(4, 1), EnhanceNet(4)
    low, high = (random.random((1, 16, 16, 3), dtype="float32") for _ in range(2))
    model, plain = RetinexNet(*networks, denoise=20), RetinexNet(*networks, denoise=0)
    parts, plain_parts = model(low), plain(low)
    for name in ("reflectance", "illumination", "adjusted_illumination"):
        np.testing.assert_array_equal(parts[name], plain_parts[name])
    restored = Denoise(20)(parts["reflectance"], parts["illumination"])
    np.testing.assert_array_equal(parts["restored_reflectance"], restored)
    np.testing.assert_array_equal(parts["enhanced"], np.clip(restored * parts["adjusted_illumination"], 0, 1))
    terms, plain_terms = (m.loss_terms(low, high, m(low)) for m in (model, plain))
    assert {k: float(v) for k, v in terms.items()} == {k: float(v) for k, v in plain_terms.items()}


def test_denoising_waits_for_the_adjustment_so_that_memory_does_not_depend_on_the_order():
    model = RetinexNet(DecomNet(4, 1), EnhanceNet(4))
    graph = tf.function(model).get_concrete_function(tf.TensorSpec((1, None, None, 3))).graph

    def before(operation, seen):
        for other in (*(tensor.op for tensor in operation.inputs), *operation.control_inputs):
            if other not in seen:
                seen.add(other)
                before(other, seen)
        return seen

    restored, adjusted = (graph.structured_outputs[name].op for name in ("restored_reflectance", "adjusted_illumination"))
    assert before(adjusted, set()) < before(restored, set())


def test_the_strength_is_saved_and_older_files_get_the_default(tmp_path, random):
    model = RetinexNet(DecomNet(4, 1), EnhanceNet(4), denoise=7)
    model.build((None, None, None, 3))
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    image = random.random((1, 9, 9, 3), dtype="float32")
    assert loaded.denoise.strength == 7
    np.testing.assert_array_equal(loaded(image)["enhanced"], model(image)["enhanced"])
    assert load_pretrained("paper").denoise.strength == Denoise().strength


def test_the_strength_can_be_chosen_for_weights_that_are_denoised(tiny, tiny_natural, tmp_path):
    for name, model in (("paper", tiny), ("natural", tiny_natural)):
        model.save(tmp_path / f"{name}.keras")
    assert load_pretrained(tmp_path / "paper.keras", denoise=0).denoise.strength == 0
    with pytest.raises(ValueError, match="Received denoise=2"):
        load_pretrained(tmp_path / "natural.keras", denoise=2)
