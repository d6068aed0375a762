"""Arrays of pixels: their types, luma, and the context of an image."""

import numpy as np

CONTEXT = 128  # side of the context of an image, see context_indices
LUMA = np.array([0.299, 0.587, 0.114])  # of red, green and blue, ITU-R 601
TENSORFLOW_LUMA = (0.2989, 0.587, 0.114)  # as tf.image rounds it, and so the original's losses


def context_indices(size):
    """The rows, or the columns, of an image that make its context: 128 at equal distances, for a number or an integer tensor.

    The context is what a network is told of the whole image where it sees a part of it. Integers alone decide which pixels
    it has, so that it is the same wherever it is taken.
    """
    return (2 * np.arange(CONTEXT, dtype="int32") + 1) * size // (2 * CONTEXT)


def split_alpha(image: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
    """The colours, (H, W, 3), and the alpha, (H, W, 1) or None, of an image of 1 to 4 channels.

    >>> colours, alpha = split_alpha(np.zeros((4, 6, 2)))
    >>> colours.shape, alpha.shape
    ((4, 6, 3), (4, 6, 1))
    """
    colours = image.shape[-1] - 1 | 1  # 1 or 3; the rest is alpha
    alpha = image[..., colours:] if colours < image.shape[-1] else None
    return np.broadcast_to(image[..., :colours], (*image.shape[:2], 3)), alpha


def to_float(image: np.ndarray) -> np.ndarray:
    """A uint8 or uint16 array of any shape as float32 in [0, 1]; floats as float32.

    >>> to_float(np.array([0, 255], "uint8"))
    array([0., 1.], dtype=float32)
    """
    if image.dtype.kind == "f":
        return image.astype("float32", copy=False)
    return image.astype("float32") / np.float32(np.iinfo(image.dtype).max)


def to_integers(image: np.ndarray, dtype: str | np.dtype) -> np.ndarray:
    """An array of floats in [0, 1], uint8 or uint16 as uint8 or uint16: clipped and rounded, not truncated.

    >>> to_integers(np.array([0.5, 1.2]), "uint16")
    array([32768, 65535], dtype=uint16)
    """
    if image.dtype == dtype:
        return image
    result = np.empty(image.shape, dtype)
    for top in range(0, len(image), 256):  # so that a large image is never whole as floats
        rows = image[top : top + 256]
        rows = rows if rows.dtype.kind == "f" else to_float(rows)
        result[top : top + 256] = np.round(np.clip(rows, 0.0, 1.0) * np.iinfo(dtype).max)
    return result


def to_uint8(image: np.ndarray) -> np.ndarray:
    """The same as `to_integers`, for uint8.

    >>> to_uint8(np.array([0.5, 1.2]))
    array([128, 255], dtype=uint8)
    """
    return to_integers(image, "uint8")


def range_error(low: float, high: float) -> ValueError:
    """The error for floats that are not in [0, 1], by their least and greatest value.

    >>> raise range_error(0.0, 255.0)
    Traceback (most recent call last):
    ValueError: Expected floats in [0, 1]. Received values from 0 to 255: scale or clip them.
    """
    return ValueError(f"Expected floats in [0, 1]. Received values from {low:g} to {high:g}: scale or clip them.")
