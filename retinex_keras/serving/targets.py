"""Where an export goes; mistakes are found before TensorFlow is imported."""

import re
from pathlib import Path

from retinex_keras.engines import SUFFIXES
from retinex_keras.imaging import PathLike

LAST_VERSION = 2**63 - 2  # of 64 bits, with one to follow


def version_path(out: PathLike, version: int | None = None) -> Path:
    """The folder of a new version, by default the next one, as `export_savedmodel` says.

    A server reads the names in `out` as numbers of 64 bits: 0001 is version 1, and other names are passed by.

    >>> version_path("serving", 0)
    Traceback (most recent call last):
    ValueError: Version 0 of serving is out of range: servers expect 1 to 9223372036854775806. Leave it out for the next one.
    """
    versions = [int(path.name) for path in Path(out).glob("*") if re.fullmatch("[0-9]+", path.name)]
    versions = [number for number in versions if number < 2**63]
    version = 1 + max(versions, default=0) if version is None else version
    exists = version in versions
    if exists or not 0 < version <= LAST_VERSION:
        what = "exists: a server may be using it" if exists else f"is out of range: servers expect 1 to {LAST_VERSION}"
        raise ValueError(f"Version {version} of {out} {what}. Leave it out for the next one.")
    return Path(out) / str(version)


def onnx_path(path: PathLike) -> Path:
    """The path of an ONNX file to write; errors as of `export_onnx`.

    >>> onnx_path("model.pb")
    Traceback (most recent call last):
    ValueError: ONNX files end in .onnx, by which they are known. Received 'model.pb': name it model.onnx.
    """
    path = Path(path)
    if path.suffix != SUFFIXES["onnx"]:
        raise ValueError(f"ONNX files end in .onnx, by which they are known. Received {str(path)!r}: name it {path.stem}.onnx.")
    if not path.parent.is_dir():
        raise FileNotFoundError(f"There is no folder {path.parent} to write {path.name} to; make it first.")
    return path
