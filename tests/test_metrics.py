import numpy as np
import pytest
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from retinex_keras.imaging import metrics


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
