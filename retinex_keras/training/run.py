"""Trains the phases of a recipe one after the other; a killed run goes on where it was."""

import contextlib
import dataclasses
import functools
import importlib.util
import itertools
import os
from pathlib import Path

import keras

from retinex_keras.data.pairs import find_scenes, load_pairs, load_scenes
from retinex_keras.data.pipeline import training_patches, whole_pairs
from retinex_keras.folders.plan import Place
from retinex_keras.imaging.atomic import atomic_path
from retinex_keras.imaging.metrics import WINDOW
from retinex_keras.inference import load_pretrained
from retinex_keras.networks.base import make_variables, mean_weights
from retinex_keras.recipes import DEFAULT, find_recipe
from retinex_keras.training.state import FINAL, RunState, Samples, check_same_run, fingerprint, prepare_folder


@dataclasses.dataclass(frozen=True)
class Settings:
    """What decides the result of a run, besides its images; as `train_retinexnet` describes it."""

    recipe: str
    epochs: int
    batch_size: int
    patch_size: int
    whole: bool
    learning_rate: float
    decay_epoch: int
    seed: int
    filters: int
    weights: str | None

    @classmethod
    def of(cls, recipe, epochs=100, whole=False, decay_epoch=None, seed=0, weights=None, photos=None, **given):
        """The settings of a run, by default those of its recipe."""
        asked = {"whole": whole, "decay_epoch": decay_epoch, "weights": weights, "photos": photos, **given}
        if refused := [name for name in recipe.refuses if asked.get(name)]:
            raise ValueError(f"The recipe {recipe.name} has no {' and no '.join(refused)}; leave it out.")
        decay_epoch = max(1, epochs // 5) if decay_epoch is None else decay_epoch
        chosen = {**recipe.defaults} | ({"patch_size": 128} if whole else {})
        chosen |= {name: value for name, value in given.items() if value is not None}
        weights = weights and str(weights)
        return cls(recipe.name, epochs, whole=whole, decay_epoch=decay_epoch, seed=seed, weights=weights, **chosen)

    def __post_init__(self):
        for name in ("epochs", "filters", "batch_size", "patch_size", "decay_epoch"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is at least 1. Received {name}={getattr(self, name)}.")
        if not 0 <= self.seed < 2**31 or not self.learning_rate > 0:
            received = f"{self.seed} and {self.learning_rate}"
            raise ValueError(f"seed is from 0 to 2**31 - 1, learning_rate above 0. Received {received}.")


class OneProcess:
    """What is used of a strategy where a single process trains, on any backend."""

    num_replicas_in_sync = 1
    scope = contextlib.nullcontext

    def distribute_datasets_from_function(self, dataset):
        return dataset(None)


def train_retinexnet(
    data: str | os.PathLike | list | None,
    out: str | os.PathLike,
    recipe: str = DEFAULT,
    validation: str | os.PathLike | None = None,
    photos: str | os.PathLike | None = None,
    weights: str | os.PathLike | None = None,
    epochs: int = 100,
    batch_size: int | None = None,
    patch_size: int | None = None,
    whole: bool = False,
    learning_rate: float | None = None,
    decay_epoch: int | None = None,
    seed: int = 0,
    every: int = 20,
    filters: int | None = None,
    cache: str | os.PathLike | None = None,
    verbose="auto",
    strategy=None,
) -> Path:
    """Trains the networks of a recipe, or goes on with a run that was stopped.

    Args:
        data: folder of the pairs, with subfolders `low` and `high`, or a list of such folders; None for photos alone.
        out: folder of the run. It receives `retinexnet.keras`, the state of each phase after its last whole epoch, a log of
            each phase (a CSV file, a row an epoch), `samples/`, and `logs/` if TensorBoard is installed.
        recipe: the name of a recipe of this package, or "module:attribute" for one of your own.
        validation: folder of pairs that are scored and shown in the samples every `every` epochs and after the last one.
        photos: folder of well-lit photos whose dark partners are made while training; they join the pairs.
        weights: shipped weights or a `.keras` file to begin with; by default new networks.
        epochs: of each phase.
        batch_size, patch_size, filters, learning_rate: patches a step; side of the patches in pixels, or of whole images
            (128); channels of the inner layers of new networks; of the optimizer. By default those of the recipe.
        whole: if True, whole images resized to squares instead of patches.
        decay_epoch: the epoch from which on the learning rate is a tenth; by default after a fifth of the epochs (the
            original's 20 of 100).
        seed: of the initial weights, the order and the patches.
        every: epochs between two validations and samples.
        cache: a folder for decoded images, for sets larger than the memory; each machine has its own.
        verbose: Keras's.
        strategy: a `tf.distribute.MirroredStrategy` or `distribution.Workers`, whose replicas share each batch and get the
            result of one process on the same batches. Each worker decodes its own share of the files; the chief alone writes,
            and all see its `out`. By default one process.

    Returns:
        The path of `retinexnet.keras`.

    Raises:
        FileNotFoundError, ValueError: for a bad folder or setting, before training begins.
        OSError: if `out` cannot be made or written to, or another run trains in it (known only where a filesystem has locks).
        FloatingPointError: if the loss or a weight is not finite; the last good state stays.

    >>> small = {"epochs": 1, "batch_size": 4, "patch_size": 16, "filters": 4, "verbose": 0}
    >>> path = train_retinexnet("pairs", "runs/mine", recipe="simple", **small)
    SimpleCNN: epochs 1 to 1
    Finished: runs/mine/retinexnet.keras
    """
    recipe, strategy, out = find_recipe(recipe), strategy or OneProcess(), Path(out)
    share, chief = getattr(strategy, "share", slice(None)), getattr(strategy, "chief", True)
    agree = getattr(strategy, "agree", lambda settings: None)
    if every < 1:
        raise ValueError(f"every is at least 1. Received every={every}.")
    with strategy.scope():
        start = _load_start(recipe, weights, filters)
    given = {"batch_size": batch_size, "patch_size": patch_size, "learning_rate": learning_rate, "filters": filters}
    settings = Settings.of(recipe, epochs, whole, decay_epoch, seed, weights, photos, **given)
    if start:
        settings = dataclasses.replace(settings, filters=getattr(start, "filters", settings.filters))
    check_same_run(out, dataclasses.asdict(settings))
    final = out / FINAL
    if final.exists():
        print(f"This run is finished: {final}")
        return final

    def patches(first_epoch):
        options = images, settings.patch_size, settings.batch_size, seed, first_epoch, recipe.view
        return strategy.distribute_datasets_from_function(lambda context: training_patches(*options, context, steps))

    with _with_all_workers(agree, "readable images"):
        scenes = find_scenes(data, photos)
        if len(scenes) < settings.batch_size:
            raise ValueError(
                f"{len(scenes)} images give no batch of {settings.batch_size}: use a batch_size from 1 to {len(scenes)}."
            )
        steps = len(scenes) // settings.batch_size
        images = load_scenes(scenes[share], settings.patch_size if whole else None, cache)
        patches(0)  # says now what is wrong with them
        held_back = load_pairs(validation, cache=cache) if validation else []
        smallest = min((min(pair.shape[1:3]) for pair in held_back), default=WINDOW)
        if smallest < WINDOW:
            raise ValueError(
                f"A validation image has a side of {smallest} pixels, too few for SSIM: use images of {WINDOW} or more."
            )
    with strategy.scope():
        model = start or recipe.build(settings.filters, seed)
        recipe.check(model)
    note = dataclasses.asdict(settings) | {"images": len(scenes), "fingerprint": fingerprint(scenes)}
    agree(note | {"every": every, "number of validation pairs": len(held_back)})
    shown = sorted({*range(every, epochs, every), epochs})
    some = itertools.islice((pair for pair in held_back or images if len(pair) == 2), 4 if chief else 0)
    examples = [pair[:, :1024, :1024] for pair in some]
    fit_options = {
        "epochs": epochs,
        "steps_per_epoch": steps,
        "validation_data": whole_pairs(held_back, strategy.num_replicas_in_sync) if held_back else None,
        "validation_freq": shown,
        "shuffle": False,
        "verbose": verbose,
    }
    with contextlib.ExitStack() as stack:
        with _with_all_workers(agree, "usable folder"):
            if chief:
                stack.enter_context(Place(None, str(out)).reserved([final, out / "samples" / "a.png"]))
                prepare_folder(out, note)
        for phase in recipe.phases:
            network = phase.network(model)
            with strategy.scope():
                phase.compile(model, settings)
                make_variables(network)
            state = RunState(out, phase.name, network, chief, agree)
            pictures = functools.partial(_pictures, phase, model, network)
            callbacks = [
                keras.callbacks.LearningRateScheduler(lambda epoch, _, phase=phase: phase.schedule(settings, epoch)),
                keras.callbacks.LambdaCallback(on_epoch_end=state.check_weights),
                Samples(out / "samples" / phase.name, shown, examples, pictures),  # before the state: it comes with its epoch
                state,
            ]
            _fit_from_state(network, patches, state, callbacks, out / "logs" / phase.name, fit_options)
        with _with_all_workers(agree, "written model"):
            if chief:
                shipped = type(model).from_config(model.get_config())  # without the optimizers, which would be saved too
                shipped.build((None, None, None, 3))
                shipped.set_weights(model.get_weights())
                with atomic_path(final, flush=True) as temporary:
                    shipped.save(temporary)
    print(f"Finished: {final}")
    return final


@contextlib.contextmanager
def _with_all_workers(agree, what):
    """If the block fails for this worker, the others, who do not see why, end too instead of waiting for it."""
    try:
        yield
    except (ValueError, OSError):
        with contextlib.suppress(ValueError):
            agree({what: False})
        raise
    agree({what: True})


def _pictures(phase, model, network, low, high):
    """The pictures of a sample, by the weights that are scored."""
    with mean_weights(network):
        return phase.pictures(model, low, high)


def _fit_from_state(network, patches, state, callbacks, logs, options):
    """Trains one network to the last epoch, from its last state. The state logs the learning rate, which is set before it."""
    if state.epoch == options["epochs"]:
        network.optimizer.finalize_variable_values(network.trainable_variables)  # as `fit` does at its end
        return
    print(f"{type(network).__name__}: epochs {state.epoch + 1} to {options['epochs']}", flush=True)
    if state.chief and keras.backend.backend() == "tensorflow" and importlib.util.find_spec("tensorboard"):
        callbacks.append(keras.callbacks.TensorBoard(logs))
    network.fit(patches(state.epoch), initial_epoch=state.epoch, callbacks=callbacks, **options)


def _load_start(recipe, weights, filters):
    """The model to begin with, or None."""
    if not weights:
        return None
    start = load_pretrained(weights, engine="tensorflow")
    if not isinstance(start, recipe.model):
        raise ValueError(f"The weights {weights} are not of the recipe {recipe.name}; choose others, or the other recipe.")
    if filters:
        raise ValueError(f"Networks that begin with weights have their own filters. Received filters={filters}: leave it out.")
    return start
