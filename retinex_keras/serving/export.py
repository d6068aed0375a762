"""SavedModel with its signatures, as TensorFlow Serving takes it; ONNX."""

import contextlib
import functools
import json
import logging
import os
import shutil
import tempfile
import warnings
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from retinex_keras.dials import RANGES, STEERED, Dials, find_exposure, steer
from retinex_keras.engines import check_backend
from retinex_keras.imaging import SERVED_PIXELS
from retinex_keras.imaging.atomic import atomic_path
from retinex_keras.imaging.pixels import CONTEXT, context_indices, to_float
from retinex_keras.imaging.tiling import cut
from retinex_keras.networks.layers import gather_2d
from retinex_keras.onnx_model import ABOUT, VERSION, OnnxModel
from retinex_keras.serving.client import NAME
from retinex_keras.serving.decode import decode
from retinex_keras.serving.targets import onnx_path, version_path

CONVERSIONS = 5  # at most: now and then tf2onnx writes an output with a dimension too many
ONNX_TILE = 1536  # pixels a side: ONNX Runtime holds more of a tile in memory than TensorFlow


def export_savedmodel(model, out, version=None, max_pixels=SERVED_PIXELS):
    """Writes a version of a model as TensorFlow Serving expects it, `out/version/`, and the server's settings beside it.

    Signatures, made of core ops only, each with the result of `enhance` and `decompose`:

    - `serving_default`: `image_bytes`, strings (B,), files in JPEG, PNG, WebP or BMP, each of its own size, to
      `enhanced_bytes`, strings (B,), PNG files of as many bits, without alpha and metadata; computed in tiles.
    - `steered`, for a model that decomposes: the same with `exposure`, `strength`, `colour` and `brightness`, float32 (B,), as
      `enhance` takes them. A brightness of 0 leaves it to the exposure.
    - `enhance`: `image`, float32 (B, H, W, 3) in [0, 1], to `enhanced`, the same.
    - `decompose`: the same to all that `decompose` gives.

    A server that polls `out` sees a version as a whole or not at all. Settings that exist are kept.

    Args:
        model: a `networks.base.LowLightModel`, as `load_pretrained` returns it.
        out: folder of the versions; made if there is none.
        version: from 1 to 2 ** 63 - 2; by default 1 more than the highest in `out`.
        max_pixels: 1 or more; a file whose header announces more is refused before it is decoded.

    Returns:
        The path of the version.

    Raises:
        ValueError: if the version exists or is out of range, if `max_pixels` is below 1, or if Keras runs on another backend
            than TensorFlow.

    >>> export_savedmodel(model=None, out="serving", max_pixels=0)
    Traceback (most recent call last):
    ValueError: A server takes pictures of 1 pixel or more. Received max_pixels=0: name a larger number.
    """
    check_backend("An export")
    if max_pixels < 1:
        raise ValueError(f"A server takes pictures of 1 pixel or more. Received max_pixels={max_pixels}: name a larger number.")
    target = version_path(out, version)
    out = target.parent
    out.mkdir(parents=True, exist_ok=True)
    for path in Path(__file__).parent.iterdir():
        if path.suffix in (".yml", ".config") and not (out / path.name).exists():
            shutil.copyfile(path, out / path.name)
    with tempfile.TemporaryDirectory(prefix=".export-", dir=out) as folder:  # no number: the server passes it by
        temporary = Path(folder) / target.name
        _archive(model, max_pixels).write_out(str(temporary), verbose=False)
        _write_warmup(temporary / "assets.extra")
        os.rename(temporary, target)
    return target


