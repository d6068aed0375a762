"""Pairs of files -> patches for training, as a tf.data pipeline; and dark pictures made from well-lit ones.

The transforms are plain NumPy functions of one image or pair; where Keras runs on JAX they are fed to it without tf.data.
"""

import functools
import zlib
from pathlib import Path

import keras
import numpy as np
from PIL import Image
from tqdm import tqdm

from retinex_keras.images import CONTEXT, context_indices, list_images, read_image, to_float, to_uint8, whole_file

if keras.backend.backend() == "jax":
    from retinex_keras import train_jax


def find_images(folder):
    """The images of a folder by file stem: {stem: path}, sorted. Other files are left alone, hidden ones too.

    Raises:
        FileNotFoundError: if there is no such folder.
        ValueError: if it holds no image, or two of the same stem.

    >>> list(find_images("pairs/low"))
    ['scene.0', 'scene.1', 'scene.2', 'scene.3', 'scene.4']
    """
    images = {}
    for path in list_images(folder, nested=False):
        if path.stem in images:
            raise ValueError(f"{images[path.stem]} and {path} have the same stem {path.stem!r}; keep one of them.")
        images[path.stem] = path
    return images


def find_pairs(low, high):
    """The images of two folders, matched by file stem.

    Returns:
        A list of (low path, high path), sorted by stem.

    Raises:
        FileNotFoundError: if a folder is missing.
        ValueError: if a folder holds no image, or an image has no partner.

    >>> low, high = find_pairs("pairs/low", "pairs/high")[0]
    >>> low.as_posix(), high.as_posix()
    ('pairs/low/scene.0.png', 'pairs/high/scene.0.png')
    """
    low, high = find_images(low), find_images(high)
    alone = [str(images[stem]) for images, others in ((low, high), (high, low)) for stem in images if stem not in others]
    if alone:
        raise ValueError(
            f"{name_some(alone)}: no image of the same stem on the other side; add the partner or move these away."
        )
    return [(low[stem], high[stem]) for stem in low]


def name_some(names, most=5):
    """The first names of a long list and the number of the others, for a message.

    >>> name_some(["a", "b", "c"], most=2)
    'a, b and 1 more'
    """
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def load_scene(paths, resize=None):
    """Decodes the images of one scene, resized to a square if asked to: (N, H, W, 3), uint8.

    Raises:
        FileNotFoundError, ValueError: naming the files that are missing, unreadable or of different sizes.

    >>> load_scene(["pairs/low/scene.0.png", "pairs/high/scene.0.png"], resize=8).shape
    (2, 8, 8, 3)
    """
    images = [to_uint8(read_image(path)) for path in paths]
    if len({image.shape for image in images}) > 1:
        sizes = " and ".join(f"{path} is {image.shape[1]}x{image.shape[0]}" for path, image in zip(paths, images))
        raise ValueError(f"{sizes}: the two images of a pair must have one size.")
    if resize:
        images = [np.asarray(Image.fromarray(image).resize((resize, resize), Image.Resampling.BICUBIC)) for image in images]
    return np.stack(images)


class _Stored:
    """An array in a file, of which parts are read when asked for; it holds no file open, so that there can be many."""

    def __init__(self, path):
        self.path = path
        self.shape = np.load(path, mmap_mode="r").shape

    def __len__(self):
        return self.shape[0]

    def __getitem__(self, key):
        return np.array(np.load(self.path, mmap_mode="r")[key])


def load_scenes(groups, resize=None, cache=None):
    """Decodes the images of many scenes, once; `load_pairs` and `load_photos` call it for a folder.

    Args:
        groups: the paths of each scene's images, as from `find_pairs`. A worker of several gives its share of them, say
            `find_pairs(low, high)[strategy.share]`, and decodes no other file.
        resize, cache: as in `load_pairs`.

    Returns:
        A list of uint8 arrays (N, H, W, 3); with a cache, of objects that are sliced like such arrays.

    Raises:
        FileNotFoundError, ValueError: naming the files that are missing, unreadable or of different sizes.

    >>> [images.shape for images in load_scenes(find_pairs("pairs/low", "pairs/high")[1::2])]
    [(2, 21, 25, 3), (2, 20, 25, 3)]
    """
    if cache:
        Path(cache).mkdir(parents=True, exist_ok=True)
    arrays, bad = [], []
    groups = [[Path(path) for path in group] for group in groups]
    for group in tqdm(groups, "decoding", unit="image", leave=False, disable=None):
        try:
            if not cache:
                arrays.append(load_scene(group, resize))
                continue
            stamp = repr([(str(path.resolve()), path.stat().st_mtime_ns, path.stat().st_size) for path in group] + [resize])
            stored = Path(cache) / f"{group[0].stem}-{zlib.crc32(stamp.encode()):08x}.npy"
            if not stored.exists():
                with whole_file(stored) as temporary:
                    np.save(temporary, load_scene(group, resize))
            arrays.append(_Stored(stored))
        except ValueError as error:
            bad.append(str(error))
    if bad:
        raise ValueError(f"{len(bad)} of {len(groups)} cannot be used: {name_some(bad)}")
    return arrays


