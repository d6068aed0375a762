"""Trained weights, and the enhancement of one image of any size."""

import functools
import os
import zipfile
from pathlib import Path

import keras
import numpy as np

from retinex_keras.imaging.pixels import context_indices, to_float, to_integers
from retinex_keras.imaging.read import read_image
from retinex_keras.recipes.paper import RetinexNet, SimpleCNN

# The largest height and width of a tile, by `RetinexNet.natural`, as measured: 1080p is one tile of the natural networks
# and three of the paper's, and 100 megapixels take less than 2 GiB above the process.
TILES = {False: (1016, 640), True: (2048, 2048)}


def load_pretrained(weights="natural", denoise=None):
    """Loads a trained network.

    Args:
        weights: the name of shipped weights ("natural"; "paper": the original recipe; "simple": a CNN without Retinex, to
            compare with), or the path of a `.keras` file.
        denoise: strength of `Denoise` on the reflectance, by default that of the weights; 0 gives the original's picture.
            Natural networks restore the reflectance themselves and take none; nor does the CNN.

    Returns:
        A `RetinexNet`, or of "simple" a `SimpleCNN`.

    Raises:
        FileNotFoundError: if there are no such weights.
        ValueError: if the file holds something else, or is given a strength that it cannot use.

    >>> load_pretrained("paper").count_params()
    444613
    """
    here = Path(__file__).parent
    shipped = {path.stem: path for path in (*here.parent.glob("checkpoints/*.keras"), *here.glob("checkpoints/*.keras"))}
    path = shipped.get(str(weights), Path(weights))
    if not path.is_file():
        raise FileNotFoundError(
            f"There are no weights {str(weights)!r}. Shipped ones: {', '.join(sorted(shipped))}; or pass the path of a file."
        )
    try:
        model = keras.saving.load_model(path)
    except (ValueError, OSError, KeyError, TypeError, zipfile.BadZipFile) as error:
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        raise ValueError(f"{path} could not be loaded as a Keras model ({reason}); is the file complete?") from error
    if not isinstance(model, (RetinexNet, SimpleCNN)):
        raise ValueError(
            f"{path} holds the model {type(model).__name__}. Expected RetinexNet: pass a file that `retinex train` made."
        )
    if denoise is None:
        return model
    if model.natural or isinstance(model, SimpleCNN):
        raise ValueError(f"Only the paper's networks are denoised after. Received denoise={denoise} for {weights}: omit it.")
    return RetinexNet(model.decom_net, model.enhance_net, denoise)


def _outputs(model, names, image, context):
    parts = model(image, context, training=False)
    return {name: parts[name] for name in names or parts}


@functools.lru_cache(maxsize=4)
def _graph(model, *names):
    """The outputs of these names, or all, as one graph for all sizes: a folder of mixed sizes compiles once."""
    outputs = functools.partial(_outputs, model, names)
    if keras.backend.backend() != "tensorflow":
        return outputs
    import tensorflow as tf

    signature = tf.TensorSpec((1, None, None, 3), tf.float32)
    return tf.function(outputs, input_signature=[signature, signature])


_pretrained = functools.lru_cache(maxsize=2)(load_pretrained)


def _model(model):
    return model if isinstance(model, keras.Model) else _pretrained(model)


def decompose(image, model="natural", tile=None):
    """Enhances an image and also returns what it was split into.

    It is computed in tiles, which changes nothing but the memory that it takes. For that, sides that are no multiples of 8
    are first extended by repeating the border; calling a model of the paper's networks on such an image itself, as the
    original does, gives another result, since its coarse levels are then enlarged by other factors.

    Args:
        image: a path, or an array (H, W, 3), uint8, uint16 or float in [0, 1]; sRGB.
        model: a `RetinexNet` or `SimpleCNN`, or what `load_pretrained` takes.
        tile: the largest side of a tile in pixels, a multiple of 8; by default those of `TILES`. Those at the image's border
            are larger, by as much as the networks see around the others.

    Returns:
        A dict of float32 arrays, as `RetinexNet` returns them: `enhanced` (H, W, 3) in [0, 1], `reflectance` (H, W, 3) and
        `illumination` (H, W, 1) in [0, 1], `adjusted_illumination` (H, W, 1), not bounded, and others of size (H, W).

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if the file or array is not an image as above.

    >>> parts = decompose("dark.png")
    >>> parts["reflectance"].shape, parts["illumination"].shape
    ((20, 24, 3), (20, 24, 1))
    """
    image = _opened(image)
    result = {}
    for rows, columns, parts in _tiles(image, model, tile):
        if not result:
            result = {name: np.empty((*image.shape[:2], values.shape[-1]), "float32") for name, values in parts.items()}
        for name, values in parts.items():
            result[name][rows, columns] = values
    return result


