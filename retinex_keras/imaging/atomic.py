"""Files that appear whole or not at all."""

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from retinex_keras.imaging import PathLike

try:
    import fcntl
except ImportError:  # Windows, where nothing is locked
    fcntl = None

MARKS = {"prefix": ".retinex-", "suffix": ".part"}  # of the names of temporary folders


@contextlib.contextmanager
def atomic_path(path: PathLike, flush: bool = False) -> Iterator[Path]:
    """Yields the path of a temporary file, which replaces `path` if the block ends well and vanishes if not.

    It has the suffixes of `path`, which decide formats, and lies beside it in a hidden folder that only this user may enter,
    so that nobody else can put a link in its place. The new file gets the mode of the one that it replaces, or that of any
    new file. A process that is killed leaves the hidden folder behind: see `remove_leftovers`. With `flush`, the file is on the
    disk before it gets its name, so that it is whole after a power cut too.

    Raises:
        OSError: of the usual classes, if the file cannot be written. It names `path`.

    >>> with atomic_path("note.txt") as temporary:
    ...     _ = temporary.write_text("whole")
    >>> Path("note.txt").read_text()
    'whole'
    """
    path, folder = Path(path), None
    try:
        with contextlib.ExitStack() as stack:
            folder = stack.enter_context(tempfile.TemporaryDirectory(**MARKS, dir=path.parent, ignore_cleanup_errors=True))
            with contextlib.suppress(OSError):  # of filesystems without locks
                stack.enter_context(locked(folder))  # by which others see that this process is alive
            temporary = Path(folder, "".join(["x", *path.suffixes]))
            yield temporary
            with contextlib.suppress(OSError):  # there is none, or the filesystem has no modes
                temporary.chmod(path.stat().st_mode & 0o777)
            if flush:
                with open(temporary, "rb+") as file:
                    os.fsync(file.fileno())
            os.replace(temporary, path)
    except OSError as error:
        ours = folder is None or error.filename is None or os.fspath(error.filename).startswith(folder)
        if error.errno is None or not ours:  # of something else that the block does
            raise
        raise type(error)(f"{path} could not be written ({error.strerror}).") from error


@contextlib.contextmanager
def locked(path: PathLike, flags: int = 0) -> Iterator[int]:
    """Locks a file or folder, opened with these flags, until the block or the process ends; yields its descriptor.

    Raises:
        BlockingIOError: if another process, or another part of this one, has locked it.
        OSError: if it cannot be opened, is a link, or its filesystem knows no locks.

    >>> with locked("pairs"), locked("pairs"):
    ...     pass
    Traceback (most recent call last):
    BlockingIOError: [Errno ...] Resource temporarily unavailable
    """
    if not fcntl:
        raise OSError("This system knows no locks.")
    descriptor = os.open(path, flags | os.O_NOFOLLOW, 0o666)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield descriptor
    finally:
        os.close(descriptor)


def remove_leftovers(*folders: PathLike) -> None:
    """Removes what processes that were killed left in folders; what others are writing there stays.

    >>> Path(".retinex-12345678.part").mkdir()
    >>> remove_leftovers(".")
    >>> Path(".retinex-12345678.part").exists()
    False
    """
    if not fcntl:  # nobody can tell what is in use
        return
    for leftover in (found for folder in folders for found in Path(folder).glob("{prefix}*{suffix}".format(**MARKS))):
        with contextlib.suppress(OSError), locked(leftover, os.O_DIRECTORY):
            shutil.rmtree(leftover)
