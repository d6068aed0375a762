"""RetinexNet in TensorFlow 2 / Keras 3: photos taken in the dark, brightened."""

import importlib

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
