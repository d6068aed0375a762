"""Pairs to patches for training, as a tf.data pipeline.

The transforms are plain NumPy functions of one image or pair; where Keras runs on JAX they are fed to it without tf.data.
"""

import numpy as np

from retinex_keras.data.degrade import (
    compress,
    darken,
    normalize_exposure,
    normalize_saturation,
    saturation,
    soft_noise,
    uneven_light,
    wide_darken,
)
from retinex_keras.imaging.pixels import CONTEXT, LUMA, context_indices, to_float


def _on_jax():
    import keras  # here, since folders of pairs are also scored without Keras

    return keras.backend.backend() == "jax"


def flip_rotate(images, number):
    """One of the 8 flips and rotations, `number` 0 (none) to 7, of all images (N, H, W, C) alike.

    >>> flip_rotate(np.zeros((2, 30, 40, 3)), 1).shape
    (2, 40, 30, 3)
    """
    flip, turns = divmod(number, 4)
    return np.rot90(images[:, ::-1] if flip else images, turns, axes=(1, 2))


def random_patch(images, size, rng):
    """Cuts the same random square from each of the images and applies one of the 8 flips and rotations to all alike.

    Args:
        images: (N, H, W, C), H and W at least `size`.
        size: side of the square in pixels.
        rng: a `numpy.random.Generator`.

    Returns:
        (N, size, size, C).

    >>> random_patch(np.zeros((2, 30, 40, 3)), 16, np.random.default_rng(0)).shape
    (2, 16, 16, 3)
    """
    height, width = images.shape[1:3]
    top, left = rng.integers(height - size + 1), rng.integers(width - size + 1)
    return flip_rotate(images[:, top : top + size, left : left + size], rng.integers(8))


def training_patch(images, size, rng, degradation=darken):
    """A random patch of a pair, or of a photo and what `degradation(photo, rng)` makes of it: (2, size, size, 3), uint8.

    >>> training_patch(load_photos("pairs/high")[0], 16, np.random.default_rng(0)).shape
    (2, 16, 16, 3)
    """
    patch = random_patch(images, size, rng)
    return np.concatenate([degradation(patch[0], rng)[None], patch]) if len(patch) == 1 else patch