def enhance(image, model="natural"):
    """Brightens a photo taken in the dark.

    Args:
        image: a path, or an array (H, W, 3), uint8, uint16 or float in [0, 1]; sRGB.
        model: a `RetinexNet` or `SimpleCNN`, or what `load_pretrained` takes.

    Returns:
        (H, W, 3): float32 in [0, 1] for an array of floats, otherwise of the image's type, uint8 or uint16.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if the file or array is not an image as above.

    >>> bright = enhance("dark.png")
    >>> bright.shape, bright.dtype
    ((20, 24, 3), dtype('uint8'))
    """
    image = _opened(image)
    as_float = image.dtype.kind == "f"
    result = np.empty(image.shape, "float32" if as_float else image.dtype)
    for rows, columns, parts in _tiles(image, model, None, "enhanced"):
        result[rows, columns] = parts["enhanced"] if as_float else to_integers(parts["enhanced"], image.dtype)
        del parts  # before the next tile is computed
    return result


def _tiles(image, model, tile=None, *names):
    """Yields the rows and columns of each tile, as slices, and what the model makes of it, a dict of (h, w, C) arrays.

    Only a tile and what the network sees around it are held as floats. What lies beyond the image, up to a multiple of the
    grid, repeats its border. Of the model's outputs those of the names are computed, or all.
    """
    model = _model(model)
    graph, halo, grid = _graph(model, *names), model.halo, model.grid
    if tile is not None and (tile < grid or tile % grid):
        raise ValueError(f"Tiles lie on a grid of {grid} pixels. Received tile={tile}: use a multiple of {grid}.")
    tile_height, tile_width = TILES[model.natural] if tile is None else (tile, tile)

    def pixels(part):
        return (part.astype("float32", copy=False) if part.dtype.kind == "f" else to_float(part))[None]

    rows, columns = (context_indices(side) for side in image.shape[:2])
    context = pixels(image[rows[:, None], columns])
    for rows, seen_rows in _spans(image.shape[0], tile_height, halo, grid):
        for columns, seen_columns in _spans(image.shape[1], tile_width, halo, grid):
            seen = image[seen_rows, seen_columns]
            beyond = [(0, span.stop - span.start - side) for span, side in zip((seen_rows, seen_columns), seen.shape)]
            if any(sum(beyond, ())):
                seen = np.pad(seen, (*beyond, (0, 0)), "edge")
            parts = graph(pixels(seen), context)
            above, before = rows.start - seen_rows.start, columns.start - seen_columns.start
            height, width = rows.stop - rows.start, columns.stop - columns.start
            inner = 0, slice(above, above + height), slice(before, before + width)
            parts = {name: np.asarray(values)[inner] for name, values in parts.items()}
            yield rows, columns, parts
            del parts


def _spans(size, tile, halo, grid):
    """Yields along one axis, as slices, each tile and what the network sees of the image, on its grid, to compute it.

    All see equally much, since memory grows with each size that a network meets: the first and the last tile are larger by
    the halo that they do not need at the image's border.
    """
    padded = size + -size % grid
    inner = max(padded - 2 * halo, 1)
    step = -(-inner // (-(-inner // tile) * grid)) * grid
    count = -(-inner // step)
    for i in range(count):
        first = min(i * step, max(padded - step - 2 * halo, 0))
        start, stop = i * step + halo if i else 0, (i + 1) * step + halo if i + 1 < count else size
        yield slice(start, stop), slice(first, min(first + step + 2 * halo, padded))


def _opened(image):
    """The image as an array, read if it is a path; a ValueError says what is wrong with it."""
    image = read_image(image) if isinstance(image, (str, os.PathLike)) else np.asarray(image)
    if image.ndim != 3 or image.shape[-1] != 3 or 0 in image.shape:
        raise ValueError(f"Expected an RGB image, (H, W, 3). Received an array of shape {image.shape}: convert it to RGB.")
    if image.dtype in (np.uint8, np.uint16):
        return image
    if image.dtype.kind != "f":
        raise ValueError(f"Expected uint8, uint16 or floats in [0, 1]. Received {image.dtype}: convert the array.")
    low, high = float(image.min()), float(image.max())
    if not (low >= 0.0 and high <= 1.0):  # NaN fails too
        raise ValueError(f"Expected floats in [0, 1]. Received values from {low:g} to {high:g}: scale or clip them.")
    return image