def load_pairs(folder, resize=None, cache=None):
    """Decodes the pairs in `folder/low` and `folder/high`, once.

    Args:
        folder: its subfolders `low` and `high` hold images of the same stems, in any format that Pillow reads.
        resize: a side in pixels: whole images are resized to this square, for training on whole images. By default none is.
        cache: a folder for decoded images; they are then read from there when needed instead of held in memory.

    Returns:
        A list of uint8 arrays (2, H, W, 3), the dark image first; with a cache, of objects that are sliced like such arrays.

    Raises:
        FileNotFoundError, ValueError: naming the files that are missing, unreadable or of different sizes.

    >>> [images.shape for images in load_pairs("pairs")[:2]]
    [(2, 20, 24, 3), (2, 21, 25, 3)]
    """
    return load_scenes(find_pairs(Path(folder) / "low", Path(folder) / "high"), resize, cache)


def load_photos(folder, resize=None, cache=None):
    """Decodes a folder of well-lit photos, whose dark partners are made while training; arguments as in `load_pairs`.

    Returns:
        A list of uint8 arrays (1, H, W, 3).

    >>> [images.shape for images in load_photos("pairs/high")[:2]]
    [(1, 20, 24, 3), (1, 21, 25, 3)]
    """
    return load_scenes([(path,) for path in find_images(folder).values()], resize, cache)


def darken(
    image,
    rng,
    exposure=(0.01, 0.2),
    white_balance=(0.85, 1.18),
    shot_noise=(1e-5, 1e-3),
    read_noise=(1e-4, 2e-3),
    gamma=(0.9, 1.3),
):
    """What a camera would have taken of the scene with too little light.

    In linear light: exposure and white balance scale the image, then comes noise of variance
    `shot_noise * signal + read_noise**2`, the model of Brooks et al. ("Unprocessing Images for Learned Raw Denoising",
    CVPR 2019, section 3.1), in which a sensor's gain raises both noises together: one draw sets both here too. Back in sRGB
    a tone curve of power `gamma` follows, and rounding to 8 bits. The ranges are ours, set by LOL: its references, darkened
    by the defaults, have a median brightness of 0.09 and noise of 0.006, and its own dark images 0.06 and 0.006. A range of
    two equal numbers fixes a strength.

    Args:
        image: (H, W, 3), uint8, sRGB.
        rng: a `numpy.random.Generator`, or a seed for one.
        exposure: range of the factor on the linear image, drawn log-uniformly.
        white_balance: range of the factors on red and blue, each drawn log-uniformly.
        shot_noise: range of the variance of the noise at signal 1, drawn log-uniformly.
        read_noise: range of the standard deviation of the noise at signal 0, drawn together with the shot noise.
        gamma: range of the power, drawn uniformly; above 1 darkens.

    Returns:
        (H, W, 3), uint8.

    A tenth of the light is 0.35 of the range in sRGB:

    >>> off = {"white_balance": (1, 1), "shot_noise": (0, 0), "read_noise": (0, 0), "gamma": (1, 1)}
    >>> darken(np.full((1, 1, 3), 255, "uint8"), 0, exposure=(0.1, 0.1), **off)
    array([[[89, 89, 89]]], dtype=uint8)
    """
    rng = np.random.default_rng(rng)

    def between(limits, position):  # log-uniform for a uniform position; 0 stays 0
        low, high = limits
        return low * (high / low) ** position if low > 0 else high * position

    srgb = image.astype("float32") / 255.0
    linear = np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)
    light, red, blue, gain = rng.random(4)
    balance = [between(white_balance, red), 1.0, between(white_balance, blue)]
    linear = linear * (between(exposure, light) * np.asarray(balance, "float32"))
    deviation = np.sqrt(between(shot_noise, gain) * linear + between(read_noise, gain) ** 2)
    linear = linear + deviation * rng.standard_normal(linear.shape, dtype="float32")
    linear = np.clip(linear, 0.0, 1.0)
    srgb = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    return to_uint8(srgb ** rng.uniform(*gamma))


