"""Which images of a folder are to be enhanced, and where their results belong: on this machine or in a store elsewhere."""

import contextlib
import io
import os
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path, PurePath
from typing import Any, NamedTuple

import numpy as np

from retinex_keras.imaging import PathLike
from retinex_keras.imaging.read import is_image_name, list_images, read_photo
from retinex_keras.imaging.write import WRITTEN, write_image


def is_address(place: PathLike) -> bool:
    """Whether a place is an address, as fsspec knows them, and not the path of a folder or file."""
    return "://" in str(place)


def _result_name(path):
    """The name of the result of an image: its own, with ".png" added to formats that are only read."""
    return path if PurePath(path).suffix.lower() in WRITTEN else f"{path}.png"


class Place(NamedTuple):
    """A folder and what is done in it. The paths of its files are strings, as its filesystem has them.

    Its methods raise an OSError, whatever it is that a filesystem fails with, and what `read_photo` and `write_image` raise.
    """

    filesystem: Any  # of fsspec, such as a bucket of S3; None is this machine's
    folder: str

    def path(self, name: str) -> str:
        """The path of a file by its name, which is relative to the folder."""
        return f"{self.folder}/{name}" if self.filesystem else str(Path(self.folder, name))

    def full_name(self, path: str) -> Path | str:
        """What users call a file: its path, or its address."""
        return self.filesystem.unstrip_protocol(path) if self.filesystem else Path(path)

    def existing(self, paths: Iterable[str]) -> set[str]:
        """Those of the paths that exist."""
        return self._files() & set(paths) if self.filesystem else set(filter(os.path.exists, paths))

    def _files(self):
        try:
            return set(self.filesystem.find(self.folder))
        except FileNotFoundError:
            return set()
        except Exception as error:
            folder, reason = self.full_name(self.folder), _reason(error)
            raise OSError(f"{folder} could not be listed ({reason}); check the address.") from error

    def images(self) -> list[str]:
        """The names of all images in the folder and its subfolders, sorted, without hidden ones."""
        if not self.filesystem:
            return [path.relative_to(self.folder).as_posix() for path in list_images(self.folder)]
        names = (path.removeprefix(self.folder).lstrip("/") for path in self._files())
        names = sorted(name for name in names if is_image_name(name))
        if not names:
            folder = self.full_name(self.folder)
            raise ValueError(f"{folder} is no folder with images in a format that Pillow reads; check the address.")
        return names

    def read(self, path: str, max_pixels: int) -> tuple[np.ndarray, dict]:
        """Reads an image as `read_photo` does."""
        if not self.filesystem:
            return read_photo(path, max_pixels)
        with _failures():
            file = io.BytesIO(self.filesystem.cat_file(path))
        file.name = self.full_name(path)  # for messages
        return read_photo(file, max_pixels)

    def write(self, path: str, image: np.ndarray, extras: dict, quality: int) -> None:
        """Writes an image as `write_image` does, and makes its folder."""
        if not self.filesystem:
            Path(path).parent.mkdir(parents=True, exist_ok=True)
            return write_image(path, image, extras, quality)
        with tempfile.TemporaryDirectory() as folder:
            file = os.path.join(folder, PurePath(path).name)
            write_image(file, image, extras, quality)
            with _failures():
                self.filesystem.put_file(file, path)


@contextlib.contextmanager
def _failures():
    try:
        yield
    except Exception as error:  # each filesystem fails with errors of its own
        raise OSError(_reason(error)) from error


def _reason(error):
    return str(error) or type(error).__name__


def find_place(place: PathLike) -> Place:
    """The place that a path or an address of fsspec names; a ValueError says what is wrong with an address."""
    if not is_address(place):
        return Place(None, str(Path(place)))
    import fsspec
    from fsspec.implementations.local import LocalFileSystem

    try:
        filesystem, path = fsspec.core.url_to_fs(str(place))
    except Exception as error:  # it says what to install, that there is no such protocol, or what else the address lacks
        raise ValueError(f"{place} cannot be reached: {_reason(error)}.") from error
    if "::" in str(place):
        raise ValueError(f"{place} is a chain of addresses; name a folder that needs no other.")
    return Place(None, str(Path(path))) if isinstance(filesystem, LocalFileSystem) else Place(filesystem, path.rstrip("/"))


class Plan(NamedTuple):
    """The work on a folder."""

    targets: dict[str, str]  # {path of an image in the source: path of its result in the sink}, without what exists
    existing: list[Path | str]  # results
    source: Place
    sink: Place


def _resolved(place, path):
    """A path of which every file has only one."""
    return path if place.filesystem else Path(path).resolve().as_posix()


def plan_folder(folder: PathLike, out: PathLike, force: bool = False) -> Plan:
    """Plans what is to be made of a folder, by the rules and with the arguments of `run.enhance_folder`."""
    source, sink = find_place(folder), find_place(out)
    names = source.images()
    if source.filesystem == sink.filesystem:
        above, below = _resolved(source, source.folder), _resolved(sink, sink.folder)
        inputs = {name: _resolved(source, source.path(name)) for name in names}
        if below.startswith(f"{above}/"):  # earlier results are no inputs
            names = [name for name in names if not inputs[name].startswith(f"{below}/")]
        results = {f"{below}/{_result_name(name)}" for name in names}
        if above == below or not results.isdisjoint(inputs[name] for name in names):
            place = sink.full_name(sink.folder)
            raise ValueError(f"Results in {place} would overwrite inputs, which are never overwritten; name another folder.")
    targets = {source.path(name): sink.path(_result_name(name)) for name in names}
    return _without_existing(targets, source, sink, force)


def _without_existing(targets, source, sink, force):
    there = set() if force else sink.existing(targets.values())
    existing = [sink.full_name(target) for target in targets.values() if target in there]
    return Plan({image: target for image, target in targets.items() if target not in there}, existing, source, sink)


def plan_photos(photos: list[PathLike], out: PathLike, force: bool = False, result_name: Callable = _result_name) -> Plan:
    """Plans what is to be made of photos on this machine, in one folder, by the rules of `plan_folder`.

    Raises:
        FileNotFoundError: if none of them exists. One that is missing among others is bad, but no reason to stop.
        ValueError: if one is a folder, two would have the same result, a result would overwrite a photo, or `out` is a file.
    """
    source, sink = Place(None, ""), find_place(out)
    if Path(sink.folder).is_file():
        raise ValueError(f"{out} is a file; name a folder for the pictures.")
    targets, images = {}, {}
    for image in map(str, photos):
        if Path(image).is_dir():
            raise ValueError(f"{image} is a folder. Expected photos: name those in it, as {image}/*.jpg.")
        target = targets[image] = sink.path(result_name(Path(image).name))
        if images.setdefault(target, image) != image:
            raise ValueError(f"{images[target]} and {image} would both become {target}: leave one of them for another folder.")
    if not source.existing(targets):
        what = f"{image} is not a file; check the path" if len(targets) == 1 else "None of the photos is there; check the paths"
        raise FileNotFoundError(f"{what}.")
    inputs = {_resolved(source, image) for image in targets}
    if not inputs.isdisjoint(_resolved(sink, target) for target in targets.values()):
        raise ValueError(f"Results in {out} would overwrite inputs, which are never overwritten; name another folder.")
    return _without_existing(targets, source, sink, force)
