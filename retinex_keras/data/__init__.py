"""Folders of images to patches for training."""

import keras  # noqa: F401, first of all, as in `networks`
