"""The folder of a run: its note, the state of each phase after its last whole epoch, its log and its sample pictures."""

import csv
import importlib
import itertools
import json
import math
import os
import re
import time
import warnings
import zlib

import keras
import numpy as np

from retinex_keras.evaluation.plots import history, sheet
from retinex_keras.imaging.atomic import atomic_path

FINAL = "retinexnet.keras"  # the trained model


def fingerprint(scenes):
    """A number that tells one set of files from another, wherever it lies: from their names, sizes and last bytes.

    >>> from retinex_keras.data.pairs import find_pairs
    >>> fingerprint(find_pairs("pairs/low", "pairs/high")) == fingerprint(find_pairs("pairs/high", "pairs/low"))
    False
    """
    crc = 0
    for path in itertools.chain(*scenes):
        with open(path, "rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - 4096))
            crc = zlib.crc32(f"{path.name} {size}".encode() + file.read(), crc)
    return crc


def check_same_run(out, settings):
    """Checks that a folder holds no run, or one with these settings.

    Raises:
        ValueError: if it holds another run, or what is no run.

    >>> check_same_run(Path("new"), {"seed": 0})
    """
    note = out / "run.json"
    if not note.exists():
        return
    try:
        before = json.loads(note.read_text())["settings"]
        changed = [f"{key} was {before.get(key)} and is {value}" for key, value in settings.items() if before.get(key) != value]
    except (ValueError, KeyError, TypeError, AttributeError, OSError, RecursionError):
        raise ValueError(f"{note} is not the note of a run; choose another folder for the run.") from None
    if changed:
        raise ValueError(
            f"{out} holds another run ({', '.join(changed)}); use the same settings and images, or another folder."
        )


def prepare_folder(out, settings):
    """Writes the note of a run, or checks the settings if there is one. The folder must exist.

    Raises:
        ValueError: if it holds another run.
        OSError: if it cannot be written to.

    >>> prepare_folder(Path("."), {"seed": 0})
    >>> Path("run.json").exists(), Path("samples").exists()
    (True, True)
    """
    note, backend = out / "run.json", keras.backend.backend()
    versions = {name: importlib.import_module(name).__version__ for name in (backend, "keras", "numpy", "retinex_keras")}
    try:
        (out / "samples").mkdir(exist_ok=True)
    except OSError as error:
        raise OSError(f"{error.filename} cannot be made ({error.strerror}); choose another folder for the run.") from None
    if not note.exists():
        with atomic_path(note, flush=True) as temporary:
            temporary.write_text(json.dumps({"settings": settings, "versions": versions}, indent=1))
    check_same_run(out, settings)


class RunState(keras.callbacks.Callback):
    """Writes the state of the training and the log after every epoch, each whole or not at all; restores the last state.

    Args:
        out: folder of the run.
        name: of the phase.
        network: built and compiled, its optimizer built.
        chief: whether this process writes.
        agree: called with {name: number}; raises if other workers found another state.

    Raises:
        ValueError: if the state cannot be read, as one of another version.

    >>> network = keras.Sequential([keras.layers.Input((1,)), keras.layers.Dense(1)])
    >>> network.compile()
    >>> RunState(Path("new"), "decom", network, chief=True, agree=print).epoch
    {'finished epochs': 0}
    0
    """

    def __init__(self, out, name, network, chief, agree):
        super().__init__()
        self.out, self.name, self.chief = out, name, chief
        self.epoch, self.rows, self.seconds = 0, [], 0.0  # finished epochs, their log
        if states := self._states():
            epoch, path = states[-1]
            try:
                with warnings.catch_warnings():
                    warnings.filterwarnings("error", module=r"keras\.src\.saving")  # of an optimizer's state that does not fit
                    network.load_weights(path)  # with that state
                self.epoch = epoch
                with open(out / f"{name}.csv", newline="") as file:
                    self.rows = list(csv.DictReader(file))[: self.epoch]  # one more if it was killed between the two files
                if len(self.rows) < self.epoch:
                    raise ValueError(f"{len(self.rows)} of {self.epoch} epochs are in the log")
                self.seconds = float(self.rows[-1]["seconds"])
            except Exception as error:  # h5py and csv have errors of their own
                reason = (str(error) or type(error).__name__).splitlines()[0]
                raise ValueError(
                    f"{path} and {name}.csv are not the state of this run ({reason}); choose another folder."
                ) from error
        agree({"finished epochs": self.epoch})

    def on_train_begin(self, logs=None):
        self.started = time.monotonic() - self.seconds

    def on_train_batch_end(self, batch, logs=None):
        self._check(math.isfinite(logs["loss"]), "loss")

    def check_weights(self, epoch=None, logs=None):
        """Raises a FloatingPointError if a weight is not finite."""
        self._check(all(np.isfinite(weight).all() for weight in self.model.get_weights()), "weights")

    def on_epoch_end(self, epoch, logs=None):
        self.epoch = epoch + 1
        if not self.chief:
            return
        self.rows.append({"epoch": epoch, "seconds": round(time.monotonic() - self.started, 1), **logs})
        with atomic_path(self.out / f"{self.name}.csv", flush=True) as temporary, open(temporary, "w", newline="") as file:
            writer = csv.DictWriter(file, list(dict.fromkeys(key for row in self.rows for key in row)))
            writer.writeheader()
            writer.writerows(self.rows)
        size = sum(math.prod(variable.shape) for variable in [*self.model.variables, *self.model.optimizer.variables])
        with atomic_path(self.out / f"{self.name}-{epoch + 1:05d}.weights.h5", flush=True) as temporary:
            temporary.write_bytes(bytes(2**20 + 5 * size))  # is there room? HDF5 can crash on a full disk
            self.model.save_weights(temporary)
        for _, state in self._states()[:-1]:
            state.unlink()

    def _states(self):
        """The states of this phase that lie in the folder, in order: the number of finished epochs, and the path."""
        name = re.compile(re.escape(self.name) + r"-(\d+)\.weights\.h5")
        found = ((name.fullmatch(path.name), path) for path in self.out.glob("*.h5"))
        return sorted((int(match[1]), path) for match, path in found if match)

    def _check(self, finite, what):
        if not finite:
            raise FloatingPointError(
                f"The {what} of {type(self.model).__name__} stopped being finite in epoch {self.epoch + 1}; {self.out} keeps "
                f"the state after {self.epoch} epochs. Begin a run with a lower learning rate."
            )


class Samples(keras.callbacks.Callback):
    """Writes a sheet after the epochs `shown`, a row a pair of `examples`, its pictures from `pictures(low, high)`.

    >>> samples = Samples(Path("decom"), {1}, [(np.zeros((8, 8, 3)),) * 2], lambda low, high: {"low": low, "high": high})
    >>> samples.on_epoch_end(0)
    >>> Path("decom-00001.png").exists()
    True
    """

    def __init__(self, path, shown, examples, pictures):
        super().__init__()
        self.path, self.shown, self.examples, self.pictures = path, shown, examples, pictures

    def on_epoch_end(self, epoch, logs=None):
        if self.examples and epoch + 1 in self.shown:
            rows = [self.pictures(low, high) for low, high in self.examples]
            sheet([list(row.values()) for row in rows], list(rows[0]), f"{self.path}-{epoch + 1:05d}.png")


class LiveHistory(keras.callbacks.Callback):
    """Draws `history` again after every epoch, in a notebook or into a file. In a resumed `fit` its curves continue.

    Args:
        path: the file to write; without it, the figure is shown in the notebook's cell.

    >>> live = LiveHistory("curves.png")
    >>> live.on_epoch_end(0, {"loss": 0.5})
    >>> live.log
    {'epoch': [0], 'loss': [0.5]}
    """

    def __init__(self, path: str | os.PathLike | None = None):
        super().__init__()
        self.path, self.log = path, {"epoch": []}

    def on_train_begin(self, logs=None):
        self.shown = None

    def on_epoch_end(self, epoch, logs=None):
        for name in ("epoch", *logs):  # what a validation adds is NaN in the epochs without one
            self.log.setdefault(name, [np.nan] * len(self.log["epoch"]))
        for name, values in self.log.items():
            values.append(epoch if name == "epoch" else logs.get(name, np.nan))
        figure = history(self.log, self.path)
        if self.path is None:
            from IPython.display import display

            if self.shown:
                self.shown.update(figure)
            else:
                self.shown = display(figure, display_id=True)
