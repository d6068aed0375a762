"""What the losses of several recipes share (Wei et al., BMVC 2018), as pure functions of (B, H, W, C) tensors.

They use `keras.ops` alone, so that they run on every Keras backend. All are computed in float32.
"""

from keras import ops

from retinex_keras.imaging.pixels import TENSORFLOW_LUMA


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
