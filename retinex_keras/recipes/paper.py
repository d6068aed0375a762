"""The recipe of "Deep Retinex Decomposition for Low-Light Enhancement" (Wei et al., BMVC 2018), as the original's code has it.

Read it from top to bottom, like the paper's figure: Decom-Net splits an image into reflectance and illumination, Enhance-Net
brightens the illumination, noise is taken off the reflectance, and their product is the result.

The shipped weights, `paper`:

    retinex train lol/train --recipe paper --out runs/paper --validation lol/val --seed 0

394 pairs of LOL v1, 100 epochs of 24 steps a network, 52 minutes on two CPU cores. On 20 validation pairs 16.83 dB, SSIM .709.
The card, checkpoints/README.md, has the rest.
"""

import functools

import keras
from keras import layers, ops

from retinex_keras.data.degrade import darken
from retinex_keras.data.pipeline import training_patch
from retinex_keras.networks.base import PairModel, RetinexModel, image_and_context, original_adam, unit_range
from retinex_keras.networks.denoise import STRENGTH, Denoise
from retinex_keras.networks.layers import conv, enlarge, with_dependency
from retinex_keras.networks.losses import reconstruction, smoothness
from retinex_keras.recipes import Phase, Recipe, step_schedule

if keras.backend.backend() == "tensorflow":
    import tensorflow as tf

DECOMPOSITION_WEIGHTS = {
    "recon_low": 1.0,
    "recon_high": 1.0,
    "recon_mutual_low": 0.001,
    "recon_mutual_high": 0.001,
    "smooth_low": 0.1,
    "smooth_high": 0.1,
    "equal_r": 0.01,
}
ADJUSTMENT_WEIGHTS = {"relight": 1.0, "smooth_adjusted": 3.0}


def decomposition_terms(low, high, low_parts, high_parts):
    """The terms of Decom-Net's loss on a pair of images of one scene (Wei et al., section 3.1).

    Args:
        low, high: the dark and the well-lit image, (B, H, W, 3) in [0, 1].
        low_parts, high_parts: their (reflectance, illumination), (B, H, W, 3) and (B, H, W, 1).

    Returns:
        A dict of float32 scalars, named as in `DECOMPOSITION_WEIGHTS`.

    >>> image, parts = ops.zeros((1, 8, 8, 3)), (ops.full((1, 8, 8, 3), 0.5), ops.full((1, 8, 8, 1), 0.4))
    >>> round(float(decomposition_terms(image, image, parts, parts)["recon_low"]), 3)
    0.2
    """
    low, high = ops.cast(low, "float32"), ops.cast(high, "float32")
    (low_r, low_i), (high_r, high_i) = low_parts, high_parts
    return {
        "recon_low": reconstruction(low_r, low_i, low),
        "recon_high": reconstruction(high_r, high_i, high),
        "recon_mutual_low": reconstruction(high_r, low_i, low),
        "recon_mutual_high": reconstruction(low_r, high_i, high),
        "equal_r": ops.mean(ops.abs(low_r - high_r)),
        "smooth_low": smoothness(low_i, low_r),
        "smooth_high": smoothness(high_i, high_r),
    }


def adjustment_terms(high, reflectance, adjusted_illumination):
    """The terms of Enhance-Net's loss (Wei et al., section 3.2).

    Args:
        high: the well-lit image, (B, H, W, 3) in [0, 1].
        reflectance: of the dark image, (B, H, W, 3).
        adjusted_illumination: Enhance-Net's, (B, H, W, 1).

    Returns:
        A dict of float32 scalars, named as in `ADJUSTMENT_WEIGHTS`.

    >>> terms = adjustment_terms(ops.ones((1, 8, 8, 3)), ops.full((1, 8, 8, 3), 0.5), ops.ones((1, 8, 8, 1)))
    >>> round(float(terms["relight"]), 3)
    0.5
    """
    return {
        "relight": reconstruction(reflectance, adjusted_illumination, ops.cast(high, "float32")),
        "smooth_adjusted": smoothness(adjusted_illumination, reflectance),
    }


class PhaseNetwork(PairModel):
    """A network that one phase trains, on what `inputs(low, high)` makes of a pair; its `train_step` is TensorFlow's.

    Elsewhere, and for `evaluate`, Keras's own step does the same by `compute_loss`.
    """

    @staticmethod
    def pair(data):
        """The dark and the well-lit images of what `fit` and `evaluate` were given."""
        low, high, weights = keras.utils.unpack_x_y_sample_weight(data)
        if high is None or weights is not None:
            raise ValueError("The network learns from pairs. Pass dark and well-lit images, and no sample or class weights.")
        return image_and_context(low)[0], high  # these networks need no context

    def test_step(self, *state_and_data):
        *state, data = state_and_data  # a state on JAX
        low, high = self.pair(data)
        return super().test_step(*state, (self.inputs(low, high), high))

    def train_step(self, state, data):  # on JAX
        low, high = self.pair(data)
        return super().train_step(state, (self.inputs(low, high), high))


