"""Dark pictures made from well-lit ones, and the exposure of references."""

import io

import numpy as np
from PIL import Image

from retinex_keras.imaging.metrics import filtered
from retinex_keras.imaging.pixels import LUMA, to_uint8


def darken(
    image,
    rng,
    exposure=(0.01, 0.2),
    white_balance=(0.85, 1.18),
    shot_noise=(1e-5, 1e-3),
    read_noise=(1e-4, 2e-3),
    gamma=(0.9, 1.3),
    light=None,
    noise=None,
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
        light: factors of the linear image, (H, W, 1), instead of an exposure.
        noise: (H, W, 3) of mean 0 and deviation 1, such as that of `soft_noise`. By default each pixel and channel has its own.

    Returns:
        (H, W, 3), uint8.

    Raises:
        ValueError: for an image of another type or shape.

    A tenth of the light is 0.35 of the range in sRGB:

    >>> off = {"white_balance": (1, 1), "shot_noise": (0, 0), "read_noise": (0, 0), "gamma": (1, 1)}
    >>> darken(np.full((1, 1, 3), 255, "uint8"), 0, exposure=(0.1, 0.1), **off)
    array([[[89, 89, 89]]], dtype=uint8)
    """
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[-1] != 3:
        raise ValueError(f"Expected a uint8 image (H, W, 3). Received {image.dtype} {image.shape}: convert it.")
    rng = np.random.default_rng(rng)

    def between(limits, position):  # log-uniform for a uniform position; 0 stays 0
        low, high = limits
        return low * (high / low) ** position if low > 0 else high * position

    srgb = image.astype("float32") / 255.0
    linear = np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)
    dimness, red, blue, gain = rng.random(4)
    balance = [between(white_balance, red), 1.0, between(white_balance, blue)]
    light = between(exposure, dimness) if light is None else light
    linear = linear * (light * np.asarray(balance, "float32"))
    deviation = np.sqrt(between(shot_noise, gain) * linear + between(read_noise, gain) ** 2)
    linear = linear + deviation * (rng.standard_normal(linear.shape, dtype="float32") if noise is None else noise)
    linear = np.clip(linear, 0.0, 1.0)
    srgb = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    return to_uint8(srgb ** rng.uniform(*gamma))


def soft_noise(height, width, rng, step=1.0):
    """Noise as in photos that a camera has stored as JPEG: neighbouring pixels share it, and the channels share a part of it.

    White noise, 40 to 100 % of its variance the same in all channels, is blurred by a Gaussian of 0.25 to 1 pixel. In dark flat
    parts of photos of the night, neighbours correlate by 0.3 to 0.7, and channels by 0.5 to 0.95; in LOL's dark images by 0.3
    and 0.4. A network that has only seen independent noise takes this noise for texture.

    Args:
        height, width: in pixels.
        rng: a `numpy.random.Generator`.
        step: distance of the pixels, where not every pixel of the photo is wanted.

    Returns:
        (H, W, 3), float32, of mean 0 and deviation 1.

    >>> soft_noise(20, 30, np.random.default_rng(0)).shape
    (20, 30, 3)
    """
    shared, sigma = rng.uniform(0.4, 1.0), rng.uniform(0.25, 1.0) / step
    kernel = np.exp(-0.5 * (np.arange(-3, 4) / sigma) ** 2)
    kernel = (kernel / np.sqrt((kernel**2).sum())).astype("float32")
    grey, own = (rng.standard_normal((height + 6, width + 6, channels), dtype="float32") for channels in (1, 3))
    noise = shared**0.5 * grey + (1.0 - shared) ** 0.5 * own
    return np.moveaxis(filtered(np.moveaxis(noise, -1, 0), kernel)[:, 3:-3, 3:-3], 0, -1)


def wide_darken(image, rng, light=None, noise=None):
    """`darken` over wider ranges: from hardly any light to a quarter of it, from a good camera to a bad one.

    >>> wide_darken(np.full((4, 4, 3), 200, "uint8"), np.random.default_rng(0)).shape
    (4, 4, 3)
    """
    ranges = {"shot_noise": (3e-6, 3e-3), "read_noise": (1e-4, 4e-3), "gamma": (0.85, 1.3)}
    return darken(image, rng, exposure=(0.008, 0.25), white_balance=(0.8, 1.25), light=light, noise=noise, **ranges)


def uneven_light(rng, *windows):
    """The light of a scene at night: dim, with one to three bright spots.

    About half of the spots are soft, as on a wall. The others light only pixels near their centre that have a colour like that
    of the centre. So they end at the edges of an object, such as a lit bus in a dark street.

    Args:
        rng: a `numpy.random.Generator`.
        windows: parts of the scene, each a tuple `(rows, columns, pixels)`: positions from 0 to 1, (H,) and (W,), and uint8
            (H, W, 3). The last is the whole scene.

    Returns:
        A list of (H, W), one for each window, factors of linear light: 0.01 to 0.25, in the spots up to 0.5 to 1.

    >>> places = np.linspace(0, 1, 50)
    >>> (light,) = uneven_light(np.random.default_rng(0), (places, places, np.zeros((50, 50, 3), "uint8")))
    >>> light.shape, bool(0.01 <= light.min() < 0.25 < light.max() <= 1)
    ((50, 50), True)
    """
    grid = np.log(0.01) + rng.random((4, 5)) * np.log(25.0)
    rows, columns, scene = windows[-1]
    spots = []
    for _ in range(rng.integers(1, 4)):
        (row, column), of_object, size, strength = rng.random(2), rng.random() < 0.5, rng.random(), rng.uniform(0.5, 1.0)
        colour = scene[np.abs(rows - row).argmin(), np.abs(columns - column).argmin()].astype("float32")
        spots.append((row, column, colour if of_object else None, size, strength))

    def weights(places, count):  # of the points of the grid: half a cosine from one to the next
        distance = np.abs(places[:, None] * (count - 1) - np.arange(count))
        return 0.5 + 0.5 * np.cos(np.pi * np.minimum(distance, 1.0))

    lights = []
    for window_rows, window_columns, pixels in windows:
        light = np.exp(weights(window_rows, 4) @ grid @ weights(window_columns, 5).T)
        for row, column, colour, size, strength in spots:
            radius = 0.04 + 0.21 * size if colour is None else 0.15 + 0.35 * size
            distance = ((window_rows[:, None] - row) ** 2 + (window_columns - column) ** 2) / radius**2
            if colour is not None:
                distance = np.maximum(distance + ((pixels - colour) ** 2).sum(-1) / 50.0**2 - 1.0, 0.0)
            light = np.maximum(light, strength * np.exp(-0.5 * distance))
        lights.append(light)
    return lights


def compress(image, rng):
    """What is left of a picture in a JPEG of quality 55 to 97 with any subsampling, half of the time after blotches of colour.

    The blotches, 8 pixels wide, are what the noise reduction of a camera leaves: half a level to 3 levels of 255.

    >>> compress(np.full((32, 32, 3), 9, "uint8"), np.random.default_rng(0)).shape
    (32, 32, 3)
    """
    height, width = image.shape[:2]
    if rng.random() < 0.5:
        coarse = rng.standard_normal((-(-height // 8), -(-width // 8), 3), dtype="float32")
        blotches = (coarse - (coarse @ LUMA)[..., None]) * 0.5 * 6.0 ** rng.random()
        blotches = blotches.repeat(8, axis=0).repeat(8, axis=1)[:height, :width]
        image = np.clip(np.round(image + blotches), 0, 255).astype("uint8")
    stream = io.BytesIO()
    Image.fromarray(image).save(stream, "JPEG", quality=int(rng.integers(55, 98)), subsampling=int(rng.integers(3)))
    return np.asarray(Image.open(stream))


def normalize_exposure(image, mean):
    """Moves an image's exposure towards a mean luma of 0.47, by a tone curve that leaves black and white alone.

    How bright a scene was photographed can hardly be told from its dark image: a network that is to hit it learns its
    training scenes by heart, and guesses at all others. A flat image goes 0.85 of the way, those of LOL and SICE about 0.7.
    The curve is one of luma: the ratios of the colours stay, but where a channel would leave the range.

    Args:
        image: (..., 3), uint8.
        mean: its mean luma, in [0, 1], or that of the whole that it was cut from.

    Returns:
        uint8 of the same shape.

    >>> normalize_exposure(np.array([[0, 0, 0], [51, 51, 51], [255, 255, 255]], "uint8"), mean=0.2)[:, 0]
    array([  0, 105, 255], dtype=uint8)
    """
    power = 0.15 + 0.85 * np.log(0.47) / np.log(np.clip(mean, 0.02, 0.98))
    pixels = image.astype("float32") / 255.0
    luma = np.maximum(pixels @ LUMA.astype("float32"), 1e-4)[..., None]
    brightest = np.maximum(pixels.max(axis=-1, keepdims=True), 1e-4)
    return to_uint8(pixels * np.minimum(luma ** (power - 1.0), 1.0 / brightest))


def saturation(context):
    """How strong the colours of a scene are, relative to its brightness: 0 for a grey one. Blocks average the noise out.

    Args:
        context: (H, W, 3), uint8, H and W multiples of 8.

    >>> saturation(np.full((8, 8, 3), 100, "uint8"))
    0.0
    """
    height, width = context.shape[:2]
    blocks = context.reshape(height // 8, 8, width // 8, 8, 3).mean((1, 3))
    luma = blocks @ LUMA
    return float(np.abs(blocks - luma[..., None]).mean() / max(luma.mean(), 1.0))


def normalize_saturation(image, own, seen):
    """Moves the strength of a reference's colours towards 1.3 times that of its dark image, by a factor of 0.8 to 1.4.

    A dark image hardly shows how pale its reference will be. The colours of LOL's references are 0.49 times as strong as those
    of their dark images; of SICE's, 0.72 times (medians). A network that learns from them makes all photos pale. The factor is
    the sixth root of what would reach 1.3: LOL's median becomes 0.58, SICE's 0.79.

    Args:
        image: (..., 3), uint8.
        own, seen: `saturation` of the reference and of the dark image.

    Returns:
        uint8 of the same shape.

    >>> normalize_saturation(np.array([[120, 100, 80]], "uint8"), own=0.1, seen=0.2)
    array([[123,  99,  76]], dtype=uint8)
    """
    factor = np.clip((1.3 * seen / max(own, 0.01)) ** (1 / 6), 0.8, 1.4)
    pixels = image.astype("float32") / 255.0
    luma = (pixels @ LUMA.astype("float32"))[..., None]
    return to_uint8(luma + (pixels - luma) * np.float32(factor))
