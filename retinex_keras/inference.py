"""Trained weights, and the enhancement of images of any size."""

import contextlib
import functools
import importlib
import io
import itertools
import json
import math
import os
import sys
import threading
import warnings
import zipfile

import numpy as np
from PIL import Image

from retinex_keras import engines
from retinex_keras.dials import DEFAULTS, STEERED, check_dials, find_exposure
from retinex_keras.engines import import_keras, locate_weights
from retinex_keras.imaging.pixels import CONTEXT, context_indices, range_error, split_alpha, to_float, to_integers
from retinex_keras.imaging.read import read_image, read_photo
from retinex_keras.imaging.tiling import cut
from retinex_keras.onnx_model import OnnxModel
from retinex_keras.recipes import DEFAULT, shipped_recipes

MARGIN = 2**20  # bytes and weights that a file may announce beyond its size
_loading = threading.RLock()


def load_pretrained(weights: str | os.PathLike = DEFAULT, denoise: float | None = None, engine: str | None = None):
    """Loads trained weights.

    Args:
        weights: the name of shipped weights, or the path of a `.keras` or `.onnx` file. If a model is of a recipe of your own,
            the module that defines it is imported.
        denoise: strength of the denoising after the networks, by default that of the weights; 0 gives the original's picture.
            Only some models are denoised after their networks.
        engine: for weights by name, "tensorflow" or "onnx". By default TensorFlow where it is installed.

    Returns:
        A `networks.base.LowLightModel`, which is a Keras model. For an ONNX file an `onnx_model.OnnxModel`, which cannot be
        trained.

    Raises:
        FileNotFoundError: if there are no such weights.
        ModuleNotFoundError: if the engine is not installed.
        ValueError: if the file holds something else, or is given a strength that it cannot use.

    >>> load_pretrained("paper").count_params()
    444613
    """
    engine, path = locate_weights(weights, engine)
    model = OnnxModel(path) if engine == "onnx" else _load_keras(path)
    return model if denoise is None else model.with_denoising(denoise)


def _load_keras(path):
    import_keras()
    import keras

    shipped_recipes()  # registers their classes
    try:
        config, shapes = _contents(path)
        _import_model(keras, config)
        with _no_larger_than(shapes, keras), engines.loading():
            model = keras.saving.load_model(path, compile=False)
    except ImportError as error:
        raise ValueError(f"{path} needs the module that defines its model ({error}): put it on Python's path.") from error
    except Exception as error:  # a file can hold anything
        reason = f"{type(error).__name__}: {error}".splitlines()[0][:300]
        raise ValueError(f"{path} could not be loaded as a Keras model ({reason}); is the file complete?") from error
    if not hasattr(model, "tile_margin"):
        raise ValueError(
            f"{path} holds the model {type(model).__name__}, which makes no picture; pass a file that `retinex train` made."
        )
    for weight in model.weights:
        if not np.isfinite(keras.ops.convert_to_numpy(weight).astype("float32")).all():
            raise ValueError(f"{path} holds weights that are NaN or infinite, in {weight.path}; train them again.")
    return model


def _contents(path):
    """The configuration in a Keras file and the shapes of its weights; ValueError if it announces far more than it can hold."""
    import h5py  # which Keras brings

    most = 10 * path.stat().st_size + MARGIN  # Keras compresses nothing; other programs may
    with zipfile.ZipFile(path) as file:
        sizes = [entry.file_size for entry in file.infolist()]
        if sum(sizes) > most or len(sizes) > 1000:
            raise ValueError("its parts are too many, or far larger than the file")
        config = json.loads(file.read("config.json"))
        weights = io.BytesIO(file.read("model.weights.h5"))
    if not isinstance(config, dict):
        raise ValueError("its config.json is no object")
    found = []
    with h5py.File(weights) as file:
        file.visititems(lambda name, item: found.append((item.shape, item.dtype)) if isinstance(item, h5py.Dataset) else None)
    if sum(math.prod(shape) * dtype.itemsize for shape, dtype in found) > most:
        raise ValueError("its weights are far larger than the file")
    return config, [shape for shape, _ in found]