@keras.saving.register_keras_serializable("retinex_keras")
class DecomNet(PhaseNetwork):
    """Splits an image into reflectance and illumination, S = R * I.

    It trains on pairs `(low, high)` of a dark and a well-lit image of one scene, each (B, H, W, 3) in [0, 1]. `evaluate`
    also gives PSNR and SSIM of the reflectance of the dark image in the illumination of the well-lit one, against the
    well-lit image: what a perfect adjustment of the illumination would reach.

    Args:
        filters: channels of the inner layers.
        depth: number of 3x3 convolutions with ReLU.

    Input: (B, H, W, 3) in [0, 1]. Output: `(reflectance, illumination)`, float32, (B, H, W, 3) and (B, H, W, 1) in (0, 1). For
    several images, `net((low, high))`, it returns such a pair for each.

    >>> reflectance, illumination = DecomNet()(np.zeros((1, 16, 16, 3)))
    >>> tuple(reflectance.shape), tuple(illumination.shape)
    ((1, 16, 16, 3), (1, 16, 16, 1))
    """

    term_weights = DECOMPOSITION_WEIGHTS

    def __init__(self, filters=64, depth=5, **kwargs):
        super().__init__(**kwargs)
        self.filters, self.depth = filters, depth
        self.shallow = conv(self, filters, 9, "shallow_feature_extraction")
        self.activated = [conv(self, filters, 3, f"activated_{i}", activation="relu") for i in range(depth)]
        self.recon = conv(self, 4, 3, "recon")
        self.receptive_radius = 4 + depth + 1  # pixels from an output pixel to the farthest input pixel that it depends on

    def build(self, input_shape):
        self.shallow.build((None, None, None, 4))
        for layer in (*self.activated, self.recon):
            layer.build((None, None, None, self.filters))
        self.built = True

    def call(self, image):
        if isinstance(image, (tuple, list)):
            return tuple(self.call(one) for one in image)
        image = unit_range(image)
        x = ops.concatenate([ops.max(image, axis=-1, keepdims=True), image], axis=-1)  # (B, H, W, 4)
        x = self.shallow(x)
        for layer in self.activated:
            x = layer(x)
        x = ops.sigmoid(ops.cast(self.recon(x), "float32"))  # (B, H, W, 4)
        return x[..., :3], x[..., 3:]

    if keras.backend.backend() == "tensorflow":

        def train_step(self, data):
            low, high = self.pair(data)
            with tf.GradientTape() as tape:
                parts = self((low, high), training=True)
                loss = self.optimizer.scale_loss(self.compute_loss((low, high), high, parts))
            gradients = tape.gradient(loss, self.trainable_variables)
            self.optimizer.apply(gradients, self.trainable_variables)
            return self.compute_metrics(low, high, parts)

    def inputs(self, low, high):
        return low, high

    def loss_terms(self, images, high, parts, training=True):
        return decomposition_terms(*images, *parts)

    def picture(self, images, high, parts):
        (low_r, _), (_, high_i) = parts
        return low_r * high_i

    def get_config(self):
        return super().get_config() | {"filters": self.filters, "depth": self.depth}


