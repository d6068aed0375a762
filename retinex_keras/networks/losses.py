"""The loss terms of RetinexNet (Wei et al., BMVC 2018) as pure functions of (B, H, W, C) tensors.

They use `keras.ops` alone, so that they run on every Keras backend. All are computed in float32.
"""

from keras import ops

from retinex_keras.imaging.pixels import TENSORFLOW_LUMA
from retinex_keras.networks import metrics

# The terms of each network's loss and their weights, as in the original's code.
DECOMPOSITION_WEIGHTS = {
    "recon_low": 1.0,
    "recon_high": 1.0,
    "recon_mutual_low": 0.001,
    "recon_mutual_high": 0.001,
    "smooth_low": 0.1,
    "smooth_high": 0.1,
    "equal_r": 0.01,
}
ADJUSTMENT_WEIGHTS = {"relight": 1.0, "smooth_adjusted": 3.0}

NATURAL_WEIGHTS = {
    "fidelity": 1.0,
    "aligned": 0.5,
    "structure": 0.2,
    "equal_r": 0.1,
    "restored": 0.1,
    "smooth_low": 0.1,
    "smooth_high": 0.1,
    "tight": 0.05,
}


def grayscale(image):
    """ITU-R 601 luma of an RGB image: (B, H, W, 3) -> (B, H, W, 1).

    >>> float(grayscale(np.full((1, 1, 1, 3), (0.0, 1.0, 0.0)))[0, 0, 0, 0])
    0.587
    """
    red, green, blue = (weight * part for weight, part in zip(TENSORFLOW_LUMA, ops.split(image, 3, axis=-1)))
    return red + green + blue


def gradients(image):
    """Absolute differences to the right and downwards, as the original's code takes them.

    The original convolves with [[0, 0], [-1, 1]] and its transpose under SAME padding: the difference along x is read one
    row below, the one along y one column to the right, and beyond the border the image is 0.

    Args:
        image: (B, H, W, 1).

    Returns:
        |d image / dx| and |d image / dy|, each (B, H, W, 1).

    >>> along_x, along_y = gradients(np.array([[0.0, 1.0], [2.0, 4.0]])[None, :, :, None])
    >>> np.asarray(along_x)[0, :, :, 0].tolist()
    [[2.0, 4.0], [0.0, 0.0]]
    """
    padded = ops.pad(image, [[0, 0], [0, 1], [0, 1], [0, 0]])
    along_x = padded[:, 1:, 1:] - padded[:, 1:, :-1]
    along_y = padded[:, 1:, 1:] - padded[:, :-1, 1:]
    return ops.abs(along_x), ops.abs(along_y)


def smoothness(illumination, reflectance):
    """Variation of the illumination, weighed down where the reflectance has edges (Wei et al., equation 5).

    Args:
        illumination: (B, H, W, 1).
        reflectance: (B, H, W, 3), in [0, 1].

    Returns:
        A scalar: the mean of |dI| exp(-10 |dR|) over both directions, |dR| averaged over 3x3 pixels.

    >>> step = np.tile(np.repeat([0.1, 0.9], 4), (8, 1)).reshape(1, 8, 8, 1)
    >>> flat, same = np.ones((1, 8, 8, 3)), np.repeat(step, 3, -1)
    >>> bool(smoothness(step, same) < smoothness(step, flat))
    True
    """
    total = 0.0
    for change, edge in zip(gradients(illumination), gradients(grayscale(reflectance))):
        edge = ops.average_pool(edge, pool_size=3, strides=1, padding="same")
        total = total + ops.mean(change * ops.exp(-10.0 * edge))
    return total


def reconstruction(reflectance, illumination, image):
    """Mean absolute error of reflectance * illumination against the image (Wei et al., equation 2).

    >>> round(float(reconstruction(np.full((1, 2, 2, 3), 0.5), np.ones((1, 2, 2, 1)), np.zeros((1, 2, 2, 3)))), 3)
    0.5
    """
    return ops.mean(ops.abs(reflectance * illumination - image))