@contextlib.contextmanager
def _no_larger_than(shapes, keras):
    """Lets Keras make about as many layers and weights as a file has, so that a configuration cannot fill the memory.

    What Keras warns of is an error: the weights of a network that cannot be built would stay random.
    """
    layer, thread = keras.layers.Layer, threading.get_ident()
    left = {"layers": len(shapes) + 1000, "weights": sum(map(math.prod, shapes)) + MARGIN}
    problem = ValueError("its config.json announces more layers or weights than the file holds")

    def take(kind, count):
        if threading.get_ident() == thread:
            left[kind] -= count
            if left[kind] < 0:
                raise problem

    def make_layer(self, *args, **options):
        take("layers", 1)
        make(self, *args, **options)

    def add_weight(self, *args, shape=None, **options):
        take("weights", math.prod((shape,) if isinstance(shape, int) else shape or ()))
        return add(self, *args, shape=shape, **options)

    with _loading, warnings.catch_warnings():
        warnings.filterwarnings("error", module=r"keras\.src\.saving")
        make, add = layer.__init__, layer.add_weight
        layer.__init__, layer.add_weight = make_layer, add_weight
        try:
            yield
        except Warning:
            if min(left.values()) < 0:
                raise problem from None
            raise
        finally:
            layer.__init__, layer.add_weight = make, add


def _import_model(keras, config):
    """Imports the module that defines a model, if its class is not known yet.

    A file can name any module, and an import executes it. So it must be one whose own source uses this package.
    """
    name, module = config.get("registered_name"), str(config.get("module"))
    if module.partition(".")[0] in ("keras", "retinex_keras", "None") or keras.saving.get_registered_object(name):
        return
    spec, path = None, None
    for i in range(len(module.split("."))):  # found without importing the packages that it is in
        dotted = ".".join(module.split(".")[: i + 1])
        spec = next(filter(None, (finder.find_spec(dotted, path) for finder in sys.meta_path)), None)
        if spec is None:
            raise ModuleNotFoundError(f"No module named {module!r}")
        path = spec.submodule_search_locations
    source = spec.loader.get_source(spec.name) if hasattr(spec.loader, "get_source") else None
    if "retinex_keras" not in (source or ""):
        raise ValueError(f"it names the module {module!r}, which does not use retinex_keras")
    importlib.import_module(module)


@functools.lru_cache(maxsize=2)
def _loaded(path, stamp):
    return load_pretrained(path)


def find_model(weights):
    """The model itself, or that of weights; the last two that were loaded are kept, as long as their files do not change.

    >>> find_model("simple") is find_model("simple")
    True
    """
    if not isinstance(weights, (str, os.PathLike)):
        if not hasattr(weights, "runner"):
            raise ValueError(f"Expected a model, the name of weights or a path. Received {weights!r}.")
        return weights
    path = locate_weights(weights)[1]
    return _loaded(str(path), (path.stat().st_mtime_ns, path.stat().st_size))


def _for_each(function):
    """Lets a function of an image take also a list of images, or a batch in one array, for which it returns the same."""

    @functools.wraps(function)
    def each(image, weights=DEFAULT, *options, model=None, **named):
        weights = find_model(weights if model is None else model)
        if isinstance(image, (list, tuple)):
            return [each(one, weights, *options, **named) for one in image]
        if getattr(image, "ndim", 0) != 4 or 0 in image.shape:
            return function(image, weights, *options, **named)
        results = [function(one, weights, *options, **named) for one in np.asarray(image)]
        if isinstance(results[0], dict):
            return {name: np.stack([result[name] for result in results]) for name in results[0]}
        return np.stack(results)

    return each


