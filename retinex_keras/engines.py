"""The engines that run weights, TensorFlow and ONNX Runtime: which one, where its weights are, and its import."""

import contextlib
import functools
import importlib
import os
from importlib.util import find_spec
from pathlib import Path

from retinex_keras.recipes import DEFAULT

SUFFIXES = {"tensorflow": ".keras", "onnx": ".onnx"}  # of the files of each engine
loading = contextlib.nullcontext  # in which Keras and weights are loaded; the command line has one of its own


@functools.cache
def shipped_weights(engine: str = "tensorflow") -> dict[str, Path]:
    """The paths of the weights that come with this package for an engine, by name.

    >>> sorted(shipped_weights()), sorted(shipped_weights("onnx"))
    (['lol', 'natural', 'paper', 'simple'], ['natural'])
    """
    here, suffix = Path(__file__).parent, SUFFIXES[engine]
    files = (*here.parent.glob(f"checkpoints/*{suffix}"), *here.glob(f"checkpoints/*{suffix}"))
    return {path.stem: path for path in sorted(files)}


def choose_engine(weights: str | os.PathLike = DEFAULT, engine: str | None = None) -> str:
    """The engine for weights: that of a file's suffix, the one that is asked for, or TensorFlow where it is installed.

    Raises:
        ValueError: if there is no such engine, or the file is for the other one.

    >>> choose_engine("natural"), choose_engine("mine.onnx")
    ('tensorflow', 'onnx')
    """
    if engine not in (None, *SUFFIXES):
        raise ValueError(f"There is no engine {engine!r}; use one of {', '.join(SUFFIXES)}.")
    of_file = next((name for name, suffix in SUFFIXES.items() if Path(weights).suffix == suffix), None)
    if engine and of_file and engine != of_file:
        raise ValueError(
            f"{weights} is for the engine {of_file}. Received engine={engine!r}: leave it out, or name other weights."
        )
    has_keras = find_spec("tensorflow") or os.environ.get("KERAS_BACKEND") == "jax"
    return of_file or engine or ("tensorflow" if has_keras else "onnx")


def locate_weights(weights: str | os.PathLike = DEFAULT, engine: str | None = None) -> tuple[str, Path]:
    """The engine for weights and their file; `engine` as of `choose_engine`.

    Raises:
        FileNotFoundError: if there are no such weights.
        ValueError: as `choose_engine` does.

    >>> engine, path = locate_weights("paper")
    >>> engine, path.name
    ('tensorflow', 'paper.keras')
    """
    engine = choose_engine(weights, engine)
    shipped = shipped_weights(engine)
    path = shipped.get(str(weights), Path(weights))
    if not path.is_file():
        raise FileNotFoundError(
            f"There are no weights {str(weights)!r}. Shipped ones: {', '.join(shipped)}; or pass the path of a file."
        )
    return engine, path


def import_keras():
    """Imports Keras, and says how to install TensorFlow where it is missing.

    >>> import_keras()
    """
    if os.environ.get("KERAS_BACKEND", "tensorflow") == "tensorflow" and not find_spec("tensorflow"):
        raise ModuleNotFoundError("This needs TensorFlow, which is not installed: pip install tensorflow keras.")
    with loading():
        importlib.import_module("keras")


def check_backend(what):
    """Raises a ValueError if Keras runs on another backend than TensorFlow, which something needs.

    >>> check_backend("A benchmark")
    """
    import keras

    if keras.backend.backend() != "tensorflow":
        raise ValueError(f"{what} needs TensorFlow. Received Keras on {keras.backend.backend()}: unset KERAS_BACKEND.")


@contextlib.contextmanager
def silence():
    """Drops what TensorFlow prints while it is imported, which no setting of its own silences, and its log from then on.

    Errors are raised as ever. Who sets `TF_CPP_MIN_LOG_LEVEL` decides on the log.

    >>> with silence():
    ...     import tensorflow
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # all of it: that there is no GPU is an error to it
    try:
        stderr = os.dup(2)
    except OSError:  # it is closed, as of a daemon
        yield
        return
    try:
        with open(os.devnull, "w") as nowhere:
            os.dup2(nowhere.fileno(), 2)
        yield
    finally:
        os.dup2(stderr, 2)
        os.close(stderr)
