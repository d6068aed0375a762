"""RetinexNet in TensorFlow 2 / Keras 3: photos taken in the dark, brightened."""

import contextlib
import functools
import importlib
import importlib.abc
import sys

__version__ = "0.2.0"

# Public names and the modules that define them, which are imported on first use: TensorFlow takes seconds to start.
_MODULES = {
    "DecomNet": "recipes.paper",
    "EnhanceNet": "recipes.paper",
    "RetinexNet": "recipes.paper",
    "load_pretrained": "inference",
    "enhance": "inference",
    "decompose": "inference",
    "load_pairs": "data.pairs",
    "load_photos": "data.pairs",
    "training_patches": "data.pipeline",
    "whole_pairs": "data.pipeline",
    "darken": "data.degrade",
    "train_retinexnet": "training.run",
}
__all__ = list(_MODULES)


def __getattr__(name):
    if name not in _MODULES:
        raise AttributeError(f"module 'retinex_keras' has no attribute {name!r}")
    return getattr(importlib.import_module(f"retinex_keras.{_MODULES[name]}"), name)


def __dir__():
    return __all__


def _register_models():
    """Imports the recipes, whose models Keras can then load from files."""
    importlib.import_module("retinex_keras.recipes").shipped_recipes()


class _Imports(importlib.abc.MetaPathFinder):
    """Silences TensorFlow as it is imported, and registers the models with Keras, so that `load_model` finds them."""

    def find_spec(self, name, path=None, target=None):
        if name not in ("keras", "tensorflow"):
            return None
        others = (finder.find_spec(name, path, target) for finder in sys.meta_path if finder is not self)
        spec = next(filter(None, others), None)
        if spec and spec.loader:  # else a folder of that name, without a module
            execute = spec.loader.exec_module
            spec.loader.exec_module = functools.partial(
                _execute_quietly if name == "tensorflow" else _execute_and_register, execute
            )
        return spec


def _execute_quietly(execute, module):
    with importlib.import_module("retinex_keras.engines").silence():
        execute(module)


def _execute_and_register(execute, module):
    execute(module)
    with contextlib.suppress(ImportError, RuntimeError):  # Keras must never fail for it; loading tries again
        _register_models()


if sys.modules.get("keras"):
    _register_models()
else:
    sys.meta_path.insert(0, _Imports())
