"""SavedModel with its signatures, as TensorFlow Serving takes it; ONNX."""

import functools
import os
import shutil
import tempfile
import warnings
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from retinex_keras.imaging.atomic import atomic_path
from retinex_keras.imaging.pixels import context_indices, to_float
from retinex_keras.inference import TILES
from retinex_keras.serving.client import NAME
from retinex_keras.serving.decode import decode

MAX_PIXELS = 50_000_000


def export_savedmodel(model, out, version=None, max_pixels=MAX_PIXELS):
    """Writes a version of a model as TensorFlow Serving expects it, `out/version/`, and the server's settings beside it.

    Signatures, made of core ops only, each with the result of `enhance` and `decompose`:

    - `serving_default`: `image_bytes`, strings (B,), files in JPEG, PNG, WebP or BMP, each of its own size, to
      `enhanced_bytes`, strings (B,), PNG files of as many bits, without alpha and metadata; computed in tiles.
    - `enhance`: `image`, float32 (B, H, W, 3) in [0, 1], to `enhanced`, the same.
    - `decompose`: the same to all that `decompose` gives.

    A server that polls `out` sees a version as a whole or not at all. Settings that exist are kept.

    Args:
        model: a `RetinexNet`.
        out: folder of the versions; made if there is none.
        version: a positive number; by default 1 more than the highest in `out`.
        max_pixels: a file whose header announces more is refused before it is decoded.

    Returns:
        The path of the version.

    Raises:
        ValueError: if the version exists or is not positive, or if Keras runs on another backend than TensorFlow.

    >>> export_savedmodel(model=None, out="serving", version=0)
    Traceback (most recent call last):
    ValueError: Version 0 of serving is none: servers expect 1 or more. Leave the version out for the next one.
    """
    if keras.backend.backend() != "tensorflow":
        raise ValueError(f"The server runs TensorFlow. Received Keras on {keras.backend.backend()}: unset KERAS_BACKEND.")
    out = Path(out)
    if version is None:
        version = 1 + max((int(path.name) for path in out.glob("*") if path.name.isdecimal()), default=0)
    target = out / str(version)
    if version < 1 or target.exists():
        what = "exists: a server may be using it" if target.exists() else "is none: servers expect 1 or more"
        raise ValueError(f"Version {version} of {out} {what}. Leave the version out for the next one.")
    out.mkdir(parents=True, exist_ok=True)
    for path in Path(__file__).parent.iterdir():
        if path.suffix in (".yml", ".config") and not (out / path.name).exists():
            shutil.copyfile(path, out / path.name)
    with tempfile.TemporaryDirectory(prefix=".export-", dir=out) as folder:  # no number: the server passes it by
        temporary = Path(folder) / str(version)
        _archive(model, max_pixels).write_out(str(temporary), verbose=False)
        _write_warmup(temporary / "assets.extra")
        os.rename(temporary, target)
    return target


def export_onnx(model, path):
    """Writes a model as an ONNX file, by Keras and tf2onnx.

    Its input is `image`, float32 (B, H, W, 3) in [0, 1]; its outputs are named and are what `model(image)` gives, in one piece.

    >>> export_onnx(load_pretrained(), "retinex.onnx")  # doctest: +SKIP
    """
    image = keras.InputSpec("float32", (None, None, None, 3), name="image")
    with warnings.catch_warnings(), atomic_path(path) as temporary:
        warnings.simplefilter("ignore", FutureWarning)  # of Keras, about numpy
        model.export(temporary, format="onnx", input_signature=[image], verbose=False)


