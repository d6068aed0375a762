"""Recipes: how a kind of model is built and trained. Each is one module, here or of your own, with an attribute `recipe`."""

import dataclasses
import importlib
import inspect
import math
import pkgutil
from collections.abc import Callable, Mapping
from typing import Any

DEFAULT = "natural"  # the recipe that is trained, and the shipped weights that are used: the best pictures
RECIPES = tuple(module.name for module in pkgutil.iter_modules(__path__) if module.name != "tf1_checkpoint")


def all_pictures(model, low, high):
    """The sample pictures of a trained model, {title: image}; `low` and `high` (H, W, 3), uint8."""
    return {"low": low, **{name: part[0] for name, part in model(low[None]).items()}, "high": high}


def step_schedule(settings, epoch):
    """The learning rate of an epoch: a tenth from `decay_epoch` on."""
    return settings.learning_rate * (1.0 if epoch < settings.decay_epoch else 0.1)


def cosine_schedule(settings, epoch):
    """The learning rate of an epoch: half a cosine from `learning_rate` down to a hundredth of it."""
    last = max(settings.epochs - 1, 1)
    return settings.learning_rate * (0.505 + 0.495 * math.cos(math.pi * epoch / last))


@dataclasses.dataclass(frozen=True)
class Phase:
    """One `fit` of a recipe.

    Attributes:
        name: of its log, its states and its sample pictures.
        compile: `compile(model, settings)` compiles what the phase trains; settings as of `training.run.Settings`.
        schedule: `schedule(settings, epoch)` gives the learning rate of an epoch, counted from 0, as `step_schedule` does.
        network: `network(model)` is the part of the model that is trained; by default all of it.
        pictures: `pictures(model, low, high)` gives a row of sample pictures, {title: image}, for a pair (H, W, 3), uint8.
    """

    name: str
    compile: Callable[[Any, Any], None]
    schedule: Callable[[Any, int], float]
    network: Callable[[Any], Any] = lambda model: model
    pictures: Callable[[Any, Any, Any], Mapping] = all_pictures


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How a kind of model is built and trained.

    Attributes:
        name: of the recipe.
        model: its class, a `networks.base.LowLightModel` that is registered with Keras for saving.
        build: `build(filters, seed)` makes a new model.
        defaults: of the settings `batch_size`, `patch_size` (a side in pixels), `filters` and `learning_rate`.
        view: `view(images, size, rng)` makes what is learned from a scene, see `data.pipeline.training_patches`.
        phases: one after the other.
        refuses: names of settings that make no sense: `whole`, `decay_epoch`, `weights`, `photos` or those in `defaults`.
    """

    name: str
    model: type
    build: Callable[[int, int], Any]
    defaults: Mapping[str, float]
    view: Callable
    phases: tuple[Phase, ...]
    refuses: tuple[str, ...] = ()

    def __post_init__(self):
        expected = {"batch_size", "patch_size", "filters", "learning_rate"}
        if set(self.defaults) != expected:
            received = ", ".join(sorted(self.defaults))
            raise ValueError(
                f"The defaults of a recipe are {', '.join(sorted(expected))}. Received for {self.name}: {received}."
            )

    def check(self, model) -> None:
        """Raises a ValueError, before hours of training, if a model is not the recipe's or could not be loaded from a file."""
        import keras  # here, since the command line reads the constants above

        cls = type(model)
        if not isinstance(model, self.model):
            raise ValueError(f"The recipe {self.name} builds a {cls.__name__}. Expected its model, {self.model.__name__}.")
        if keras.saving.get_registered_object(keras.saving.get_registered_name(cls)) is not cls:
            raise ValueError(f"{cls.__name__} cannot be loaded: decorate it with @keras.saving.register_keras_serializable().")
        try:
            inspect.signature(model.call).bind(None, None, training=False)
        except TypeError as error:
            raise ValueError(f"{cls.__name__}.call takes (image, context=None, training=False): {error}.") from None
        copy = cls.from_config(model.get_config())
        for one in (model, copy):
            if not one.built:
                one.build((None, None, None, 3))
        shapes, again = ([tuple(weight.shape) for weight in one.weights] for one in (model, copy))
        if not shapes or shapes != again:
            raise ValueError(
                f"{cls.__name__} comes back from a file with weights {again}, not {shapes}. Build all layers in `build`, "
                "and return each argument of `__init__` in `get_config`."
            )


def shipped_recipes() -> dict[str, Recipe]:
    """The recipes of this package by their names.

    >>> sorted(shipped_recipes())
    ['natural', 'paper', 'simple']
    """
    modules = {name: importlib.import_module(f"{__name__}.{name}") for name in RECIPES}
    return {name: module.recipe for name, module in modules.items() if hasattr(module, "recipe")}  # without a half imported one


def check_recipe(name: str) -> None:
    """Raises a ValueError if a name is neither that of a recipe of this package nor "module:attribute". It imports nothing.

    >>> check_recipe("papper")
    Traceback (most recent call last):
    ValueError: There is no recipe 'papper'; use one of natural, paper, simple, or module:attribute.
    """
    if ":" not in name and name not in RECIPES:
        raise ValueError(f"There is no recipe {name!r}; use one of {', '.join(RECIPES)}, or module:attribute.")


def find_recipe(name: str) -> Recipe:
    """A recipe by its name, or one of your own by "module:attribute".

    Raises:
        ValueError: if there is no such recipe.

    >>> find_recipe("paper").defaults["patch_size"]
    48
    """
    check_recipe(name)
    if name in RECIPES:
        return shipped_recipes()[name]
    module, _, attribute = name.partition(":")
    try:
        recipe = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise ValueError(f"The recipe {name!r} could not be imported ({error}); is the module on Python's path?") from error
    if not isinstance(recipe, Recipe):
        raise ValueError(f"{name!r} is a {type(recipe).__name__}. Expected a retinex_keras.recipes.Recipe.")
    return recipe
