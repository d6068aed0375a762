"""Which images of a folder are to be enhanced, and where their results belong: on this machine or in a store elsewhere."""

import contextlib
import io
import os
import tempfile
import unicodedata
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path, PurePath
from typing import Any, NamedTuple

import numpy as np

from retinex_keras.imaging import PathLike, is_address
from retinex_keras.imaging.atomic import MARKS, locked, remove_leftovers
from retinex_keras.imaging.read import is_image_name, read_photo, reason_of, scan_folder, why_unread
from retinex_keras.imaging.write import WRITTEN, check_folder, write_image

LOCK = ".retinex.lock"  # in a folder of results, while a run is at work there
NO_STORES = {"data", "gist", "git", "github", "http", "https"}  # protocols of fsspec for what is no folder, or only read


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
        return self._files() & set(paths) if self.filesystem else set(filter(os.path.isfile, paths))

    def _files(self):
        try:
            return set(self.filesystem.find(self.folder))
        except FileNotFoundError:
            return set()
        except Exception as error:
            folder, reason = self.full_name(self.folder), reason_of(error)
            raise OSError(f"{folder} could not be listed ({reason}); check the address.") from error

    def images(self) -> tuple[list[str], list[tuple[str, str]]]:
        """The names of the images in the folder and its subfolders, and those of what is left out, as `scan_folder` does it."""
        if self.filesystem:
            found = sorted(path.removeprefix(self.folder).lstrip("/") for path in self._files())
            names = [name for name in found if is_image_name(name)]
            skipped = [(name, reason) for name in found if (reason := why_unread(name))]
        else:
            names, skipped = scan_folder(self.folder)
        if not names and not skipped:
            raise ValueError(f"{self.full_name(self.folder)} holds no image in a format that is read here; check its name.")
        return names, skipped

    def check_writable(self, paths: Iterable[str]) -> None:
        """Raises an error if files of this machine could not be written for want of a folder: ValueError or OSError."""
        for folder in () if self.filesystem else {os.path.dirname(path) for path in paths}:
            folder = _nearest(folder)
            if not os.path.isdir(folder):
                raise ValueError(f"{folder} is a file where a folder of results has to be; name another folder.")
            check_folder(folder)

    def merges(self, one: str, other: str) -> bool:
        """Whether two paths are one file, as where case or Unicode's forms of a letter do not count; tried with a file."""
        if self.filesystem:
            return False
        one, other = next(names for names in zip(Path(one).parts, Path(other).parts) if names[0] != names[1])
        with contextlib.suppress(OSError), tempfile.TemporaryDirectory(**MARKS, dir=_nearest(self.folder)) as folder:
            Path(folder, one).touch()
            return Path(folder, other).exists()
        return False

    @contextlib.contextmanager
    def reserved(self, paths: Iterable[str]) -> Iterator[None]:
        """Makes the folder and keeps other runs out of it until the block or the process ends.

        It clears what killed processes left beside the paths, at first and in the end. Nothing is done for places of fsspec,
        and nobody is kept out where a filesystem knows no locks.

        Raises:
            OSError: if another run is at work there, or the folder cannot be written to.
        """
        if self.filesystem:
            yield
            return
        lock = os.path.join(self.folder, LOCK)
        with contextlib.ExitStack() as stack:
            try:
                os.makedirs(self.folder, exist_ok=True)
                while not _takes(lock, stack):
                    pass  # the file was that of a run that has just ended
            except BlockingIOError:
                raise OSError(f"Another run is writing to {self.folder}; wait for its end, or stop it.") from None
            except OSError as error:
                if error.filename:  # else the filesystem knows no locks
                    problem = f"{error.filename} cannot be made ({error.strerror})"
                    raise OSError(f"{problem}: mend that, or name another folder.") from error
            stack.callback(_remove, lock)
            folders = {os.path.dirname(path) for path in paths}
            remove_leftovers(*folders)
            stack.callback(remove_leftovers, *folders)
            yield

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
            file = os.path.join(folder, "x" + PurePath(path).suffix)
            write_image(file, image, extras, quality)
            with _failures():
                self.filesystem.put_file(file, path)


@contextlib.contextmanager
def _failures():
    try:
        yield
    except Exception as error:  # each filesystem fails with errors of its own
        raise OSError(reason_of(error)) from error


def _nearest(folder):
    """The nearest folder above that exists, or what is in its place; itself, if it exists."""
    while folder and not os.path.lexists(folder):
        folder = os.path.dirname(folder)
    return folder or "."


def _takes(lock, stack):
    """Whether the file of a lock, made and locked until the stack ends, is the one that others find."""
    descriptor = stack.enter_context(locked(lock, os.O_RDWR | os.O_CREAT))
    with contextlib.suppress(OSError):
        os.fchmod(descriptor, 0o666)  # after a kill, another user may be the next to take it
    with contextlib.suppress(FileNotFoundError):
        return os.path.samestat(os.fstat(descriptor), os.stat(lock))
    return False


def _remove(lock):
    with contextlib.suppress(OSError):
        os.unlink(lock)


def find_place(place: PathLike) -> Place:
    """The place that a path or an address of fsspec names; a ValueError says what is wrong with it."""
    if not str(place):
        raise ValueError("The name of a folder is empty; give its path, which is . for this one.")
    if not is_address(place):
        return Place(None, str(Path(place)))
    if "::" in str(place):
        raise ValueError(f"{place} is a chain of addresses; name a folder that needs no other.")
    protocol, _, path = str(place).partition("://")
    if protocol in ("file", "local") and not path.startswith("/"):
        raise ValueError(f"{place} names a machine; files of this one have three slashes, as file:///photos.")
    if protocol in NO_STORES:
        raise ValueError(
            f"{place} is no store that keeps files; name a folder, or one of an object store, as s3://bucket/photos."
        )
    import fsspec
    from fsspec.implementations.local import LocalFileSystem

    try:
        filesystem, path = fsspec.core.url_to_fs(str(place))
    except Exception as error:  # it says what to install, that there is no such protocol, or what else the address lacks
        raise ValueError(f"{place} cannot be reached: {reason_of(error)}.") from error
    return Place(None, str(Path(path))) if isinstance(filesystem, LocalFileSystem) else Place(filesystem, path.rstrip("/"))


