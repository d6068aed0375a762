"""What models are made of: layers, denoising, losses, and what every model promises."""

# Keras comes first: importing it imports the recipes, which need the modules of this folder.
import keras  # noqa: F401
