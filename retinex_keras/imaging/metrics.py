"""PSNR, SSIM, colour, clipping and noise, one value an image, as pure functions; the protocol's rounding to 8 bits.

PSNR, SSIM and the rounding take tensors of Keras, in training, or NumPy's arrays, for which no Keras is imported. The others
take NumPy's arrays.
"""

import importlib
import math

import numpy as np

from retinex_keras.imaging.pixels import LUMA

WINDOW = 11  # of SSIM, a side in pixels
ROWS = 128  # of an image that are held as colours at a time
XYZ = np.array([[0.412453, 0.357580, 0.180423], [0.212671, 0.715160, 0.072169], [0.019334, 0.119193, 0.950227]])  # of BT.709
CLIPPED, BRIGHT = 254, 230  # of 255: a pixel is clipped from the first on; below the second it was far from that
FLAT_WINDOW, FLAT_SHARE = 15, 0.05  # where grain is measured: side of a window in pixels, least share of the image
FLAT_MEAN, FLAT_DEVIATION = 25 / 255, 3 / 255  # of the luma in a window


def ops_of(x):
    """The module whose functions take x: `numpy` or `keras.ops`."""
    return np if isinstance(x, np.ndarray) else importlib.import_module("keras.ops")


def to_8_bit(image):
    """The values that an 8-bit file of the image would hold: clipped to [0, 1], rounded to multiples of 1/255.

    >>> round(float(to_8_bit(np.array(0.5))) * 255, 3)
    128.0
    """
    ops = ops_of(image)
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
    ops = ops_of(image)
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


def luma(image):
    """ITU-R 601 luma: (..., 3) -> (...), float32.

    >>> luma(np.array([[1.0, 0.0, 0.0], [1.0, 1.0, 1.0]]))
    array([0.299, 1.   ], dtype=float32)
    """
    return image.astype("float32", copy=False) @ LUMA.astype("float32")


def lab(image):
    """CIELAB of colours in sRGB. White is sRGB's own, D65, so that greys have a* = b* = 0.

    Args:
        image: (..., 3) in [0, 1].

    Returns:
        (..., 3), float32: L* from 0 to 100, a* and b*.

    >>> lab(np.array([1.0, 0.0, 0.0])).round(1)
    array([53.2, 80.1, 67.2], dtype=float32)
    """
    image = image.astype("float32", copy=False)
    linear = np.where(image > 0.04045, ((image + 0.055) / 1.055) ** 2.4, image / 12.92)
    xyz = linear @ (XYZ.T / XYZ.sum(1)).astype("float32")
    x, y, z = np.moveaxis(np.where(xyz > (6 / 29) ** 3, np.cbrt(xyz), xyz * ((29 / 6) ** 2 / 3) + 4 / 29), -1, 0)
    return np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], axis=-1)


def _mean_over_bands(function, *images):
    """The mean over the pixels of what a function makes of (B, h, W, 3) images, a few rows at a time: (B,)."""
    height, width = images[0].shape[1:3]
    bands = ([image[:, top : top + ROWS] for image in images] for top in range(0, height, ROWS))
    return sum(function(*band).sum((1, 2), dtype="float64") for band in bands) / (height * width)


def chroma(image):
    """The mean chroma, sqrt(a*^2 + b*^2) in CIELAB: 0 for grey.

    Args:
        image: (B, H, W, 3) in [0, 1].

    Returns:
        (B,): one value an image.

    >>> chroma(np.full((1, 4, 4, 3), (1.0, 0.0, 0.0))).round(1).tolist()
    [104.6]
    """
    return _mean_over_bands(lambda band: np.hypot(*np.moveaxis(lab(band)[..., 1:], -1, 0)), image)


def ciede2000(image, reference):
    """The mean difference of colour CIEDE2000, all parametric factors 1 (Sharma et al., Color Research & Application, 2005).

    Args:
        image, reference: (B, H, W, 3) in [0, 1].

    Returns:
        (B,): one value an image, the mean over the pixels; 1 is a difference that can just be seen.

    >>> ciede2000(np.full((1, 4, 4, 3), 0.5), np.full((1, 4, 4, 3), 0.51)).round(2).tolist()
    [0.96]
    """
    return _mean_over_bands(lambda *bands: _colour_differences(*map(lab, bands)), image, reference)