class Plan(NamedTuple):
    """The work on a folder."""

    targets: dict[str, str]  # {path of an image in the source: path of its result in the sink}, without what exists
    existing: list[Path | str]  # results
    source: Place
    sink: Place
    force: bool  # whether results that exist are made again
    skipped: list[tuple[Path | str, str]]  # what is no image here, but may be one elsewhere, and the reason
    alone: bool  # whether no other run may write to the sink meanwhile

    def without_results(self) -> "Plan":
        """The plan of what is left to do by now, since results may have appeared.

        Raises an error if a folder for it cannot be made or written to.
        """
        there = set() if self.force else self.sink.existing(self.targets.values())
        existing = [self.sink.full_name(target) for target in self.targets.values() if target in there]
        targets = {image: target for image, target in self.targets.items() if target not in there}
        self.sink.check_writable(targets.values())
        return self._replace(targets=targets, existing=self.existing + existing)


def _resolved(place, path):
    """A path of which every file has only one."""
    return path if place.filesystem else Path(os.path.realpath(path)).as_posix()


def _real(place, path):
    """The path of a result without the links of its folders. A link that it is itself would be replaced, not followed."""
    return path if place.filesystem else f"{_resolved(place, os.path.dirname(path))}/{os.path.basename(path)}"


def _lies_in(place, path, folder):
    """Whether a path, or a link that it is, lies in a folder, or is it."""
    return any(f"{_resolved(place, name)}/".startswith(f"{folder}/") for name in (path, os.path.dirname(path)))


def _check_clashes(results, sink):
    """Raises a ValueError if two images would have one result; `results` are pairs of image and result."""
    results = [(image, result, _real(sink, result)) for image, result in results]
    for form in (str, lambda path: unicodedata.normalize("NFC", path).casefold()):
        first = {}
        for image, result, path in results:
            other, same = first.setdefault(form(path), (image, path))
            if other != image and (same == path or sink.merges(same, path)):
                raise ValueError(f"{other} and {image} would both become {sink.full_name(result)}; rename one of them.")


def plan_folder(folder: PathLike, out: PathLike, force: bool = False) -> Plan:
    """Plans what is to be made of a folder, by the rules and with the arguments of `run.enhance_folder`."""
    source, sink = find_place(folder), find_place(out)
    names, skipped = source.images()
    targets = {name: sink.path(_result_name(name)) for name in names}
    if source.filesystem == sink.filesystem:
        above, below = _resolved(source, source.folder), _resolved(sink, sink.folder)
        inputs = {name: _resolved(source, source.path(name)) for name in names}
        if below.startswith(f"{above.rstrip('/')}/"):  # earlier results are no inputs
            targets = {name: target for name, target in targets.items() if not inputs[name].startswith(f"{below}/")}
            skipped = [(name, reason) for name, reason in skipped if not _lies_in(source, source.path(name), below)]
        results = {_real(sink, target) for target in targets.values()}
        same = above == below or not source.filesystem and os.path.exists(below) and os.path.samefile(above, below)
        if same or not results.isdisjoint(inputs[name] for name in targets):
            place = sink.full_name(sink.folder)
            raise ValueError(f"Results in {place} would overwrite inputs, which are never overwritten; name another folder.")
    targets = {source.path(name): target for name, target in targets.items()}
    skipped = [(source.full_name(source.path(name)), reason) for name, reason in skipped]
    _check_clashes(targets.items(), sink)
    return Plan(targets, [], source, sink, force, skipped, alone=True).without_results()


def plan_photos(
    photos: list[PathLike], out: PathLike, force: bool = False, result_names: Callable = lambda name: [_result_name(name)]
) -> Plan:
    """Plans what is to be made of photos on this machine, in one folder, by the rules of `plan_folder`.

    `result_names` gives the names of all results of a photo by its own name, the one that tells whether it is done first.

    Raises:
        FileNotFoundError: if none of them exists. One that is missing among others is bad, but no reason to stop.
        ValueError: if one is a folder, two would have the same result, a result would overwrite a photo, or `out` is a file.
    """
    source, sink = Place(None, ""), find_place(out)
    if Path(sink.folder).is_file():
        raise ValueError(f"{out} is a file; name a folder for the pictures.")
    targets, results = {}, []
    for image in map(str, photos):
        if Path(image).is_dir():
            raise ValueError(f"{image} is a folder. Expected photos: name those in it, as {image}/*.jpg.")
        name = Path(image).name
        own = [sink.path(result) for result in result_names(name)]
        targets[image] = own[0]
        results += [(image, result) for result in own]
    if not source.existing(targets):
        what = f"{image} is not a file; check the path" if len(targets) == 1 else "None of the photos is there; check the paths"
        raise FileNotFoundError(f"{what}.")
    if _identities(targets) & _identities(result for _, result in results):
        raise ValueError(f"Results in {out} would overwrite inputs, which are never overwritten; name another folder.")
    _check_clashes(results, sink)
    return Plan(targets, [], source, sink, force, [], alone=False).without_results()


def _identities(paths):
    """What tells the files of this machine apart, whatever their names are, for those of the paths that exist."""
    found = [os.stat(path) for path in paths if os.path.exists(path)]
    return {(file.st_dev, file.st_ino) for file in found}
