"""PSNR, SSIM and noise, one value an image, as pure functions; the protocol's rounding to 8 bits.

They take tensors of Keras, in training, or NumPy's arrays, for which no Keras is imported.
"""

import importlib
import math

import numpy as np

WINDOW = 11  # of SSIM, a side in pixels


def _ops(x):
    """The module whose functions take x: `numpy` or `keras.ops`."""
    return np if isinstance(x, np.ndarray) else importlib.import_module("keras.ops")


def to_8_bit(image):
    """The values that an 8-bit file of the image would hold: clipped to [0, 1], rounded to multiples of 1/255.

    >>> round(float(to_8_bit(np.array(0.5))) * 255, 3)
    128.0
    """
    ops = _ops(image)
    image = image.astype("float32") if ops is np else ops.cast(image, "float32")
    return ops.round(ops.clip(image, 0.0, 1.0) * 255.0) / 255.0


def psnr(image, reference):
    """Peak signal-to-noise ratio in dB, data range 1.

    Args:
        image, reference: (B, H, W, C) in [0, 1].

    Returns:
        (B,): one value an image, infinite for equal images.

    >>> np.asarray(psnr(np.zeros((2, 4, 4, 3)), np.full((2, 4, 4, 3), 0.1))).round(3).tolist()
    [20.0, 20.0]
    """
    ops = _ops(image)
    error = ops.mean(ops.square(image - reference), axis=(1, 2, 3))
    with np.errstate(divide="ignore"):
        return -10.0 / math.log(10.0) * ops.log(error)


def noise(image):
    """Standard deviation of the noise (Immerkaer, "Fast noise variance estimation", 1996); fine texture counts as noise too.

    Args:
        image: (B, H, W, 1), H and W at least 3.

    Returns:
        (B,): one value an image, in the unit of the image.

    >>> image = np.random.default_rng(0).normal(0.5, 0.1, (1, 64, 64, 1)).astype("float32")
    >>> round(float(noise(image)[0]), 2)
    0.1
    """
    curvature = np.diff(np.diff(image, 2, axis=1), 2, axis=2)  # its mask is [1, -2, 1] times its transpose
    return math.sqrt(math.pi / 2) / 6 * np.mean(np.abs(curvature), axis=(1, 2, 3))


def ssim(image, reference):
    """Structural similarity (Wang et al., IEEE TIP 2004): Gaussian window 11, sigma 1.5, K1 0.01, K2 0.03, data range 1.

    Args:
        image, reference: (B, H, W, C) in [0, 1], H and W at least 11.

    Returns:
        (B,): one value an image, the mean over the channels and over all windows that lie inside the image.

    Raises:
        ValueError: if the images are smaller than the window.

    >>> image = np.random.default_rng(0).random((1, 16, 16, 3), "float32")
    >>> np.asarray(ssim(image, image)).round(3).tolist()
    [1.0]
    """
    height, width = image.shape[1:3]
    if min(height or WINDOW, width or WINDOW) < WINDOW:
        raise ValueError(
            f"SSIM looks at windows of {WINDOW}x{WINDOW} pixels. Received an image of {width}x{height}: use a larger one."
        )
    window = np.exp(-0.5 * (np.arange(-(WINDOW // 2), WINDOW // 2 + 1) / 1.5) ** 2)
    window = (window / window.sum()).astype("float32")

    ops = _ops(image)

    def blur(x):
        """Windowed means, channels moved into the batch, one axis after the other."""
        if ops is np:
            for axis in (1, 2):
                x = np.lib.stride_tricks.sliding_window_view(x, WINDOW, axis) @ window
            return x
        x = ops.conv(x, window.reshape(WINDOW, 1, 1, 1), padding="valid")
        return ops.conv(x, window.reshape(1, WINDOW, 1, 1), padding="valid")

    def planes(x):  # (B, H, W, C) -> (B * C, H, W, 1)
        x = ops.transpose(x, (0, 3, 1, 2))
        shape = ops.shape(x)
        return ops.reshape(x, (-1, shape[2], shape[3], 1))

    x, y = planes(image), planes(reference)
    mean_x, mean_y = blur(x), blur(y)
    variance_x = blur(x * x) - mean_x * mean_x
    variance_y = blur(y * y) - mean_y * mean_y
    covariance = blur(x * y) - mean_x * mean_y
    c1, c2 = 0.01**2, 0.03**2
    values = (2 * mean_x * mean_y + c1) * (2 * covariance + c2)
    values = values / ((mean_x * mean_x + mean_y * mean_y + c1) * (variance_x + variance_y + c2))
    return ops.mean(ops.reshape(ops.mean(values, axis=(1, 2, 3)), (-1, image.shape[-1])), axis=-1)