def export_onnx(model, path: str | os.PathLike) -> None:
    """Writes a model as an ONNX file, by tf2onnx.

    Its inputs are `image`, float32 (B, H, W, 3) in [0, 1], and for a model that takes one `context`, (B, 128, 128, 3): the
    pixels of the full image at `imaging.pixels.context_indices`. Its outputs are named and are what `model(image, context)`
    gives, in one piece. What `onnx_model.OnnxModel` needs for tiles is in the file's metadata. The file is tried in ONNX
    Runtime, where that is installed.

    Raises:
        ValueError: if the path does not end in `.onnx`, or if Keras runs on another backend than TensorFlow.
        FileNotFoundError: if there is no such folder.
        ModuleNotFoundError: if tf2onnx is not installed.

    >>> export_onnx(load_pretrained(), "retinex.onnx")  # doctest: +SKIP
    """
    path = onnx_path(path)
    check_backend("An export")
    try:
        import onnx
        import tf2onnx
    except ImportError:
        raise ModuleNotFoundError(
            "ONNX files are written by tf2onnx: pip install '.[onnx]' in retinex_keras's folder."
        ) from None
    names = ("image", "context") if model.takes_context else ("image",)
    sides = {"image": None, "context": CONTEXT}
    signature = [tf.TensorSpec((None, sides[name], sides[name], 3), tf.float32, name) for name in names]
    function = tf.function(lambda *inputs: model(*inputs, training=False), input_signature=signature, autograph=False)
    about = {name: getattr(model, name) for name in ABOUT} | {"version": VERSION}
    largest = ONNX_TILE // model.size_multiple * model.size_multiple
    about["tile_size"] = [min(side, largest) for side in model.tile_size]
    logging.getLogger("tf2onnx").setLevel("ERROR")
    with atomic_path(path) as temporary:
        for left in reversed(range(CONVERSIONS)):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of tf2onnx, about NumPy
                proto, _ = tf2onnx.convert.from_function(function, signature, opset=18)
            onnx.helper.set_model_props(proto, {"retinex_keras": json.dumps(about)})
            onnx.save(proto, temporary)
            try:
                with contextlib.suppress(ModuleNotFoundError):  # then ONNX Runtime cannot check it
                    OnnxModel(temporary)
                break
            except ValueError:
                if not left:
                    raise


def _archive(model, max_pixels):
    """What Keras writes as a SavedModel: the model's variables and the signatures."""
    images = tf.TensorSpec([None, None, None, 3], tf.float32, "image")
    network = tf.function(functools.partial(model, training=False), [images, images], autograph=False)  # one graph for all
    file = tf.TensorSpec([], tf.string)
    pixels_of = tf.function(functools.partial(decode, max_pixels=max_pixels), [file], autograph=False).get_concrete_function()

    def enhanced(contents, *dials):
        pixels, is_16_bit = pixels_of(contents)
        image = _enhanced_in_tiles(network, model, pixels, tf.where(is_16_bit, 65535.0, 255.0), *dials)
        shallow = tf.cast(image, tf.uint8)
        return tf.cond(is_16_bit, lambda: tf.io.encode_png(image, 1), lambda: tf.io.encode_png(shallow, 1))

    def one_by_one(*inputs):
        # Memory is for one image, however many there are.
        bytes_of = tf.map_fn(lambda one: enhanced(*one), inputs, fn_output_signature=file, parallel_iterations=1)
        return {"enhanced_bytes": bytes_of}

    def in_one_piece(image):
        height, width = tf.shape(image)[1], tf.shape(image)[2]
        count = tf.reduce_prod(tf.shape(image, tf.int64)[:3])
        with tf.control_dependencies([tf.debugging.Assert(count <= max_pixels, [f"Expected at most {max_pixels} pixels"])]):
            image = tf.identity(image)
        padded = (tf.minimum(tf.range(side + -side % model.size_multiple), side - 1) for side in (height, width))
        parts = network(gather_2d(image, *padded), gather_2d(image, context_indices(height), context_indices(width)))
        return {name: part[:, :height, :width] for name, part in parts.items()}

    archive = keras.export.ExportArchive()
    archive.track(model)
    files = tf.TensorSpec([None], tf.string, "image_bytes")
    archive.add_endpoint("serving_default", one_by_one, [files])
    if model.decomposes:
        dials = [tf.TensorSpec([None], tf.float32, name) for name in Dials._fields]
        archive.add_endpoint("steered", one_by_one, [files, *dials])
    archive.add_endpoint("enhance", lambda image: {"enhanced": in_one_piece(image)["enhanced"]}, [images])
    archive.add_endpoint("decompose", in_one_piece, [images])
    return archive


