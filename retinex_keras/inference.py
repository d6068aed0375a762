"""Trained weights, and the enhancement of one image of any size."""

import collections
import concurrent.futures
import functools
import itertools
import os
import zipfile
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf
from tqdm import tqdm

from retinex_keras.images import WRITTEN, list_images, read_image, to_float, to_uint8, write_image
from retinex_keras.models import RetinexNet

# How far a pixel of the input can reach, rounded up to the grid of the three halvings: 10 pixels in Decom-Net (9x9 and six
# 3x3), 15 and the grid in Enhance-Net. Tiles with this halo give what the whole image gives, bit for bit.
HALO = 32
GRID = 8
TILE = 512


def load_pretrained(weights="paper"):
    """Loads a trained network.

    Args:
        weights: the name of shipped weights ("paper": the original recipe), or the path of a `.keras` file.

    Returns:
        A `RetinexNet`, or the `SimpleCNN` that it is compared with.

    Raises:
        FileNotFoundError: if there are no such weights.
        ValueError: if the file holds something else.
    """
    from retinex_keras.baselines import SimpleCNN  # here, since baselines import this module

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
    return model


@functools.lru_cache(maxsize=2)
def _graph(model):
    """The model as one graph for all sizes: a folder of mixed sizes compiles once."""
    signature = tf.TensorSpec((1, None, None, 3), tf.float32)
    return tf.function(functools.partial(model, training=False), input_signature=[signature])


_pretrained = functools.lru_cache(maxsize=2)(load_pretrained)


def _model(model):
    return model if isinstance(model, keras.Model) else _pretrained(model)


def decompose(image, model="paper", tile=TILE):
    """Enhances an image and also returns what it was split into.

    It is computed in tiles, which changes nothing but the memory that it takes. For that, sides that are no multiples of 8
    are first extended by repeating the border; calling the model on such an image itself, as the original does, gives
    another result, since its coarse levels are then enlarged by other factors.

    Args:
        image: a path, or an array (H, W, 3), uint8, uint16 or float in [0, 1]; sRGB.
        model: a `RetinexNet`, or what `load_pretrained` takes.
        tile: side of the tiles in pixels, a multiple of 8.

    Returns:
        A dict of float32 arrays: `enhanced` (H, W, 3) in [0, 1], `reflectance` (H, W, 3) and `illumination` (H, W, 1) in
        (0, 1), `adjusted_illumination` (H, W, 1), not bounded.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if the file or array is not an image as above.
    """
    image = _opened(image)
    result = {}
    for rows, columns, parts in _tiles(image, model, tile):
        if not result:
            result = {name: np.empty((*image.shape[:2], values.shape[-1]), "float32") for name, values in parts.items()}
        for name, values in parts.items():
            result[name][rows, columns] = values
    return result


def enhance(image, model="paper"):
    """Brightens a photo taken in the dark.

    Args:
        image: a path, or an array (H, W, 3), uint8, uint16 or float in [0, 1]; sRGB.
        model: a `RetinexNet`, or what `load_pretrained` takes.

    Returns:
        (H, W, 3): float32 in [0, 1] for an array of floats, uint8 otherwise.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if the file or array is not an image as above.
    """
    image = _opened(image)
    as_float = image.dtype.kind == "f"
    result = np.empty(image.shape, "float32" if as_float else "uint8")
    for rows, columns, parts in _tiles(image, model):
        result[rows, columns] = parts["enhanced"] if as_float else to_uint8(parts["enhanced"].numpy())
    return result


def _tiles(image, model, tile=TILE):
    """Yields the rows and columns of each tile, as slices, and what the model makes of it, a dict of (h, w, C) tensors.

    Only a tile is held as floats. What lies beyond the image, up to a multiple of the grid, repeats its border.
    """
    if tile < GRID or tile % GRID:
        raise ValueError(f"Tiles lie on a grid of {GRID} pixels. Received tile={tile}: use a multiple of {GRID}.")
    graph = _graph(_model(model))

    def spans(size):
        """Along one axis: where each tile is, where in what the network sees it begins, and the pixels of that."""
        for start in range(0, size, tile):
            first = max(start - HALO, 0)
            seen = np.arange(first, min(start + tile + HALO, size + -size % GRID))
            yield slice(start, min(start + tile, size)), start - first, np.minimum(seen, size - 1)

    for rows, above, seen_rows in spans(image.shape[0]):
        for columns, before, seen_columns in spans(image.shape[1]):
            seen = image[seen_rows[:, None], seen_columns]
            seen = seen.astype("float32") if seen.dtype.kind == "f" else to_float(seen)
            height, width = rows.stop - rows.start, columns.stop - columns.start
            parts = graph(seen[None])
            yield rows, columns, {name: v[0, above : above + height, before : before + width] for name, v in parts.items()}


def enhance_folder(folder, out, model="paper", force=False):
    """Enhances all images of a folder and its subfolders, into the same places below another folder.

    The next files are read and the last ones written while the network works. A result has the name of its image, with
    ".png" added to formats that are read only. Results that exist are not made again, so that a stopped run goes on.

    Args:
        folder: of the images; hidden files and files that are no images by their suffix are left alone.
        out: folder of the results; it may lie in `folder`, but not be it.
        model: a `RetinexNet`, or what `load_pretrained` takes.
        force: if True, results that exist are made again.

    Returns:
        Three lists of paths and reasons: the results made, those that existed, and (image, reason) of each bad file.

    Raises:
        FileNotFoundError: if there is no such folder, or there are no such weights.
        ValueError: if `out` is `folder`, or `folder` holds no image.
    """
    folder, out, model = Path(folder), Path(out), _model(model)
    if out.resolve() == folder.resolve():
        raise ValueError(f"{out} is the folder of the inputs, which are never overwritten; name another folder.")
    images = [path for path in list_images(folder) if not path.resolve().is_relative_to(out.resolve())]
    targets = {path: out / path.relative_to(folder) for path in images}
    targets = {path: to if to.suffix.lower() in WRITTEN else to.with_name(to.name + ".png") for path, to in targets.items()}
    pending = [path for path in images if force or not targets[path].exists()]
    existing = [targets[path] for path in sorted(set(images) - set(pending))]
    made, bad = [], []

    def finish(path, writing):
        try:
            writing.result()
            made.append(targets[path])
        except (ValueError, OSError) as error:
            bad.append((path, str(error)))

    def write(path, picture):
        targets[path].parent.mkdir(parents=True, exist_ok=True)
        write_image(targets[path], picture)

    with concurrent.futures.ThreadPoolExecutor(2) as pool, tqdm(total=len(pending), unit="image", disable=None) as bar:
        readings, writings = collections.deque(), collections.deque()
        following = iter(pending)
        while True:
            readings.extend((path, pool.submit(read_image, path)) for path in itertools.islice(following, 2 - len(readings)))
            if not readings:
                break
            path, reading = readings.popleft()
            try:
                writings.append((path, pool.submit(write, path, enhance(reading.result(), model))))
            except (ValueError, OSError) as error:
                bad.append((path, str(error)))
            if len(writings) > 2:
                finish(*writings.popleft())
            bar.update()
        for writing in writings:
            finish(*writing)
    return made, existing, bad


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