@_for_each
def decompose(image, weights=DEFAULT, tile: int | None = None, **dials: float | None) -> dict[str, np.ndarray]:
    """Enhances an image and also returns what it was split into.

    It is computed in tiles, which changes nothing but the memory that it takes. For that, sides that are no multiples of 8
    are first extended by repeating the border. The paper's networks, called on such an image themselves as the original does,
    give another result, since their coarse levels are then enlarged by other factors.

    Args:
        image: as in `enhance`; alpha is left out.
        weights: a model, or what `load_pretrained` takes; also by the name `model`.
        tile: the largest side of a tile in pixels, a multiple of 8; by default what suits the model. Those at the image's
            border are larger, by as much as the networks see around the others.
        dials: as in `enhance`. They change `enhanced`, and the two parts of which it is the product: `restored_reflectance`
            and `adjusted_illumination`.

    Returns:
        A dict of float32 arrays, as the model returns them: `enhanced` (H, W, 3) in [0, 1], and for a model that decomposes
        `reflectance` (H, W, 3) and `illumination` (H, W, 1) in [0, 1], `restored_reflectance` (H, W, 3) and
        `adjusted_illumination` (H, W, 1), both not bounded. For a batch (B, H, W, ...), for a list of images a list of dicts.

    Raises:
        FileNotFoundError: if there is no such file, or no such weights.
        ValueError: if the file or array is not an image as above, a tile does not fit, or a dial is out of range.

    >>> parts = decompose("dark.png")
    >>> parts["reflectance"].shape, parts["illumination"].shape
    ((20, 24, 3), (20, 24, 1))
    """
    image = as_pixels(image)[0]
    result = {}
    for rows, columns, parts in _tiles(image, weights, tile, check_dials(weights, **dials)):
        if not result:
            result = {name: np.empty((*image.shape[:2], values.shape[-1]), "float32") for name, values in parts.items()}
        for name, values in parts.items():
            result[name][rows, columns] = values
    return result


@_for_each
def enhance(
    image,
    weights=DEFAULT,
    exposure: float = 0.0,
    strength: float = 1.0,
    colour: float = 1.0,
    brightness: float | None = None,
) -> np.ndarray:
    """Brightens a photo taken in the dark.

    Dials steer it; each at its default, they change nothing.

    Args:
        image: a path, the bytes of a file, an open file, a PIL picture, or an array: (H, W, 3), or grey (H, W) or (H, W, 1),
            with alpha (H, W, 2) or (H, W, 4); uint8, uint16 or float in [0, 1]; sRGB. A batch of them, (B, H, W, C), or a list.
        weights: a model, or what `load_pretrained` takes; also by the name `model`.
        exposure: stops around the automatic choice, -3 to 3. Black stays black, and nothing that was below white gets white.
        strength: 0 returns the input, 1 the full result, and what is between is a mixture of both.
        colour: 0 is grey, 1 as it is, up to 2.
        brightness: the mean luma that the picture is to have, between 0 and 1, instead of an exposure. It is reached within
            0.02, if the picture can have it: no brighter than its reflectance. The networks then run twice.

    Returns:
        (H, W, 3): float32 in [0, 1] for an array of floats, otherwise of the image's type, uint8 or uint16. An array with alpha
        keeps it: (H, W, 4). For a batch (B, H, W, C), for a list a list.

    Raises:
        FileNotFoundError: if there is no such file, or no such weights.
        ValueError: if the file or array is not an image as above, a dial is out of range, or the weights do not decompose
            and so have no dials.

    >>> bright = enhance("dark.png")
    >>> bright.shape, bright.dtype
    ((20, 24, 3), dtype('uint8'))
    >>> bool(enhance("dark.png", exposure=-1).mean() < bright.mean())
    True
    """
    dials = check_dials(weights, exposure=exposure, strength=strength, colour=colour, brightness=brightness)
    image, alpha = as_pixels(image)
    as_float = image.dtype.kind == "f"
    result = np.empty(image.shape, "float32" if as_float else image.dtype)
    for rows, columns, parts in _tiles(image, weights, None, dials, "enhanced"):
        result[rows, columns] = parts["enhanced"] if as_float else to_integers(parts["enhanced"], image.dtype)
        del parts  # before the next tile is computed
    return result if alpha is None else np.concatenate([result, alpha.astype(result.dtype)], axis=-1)