@keras.saving.register_keras_serializable("retinex_keras")
class EnhanceNet(PhaseNetwork):
    """Adjusts the illumination at several scales: an encoder-decoder whose decoder's levels are all seen by the output.

    It trains on pairs `(low, high)`, each (B, H, W, 3) in [0, 1], with the Decom-Net that is given to `compile`; that
    network is not changed.

    Args:
        filters: channels of every inner layer.

    Input: reflectance and illumination, (B, H, W, 3) and (B, H, W, 1) in [0, 1]: `net(r, i)`, or the pair, `net((r, i))`.
    Output: the adjusted illumination, float32, (B, H, W, 1). It is not bounded.

    >>> tuple(EnhanceNet()(np.zeros((1, 16, 16, 3)), np.zeros((1, 16, 16, 1))).shape)
    (1, 16, 16, 1)
    """

    term_weights = ADJUSTMENT_WEIGHTS
    size_multiple = 8
    receptive_radius = 15  # that of `Denoise`, 7, lies within

    def __init__(self, filters=64, **kwargs):
        super().__init__(**kwargs)
        self.filters, self.split = filters, None
        self.conv0 = conv(self, filters, 3, "conv0")
        self.down = [conv(self, filters, 3, f"down{i}", strides=2, activation="relu") for i in (1, 2, 3)]
        self.up = [conv(self, filters, 3, f"up{i}", activation="relu") for i in (1, 2, 3)]
        self.double = layers.UpSampling2D(2, dtype=self.dtype_policy)
        self.fusion = conv(self, filters, 1, "fusion")
        self.output_conv = conv(self, 1, 3, "output")

    def build(self, reflectance_shape, illumination_shape=None):
        self.conv0.build((None, None, None, 4))
        for layer in (*self.down, *self.up, self.double, self.output_conv):
            layer.build((None, None, None, self.filters))
        self.fusion.build((None, None, None, 3 * self.filters))
        self.built = True

    def call(self, reflectance, illumination=None):
        if isinstance(reflectance, (tuple, list)):
            reflectance, illumination = reflectance
        if illumination is None:
            raise TypeError("missing a required argument: 'illumination'")  # in Python's words, which Keras expects
        x = self.conv0(ops.concatenate([reflectance, illumination], axis=-1))  # (B, H, W, filters)
        encoded = [x]
        for layer in self.down:
            x = layer(x)  # half the size, rounded up
            encoded.append(x)
        decoded = []
        for layer, skip in zip(self.up, encoded[-2::-1]):
            height, width = ops.shape(skip)[1:3]
            x = layer(self.double(x)[:, :height, :width]) + skip  # the skip's size
            decoded.append(x)
        return ops.cast(fuse_levels(decoded, self.fusion, self.output_conv), "float32")

    if keras.backend.backend() == "tensorflow":

        def train_step(self, data):
            low, high = self.pair(data)
            reflectance, illumination = self.decompose(low)  # Decom-Net is not trained here
            with tf.GradientTape() as tape:
                adjusted = self(reflectance, illumination, training=True)
                loss = self.optimizer.scale_loss(self.compute_loss((reflectance, illumination), high, adjusted))
            gradients = tape.gradient(loss, self.trainable_variables)
            self.optimizer.apply(gradients, self.trainable_variables)
            return self.compute_metrics((reflectance, illumination), high, adjusted)

    def inputs(self, low, high):
        return self.decompose(low)

    def loss_terms(self, low_parts, high, adjusted, training=True):
        return adjustment_terms(high, low_parts[0], adjusted)

    def picture(self, low_parts, high, adjusted):
        return low_parts[0] * adjusted

    def decompose(self, image):
        """What the Decom-Net of `compile` makes of an image: `(reflectance, illumination)`."""
        if self.split is None:
            raise ValueError(
                "EnhanceNet learns from what Decom-Net makes of images: pass a trained one to compile(decom_net=...); to go on "
                "with a file, compile(net.optimizer, decom_net=..., loss_weights=net.loss_weights)."
            )
        return self.split(image)

    def compile(self, optimizer=None, decom_net=None, **kwargs):
        """Takes the optimizer (by default `original_adam()`), the trained Decom-Net, and the options of `PairModel.compile`.

        Raises:
            ValueError: without a `DecomNet`, or as `PairModel.compile` says.
        """
        if not isinstance(decom_net, DecomNet):
            raise ValueError(
                f"EnhanceNet learns from what Decom-Net makes of the images. Received decom_net={decom_net!r}: "
                "pass a trained DecomNet to compile(decom_net=...)."
            )
        if not self.built:  # Keras would build it from an image alone
            self.build((None, None, None, 3))
        super().compile(optimizer, **kwargs)
        self.split = functools.partial(decom_net, training=False)  # a plain callable is not tracked as a layer

    def get_config(self):
        return super().get_config() | {"filters": self.filters}


def fuse_levels(levels, fusion, output_conv):
    """The end of Enhance-Net: the levels enlarged and concatenated, a 1x1 convolution, a 3x3 convolution to one channel.

    Both convolutions are linear. So the nine summands of the second are computed for each level before it is enlarged, which
    costs less time and memory than the plain order.

    Args:
        levels: three tensors (B, h, w, C), the finest last.
        fusion, output_conv: the two layers, 3 C -> C channels and C -> 1.

    Returns:
        (B, H, W, 1), of the finest level's size.

    >>> fusion, last = layers.Conv2D(2, 1), layers.Conv2D(1, 3, padding="same")
    >>> fusion.build((None, None, None, 6)), last.build((None, None, None, 2))
    (None, None)
    >>> tuple(fuse_levels([np.ones((1, side, side, 2), "float32") for side in (2, 4, 8)], fusion, last).shape)
    (1, 8, 8, 1)
    """
    filters, size = output_conv.kernel.shape[2], ops.shape(levels[-1])[1:3]
    taps = ops.reshape(ops.transpose(output_conv.kernel, (2, 0, 1, 3)), (filters, 9))
    kernels = ops.split(fusion.kernel, 3, axis=2)
    coarse, middle, fine = [ops.conv(level, ops.matmul(kernel, taps)) for level, kernel in zip(levels, kernels)]
    x = enlarge(coarse, size) + enlarge(middle, size) + fine + ops.matmul(fusion.bias, taps)  # (B, H, W, 9)
    return ops.conv(x, ops.reshape(ops.eye(9, dtype=x.dtype), (3, 3, 9, 1)), padding="same") + output_conv.bias


