"""The two phases of training: Decom-Net, then Enhance-Net on what it makes; a killed run goes on where it was."""

import contextlib
import csv
import functools
import importlib.util
import itertools
import json
import math
import os
import re
import time
import zlib
from pathlib import Path

import keras
import numpy as np

from retinex_keras.data.degrade import darken, wide_darken
from retinex_keras.data.pairs import find_images, find_pairs, load_pairs, load_scenes
from retinex_keras.data.pipeline import training_patches, whole_pairs
from retinex_keras.evaluation.plots import sheet
from retinex_keras.imaging.atomic import atomic_path
from retinex_keras.inference import load_pretrained
from retinex_keras.recipes.natural import NaturalDecomNet, NaturalEnhanceNet
from retinex_keras.recipes.paper import DecomNet, EnhanceNet, RetinexNet, SimpleCNN, original_adam

# What differs between the recipes where nothing else is asked for.
RECIPES = {
    "paper": {"batch_size": 16, "patch_size": 48, "filters": 64},
    "natural": {"batch_size": 8, "patch_size": 160, "filters": 32},
    "simple": {"batch_size": 16, "patch_size": 48, "filters": 64},
}


def train_retinexnet(
    data,
    out,
    recipe="paper",
    validation=None,
    photos=None,
    weights=None,
    epochs=100,
    batch_size=None,
    patch_size=None,
    whole=False,
    learning_rate=1e-3,
    decay_epoch=None,
    seed=0,
    every=20,
    filters=None,
    cache=None,
    verbose="auto",
    strategy=None,
):
    """Trains the networks of a recipe, or goes on with a run that was stopped.

    "paper" is the original's: Decom-Net, then Enhance-Net, on small patches. "natural" trains its networks together, end
    to end, on patches from `data.training_view` with AdamW, gradients clipped, along half a cosine, and keeps the running
    mean of the weights. "simple" trains the CNN that they are compared with, on the paper's patches.

    Args:
        data: folder of the pairs, with subfolders `low` and `high`, or a list of such folders; None for photos alone.
        out: folder of the run. It receives `retinexnet.keras`, the state of each phase after its last whole epoch, a log of
            each phase (`decom.csv` and `enhance.csv`, or that of the recipe, a row an epoch), `samples/`, and `logs/` if
            TensorBoard is installed.
        recipe: "paper", "natural" or "simple".
        validation: folder of pairs that are scored and shown in the samples every `every` epochs and after the last one.
        photos: folder of well-lit photos whose dark partners are made while training; they join the pairs.
        weights: shipped weights or a `.keras` file to begin with; by default new networks.
        epochs: of each phase.
        batch_size: patches a step, by default 16 (natural: 8).
        patch_size: side of the patches in pixels, by default 48 (natural: 160); of whole images, 128.
        whole: if True, whole images resized to squares instead of patches; not with the natural recipe.
        learning_rate: of Adam.
        decay_epoch: the epoch from which on the learning rate is a tenth; by default after a fifth of the epochs (the
            original's 20 of 100). The natural recipe has none.
        seed: of the initial weights, the order and the patches.
        every: epochs between two validations and samples.
        filters: channels of the inner layers of new networks, by default 64 (natural: 32, at its finest level).
        cache: a folder for decoded images, for sets larger than the memory; each machine has its own.
        verbose: Keras's.
        strategy: a `tf.distribute.MirroredStrategy` or `workers.Workers`, whose replicas share each batch and get the result
            of one process on the same batches. Each worker decodes its own share of the files; the chief alone writes, and
            all see its `out`. By default one process.

    Returns:
        The path of `retinexnet.keras`.

    Raises:
        FileNotFoundError, ValueError: for a bad folder or setting, before training begins.
        FloatingPointError: if the loss or a weight is not finite; the last good state stays.

    >>> small = {"epochs": 1, "batch_size": 4, "patch_size": 16, "filters": 4, "verbose": 0}
    >>> path = train_retinexnet("pairs", "runs/mine", recipe="simple", **small)
    SimpleCNN: epochs 1 to 1
    Finished: runs/mine/retinexnet.keras
    """
    if recipe not in RECIPES:
        raise ValueError(f"There is no recipe {recipe!r}; use one of {', '.join(RECIPES)}.")
    natural, default = recipe == "natural", RECIPES[recipe]
    if natural and (whole or decay_epoch):
        raise ValueError("The natural recipe has no whole images and no decay_epoch; leave them out.")
    batch_size = default["batch_size"] if batch_size is None else batch_size
    patch_size = (128 if whole else default["patch_size"]) if patch_size is None else patch_size
    strategy = strategy or _one_process()
    chief, agree = getattr(strategy, "chief", True), getattr(strategy, "agree", lambda settings: None)
    with strategy.scope():
        start = load_pretrained(weights) if weights else None
    if start and recipe != ("simple" if isinstance(start, SimpleCNN) else "natural" if start.natural else "paper"):
        raise ValueError(f"The weights {weights} are not of the recipe {recipe}; choose others, or the other recipe.")
    if start and filters:
        raise ValueError(f"Networks that begin with weights have their own filters. Received filters={filters}: leave it out.")
    filters = (start if recipe == "simple" else start.decom_net).filters if start else filters or default["filters"]
    settings = {
        "recipe": recipe,
        "epochs": epochs,
        "batch_size": batch_size,
        "patch_size": patch_size,
        "whole": whole,
        "learning_rate": learning_rate,
        "decay_epoch": max(1, epochs // 5) if decay_epoch is None else decay_epoch,
        "seed": seed,
        "filters": filters,
        "weights": weights and str(weights),
    }
    folders = [] if data is None else [data] if isinstance(data, (str, os.PathLike)) else list(data)
    if not folders and photos is None:
        raise ValueError("There is nothing to train on; pass a folder of pairs, photos, or both.")
    counts = settings | {"every": every}
    for name in ("epochs", "every", "filters", "batch_size", "patch_size", "decay_epoch"):
        if counts[name] < 1:
            raise ValueError(f"{name} is at least 1. Received {name}={counts[name]}.")
    if not 0 <= seed < 2**31 or not learning_rate > 0:
        raise ValueError(f"seed is from 0 to 2**31 - 1, learning_rate above 0. Received {seed} and {learning_rate}.")
    out = Path(out)
    final = out / "retinexnet.keras"
    _compare(out, settings)
    if final.exists():
        print(f"This run is finished: {final}")
        return final
    resize = patch_size if whole else None
    scenes = [pair for folder in folders for pair in find_pairs(Path(folder) / "low", Path(folder) / "high")]
    scenes += [(photo,) for photo in find_images(photos).values()] if photos else []
    steps = len(scenes) // batch_size
    if not steps:
        raise ValueError(f"{len(scenes)} images give no batch of {batch_size}: use a batch_size from 1 to {len(scenes)}.")

    def patches(first_epoch):
        degradation = wide_darken if natural else darken
        options = images, patch_size, batch_size, seed, first_epoch, degradation, natural
        return strategy.distribute_datasets_from_function(lambda context: training_patches(*options, context, steps))

    try:
        images = load_scenes(scenes[getattr(strategy, "share", slice(None))], resize, cache)
        patches(0)  # says now what is wrong with them
    except ValueError:
        with contextlib.suppress(ValueError):
            agree({"readable images": False})  # the other workers, who do not see these files, end too
        raise
    agree({"readable images": True})
    held_back = load_pairs(validation, cache=cache) if validation else []

    smallest = min((min(pair.shape[1:3]) for pair in held_back), default=11)
    if smallest < 11:
        raise ValueError(f"A validation image has a side of {smallest} pixels, too few for SSIM: use images of 11 or more.")
    settings |= {"images": len(scenes), "fingerprint": _fingerprint(scenes)}
    agree(settings | {"every": every})
    if chief:
        _prepare(out, settings)
    shown = sorted({*range(every, epochs, every), epochs})
    options = {
        "epochs": epochs,
        "steps_per_epoch": steps,
        "validation_data": whole_pairs(held_back, strategy.num_replicas_in_sync) if held_back else None,
        "validation_freq": shown,
        "shuffle": False,
        "verbose": verbose,
    }
    schedule = keras.callbacks.LearningRateScheduler(_cosine(settings) if natural else _schedule(settings))
    shown_pairs = itertools.islice((pair for pair in held_back or images if len(pair) == 2), 4 if chief else 0)
    examples = [pair[:, :1024, :1024] for pair in shown_pairs]

    def fit(network, name, model, pictures):
        samples = _Samples(out, name, shown, examples, functools.partial(pictures, model))
        _fit_phase(network, out, name, patches, strategy, schedule, samples, options)

    keras.utils.set_random_seed(seed)
    with strategy.scope():
        if natural:
            model = start or RetinexNet(
                NaturalDecomNet(filters), NaturalEnhanceNet((filters, 2 * filters, 4 * filters), context_filters=filters)
            )
            average = {"use_ema": True, "ema_momentum": 0.999}
            model.compile(keras.optimizers.AdamW(learning_rate, weight_decay=1e-4, global_clipnorm=1.0, **average))
        elif recipe == "simple":
            model = start or SimpleCNN(filters)
            model.compile(original_adam(learning_rate))
        else:
            decom_net = start.decom_net if start else DecomNet(filters)
            decom_net.compile(original_adam(learning_rate))
    if recipe != "paper":
        fit(model, recipe, model, _enhancement)
    else:
        fit(decom_net, "decom", decom_net, _decomposition)
        keras.utils.set_random_seed(seed + 1)  # the same initial weights whether or not this run was resumed
        with strategy.scope():
            enhance_net = start.enhance_net if start else EnhanceNet(filters)
            enhance_net.compile(original_adam(learning_rate), decom_net=decom_net)
        model = RetinexNet(decom_net, enhance_net)
        fit(enhance_net, "enhance", model, _enhancement)
    if chief:
        shipped = type(model).from_config(model.get_config())  # without the optimizers, which would be saved too
        shipped.build((None, None, None, 3))
        shipped.set_weights(model.get_weights())
        with atomic_path(final) as temporary:
            shipped.save(temporary)
    print(f"Finished: {final}")
    return final


def _one_process():
    if keras.backend.backend() == "jax":
        from retinex_keras.train_jax import OneProcess

        return OneProcess()
    import tensorflow as tf

    return tf.distribute.get_strategy()


def _fit_phase(network, out, name, patches, strategy, schedule, samples, options):
    """Trains one network to the last epoch, from its last state if there is one."""
    with strategy.scope():
        if not network.built:  # one that begins with weights is
            network.build((None, None, None, 3))
        network.optimizer.build(network.trainable_variables)
    keeper = _Keeper(out, name, network, strategy)
    if keeper.epoch == options["epochs"]:
        network.optimizer.finalize_variable_values(network.trainable_variables)  # as `fit` does at its end
        return
    print(f"{type(network).__name__}: epochs {keeper.epoch + 1} to {options['epochs']}", flush=True)
    callbacks = [schedule, keeper, samples]  # the keeper logs the learning rate and sees a NaN before it is drawn
    if network.optimizer.use_ema:
        callbacks.append(keras.callbacks.SwapEMAWeights())  # the mean weights are those that are scored
    if keeper.chief and keras.backend.backend() == "tensorflow" and importlib.util.find_spec("tensorboard"):
        callbacks.append(keras.callbacks.TensorBoard(out / "logs" / name))
    network.fit(patches(keeper.epoch), initial_epoch=keeper.epoch, callbacks=callbacks, **options)


def _decomposition(decom_net, low, high):
    """The sample pictures of the first phase, {title: image}."""
    (low_r, low_i), (high_r, high_i) = (decom_net(image[None] / np.float32(255)) for image in (low, high))
    return {"low": low, "R low": low_r[0], "I low": low_i[0], "high": high, "R high": high_r[0], "I high": high_i[0]}


def _enhancement(model, low, high):
    """The sample pictures of the second phase, {title: image}."""
    parts = model(low[None] / np.float32(255))
    return {"low": low, **{name: part[0] for name, part in parts.items()}, "high": high}


def _schedule(settings):
    """The learning rate of an epoch: a tenth from `decay_epoch` on."""
    return lambda epoch, _: settings["learning_rate"] * (1.0 if epoch < settings["decay_epoch"] else 0.1)


def _cosine(settings):
    """The learning rate of an epoch: half a cosine from `learning_rate` down to a hundredth of it."""
    last = max(settings["epochs"] - 1, 1)
    return lambda epoch, _: settings["learning_rate"] * (0.505 + 0.495 * math.cos(math.pi * epoch / last))


def _fingerprint(scenes):
    """A number that tells one set of files from another, wherever it lies: from their names, sizes and last bytes."""
    crc = 0
    for path in itertools.chain(*scenes):
        with open(path, "rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - 4096))
            crc = zlib.crc32(f"{path.name} {size}".encode() + file.read(), crc)
    return crc


def _compare(out, settings):
    """Raises ValueError if the folder holds a run with other settings; a folder without a run is fine."""
    note = out / "run.json"
    if not note.exists():
        return
    try:
        before = json.loads(note.read_text())["settings"]
    except (ValueError, KeyError, OSError):
        raise ValueError(f"{note} is not the note of a run; choose another folder for the run.") from None
    changed = [f"{key} was {before.get(key)} and is {value}" for key, value in settings.items() if before.get(key) != value]
    if changed:
        raise ValueError(
            f"{out} holds another run ({', '.join(changed)}); use the same settings and images, or another folder."
        )


def _prepare(out, settings):
    """Makes the folder of a run, or checks the settings of the run in it and clears what a kill left half written."""
    note = out / "run.json"
    backend = keras.backend.backend()
    versions = {name: importlib.import_module(name).__version__ for name in (backend, "keras", "numpy")}
    try:
        (out / "samples").mkdir(parents=True, exist_ok=True)
        if not note.exists():
            with atomic_path(note) as temporary:
                temporary.write_text(json.dumps({"settings": settings, "versions": versions}, indent=1))
    except OSError as error:
        raise ValueError(f"{out} cannot be written to ({error.strerror}); choose another folder for the run.") from None
    _compare(out, settings)
    ours = r"\.\d+-(run\.json|retinexnet\.keras|(decom|enhance|natural|simple)(\.csv|-\d+\.(weights\.h5|png)))"
    for leftover in (*out.glob(".*"), *(out / "samples").glob(".*")):
        if re.fullmatch(ours, leftover.name):
            leftover.unlink()


class _Keeper(keras.callbacks.Callback):
    """Writes the state of the training and the log after every epoch, each whole or not at all; restores the last state.

    Args:
        out: folder of the run.
        name: of the phase.
        network: built and compiled, its optimizer built.
        strategy: of tf.distribute; of several workers the chief alone writes, and all must have found the same state.
    """

    def __init__(self, out, name, network, strategy):
        super().__init__()
        self.out, self.name, self.chief = out, name, getattr(strategy, "chief", True)
        self.epoch, self.rows, self.seconds = 0, [], 0.0  # finished epochs, their log
        states = sorted(out.glob(f"{name}-*.weights.h5"))
        if states:
            network.load_weights(states[-1])  # with the optimizer's state
            self.epoch = int(states[-1].name.split(".")[0].split("-")[1])
            with open(out / f"{name}.csv", newline="") as file:
                self.rows = list(csv.DictReader(file))[: self.epoch]  # one more if it was killed between the two files
            self.seconds = float(self.rows[-1]["seconds"])
        if hasattr(strategy, "agree"):
            strategy.agree({"finished epochs": self.epoch})

    def on_train_begin(self, logs=None):
        self.started = time.monotonic() - self.seconds

    def on_train_batch_end(self, batch, logs=None):
        self._check(math.isfinite(logs["loss"]), "loss")

    def on_epoch_end(self, epoch, logs=None):
        self._check(all(np.isfinite(weight).all() for weight in self.model.get_weights()), "weights")
        self.epoch = epoch + 1
        if not self.chief:
            return
        self.rows.append({"epoch": epoch, "seconds": round(time.monotonic() - self.started, 1), **logs})
        with atomic_path(self.out / f"{self.name}.csv") as temporary, open(temporary, "w", newline="") as file:
            writer = csv.DictWriter(file, list(dict.fromkeys(key for row in self.rows for key in row)))
            writer.writeheader()
            writer.writerows(self.rows)
        with atomic_path(self.out / f"{self.name}-{epoch + 1:05d}.weights.h5") as temporary:
            self.model.save_weights(temporary)
        for state in sorted(self.out.glob(f"{self.name}-*.weights.h5"))[:-1]:
            state.unlink()

    def _check(self, finite, what):
        if not finite:
            raise FloatingPointError(
                f"The {what} of {type(self.model).__name__} stopped being finite in epoch {self.epoch + 1}; {self.out} keeps "
                f"the state after {self.epoch} epochs. Begin a run with a lower learning rate."
            )


class _Samples(keras.callbacks.Callback):
    """Writes a sheet after the epochs `shown`, one row a pair of `examples`, its pictures from `pictures(low, high)`."""

    def __init__(self, out, name, shown, examples, pictures):
        super().__init__()
        self.path, self.shown, self.examples, self.pictures = out / "samples" / name, shown, examples, pictures

    def on_epoch_end(self, epoch, logs=None):
        if self.examples and epoch + 1 in self.shown:
            rows = [self.pictures(low, high) for low, high in self.examples]
            sheet([list(row.values()) for row in rows], list(rows[0]), f"{self.path}-{epoch + 1:05d}.png")
