"""Dark pictures made from well-lit ones, and the exposure of references."""

import numpy as np

from retinex_keras.imaging.pixels import to_uint8


def darken(
    image,
    rng,
    exposure=(0.01, 0.2),
    white_balance=(0.85, 1.18),
    shot_noise=(1e-5, 1e-3),
    read_noise=(1e-4, 2e-3),
    gamma=(0.9, 1.3),
):
    """What a camera would have taken of the scene with too little light.

    In linear light: exposure and white balance scale the image, then comes noise of variance
    `shot_noise * signal + read_noise**2`, the model of Brooks et al. ("Unprocessing Images for Learned Raw Denoising",
    CVPR 2019, section 3.1), in which a sensor's gain raises both noises together: one draw sets both here too. Back in sRGB
    a tone curve of power `gamma` follows, and rounding to 8 bits. The ranges are ours, set by LOL: its references, darkened
    by the defaults, have a median brightness of 0.09 and noise of 0.006, and its own dark images 0.06 and 0.006. A range of
    two equal numbers fixes a strength.

    Args:
        image: (H, W, 3), uint8, sRGB.
        rng: a `numpy.random.Generator`, or a seed for one.
        exposure: range of the factor on the linear image, drawn log-uniformly.
        white_balance: range of the factors on red and blue, each drawn log-uniformly.
        shot_noise: range of the variance of the noise at signal 1, drawn log-uniformly.
        read_noise: range of the standard deviation of the noise at signal 0, drawn together with the shot noise.
        gamma: range of the power, drawn uniformly; above 1 darkens.

    Returns:
        (H, W, 3), uint8.

    A tenth of the light is 0.35 of the range in sRGB:

    >>> off = {"white_balance": (1, 1), "shot_noise": (0, 0), "read_noise": (0, 0), "gamma": (1, 1)}
    >>> darken(np.full((1, 1, 3), 255, "uint8"), 0, exposure=(0.1, 0.1), **off)
    array([[[89, 89, 89]]], dtype=uint8)
    """
    rng = np.random.default_rng(rng)

    def between(limits, position):  # log-uniform for a uniform position; 0 stays 0
        low, high = limits
        return low * (high / low) ** position if low > 0 else high * position

    srgb = image.astype("float32") / 255.0
    linear = np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)
    light, red, blue, gain = rng.random(4)
    balance = [between(white_balance, red), 1.0, between(white_balance, blue)]
    linear = linear * (between(exposure, light) * np.asarray(balance, "float32"))
    deviation = np.sqrt(between(shot_noise, gain) * linear + between(read_noise, gain) ** 2)
    linear = linear + deviation * rng.standard_normal(linear.shape, dtype="float32")
    linear = np.clip(linear, 0.0, 1.0)
    srgb = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    return to_uint8(srgb ** rng.uniform(*gamma))


def wide_darken(image, rng):
    """`darken` over wider ranges: from hardly any light to nearly enough of it, from a good camera to a bad one.

    >>> wide_darken(np.full((4, 4, 3), 200, "uint8"), np.random.default_rng(0)).shape
    (4, 4, 3)
    """
    ranges = {"shot_noise": (1e-6, 3e-3), "read_noise": (3e-5, 4e-3), "gamma": (0.85, 1.3)}
    return darken(image, rng, exposure=(0.008, 1.0), white_balance=(0.8, 1.25), **ranges)


def normalize_exposure(image, mean):
    """Moves an image's exposure towards a mean luma of 0.47, by a tone curve that leaves black and white alone.

    How bright a scene was photographed can hardly be told from its dark image: a network that is to hit it learns its
    training scenes by heart, and guesses at all others. A flat image goes half the way, those of LOL and SICE about 0.4.

    Args:
        image: uint8 of any shape.
        mean: its mean luma, in [0, 1], or that of the whole that it was cut from.

    Returns:
        uint8 of the same shape.

    >>> normalize_exposure(np.array([0, 51, 255], "uint8"), mean=0.2)
    array([  0,  78, 255], dtype=uint8)
    """
    power = 0.5 + 0.5 * np.log(0.47) / np.log(np.clip(mean, 0.02, 0.98))
    return to_uint8(np.linspace(0, 1, 256) ** power)[image]
