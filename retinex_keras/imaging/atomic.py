"""Files that appear whole or not at all."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from retinex_keras.imaging import PathLike


@contextlib.contextmanager
def atomic_path(path: PathLike) -> Iterator[Path]:
    """Yields a temporary name beside `path`, which replaces `path` if the block ends well and vanishes if not."""
    path = Path(path)
    temporary = path.with_name(f".{os.getpid()}-{path.name}")  # the same suffixes, which decide formats
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