def _archive(model, max_pixels):
    """What Keras writes as a SavedModel: the model's variables and the three signatures."""
    images = tf.TensorSpec([None, None, None, 3], tf.float32, "image")
    network = tf.function(functools.partial(model, training=False), [images, images], autograph=False)  # one graph for all

    def serving_default(image_bytes):
        def enhanced(contents):
            pixels, deep = decode(contents, max_pixels)
            image = _enhanced_in_tiles(network, model, pixels, tf.where(deep, 65535.0, 255.0))
            shallow = tf.cast(image, tf.uint8)
            return tf.cond(deep, lambda: tf.io.encode_png(image, 1), lambda: tf.io.encode_png(shallow, 1))

        spec = tf.TensorSpec([], tf.string)  # one after the other: memory is for one image, however many there are
        return {"enhanced_bytes": tf.map_fn(enhanced, image_bytes, fn_output_signature=spec, parallel_iterations=1)}

    def whole(image):
        right = tf.reduce_all((image >= 0.0) & (image <= 1.0))  # NaN is neither
        with tf.control_dependencies([tf.debugging.Assert(right, ["Expected floats in [0, 1]: scale or clip them."])]):
            image = tf.identity(image)
        height, width = tf.shape(image)[1], tf.shape(image)[2]
        padded = (tf.minimum(tf.range(side + -side % model.grid), side - 1) for side in (height, width))
        parts = network(_taken(image, *padded), _context(image))
        return {name: part[:, :height, :width] for name, part in parts.items()}

    archive = keras.export.ExportArchive()
    archive.track(model)
    archive.add_endpoint("serving_default", serving_default, [tf.TensorSpec([None], tf.string, "image_bytes")])
    archive.add_endpoint("enhance", lambda image: {"enhanced": whole(image)["enhanced"]}, [images])
    archive.add_endpoint("decompose", whole, [images])
    return archive


def _taken(image, rows, columns):
    """The rows and columns of (B, H, W, 3) at the indices."""
    return tf.gather(tf.gather(image, rows, axis=1), columns, axis=2)


def _context(image):
    return _taken(image, context_indices(tf.shape(image)[1]), context_indices(tf.shape(image)[2]))


def _enhanced_in_tiles(network, model, image, top_value):
    """(H, W, 3), uint16, to uint16 up to a value, by the tiles of `inference.enhance`, so that memory does not grow with it."""
    values = tf.constant(to_float(np.arange(65536, dtype="uint16")))  # a table: graphs may divide by other roundings
    image, grid = image[None], model.grid
    size = tf.shape(image)[1:3]
    padded = size + -size % grid
    inner = tf.maximum(padded - 2 * model.halo, 1)
    step = -(-inner // (-(-inner // TILES[model.natural]) * grid)) * grid
    counts = -(-inner // step)
    window = tf.minimum(step + 2 * model.halo, padded)
    context = tf.gather(values, tf.cast(_context(image), tf.int32))

    def tile(index):
        first = tf.minimum(tf.stack([index // counts[1], index % counts[1]]) * step, padded - window)
        seen = (tf.minimum(tf.range(first[axis], first[axis] + window[axis]), size[axis] - 1) for axis in (0, 1))
        pixels = tf.gather(values, tf.cast(_taken(image, *seen), tf.int32))
        return tf.cast(tf.round(network(pixels, context)["enhanced"][0] * top_value), tf.uint16)

    def positions(axis):
        """Where the image's rows or columns are in the windows, one after the other."""
        pixel = tf.range(size[axis])
        index = tf.clip_by_value((pixel - model.halo) // step[axis], 0, counts[axis] - 1)
        first = tf.minimum(index * step[axis], padded[axis] - window[axis])
        return index * window[axis] + pixel - first

    spec = tf.TensorSpec([None, None, 3], tf.uint16)
    windows = tf.map_fn(tile, tf.range(counts[0] * counts[1]), fn_output_signature=spec, parallel_iterations=1)
    windows = tf.reshape(windows, tf.concat([counts, window, [3]], 0))  # (rows, columns, height, width, 3)
    windows = tf.reshape(tf.transpose(windows, [0, 2, 1, 3, 4]), tf.concat([[1], counts * window, [3]], 0))
    return _taken(windows, positions(0), positions(1))[0]


def _write_warmup(folder):
    """Writes the request that the server answers itself before it opens a version: a TFRecord of a PredictionLog.

    The message is made of its few fields by hand; the package that has its class is needed nowhere else here.
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
