"""Convolutions, changes of resolution, and pixels by index, of `keras.ops` alone."""

import keras
from keras import layers, ops


def conv(model, filters, kernel_size, name, **options):
    """A convolution with SAME padding, in the precision of the model that it belongs to.

    >>> conv(keras.Model(), 8, 3, "first", activation="relu").padding
    'same'
    """
    return layers.Conv2D(filters, kernel_size, padding="same", name=name, **{"dtype": model.dtype_policy, **options})


def space_to_depth(x, block):
    """Moves blocks of pixels into the channels: (B, H, W, C) -> (B, H / block, W / block, block * block * C).

    >>> tuple(space_to_depth(np.zeros((1, 8, 12, 3)), 4).shape)
    (1, 2, 3, 48)
    """
    height, width, channels = ops.shape(x)[1], ops.shape(x)[2], x.shape[-1]
    x = ops.reshape(x, (-1, height // block, block, width // block, block * channels))
    x = ops.transpose(x, (0, 1, 3, 2, 4))
    return ops.reshape(x, (-1, height // block, width // block, block * block * channels))


def depth_to_space(x, block):
    """The inverse of `space_to_depth`: (B, H, W, block * block * C) -> (B, H * block, W * block, C).

    >>> tuple(depth_to_space(np.zeros((1, 2, 3, 48)), 4).shape)
    (1, 8, 12, 3)
    """
    height, width, channels = ops.shape(x)[1], ops.shape(x)[2], x.shape[-1] // block**2
    x = ops.reshape(x, (-1, height, width, block, block * channels))
    x = ops.transpose(x, (0, 1, 3, 2, 4))
    return ops.reshape(x, (-1, height * block, width * block, channels))


def double(x):
    """(B, H, W, C) at twice the size, bilinear; Keras's own needs sizes that are known beforehand.

    >>> tuple(double(np.zeros((1, 3, 5, 2))).shape)
    (1, 6, 10, 2)
    """
    for axis in (1, 2):
        padded = ops.concatenate([ops.take(x, [0], axis), x, ops.take(x, [-1], axis)], axis)
        before, after = (padded[:, :-2], padded[:, 2:]) if axis == 1 else (padded[:, :, :-2], padded[:, :, 2:])
        pairs = ops.stack([0.75 * x + 0.25 * before, 0.75 * x + 0.25 * after], axis=axis + 1)
        shape = [-1, *ops.shape(x)[1:]]
        shape[axis] *= 2
        x = ops.reshape(pairs, shape)
    return x


def enlarge(x, size):
    """Nearest-neighbour resize to (height, width) by the rule of TensorFlow 1: index floor(i * float32(in / out)).

    It gathers rows and columns, since the gradient of a nearest resize does not compile under XLA. The rounding to float32
    is part of the rule: at one size in four between 1 and 20,000 exact division gives another index somewhere.

    >>> enlarge(np.array([1.0, 2.0]).reshape(1, 1, 2, 1), (1, 3))[0, 0, :, 0].numpy().tolist()
    [1.0, 1.0, 2.0]
    """
    for axis, target in zip((1, 2), size):
        scale = ops.cast(ops.shape(x)[axis], "float32") / ops.cast(target, "float32")
        index = ops.floor(ops.cast(ops.arange(target), "float32") * scale)
        x = ops.take(x, ops.cast(index, "int32"), axis=axis)
    return x


def gather_2d(image, rows, columns):
    """The rows and columns of (B, H, W, C) at the indices, two vectors of integers.

    >>> gather_2d(np.arange(6.0).reshape(1, 2, 3, 1), [1], [0, 2])[..., 0].numpy().tolist()
    [[[3.0, 5.0]]]
    """
    return ops.take(ops.take(image, rows, axis=1), columns, axis=2)


def pad_to_multiple(image, multiple):
    """Repeats the last row and column of (B, H, W, C) until both sides are multiples.

    >>> tuple(pad_to_multiple(np.zeros((1, 9, 8, 3)), 8).shape)
    (1, 16, 8, 3)
    """
    for axis in (1, 2):
        copies = [1, 1, 1, 1]
        copies[axis] = multiple - 1 - (ops.shape(image)[axis] - 1) % multiple  # ONNX knows no other modulo
        image = ops.concatenate([image, ops.tile(ops.take(image, [-1], axis), copies)], axis)
    return image


def with_dependency(x, first):
    """x, but not before `first` is computed. Else TensorFlow works on both side by side, which takes more memory.

    >>> float(with_dependency(ops.ones(()), first=ops.zeros(())))
    1.0
    """
    if keras.backend.backend() != "tensorflow":
        return x
    import tensorflow as tf

    with tf.control_dependencies([first]):
        return tf.identity(x)
