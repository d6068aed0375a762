"""Which images of a folder are to be enhanced, and where their results belong: on this machine or in a store elsewhere."""

import contextlib
import io
import os
import tempfile
from pathlib import Path, PurePath
from typing import Any, NamedTuple

import numpy as np

from retinex_keras.imaging.read import MAX_PIXELS, is_image_name, list_images, read_photo
from retinex_keras.imaging.write import WRITTEN, write_image


def is_address(place: str | os.PathLike) -> bool:
    """Whether a place is an address, as fsspec knows them, and not the path of a folder or file.

    >>> is_address("s3://bucket/photos"), is_address(Path("photos"))
    (True, False)
    """
    return "://" in str(place)


def result_name(path: str) -> str:
    """The name of the result of an image: its own, with ".png" added to formats that are only read.

    >>> result_name("a/b.jpg"), result_name("a/b.psd")
    ('a/b.jpg', 'a/b.psd.png')
    """
    return path if PurePath(path).suffix.lower() in WRITTEN else f"{path}.png"


class Place(NamedTuple):
    """A folder: of this machine where `filesystem` is None, or else of a filesystem of fsspec, such as a bucket of S3.

    The paths that its methods take and return are strings, as its filesystem has them.

    >>> place = Place(None, "pairs/low")
    >>> place.path("scene.0.png"), place.images()[:2]
    ('pairs/low/scene.0.png', ['scene.0.png', 'scene.1.png'])
    """

    filesystem: Any
    folder: str

    @classmethod
    def of(cls, place: str | os.PathLike) -> "Place":
        """Finds the place that a path or an address names; a ValueError says what is wrong with an address."""
        if not is_address(place):
            return cls(None, str(Path(place)))
        import fsspec
        from fsspec.implementations.local import LocalFileSystem

        try:
            filesystem, path = fsspec.core.url_to_fs(str(place))
        except Exception as error:  # it says what to install, that there is no such protocol, or what else the address lacks
            raise ValueError(f"{place} cannot be reached: {_words(error)}.") from error
        if "::" in str(place):
            raise ValueError(f"{place} is a chain of addresses; name a folder that needs no other.")
        return cls(None, str(Path(path))) if isinstance(filesystem, LocalFileSystem) else cls(filesystem, path.rstrip("/"))

    def path(self, name: str) -> str:
        """The path of a file by its name, which is relative to the folder."""
        return str(Path(self.folder, name)) if self.filesystem is None else f"{self.folder}/{name}"

    def full_name(self, path: str) -> Path | str:
        """What users call a file: its path, or its address."""
        return Path(path) if self.filesystem is None else self.filesystem.unstrip_protocol(path)

    def images(self) -> list[str]:
        """The names of all images in the folder and its subfolders, sorted, without hidden ones."""
        if self.filesystem is None:
            return [path.relative_to(self.folder).as_posix() for path in list_images(self.folder)]
        names = sorted(path.removeprefix(self.folder).lstrip("/") for path in self._files())
        names = [name for name in names if is_image_name(name)]
        if not names:
            folder = self.full_name(self.folder)
            raise ValueError(f"{folder} is no folder with images in a format that Pillow reads; check the address.")
        return names

    def existing(self, paths: list[str]) -> set[str]:
        """Those of the paths where there are files."""
        return {path for path in paths if os.path.exists(path)} if self.filesystem is None else self._files() & set(paths)

    def resolved(self, path: str) -> str:
        """The path with its symbolic links followed, so that two of the same file are equal."""
        return Path(path).resolve().as_posix() if self.filesystem is None else path

    def read(self, path: str, max_pixels: int = MAX_PIXELS) -> tuple[np.ndarray, dict]:
        """Reads an image as `read_photo` does; an OSError says what a filesystem fails with."""
        if self.filesystem is None:
            return read_photo(path, max_pixels)
        with _failures():
            file = io.BytesIO(self.filesystem.cat_file(path))
        file.name = self.full_name(path)  # for messages
        return read_photo(file, max_pixels)

    def write(self, path: str, image: np.ndarray, extras: dict | None = None, quality: int = 95) -> None:
        """Writes an image as `write_image` does, and makes its folder; an OSError says what a filesystem fails with."""
        if self.filesystem is None:
            Path(path).parent.mkdir(parents=True, exist_ok=True)
            return write_image(path, image, extras, quality)
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder, PurePath(path).name)
            write_image(file, image, extras, quality)
            with _failures():
                self.filesystem.put_file(str(file), path)

    def _files(self):
        try:
            return set(self.filesystem.find(self.folder))
        except FileNotFoundError:
            return set()
        except Exception as error:  # each filesystem fails with errors of its own
            folder = self.full_name(self.folder)
            raise OSError(f"{folder} could not be listed ({_words(error)}); check the address.") from error


def _words(error):
    return str(error) or type(error).__name__


@contextlib.contextmanager
def _failures():
    """Turns whatever a filesystem fails with into an OSError."""
    try:
        yield
    except Exception as error:
        raise OSError(_words(error)) from error


class Plan(NamedTuple):
    """The work on a folder: what is to be made, what exists, and the two places.

    >>> plan_folder("pairs/low", "bright").targets["pairs/low/scene.0.png"]
    'bright/scene.0.png'
    """

    targets: dict[str, str]  # {path of an image in the source: path of its result in the sink}
    existing: list[Path | str]
    source: Place
    sink: Place


def plan_folder(folder: str | os.PathLike, out: str | os.PathLike, force: bool = False) -> Plan:
    """Plans where the results of a folder's images belong.

    A result has the place and the name of its image, with ".png" added to formats that are only read. Where `out` lies in
    `folder`, it is left out: earlier results are no inputs.

    Args:
        folder: of the images, with its subfolders: a path or an address of fsspec.
        out: folder of the results, a path or an address.
        force: if True, results that exist are made again.

    Raises:
        FileNotFoundError: if there is no such folder.
        ValueError: if it holds no image, if results would overwrite inputs, or if an address is wrong.
        OSError: if a store elsewhere fails.

    >>> plan = plan_folder("pairs/low", "bright")
    >>> len(plan.targets), plan.existing
    (5, [])
    """
    source, sink = Place.of(folder), Place.of(out)
    names = source.images()
    if source.filesystem == sink.filesystem:
        above, below = source.resolved(source.folder), sink.resolved(sink.folder)
        inputs = {name: source.resolved(source.path(name)) for name in names}
        if below.startswith(f"{above}/"):
            names = [name for name in names if not inputs[name].startswith(f"{below}/")]
        results = {f"{below}/{result_name(name)}" for name in names}
        if above == below or not results.isdisjoint(inputs[name] for name in names):
            raise ValueError(
                f"Results in {sink.full_name(sink.folder)} would overwrite inputs, which are never overwritten; "
                "name another folder."
            )
    targets = {source.path(name): sink.path(result_name(name)) for name in names}
    there = set() if force else sink.existing(list(targets.values()))
    left = {image: target for image, target in targets.items() if target not in there}
    return Plan(left, [sink.full_name(target) for target in targets.values() if target in there], source, sink)