def training_view(images, size, rng, degradation=None, plain=False):
    """A random patch of a scene together with the context that it was cut from, in one of many exposures.

    A part of the scene, 60 to 100 % of each side, and as often as not the full side, stands for the image. Eight times in ten a
    pair gives its own dark image, in two of these made brighter or darker, with more noise. Otherwise the well-lit image is
    darkened by `degradation`; a photo as often as not by `wide_darken` under uneven light, as of lamps at night. It then is to
    come out under nearly even light: the night stays a night. The noise is that of `soft_noise`. Some dark patches are
    compressed as a JPEG, more of them from photos. The exposure of the well-lit image is normalized, except under uneven light;
    also its saturation, if the dark image is its own. Three times in twenty both sides are the well-lit image as it is: what is
    bright already is to stay so. Since a dim one is the easiest to take for a dark one, it is shown so three times in ten, if
    its mean luma is below 0.4; the first kind of view is then that much rarer.

    Args:
        images: (N, H, W, 3), uint8, N 2 or 1; H and W at least `size`.
        size: side of the patch in pixels.
        rng: a `numpy.random.Generator`.
        degradation: makes the dark image of a well-lit one, as `degradation(image, rng)`; both (pixels, 1, 3), uint8. By
            default `wide_darken` with `soft_noise`.
        plain: for pairs alone. Each gives its own dark image, once in four times brighter or darker; nothing is normalized,
            compressed or given noise.

    Returns:
        The patches (2, size, size, 3), the dark one first, and the dark context (128, 128, 3), uint8.

    >>> patches, context = training_view(load_pairs("pairs")[0], 16, np.random.default_rng(0))
    >>> patches.shape, context.shape
    ((2, 16, 16, 3), (128, 128, 3))
    """

    def noise():  # of one kind in the patch and in the context, whose pixels are farther apart
        seed = rng.integers(2**32)
        near = soft_noise(size, size, np.random.default_rng(seed))
        apart = soft_noise(CONTEXT, CONTEXT, np.random.default_rng(seed), step=np.mean(sides) / CONTEXT)
        return np.concatenate([near.reshape(-1, 1, 3), apart.reshape(-1, 1, 3)])

    sides = [min(side, rng.integers(max(size, 3 * side // 5), 7 * side // 5 + 1)) for side in images.shape[1:3]]
    top, left = (rng.integers(side - part + 1) for side, part in zip(images.shape[1:3], sides))
    number = rng.integers(8)
    view = flip_rotate(images[:, top : top + sides[0], left : left + sides[1]], number)
    rows, columns = (context_indices(side) for side in view.shape[1:3])
    top, left = (rng.integers(side - size + 1) for side in view.shape[1:3])
    patch, context = view[:, top : top + size, left : left + size], view[:, rows[:, None], columns]
    # All that is done to them is done to each pixel for itself, in one go: (N, pixels, 1, 3).
    pixels = np.concatenate([part.reshape(len(images), -1, 1, 3) for part in (patch, context)], axis=1)
    low, high = pixels[0], pixels[-1]
    off = {"shot_noise": (0, 0), "read_noise": (0, 0), "gamma": (1, 1)}
    brightness = high[size**2 :].mean((0, 1)) @ LUMA / 255
    choice = 0.8 * rng.random() if plain else rng.random() + (0.15 if brightness < 0.4 else 0.0)
    if len(images) == 2 and choice < 0.8:  # its own dark image
        if choice < 0.2:
            more = off if plain else {"gamma": (1, 1), "noise": noise()}
            low = darken(low, rng, exposure=(0.5, 2.0), white_balance=(0.9, 1.1), **more)
    elif len(images) == 1 and choice < 0.45:
        windows = (top + np.arange(size), left + np.arange(size), patch[-1]), (rows, columns, context[-1])
        windows = [(down / view.shape[1], across / view.shape[2], seen) for down, across, seen in windows]
        light = np.concatenate([part.reshape(-1, 1, 1) for part in uneven_light(rng, *windows)]).astype("float32")
        low = wide_darken(high, rng, light, noise())
        high = darken(high, rng, light=light**0.2, white_balance=(1, 1), **off)
    elif choice < 0.85:
        low = degradation(high, rng) if degradation else wide_darken(high, rng, noise=noise())
    else:
        low = high
    changed = low is not high and not plain
    if changed and (len(images) == 2 or choice >= 0.45):
        high = normalize_exposure(high, brightness)
        if len(images) == 2 and choice < 0.8:
            own, seen = (saturation(image[size**2 :].reshape(CONTEXT, CONTEXT, 3)) for image in pixels[::-1])
            high = normalize_saturation(high, own, seen)
    patches = np.stack([low[: size**2], high[: size**2]]).reshape(2, size, size, 3)
    if changed and rng.random() < (0.4 if len(images) == 1 else 0.15):
        patches[0] = compress(patches[0], rng)
    return patches, low[size**2 :].reshape(CONTEXT, CONTEXT, 3)


def training_patches(
    images, size=48, batch_size=16, seed=0, first_epoch=0, view=training_patch, input_context=None, steps=None
):
    """An endless tf.data pipeline of batches of random patches; give `fit` its `steps_per_epoch`.

    Every epoch sees `steps` batches in an order of its own. What epoch n holds depends on `seed`, n and the number of workers
    alone, so that a run which is resumed with `first_epoch=n` sees what it would have seen.

    Args:
        images: from `load_pairs`, `load_photos`, or the two lists joined; from `load_scenes`.
        size: side of the patches in pixels.
        batch_size: patches a batch.
        seed: an integer of at least 0.
        first_epoch: the number of the epoch with which the pipeline begins.
        view: makes what is learned from a scene: `view(images, size, rng)` takes (N, H, W, 3), uint8, N 2 for a pair and 1 for
            a photo, and returns two patches, dark and well-lit, (2, size, size, 3), uint8. It may also return a tuple of these
            and a context, uint8. `training_patch` and `training_view` are such functions.
        input_context: what `tf.distribute.Strategy.distribute_datasets_from_function` passes. Each worker then has its own
            `images`, each n-th of those of all, and makes of them its share of every batch, a part for each replica.
        steps: batches an epoch, by default as many as the images give. Workers whose images differ in number by one need it.

    Returns:
        A `tf.data.Dataset` of `(low, high)`, each float32 (batch_size, size, size, 3) in [0, 1]; with a context, of
        `((low, context), high)`. On JAX, a `keras.utils.PyDataset` of the same. With an `input_context`, these are a replica's
        part of a batch.

    Raises:
        ValueError: if an array is of another type or shape, an image is smaller than a patch, there are fewer images than a
            batch takes, or a batch has no equal parts for all replicas.

    >>> low, high = next(iter(training_patches(load_pairs("pairs"), size=16, batch_size=4)))
    >>> low.shape
    TensorShape([4, 16, 16, 3])
    """
    _check_arrays(images, (1, 2))
    smallest = min((min(array.shape[1:3]) for array in images), default=0)
    if images and smallest < size:
        raise ValueError(
            f"The smallest image has a side of {smallest} pixels, too few for patches of {size}: use smaller patches."
        )
    workers, worker = (input_context.num_input_pipelines, input_context.input_pipeline_id) if input_context else (1, 0)
    part = input_context.get_per_replica_batch_size(batch_size) if input_context else batch_size
    share = batch_size // workers
    most = len(images) // share if share > 0 else 0
    steps = most if steps is None else steps
    if not most:
        raise ValueError(f"{len(images)} images give no batch of {share}: use a batch_size from 1 to {workers * len(images)}.")
    if not 1 <= steps <= most:
        raise ValueError(f"{len(images)} images give 1 to {most} batches of {share}. Received steps={steps}.")

    def views(epoch, indices):
        """The patches, and with them the contexts, of the images at the indices: a list of one or two arrays (B, ...)."""
        rngs = (np.random.default_rng([seed, epoch, index * workers + worker]) for index in indices)
        made = [view(images[i], size, rng) for i, rng in zip(indices, rngs)]
        return [np.stack(parts) for parts in zip(*(each if isinstance(each, tuple) else (each,) for each in made))]

    def batch_of(patches, *contexts):
        low, high = patches[:, 0], patches[:, 1]
        return ((low, *contexts) if contexts else low), high

    if _on_jax():
        from retinex_keras.data.batches import Batches

        def numbered(number):  # the order is another than that of tf.data
            epoch, step = first_epoch + number // steps, number % steps
            order = np.random.default_rng([seed, epoch]).permutation(len(images))
            return batch_of(*map(to_float, views(epoch, order[step * batch_size : (step + 1) * batch_size])))

        return Batches(numbered)
    import tensorflow as tf

    def batches_of_indices(epoch):
        indices = tf.range(len(images), dtype=tf.int64)
        order = tf.random.experimental.stateless_shuffle(indices, [seed, epoch * workers + worker])
        batches = tf.data.Dataset.from_tensor_slices(order[: steps * share]).batch(part, drop_remainder=True)
        return batches.map(lambda indices: (epoch, indices))

    shapes = [(part, *made.shape[1:]) for made in views(0, [0])]

    def batch(epoch, indices):
        made = tf.numpy_function(views, [epoch, indices], [tf.uint8] * len(shapes))
        return batch_of(*(tf.cast(tf.ensure_shape(x, shape), tf.float32) / 255.0 for x, shape in zip(made, shapes)))

    epochs = tf.data.Dataset.range(first_epoch, np.iinfo("int64").max)
    return epochs.flat_map(batches_of_indices).map(batch, num_parallel_calls=2).prefetch(2)


def _check_arrays(arrays, counts):
    """Raises a ValueError if one is not uint8, (N, H, W, C), with N among the counts."""
    for array in arrays:
        dtype, shape = getattr(array, "dtype", type(array).__name__), tuple(getattr(array, "shape", ()))
        if dtype != np.uint8 or len(shape) != 4 or shape[0] not in counts:
            raise ValueError(
                f"Expected uint8 arrays ({' or '.join(map(str, counts))}, H, W, 3), as `load_pairs` gives. Received {dtype} "
                f"{shape}: stack the two images of a pair, the dark one first, and convert them by `imaging.pixels.to_uint8`."
            )


def whole_pairs(pairs, copies=1):
    """A tf.data pipeline over whole pairs in order, for validation: batches of one, each at its own size.

    Args:
        pairs: from `load_pairs`.
        copies: of each pair in its batch; under tf.distribute the number of replicas, so that each of them scores it.

    Returns:
        A `tf.data.Dataset`, or on JAX a `keras.utils.PyDataset`, of `(low, high)`, each float32 (copies, H, W, 3) in [0, 1].

    Raises:
        ValueError: if an array is not uint8, (2, H, W, 3).

    >>> low, high = next(iter(whole_pairs(load_pairs("pairs"))))
    >>> low.shape
    TensorShape([1, 20, 24, 3])
    """
    _check_arrays(pairs, (2,))
    if _on_jax():
        from retinex_keras.data.batches import Batches

        return Batches(lambda number: tuple(to_float(pairs[number][:, None])), len(pairs))
    import tensorflow as tf

    signature = tf.TensorSpec((2, None, None, 3), tf.uint8)
    dataset = tf.data.Dataset.from_generator(lambda: (pair[:] for pair in pairs), output_signature=signature)
    dataset = dataset.map(lambda pair: tf.cast(tf.repeat(pair[:, None], copies, 1), tf.float32) / 255.0)  # (2, copies, H, W, 3)
    return dataset.map(lambda pair: (pair[0], pair[1])).apply(tf.data.experimental.assert_cardinality(len(pairs))).prefetch(1)