def decomposition_losses(low, high, low_parts, high_parts, weights=DECOMPOSITION_WEIGHTS):
    """Loss terms of Decom-Net on a pair of images of one scene (Wei et al., section 3.1).

    Args:
        low, high: the dark and the well-lit image, (B, H, W, 3) in [0, 1].
        low_parts, high_parts: their (reflectance, illumination), (B, H, W, 3) and (B, H, W, 1).
        weights: of the terms.

    Returns:
        A dict of scalars, "loss" (the weighted sum) and the plain terms.

    >>> image, parts = ops.zeros((1, 8, 8, 3)), (ops.full((1, 8, 8, 3), 0.5), ops.full((1, 8, 8, 1), 0.4))
    >>> round(float(decomposition_losses(image, image, parts, parts)["recon_low"]), 3)
    0.2
    """
    low, high = ops.cast(low, "float32"), ops.cast(high, "float32")
    (low_r, low_i), (high_r, high_i) = low_parts, high_parts
    terms = {
        "recon_low": reconstruction(low_r, low_i, low),
        "recon_high": reconstruction(high_r, high_i, high),
        "recon_mutual_low": reconstruction(high_r, low_i, low),
        "recon_mutual_high": reconstruction(low_r, high_i, high),
        "equal_r": ops.mean(ops.abs(low_r - high_r)),
        "smooth_low": smoothness(low_i, low_r),
        "smooth_high": smoothness(high_i, high_r),
    }
    return {"loss": sum(weight * terms[name] for name, weight in weights.items()), **terms}


def adjustment_losses(high, reflectance, adjusted_illumination):
    """Loss terms of Enhance-Net (Wei et al., section 3.2).

    Args:
        high: the well-lit image, (B, H, W, 3) in [0, 1].
        reflectance: of the dark image, (B, H, W, 3).
        adjusted_illumination: Enhance-Net's, (B, H, W, 1).

    Returns:
        A dict of scalars, "loss" (the sum weighted by `ADJUSTMENT_WEIGHTS`) and the plain terms.

    >>> terms = adjustment_losses(ops.ones((1, 8, 8, 3)), ops.full((1, 8, 8, 3), 0.5), ops.ones((1, 8, 8, 1)))
    >>> round(float(terms["relight"]), 3)
    0.5
    """
    terms = {
        "relight": reconstruction(reflectance, adjusted_illumination, ops.cast(high, "float32")),
        "smooth_adjusted": smoothness(adjusted_illumination, reflectance),
    }
    return {"loss": sum(weight * terms[name] for name, weight in ADJUSTMENT_WEIGHTS.items()), **terms}


def natural_losses(low, high, low_parts, high_parts, restored_parts):
    """Loss terms of the natural recipe, on the final picture first.

    "aligned" is the error that is left when the picture is scaled to the reference's brightness (Liao et al., "GT-Mean
    Loss", 2025): how bright it has to be is a guess, and the details should not suffer from it. "tight" keeps the
    illumination as low as the image allows (Guo et al., "LIME", IEEE TIP 2017).

    Args:
        low, high: the dark and the well-lit image, (B, H, W, 3) in [0, 1].
        low_parts, high_parts: their (reflectance, illumination), (B, H, W, 3) and (B, H, W, 1).
        restored_parts: (restored reflectance, adjusted illumination) of the dark image.

    Returns:
        A dict of scalars, "loss" (the sum weighted by `NATURAL_WEIGHTS`) and the plain terms.

    >>> image = ops.full((1, 16, 16, 3), 0.25)
    >>> parts = ops.ones_like(image), image[..., :1]
    >>> round(float(natural_losses(image, image, parts, parts, parts)["fidelity"]), 3)
    0.0
    """
    low, high = ops.cast(low, "float32"), ops.cast(high, "float32")
    (low_r, low_i), (high_r, high_i), (restored, adjusted) = low_parts, high_parts, restored_parts
    picture = restored * adjusted
    brightness = [ops.mean(grayscale(image), axis=(1, 2, 3), keepdims=True) for image in (high, picture)]
    scale = ops.stop_gradient(ops.clip(brightness[0] / ops.maximum(brightness[1], 1e-3), 0.25, 4.0))
    tightness = [i - ops.max(s, axis=-1, keepdims=True) for s, i in ((low, low_i), (high, high_i))]
    terms = {
        "fidelity": ops.mean(ops.abs(picture - high)),
        "aligned": ops.mean(ops.abs(scale * picture - high)),
        "structure": 1.0 - ops.mean(metrics.ssim(picture, high)),
        "equal_r": ops.mean(ops.abs(low_r - high_r)),
        "restored": ops.mean(ops.abs(restored - ops.stop_gradient(high_r))),
        "smooth_low": smoothness(low_i, low_r),
        "smooth_high": smoothness(high_i, high_r),
        "tight": ops.mean(tightness[0]) + ops.mean(tightness[1]),
    }
    return {"loss": sum(weight * terms[name] for name, weight in NATURAL_WEIGHTS.items()), **terms}