@keras.saving.register_keras_serializable("retinex_keras")
class RetinexNet(RetinexModel):
    """Decom-Net and Enhance-Net joined: from a dark image to a bright one.

    `fit` on pairs `(low, high)` tunes both networks together, end to end (Wei et al., section 4.1), on the sum of their
    losses; train them one after the other first.

    Args:
        decom_net: a `DecomNet`; by default a new one.
        enhance_net: an `EnhanceNet`; by default a new one.
        denoise: strength of `Denoise` on the reflectance of the enhanced image; 0 gives the original's. Training does not
            see it.

    Input: (B, H, W, 3) in [0, 1]. Output: a dict of float32 images: `enhanced` (B, H, W, 3), clipped to [0, 1];
    `reflectance` (B, H, W, 3) and `illumination` (B, H, W, 1), in (0, 1); `restored_reflectance` (B, H, W, 3), without noise;
    `adjusted_illumination` (B, H, W, 1), not bounded.

    >>> parts = RetinexNet()(np.zeros((1, 16, 16, 3)))
    >>> tuple(parts["enhanced"].shape), tuple(parts["illumination"].shape)
    ((1, 16, 16, 3), (1, 16, 16, 1))
    """

    term_weights = DECOMPOSITION_WEIGHTS | ADJUSTMENT_WEIGHTS
    tile_size = (1016, 640)

    def __init__(self, decom_net=None, enhance_net=None, denoise=STRENGTH, **kwargs):
        dtype = kwargs.get("dtype")
        super().__init__(decom_net or DecomNet(dtype=dtype), enhance_net or EnhanceNet(dtype=dtype), **kwargs)
        self.denoise = Denoise(denoise)
        self.build_if_trained()

    def call(self, image, context=None, training=False):
        image, _ = image_and_context(image)  # these networks need no context
        reflectance, illumination = self.decom_net(image, training=training)
        adjusted = self.enhance_net(reflectance, illumination, training=training)
        restored = self.denoise(with_dependency(reflectance, first=adjusted), illumination)
        return self.joined(reflectance, illumination, restored, adjusted)

    def loss_terms(self, low, high, parts, training=True):
        low, _ = image_and_context(low)
        low_parts = parts["reflectance"], parts["illumination"]
        decomposition = decomposition_terms(low, high, low_parts, self.decom_net(high, training=training))
        return decomposition | adjustment_terms(high, parts["reflectance"], parts["adjusted_illumination"])

    def with_denoising(self, strength):
        return type(self)(self.decom_net, self.enhance_net, strength)

    def get_config(self):
        return super().get_config() | {"denoise": self.denoise.strength}

    @classmethod
    def from_config(cls, config):
        networks = cls.networks_of(config)
        # Files of version 0.1 name this class for all kinds of networks: an Enhance-Net may know the one that joins it.
        join = getattr(networks["enhance_net"], "join", cls) if cls is RetinexNet else cls
        return join(**config | networks)


def _build(filters, seed):
    """New networks. Each has initial weights of its own, whether or not the other is trained by then."""
    keras.utils.set_random_seed(seed)
    decom_net = DecomNet(filters)
    keras.utils.set_random_seed(seed + 1)
    return RetinexNet(decom_net, EnhanceNet(filters))


def _decomposition_pictures(model, low, high):
    (low_r, low_i), (high_r, high_i) = (model.decom_net(image[None]) for image in (low, high))
    return {"low": low, "R low": low_r[0], "I low": low_i[0], "high": high, "R high": high_r[0], "I high": high_i[0]}


recipe = Recipe(
    name="paper",
    model=RetinexNet,
    build=_build,
    defaults={"batch_size": 16, "patch_size": 48, "filters": 64, "learning_rate": 1e-3},
    view=functools.partial(training_patch, degradation=darken),
    phases=(
        Phase(
            name="decom",
            network=lambda model: model.decom_net,
            compile=lambda model, settings: model.decom_net.compile(original_adam(settings.learning_rate)),
            schedule=step_schedule,
            pictures=_decomposition_pictures,
        ),
        Phase(
            name="enhance",
            network=lambda model: model.enhance_net,
            compile=lambda model, settings: model.enhance_net.compile(
                original_adam(settings.learning_rate), decom_net=model.decom_net
            ),
            schedule=step_schedule,
        ),
    ),
)