def turned(images, number):
    """One of the 8 flips and rotations, `number` 0 (none) to 7, of all images (N, H, W, C) alike.

    >>> turned(np.zeros((2, 30, 40, 3)), 1).shape
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
    return turned(images[:, top : top + size, left : left + size], rng.integers(8))


def training_patch(images, size, rng, degradation=darken):
    """A random patch of a pair, or of a photo and what `degradation(photo, rng)` makes of it: (2, size, size, 3), uint8.

    >>> training_patch(load_photos("pairs/high")[0], 16, np.random.default_rng(0)).shape
    (2, 16, 16, 3)
    """
    patch = random_patch(images, size, rng)
    return np.concatenate([degradation(patch[0], rng)[None], patch]) if len(patch) == 1 else patch


def wide_darken(image, rng):
    """`darken` over wider ranges: from hardly any light to nearly enough of it, from a good camera to a bad one.

    >>> wide_darken(np.full((4, 4, 3), 200, "uint8"), np.random.default_rng(0)).shape
    (4, 4, 3)
    """
    ranges = {"shot_noise": (1e-6, 3e-3), "read_noise": (3e-5, 4e-3), "gamma": (0.85, 1.3)}
    return darken(image, rng, exposure=(0.008, 1.0), white_balance=(0.8, 1.25), **ranges)


def evened(image, mean):
    """Moves an image's exposure towards a mean luma of 0.47, by a tone curve that leaves black and white alone.

    How bright a scene was photographed can hardly be told from its dark image: a network that is to hit it learns its
    training scenes by heart, and guesses at all others. A flat image goes half the way, those of LOL and SICE about 0.4.

    Args:
        image: uint8 of any shape.
        mean: its mean luma, in [0, 1], or that of the whole that it was cut from.

    Returns:
        uint8 of the same shape.

    >>> evened(np.array([0, 51, 255], "uint8"), mean=0.2)
    array([  0,  78, 255], dtype=uint8)
    """
    power = 0.5 + 0.5 * np.log(0.47) / np.log(np.clip(mean, 0.02, 0.98))
    return to_uint8(np.linspace(0, 1, 256) ** power)[image]


def training_view(images, size, rng, degradation=wide_darken):
    """A random patch of a scene together with the context that it was cut from, in one of many exposures.

    A part of the scene, 60 to 100 % of each side, and as often as not the whole side, stands for the whole image. Of a pair the
    dark image is taken eight times in ten, in two of these brighter or darker than it is; else, and of a photo, the well-lit
    image is darkened by `degradation`. The well-lit image is `evened`. One time in ten it is both sides, as it is: what is
    bright already is to stay so.

    Args:
        images: (N, H, W, 3), uint8, N 2 or 1; H and W at least `size`.
        size: side of the patch in pixels.
        rng: a `numpy.random.Generator`.
        degradation: as in `training_patches`.

    Returns:
        The patches (2, size, size, 3), the dark one first, and the dark context (128, 128, 3), uint8.

    >>> patches, context = training_view(load_pairs("pairs")[0], 16, np.random.default_rng(0))
    >>> patches.shape, context.shape
    ((2, 16, 16, 3), (128, 128, 3))
    """
    sides = [min(side, rng.integers(max(size, 3 * side // 5), 7 * side // 5 + 1)) for side in images.shape[1:3]]
    top, left = (rng.integers(side - part + 1) for side, part in zip(images.shape[1:3], sides))
    number = rng.integers(8)
    view = turned(images[:, top : top + sides[0], left : left + sides[1]], number)
    rows, columns = (context_indices(side) for side in view.shape[1:3])
    top, left = (rng.integers(side - size + 1) for side in view.shape[1:3])
    patch, context = view[:, top : top + size, left : left + size], view[:, rows[:, None], columns]
    # All that is done to them is done to each pixel for itself, in one go: (N, pixels, 1, 3).
    pixels = np.concatenate([part.reshape(len(images), -1, 1, 3) for part in (patch, context)], axis=1)
    low, high = pixels[0], pixels[-1]
    choice = rng.random()
    if len(images) == 2 and choice < 0.8:
        if choice < 0.2:
            off = {"shot_noise": (0, 0), "read_noise": (0, 0), "gamma": (1, 1)}
            low = darken(low, rng, exposure=(0.5, 2.0), white_balance=(0.9, 1.1), **off)
    elif choice < 0.9:
        low = degradation(high, rng)
    else:
        low = high
    if low is not high:
        high = evened(high, high[size**2 :].mean((0, 1)) @ np.array([0.299, 0.587, 0.114]) / 255)
    patches = np.stack([low[: size**2], high[: size**2]]).reshape(2, size, size, 3)
    return patches, low[size**2 :].reshape(CONTEXT, CONTEXT, 3)


def training_patches(
    images, size=48, batch_size=16, seed=0, first_epoch=0, degradation=darken, context=False, input_context=None, steps=None
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
        degradation: makes the dark partner of a patch of a photo, called as `degradation(patch, rng)`; takes and returns
            (size, size, 3), uint8.
        context: if True, patches come from `training_view` with the context of the dark image.
        input_context: what `tf.distribute.Strategy.distribute_datasets_from_function` passes. Each worker then has its own
            `images`, each n-th of those of all, and makes of them its share of every batch, a part for each replica.
        steps: batches an epoch, by default as many as the images give. Workers whose images differ in number by one need it.

    Returns:
        A `tf.data.Dataset` of `(low, high)`, each float32 (batch_size, size, size, 3) in [0, 1]; with the context, of
        `((low, context), high)`, the context (batch_size, 128, 128, 3). On JAX, a `keras.utils.PyDataset` of the same. With
        an `input_context`, these are a replica's part of a batch.

    Raises:
        ValueError: if an image is smaller than a patch, there are fewer images than a batch takes, or a batch has no equal
            parts for all replicas.

    >>> low, high = next(iter(training_patches(load_pairs("pairs"), size=16, batch_size=4)))
    >>> low.shape
    TensorShape([4, 16, 16, 3])
    """
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

    def cut(epoch, indices):
        rngs = (np.random.default_rng([seed, epoch, index * workers + worker]) for index in indices)
        if not context:
            return np.stack([training_patch(images[i], size, rng, degradation) for i, rng in zip(indices, rngs)])
        views = [training_view(images[i], size, rng, degradation) for i, rng in zip(indices, rngs)]
        return tuple(np.stack(parts) for parts in zip(*views))

    if keras.backend.backend() == "jax":
        return train_jax.Batches(functools.partial(_numbered_batch, cut, len(images), batch_size, steps, seed, first_epoch))
    import tensorflow as tf

    def batches_of_indices(epoch):
        indices = tf.range(len(images), dtype=tf.int64)
        order = tf.random.experimental.stateless_shuffle(indices, [seed, epoch * workers + worker])
        batches = tf.data.Dataset.from_tensor_slices(order[: steps * share]).batch(part, drop_remainder=True)
        return batches.map(lambda indices: (epoch, indices))

    def batch(epoch, indices):
        if not context:
            patches = tf.numpy_function(cut, [epoch, indices], tf.uint8)
        else:
            patches, contexts = tf.numpy_function(cut, [epoch, indices], (tf.uint8, tf.uint8))
            contexts = tf.cast(tf.ensure_shape(contexts, (part, CONTEXT, CONTEXT, 3)), tf.float32) / 255.0
        patches = tf.ensure_shape(patches, (part, 2, size, size, 3))
        low, high = tf.unstack(tf.cast(patches, tf.float32) / 255.0, axis=1)
        return ((low, contexts) if context else low), high

    epochs = tf.data.Dataset.range(first_epoch, np.iinfo("int64").max)
    return epochs.flat_map(batches_of_indices).map(batch, num_parallel_calls=2).prefetch(2)


