"""Which images of a folder are to be made, and where their results belong."""

from pathlib import Path, PurePath

from retinex_keras.imaging.read import list_images
from retinex_keras.imaging.write import WRITTEN


def is_address(place):
    """Whether a place is an address, as fsspec knows them, and not the path of a folder or file.

    >>> is_address("s3://bucket/photos"), is_address(Path("photos"))
    (True, False)
    """
    return "://" in str(place)


def result_name(path):
    """The name of the result of an image: its own, with ".png" added to formats that are read only.

    >>> result_name("a/b.jpg"), result_name("a/b.psd")
    ('a/b.jpg', 'a/b.psd.png')
    """
    return path if PurePath(path).suffix.lower() in WRITTEN else f"{path}.png"


def results_of_folder(folder, out, force):
    """Where the results of a folder's images belong, as `inference.enhance_folder` says.

    Returns:
        A dict {image: result} of the results to be made, and a list of those that exist.

    Raises:
        FileNotFoundError, ValueError: as `list_images`; or if `out` is `folder`.

    >>> targets, existing = results_of_folder("pairs/low", "bright", force=False)
    >>> len(targets), existing
    (5, [])
    """
    folder, out = Path(folder), Path(out)
    if out.resolve() == folder.resolve():
        raise ValueError(f"{out} is the folder of the inputs, which are never overwritten; name another folder.")
    images = [path for path in list_images(folder) if not path.resolve().is_relative_to(out.resolve())]
    targets = {path: out / result_name(path.relative_to(folder)) for path in images}
    existing = {} if force else {path: to for path, to in targets.items() if to.exists()}
    return {path: to for path, to in targets.items() if path not in existing}, list(existing.values())