def _colour_differences(lab_1, lab_2):
    """CIEDE2000 of each pixel: (..., 3) and (..., 3) -> (...)."""
    (l_1, a_1, b_1), (l_2, a_2, b_2) = (np.moveaxis(side, -1, 0) for side in (lab_1, lab_2))

    def saturation(c):  # sqrt(c^7 / (c^7 + 25^7))
        power = (c / 25) ** 7
        return np.sqrt(power / (power + 1))

    g = 1.5 - 0.5 * saturation((np.hypot(a_1, b_1) + np.hypot(a_2, b_2)) / 2)
    a_1, a_2 = g * a_1, g * a_2
    c_1, c_2 = np.hypot(a_1, b_1), np.hypot(a_2, b_2)
    h_1, h_2 = np.arctan2(b_1, a_1), np.arctan2(b_2, a_2)
    h, turn = 0.5 * (h_1 + h_2), h_2 - h_1
    far = np.abs(turn) > math.pi  # the other way round is shorter
    h = np.where(far, h + math.pi, h) % (2 * math.pi)
    turn = np.where(far, turn - 2 * math.pi * np.sign(turn), turn)
    lightness, c = (0.5 * (l_1 + l_2) - 50) ** 2, 0.5 * (c_1 + c_2)

    t = 1 - 0.17 * np.cos(h - math.radians(30)) + 0.24 * np.cos(2 * h)
    t += 0.32 * np.cos(3 * h + math.radians(6)) - 0.20 * np.cos(4 * h - math.radians(63))
    in_l = (l_2 - l_1) / (1 + 0.015 * lightness / np.sqrt(20 + lightness))
    in_c = (c_2 - c_1) / (1 + 0.045 * c)
    in_h = 2 * np.sqrt(c_1 * c_2) * np.sin(turn / 2) / (1 + 0.015 * c * t)
    rotation = -2 * saturation(c) * np.sin(math.radians(60) * np.exp(-(((h - math.radians(275)) / math.radians(25)) ** 2)))
    return np.sqrt(np.maximum(in_l**2 + in_c**2 + in_h**2 + rotation * in_c * in_h, 0))


def newly_clipped(picture, dark):
    """The share of pixels that were burnt to white: their brightest channel is 254 or more of 255, and was below 230.

    Args:
        picture, dark: the result and its input, (B, H, W, 3) in [0, 1], of which the nearest 8-bit values count.

    Returns:
        (B,): one value an image.

    >>> dark = np.array([0.1, 0.1, 0.95, 0.95]).reshape(1, 2, 2, 1)
    >>> newly_clipped(np.ones((1, 2, 2, 3)), dark * np.ones(3)).tolist()
    [0.5]
    """
    burnt = (picture.max(-1) > (CLIPPED - 0.5) / 255) & (dark.max(-1) < (BRIGHT - 0.5) / 255)
    return burnt.mean((1, 2))


def grain(picture, dark):
    """What is rough in the result where the input was flat and dark: noise, weaving, speckle.

    It is the mean absolute difference of the result's luma to itself under a Gaussian of sigma 2 pixels, over the pixels around
    which a 15x15 window of the input's luma has a mean below 25 of 255 and a standard deviation below 3 of 255. Beyond the
    border the image is mirrored, the border's own pixels included.

    Args:
        picture, dark: the result and its input, (B, H, W, 3) in [0, 1].

    Returns:
        (B,): one value an image, in the unit of the image; `nan` where at most 5 % of the pixels are flat and dark.

    >>> picture = np.random.default_rng(0).normal(0.5, 0.1, (2, 32, 32, 1)) * np.ones(3)
    >>> grain(picture, np.stack([np.zeros((32, 32, 3)), np.ones((32, 32, 3))])).round(2).tolist()
    [0.07, nan]
    """
    picture, dark = luma(picture), luma(dark)
    box = np.full(FLAT_WINDOW, 1 / FLAT_WINDOW, "float32")
    mean = filtered(dark, box)
    flat = (mean < FLAT_MEAN) & (filtered(dark * dark, box) - mean * mean < FLAT_DEVIATION**2)
    gaussian = np.exp(-0.5 * (np.arange(-8, 9, dtype="float32") / 2) ** 2)
    rough = np.abs(picture - filtered(picture, gaussian / gaussian.sum()))
    share = flat.mean((1, 2))
    with np.errstate(invalid="ignore"):
        return np.where(share > FLAT_SHARE, (rough * flat).mean((1, 2), dtype="float64") / share, np.nan)


def filtered(plane, weights):
    """Convolves (B, H, W) with symmetric weights along both axes; beyond the border it is mirrored.

    >>> filtered(np.eye(3)[None], np.array([0.25, 0.5, 0.25]))[0, 1]
    array([0.3125, 0.375 , 0.3125])
    """
    margin = len(weights) // 2
    for axis in (1, 2):
        padded = np.pad(plane, [(margin, margin) if axis == i else (0, 0) for i in range(3)], "symmetric")
        windows = np.moveaxis(np.lib.stride_tricks.sliding_window_view(padded, len(weights), axis), -1, 0)
        plane = sum(weight * shifted for weight, shifted in zip(weights, windows))
    return plane


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

    ops = ops_of(image)

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