def _numbered_batch(cut, count, batch_size, steps, seed, first_epoch, number):
    """The batch of this number from the first epoch on, as NumPy arrays; the order is another than that of tf.data."""
    epoch, step = first_epoch + number // steps, number % steps
    order = np.random.default_rng([seed, epoch]).permutation(count)
    parts = cut(epoch, order[step * batch_size : (step + 1) * batch_size])
    patches, *contexts = [to_float(part) for part in (parts if isinstance(parts, tuple) else (parts,))]
    low, high = patches[:, 0], patches[:, 1]
    return ((low, *contexts) if contexts else low), high


def whole_pairs(pairs, copies=1):
    """A tf.data pipeline over whole pairs in order, for validation: batches of one, each at its own size.

    Args:
        pairs: from `load_pairs`.
        copies: of each pair in its batch; under tf.distribute the number of replicas, so that each of them scores it.

    Returns:
        A `tf.data.Dataset`, or on JAX a `keras.utils.PyDataset`, of `(low, high)`, each float32 (copies, H, W, 3) in [0, 1].

    >>> low, high = next(iter(whole_pairs(load_pairs("pairs"))))
    >>> low.shape
    TensorShape([1, 20, 24, 3])
    """
    if keras.backend.backend() == "jax":
        return train_jax.Batches(lambda number: tuple(to_float(pairs[number][:, None])), len(pairs))
    import tensorflow as tf

    signature = tf.TensorSpec((2, None, None, 3), tf.uint8)
    dataset = tf.data.Dataset.from_generator(lambda: (pair[:] for pair in pairs), output_signature=signature)
    dataset = dataset.map(lambda pair: tf.cast(tf.repeat(pair[:, None], copies, 1), tf.float32) / 255.0)  # (2, copies, H, W, 3)
    return dataset.map(lambda pair: (pair[0], pair[1])).apply(tf.data.experimental.assert_cardinality(len(pairs))).prefetch(1)
