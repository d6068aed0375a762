"""Folders of pairs and of photos to arrays."""

import hashlib
import io
import os
import sys
import warnings
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

from retinex_keras.imaging.atomic import atomic_path
from retinex_keras.imaging.pixels import to_uint8
from retinex_keras.imaging.read import list_images, read_image, scan_folder


def find_images(folder):
    """The images of a folder by file stem: {stem: path}, sorted. Other files are left alone, hidden ones too.

    A warning tells of photos that cannot be read here.

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
    if skipped := scan_folder(folder, nested=False)[1]:
        left_out = name_some([f"{name} ({reason})" for name, reason in skipped], most=1)
        warnings.warn(f"Left out of {folder}: {left_out}", stacklevel=1)  # this line: each is told once
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
            f"{name_some(alone)}: no image of the same name (with any suffix) in the other folder; add it or move these away."
        )
    return [(low[stem], high[stem]) for stem in low]


def find_scenes(data, photos=None):
    """The files of each scene that is trained on: of a pair two, of a photo one.

    Args:
        data: a folder of pairs, with subfolders `low` and `high`, or a list of such folders; None for photos alone.
        photos: a folder of photos.

    Returns:
        A list of tuples of paths.

    Raises:
        FileNotFoundError: if a folder is missing.
        ValueError: if there is neither data nor photos, or a folder does not hold what it should.

    >>> [len(files) for files in find_scenes("pairs", "pairs/high")]
    [2, 2, 2, 2, 2, 1, 1, 1, 1, 1]
    """
    folders = [] if data is None else [data] if isinstance(data, (str, os.PathLike)) else list(data)
    if not folders and photos is None:
        raise ValueError("There is nothing to train on; pass a folder of pairs, photos, or both.")
    scenes = [pair for folder in folders for pair in find_pairs(Path(folder) / "low", Path(folder) / "high")]
    return scenes + ([(photo,) for photo in find_images(photos).values()] if photos else [])


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
        raise ValueError(f"{sizes}: the images of a scene must have one size.")
    if resize:
        images = [np.asarray(Image.fromarray(image).resize((resize, resize), Image.Resampling.BICUBIC)) for image in images]
    return np.stack(images)


class _Stored:
    """An array in a file, of which parts are read when asked for; it holds no file open, so that there can be many."""

    dtype = np.dtype("uint8")

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
    for group in tqdm(groups, "decoding", unit="image", leave=False, disable=None if sys.stderr else True):
        try:
            if not cache:
                arrays.append(load_scene(group, resize))
                continue
            stamp = repr([(str(path.resolve()), path.stat().st_mtime_ns, path.stat().st_size) for path in group] + [resize])
            stored = Path(cache) / f"{group[0].stem[:50]}-{hashlib.sha256(stamp.encode()).hexdigest()[:32]}.npy"
            try:
                array = _Stored(stored)
            except (OSError, ValueError, EOFError):  # it is not there, or damaged
                file = io.BytesIO()
                np.save(file, load_scene(group, resize))
                with atomic_path(stored) as temporary:
                    temporary.write_bytes(file.getbuffer())  # `np.save` to a file does not say that the disk is full
                array = _Stored(stored)
            arrays.append(array)
        except ValueError as error:
            bad.append(str(error))
    if bad:
        raise ValueError(f"{len(bad)} of {len(groups)} cannot be used: {name_some(bad)}")
    return arrays


def load_pairs(folder, resize=None, cache=None):
    """Decodes the pairs in `folder/low` and `folder/high`, once.

    Args:
        folder: its subfolders `low` and `high` hold images of the same stems, in any format that `enhance` reads.
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
