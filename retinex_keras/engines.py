"""The engines that run weights, TensorFlow and ONNX Runtime: which one, where its weights are, and its import."""

import functools
import importlib
import os
import sys
import threading
from importlib.util import find_spec
from pathlib import Path

from retinex_keras import onnx_model
from retinex_keras.recipes import DEFAULT_WEIGHTS

SUFFIXES = {"tensorflow": ".keras", "onnx": ".onnx"}  # of the files of each engine


@functools.cache
def shipped_weights(engine: str = "tensorflow") -> dict[str, Path]:
    """The paths of the weights that come with this package for an engine, by name.

    >>> sorted(shipped_weights()), sorted(shipped_weights("onnx"))
    (['natural', 'paper', 'simple'], ['natural'])
    """
    here, suffix = Path(__file__).parent, SUFFIXES[engine]
    files = (*here.parent.glob(f"checkpoints/*{suffix}"), *here.glob(f"checkpoints/*{suffix}"))
    return {path.stem: path for path in sorted(files)}


def choose_engine(weights: str | os.PathLike = DEFAULT_WEIGHTS, engine: str | None = None) -> str:
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


def import_keras():
    """Imports Keras, and TensorFlow without what its libraries print as they load, which no setting of theirs silences.

    On a terminal it says after a second that it is loading.

    >>> import_keras()
    """
    if "keras" in sys.modules or os.environ.get("KERAS_BACKEND", "tensorflow") != "tensorflow":
        return
    if not find_spec("tensorflow"):
        raise ModuleNotFoundError("This needs TensorFlow, which is not installed: pip install tensorflow keras.")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # what they print later: that there is no GPU
    try:
        stderr = os.dup(2)
    except OSError:  # it is closed, as of a daemon: nothing is printed
        return
    notice = threading.Timer(1.0, os.write, (stderr, b"loading TensorFlow ...\n"))
    try:
        if os.isatty(stderr):
            notice.start()
        with open(os.devnull, "w") as nowhere:
            os.dup2(nowhere.fileno(), 2)
        importlib.import_module("keras")
    finally:
        notice.cancel()
        os.dup2(stderr, 2)
        os.close(stderr)


def use_threads(count: int, engine: str) -> None:
    """Sets with how many threads an engine computes, before its first use in this process.

    >>> use_threads(0, "onnx")  # as many as there are processors
    """
    if engine == "onnx":
        onnx_model.threads = count
    else:
        import tensorflow as tf

        tf.config.threading.set_intra_op_parallelism_threads(count)