def _tiles(image, model, tile, dials, *names):
    """Yields the rows and columns of each tile, as slices, and what the model makes of it, a dict of (h, w, C) arrays.

    Only a window, a tile and what the network sees around it, is held as floats. What lies beyond the image, up to a multiple,
    repeats its border. Of the model's outputs those of the names are computed, or all. Tiles that take more than five
    seconds show their progress in a terminal.
    """
    margin, multiple = model.tile_margin, model.size_multiple
    if tile is not None and (tile < multiple or tile % multiple):
        raise ValueError(f"Tiles lie on a grid of {multiple} pixels. Received tile={tile}: use a multiple of {multiple}.")
    largest = model.tile_size if tile is None else (tile, tile)
    tiles = [cut(side, most, margin, multiple) for side, most in zip(image.shape, largest)]

    run, settings = model.runner(*names), []
    if dials != DEFAULTS:
        if dials.brightness is not None:
            dials = dials._replace(exposure=_exposure_for(image, model, tile, dials))
        run, settings = model.runner(*names, steered=True), [np.float32(dials[:3])]
    context = _context(image)[None]
    spans = [*itertools.product(tiles[0].slices(), tiles[1].slices())]
    if len(spans) > 1:
        from tqdm import tqdm  # here, since it takes a tenth of a second

        spans = tqdm(spans, "computing", unit="tile", leave=False, disable=None if sys.stderr else True, delay=5)
    for (rows, seen_rows), (columns, seen_columns) in spans:
        seen = image[seen_rows, seen_columns]
        beyond = [(0, axis.window - side) for axis, side in zip(tiles, seen.shape)]
        if any(sum(beyond, ())):
            seen = np.pad(seen, (*beyond, (0, 0)), "edge")
        parts = run(to_float(seen)[None], context, *settings)
        above, before = rows.start - seen_rows.start, columns.start - seen_columns.start
        height, width = rows.stop - rows.start, columns.stop - columns.start
        inner = 0, slice(above, above + height), slice(before, before + width)
        parts = {name: np.asarray(values)[inner] for name, values in parts.items()}
        yield rows, columns, parts
        del parts


def _context(image):
    rows, columns = (context_indices(side) for side in image.shape[:2])
    return to_float(image[rows[:, None], columns])


def _exposure_for(image, model, tile, dials):
    """The exposure for the dials' brightness: a first pass over the tiles keeps the pixels of the context."""
    sample = {name: np.empty((CONTEXT, CONTEXT, channels)) for name, channels in STEERED.items()}
    indices = [context_indices(side) for side in image.shape[:2]]
    for *spans, parts in _tiles(image, model, tile, DEFAULTS, *STEERED):
        inside = [np.flatnonzero((own >= span.start) & (own < span.stop)) for own, span in zip(indices, spans)]
        taken = [own[which] - span.start for own, which, span in zip(indices, inside, spans)]
        for name, values in parts.items():
            sample[name][np.ix_(*inside)] = values[np.ix_(*taken)]
    settings = map(float, np.float32(dials[1:]))  # as a server gets them
    return find_exposure(sample, _context(image).astype("float64"), *settings)


def as_pixels(image) -> tuple[np.ndarray, np.ndarray | None]:
    """The colours of an image, (H, W, 3), and its alpha, (H, W, 1), or None.

    Args:
        image: one image, as in `enhance`. Of a file the colours alone are returned.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if the file or array is not an image.

    >>> colours, alpha = as_pixels(np.zeros((4, 6, 4), "uint8"))
    >>> colours.shape, alpha.shape
    ((4, 6, 3), (4, 6, 1))
    """
    if isinstance(image, Image.Image):
        image, extras = read_photo(image)
        return image, extras.get("alpha")
    if isinstance(image, (str, os.PathLike, bytes, bytearray, memoryview)) or hasattr(image, "read"):
        return read_image(image), None
    image = np.asarray(image)
    if image.ndim not in (2, 3) or (image.ndim == 3 and image.shape[-1] > 4) or 0 in image.shape:
        raise ValueError(
            "Expected an image (H, W, 3), grey (H, W) or (H, W, 1), or one with alpha. "
            f"Received an array of shape {image.shape}: convert it to RGB."
        )
    if image.dtype.kind == "f":
        low, high = float(image.min()), float(image.max())
        if not (low >= 0.0 and high <= 1.0):  # NaN fails too
            raise range_error(low, high)
    elif image.dtype not in (np.uint8, np.uint16):
        raise ValueError(f"Expected uint8, uint16 or floats in [0, 1]. Received {image.dtype}: convert the array.")
    return split_alpha(image[..., None] if image.ndim == 2 else image)
