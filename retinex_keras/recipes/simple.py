"""A plain CNN without Retinex, trained like the paper's networks: what the decomposition is compared with.

The shipped weights, `simple`:

    retinex train lol/train --recipe simple --out runs/simple --validation lol/val --seed 0

394 pairs of LOL v1, 100 epochs of 24 steps, 13 minutes of two CPU cores. On 20 validation pairs 17.96 dB, SSIM .754.
"""

import functools

import keras
from keras import ops

from retinex_keras.data.degrade import darken
from retinex_keras.data.pipeline import training_patch
from retinex_keras.networks.base import LowLightModel, image_and_context, original_adam, unit_range
from retinex_keras.networks.layers import conv
from retinex_keras.recipes import Phase, Recipe, step_schedule


@keras.saving.register_keras_serializable("retinex_keras")
class SimpleCNN(LowLightModel):
    """Convolutions from the dark image to what is added to it.

    It trains on pairs `(low, high)`, each (B, H, W, 3) in [0, 1], on the mean absolute error before clipping.

    Args:
        filters: channels of the inner layers.
        depth: number of 3x3 convolutions.

    Input: (B, H, W, 3) in [0, 1]. Output: a dict of one float32 image: `enhanced` (B, H, W, 3), clipped to [0, 1]; while
    training also `unclipped`.

    >>> tuple(SimpleCNN()(np.zeros((1, 16, 16, 3)))["enhanced"].shape)
    (1, 16, 16, 3)
    """

    term_weights = {"error": 1.0}
    tile_size = (1016, 640)

    def __init__(self, filters=64, depth=5, **kwargs):
        super().__init__(**kwargs)
        self.filters, self.depth = filters, depth
        self.tile_margin = depth
        self.inner = [conv(self, filters, 3, f"conv{i}", activation="relu") for i in range(depth - 1)]
        self.last = conv(self, 3, 3, "output")

    def build(self, input_shape):
        for i, layer in enumerate((*self.inner, self.last)):
            layer.build((None, None, None, self.filters if i else 3))
        self.built = True

    def call(self, image, context=None, training=False):
        x = image = unit_range(image_and_context(image)[0])
        for layer in self.inner:
            x = layer(x)
        x = ops.cast(image, "float32") + ops.cast(self.last(x), "float32")
        return {"enhanced": ops.clip(x, 0.0, 1.0)} | ({"unclipped": x} if training else {})

    def loss_terms(self, low, high, parts, training=True):
        return {"error": ops.mean(ops.abs(parts.get("unclipped", parts["enhanced"]) - ops.cast(high, "float32")))}

    def get_config(self):
        return super().get_config() | {"filters": self.filters, "depth": self.depth}


def _build(filters, seed):
    """A new model."""
    keras.utils.set_random_seed(seed)
    return SimpleCNN(filters)


recipe = Recipe(
    name="simple",
    model=SimpleCNN,
    build=_build,
    defaults={"batch_size": 16, "patch_size": 48, "filters": 64, "learning_rate": 1e-3},
    view=functools.partial(training_patch, degradation=darken),
    phases=(
        Phase(
            name="simple",
            compile=lambda model, settings: model.compile(original_adam(settings.learning_rate)),
            schedule=step_schedule,
        ),
    ),
)