def _enhanced_in_tiles(network, model, image, top_value, *dials):
    """(H, W, 3), uint16, to uint16 up to a value, by the tiles of `inference.enhance`, so that memory does not grow with it."""
    values = tf.constant(to_float(np.arange(65536, dtype="uint16")))  # a table: graphs may divide by other roundings
    image = image[None]
    sides = tf.shape(image)[1], tf.shape(image)[2]
    rows, columns = axes = [cut(*axis, model.tile_margin, model.size_multiple) for axis in zip(sides, model.tile_size)]
    context_at = [context_indices(side) for side in sides]
    context = tf.gather(values, tf.cast(gather_2d(image, *context_at), tf.int32))
    tiles = tf.range(rows.count * columns.count)

    def computed(index):
        """The pixels of a tile's window, and what the networks make of them."""
        first = rows.first(index // columns.count), columns.first(index % columns.count)
        seen = (tf.minimum(start + tf.range(axis.window), axis.size - 1) for start, axis in zip(first, axes))
        pixels = tf.gather(values, tf.cast(gather_2d(image, *seen), tf.int32))
        return pixels, network(pixels, context)

    if dials:
        dials = _with_exposure(computed, tiles, axes, context_at, context, Dials(*dials))

    def tile(index):
        pixels, parts = computed(index)
        if dials:
            parts = steer(parts, pixels, *dials)
        return tf.cast(tf.round(parts["enhanced"][0] * top_value), tf.uint16)

    spec = tf.TensorSpec([None, None, 3], tf.uint16)
    windows = tf.map_fn(tile, tiles, fn_output_signature=spec, parallel_iterations=1)
    windows = tf.reshape(windows, [rows.count, columns.count, rows.window, columns.window, 3])
    windows = tf.transpose(windows, [0, 2, 1, 3, 4])
    windows = tf.reshape(windows, [1, rows.count * rows.window, columns.count * columns.window, 3])
    return gather_2d(windows, *(axis.position(tf.range(axis.size)) for axis in axes))[0]


def _with_exposure(computed, tiles, axes, context_at, context, dials):
    """Exposure, strength and colour, once they are checked; of a brightness, the exposure that `inference.enhance` finds."""
    ranges = [(low <= value) & (value <= high) for value, (low, high) in zip(dials, RANGES.values())]
    ranges += [(dials.brightness == 0.0) | (dials.exposure == 0.0)]
    names = "; ".join(f"{name} from {low} to {high}" for name, (low, high) in RANGES.items())
    message = f"Expected {names}; and either an exposure or a brightness above 0"
    with tf.control_dependencies([tf.debugging.Assert(tf.reduce_all(ranges), [message])]):
        exposure, strength, colour, brightness = map(tf.identity, dials)
    positions = [axis.position(at) for axis, at in zip(axes, context_at)]

    def sampled(index):
        """A tile's parts at the pixels of the context, 0 where these are in other tiles."""
        _, parts = computed(index)
        places = index // axes[1].count, index % axes[1].count
        own = [position // axis.window == place for axis, position, place in zip(axes, positions, places)]
        own = (own[0][:, None] & own[1])[..., None]
        inside = [position % axis.window for axis, position in zip(axes, positions)]
        return {name: tf.where(own, gather_2d(parts[name], *inside)[0], 0.0) for name in STEERED}

    def found():
        empty = {name: tf.zeros([CONTEXT, CONTEXT, channels]) for name, channels in STEERED.items()}
        sample = tf.foldl(lambda sums, index: tf.nest.map_structure(tf.add, sums, sampled(index)), tiles, empty, 1)
        sample, pixels, *others = tf.nest.map_structure(
            lambda values: tf.cast(values, tf.float64), [sample, context[0], strength, colour, brightness]
        )
        return tf.cast(find_exposure(sample, pixels, *others), tf.float32)

    return tf.cond(brightness > 0.0, found, lambda: exposure), strength, colour


def _write_warmup(folder):
    """Writes the request that the server answers itself before it opens a version: a TFRecord of a PredictionLog.

    The package that has its class is needed nowhere else here, so its few fields are written one by one.
    """

    def field(number, content):
        length, size = b"", len(content)
        while size > 127:
            length, size = length + bytes([size % 128 + 128]), size // 128
        return bytes([8 * number + 2]) + length + bytes([size]) + content

    picture = tf.io.encode_png(tf.zeros([64, 64, 3], tf.uint8)).numpy()
    tensor = tf.make_tensor_proto([picture]).SerializeToString()
    spec = field(1, NAME.encode()) + field(3, b"serving_default")  # ModelSpec: name, signature_name
    request = field(1, spec) + field(2, field(1, b"image_bytes") + field(2, tensor))  # PredictRequest: model_spec, inputs
    folder.mkdir()
    with tf.io.TFRecordWriter(str(folder / "tf_serving_warmup_requests")) as writer:
        writer.write(field(6, field(1, request)))  # PredictionLog.predict_log, PredictLog.request
