"""The natural recipe: the same split into reflectance and illumination, made for natural pictures and speed.

Its networks depart from the paper's where that pays. They work at a half of the resolution and below, and the details come from
the image itself. The decomposition is exact, S = R * I. Enhance-Net knows the whole image, however small the tile that it works
on, and also restores the reflectance, as KinD does (Zhang et al., "Kindling the Darkness", ACM MM 2019).

The weights `natural` come from LOL v1, SICE and well-lit photos: with all runs that they go back to 85,107 steps, in about 26
hours on two CPU cores. checkpoints/HISTORY.md has the commands. On 20 validation pairs of LOL 20.95 dB, SSIM .822; on 40 pairs
of SICE 22.98 dB, .813. The weights `lol`, for scores on LOL alone, are of the same networks.
"""

import dataclasses
import functools

import keras
from keras import layers, ops

from retinex_keras.data.pipeline import training_view
from retinex_keras.imaging import metrics
from retinex_keras.imaging.lpips import lpips
from retinex_keras.imaging.pixels import CONTEXT, context_indices
from retinex_keras.networks.base import RetinexModel, image_and_context, unit_range
from retinex_keras.networks.layers import depth_to_space, double, gather_2d, pad_to_multiple, space_to_depth
from retinex_keras.networks.losses import grayscale, smoothness
from retinex_keras.recipes import Phase, Recipe, cosine_schedule

TERM_WEIGHTS = {
    "fidelity": 1.0,
    "aligned": 0.5,
    "structure": 0.5,
    "equal_r": 0.1,
    "restored": 0.1,
    "smooth_low": 0.1,
    "smooth_high": 0.1,
    "tight": 0.05,
    "colour": 0.5,
    "saturation": 0.5,
    "highlights": 4.0,
    "grain": 4.0,
    "perceptual": 0.0,
}
BLOCK = 8  # pixels a side: colours are compared by the means of such blocks, where the noise is gone


def natural_terms(low, high, low_parts, high_parts, restored_parts, perceptual=False):
    """The terms of the loss, on the final picture first.

    "aligned" is the error that is left when the picture is scaled to the reference's brightness (Liao et al., "GT-Mean
    Loss", 2025): how bright it has to be is a guess, and the details should not suffer from it. "tight" keeps the
    illumination as low as the image allows (Guo et al., "LIME", IEEE TIP 2017).

    Four terms are for photos of the night. "colour" and "saturation" compare blocks of that scaled picture with the
    reference's: their colour, and how strong it is. Where a hue is uncertain, the first alone would make it pale. "highlights"
    keeps below white what is not white in the dark image, also where the reference is burnt. "grain" is what dark parts have
    more of texture than the reference. "perceptual" is LPIPS of every second scaled picture.

    Args:
        low, high: the dark and the well-lit image, (B, H, W, 3) in [0, 1].
        low_parts, high_parts: their (reflectance, illumination), (B, H, W, 3) and (B, H, W, 1).
        restored_parts: (restored reflectance, adjusted illumination) of the dark image.
        perceptual: whether to compute that term, or 0 instead. It takes time and the weights of LPIPS (extra `lpips`).

    Returns:
        A dict of float32 scalars, named as in `TERM_WEIGHTS`.

    >>> image = ops.full((1, 16, 16, 3), 0.25)
    >>> parts = ops.ones_like(image), image[..., :1]
    >>> round(float(natural_terms(image, image, parts, parts, parts)["fidelity"]), 3)
    0.0
    """
    low, high = ops.cast(low, "float32"), ops.cast(high, "float32")
    (low_r, low_i), (high_r, high_i), (restored, adjusted) = low_parts, high_parts, restored_parts
    picture = restored * adjusted
    brightness = [ops.mean(grayscale(image), axis=(1, 2, 3), keepdims=True) for image in (high, picture)]
    scale = ops.stop_gradient(ops.clip(brightness[0] / ops.maximum(brightness[1], 1e-3), 0.25, 4.0))
    aligned = scale * picture
    colours = [means - grayscale(means) for means in (_blocks(aligned), _blocks(high))]  # how they differ from grey
    strengths = [ops.sqrt(ops.sum(ops.square(colour), axis=-1) + 1e-6) for colour in colours]
    tightness = [i - ops.max(s, axis=-1, keepdims=True) for s, i in ((low, low_i), (high, high_i))]
    unclipped = ops.cast(ops.max(low, axis=-1) < 0.9, "float32")
    dark = ops.cast(_blocks(grayscale(low)) < 0.1, "float32")
    textures = [_blocks(_texture(grayscale(image))) for image in (aligned, high)]
    return {
        "fidelity": ops.mean(ops.abs(picture - high)),
        "aligned": ops.mean(ops.abs(aligned - high)),
        "structure": 1.0 - ops.mean(metrics.ssim(picture, high)),
        "equal_r": ops.mean(ops.abs(low_r - high_r)),
        "restored": ops.mean(ops.abs(restored - ops.stop_gradient(high_r))),
        "smooth_low": smoothness(low_i, low_r),
        "smooth_high": smoothness(high_i, high_r),
        "tight": ops.mean(tightness[0]) + ops.mean(tightness[1]),
        "colour": ops.mean(ops.abs(colours[0] - colours[1])),
        "saturation": ops.mean(ops.abs(strengths[0] - strengths[1])),
        "highlights": ops.mean(ops.relu(ops.max(picture, axis=-1) - 0.97) * unclipped),
        "grain": ops.mean(ops.relu(textures[0] - textures[1]) * dark),
        "perceptual": ops.mean(lpips(ops.clip(aligned[::2], 0.0, 1.0), high[::2])) if perceptual else ops.zeros(()),
    }


def _blocks(image):
    """The means of blocks, (B, H / 8, W / 8, C)."""
    return ops.average_pool(image, BLOCK, BLOCK, data_format="channels_last")


def _texture(image):
    """How much each pixel differs from the mean of the 5x5 pixels around it."""
    return ops.abs(image - ops.average_pool(image, 5, 1, padding="same", data_format="channels_last"))


@keras.saving.register_keras_serializable("retinex_keras")
class NaturalDecomNet(keras.Model):
    """Splits an image into reflectance and illumination, exactly: S = R * I.

    A small network guesses the illumination at a quarter of the resolution, which makes it smooth. Nowhere is it below the
    brightest channel of the image (as in Guo et al., "LIME", IEEE TIP 2017), so that the reflectance S / I is in [0, 1].

    Args:
        filters: channels of the inner layers.
        depth: number of convolutions between the first and the last.

    Input: (B, H, W, 3) in [0, 1], H and W multiples of 4.
    Output: `(reflectance, illumination)`, float32, (B, H, W, 3) in [0, 1] and (B, H, W, 1) in (0, 1].

    >>> reflectance, illumination = NaturalDecomNet()(np.zeros((1, 16, 16, 3)))
    >>> tuple(reflectance.shape), tuple(illumination.shape)
    ((1, 16, 16, 3), (1, 16, 16, 1))
    """

    def __init__(self, filters=32, depth=3, **kwargs):
        super().__init__(**kwargs)
        self.filters, self.depth = filters, depth
        options = {"padding": "same", "dtype": self.dtype_policy}
        self.first = layers.Conv2D(filters, 3, activation="relu", **options)
        self.inner = [layers.Conv2D(filters, 3, activation="relu", **options) for _ in range(depth)]
        self.last = layers.Conv2D(1, 3, **options)
        self.receptive_radius = 4 * (depth + 2) + 9  # pixels from an output pixel to the farthest input pixel that it needs

    def build(self, input_shape):
        self.first.build((None, None, None, 64))
        for layer in (*self.inner, self.last):
            layer.build((None, None, None, self.filters))
        self.built = True

    def call(self, image):
        brightest = ops.max(image, axis=-1, keepdims=True)
        x = ops.log(ops.concatenate([brightest, image], axis=-1) + 0.02)
        x = self.first(space_to_depth(x, 4))  # (B, H / 4, W / 4, filters)
        for layer in self.inner:
            x = layer(x)
        # The brightest of a pixel's neighbourhood, as wide as the bilinear enlargement looks.
        bound = ops.max_pool(ops.max_pool(brightest, 4, strides=4), 3, strides=1, padding="same")
        bound = ops.maximum(ops.cast(bound, "float32"), 1e-3)
        illumination = bound + (1.0 - bound) * ops.sigmoid(ops.cast(self.last(x), "float32"))
        illumination = double(double(illumination))
        return ops.cast(image, "float32") / illumination, illumination

    def get_config(self):
        return {**super().get_config(), "filters": self.filters, "depth": self.depth}


@keras.saving.register_keras_serializable("retinex_keras")
class NaturalEnhanceNet(keras.Model):
    """Adjusts the illumination and restores the reflectance: a U-Net of residual blocks, from a half of the resolution down.

    What tells the exposure is the whole image: its context, condensed to a vector, scales and shifts the deepest features
    (Perez et al., "FiLM", AAAI 2018) and sets a gain and a colour balance for all pixels.

    Args:
        widths: channels of the levels at 1/2, 1/4, ... of the resolution.
        blocks: residual blocks at the deepest level.
        context_filters: channels of the network that reads the context.

    Input: reflectance (B, H, W, 3), illumination (B, H, W, 1), H and W multiples of 2 ** len(widths), and the context
    (B, 128, 128, 3), the pixels at `context_indices`; all in [0, 1].
    Output: `(restored reflectance, adjusted illumination)`, float32, (B, H, W, 3) and (B, H, W, 1). They are not bounded.

    >>> context = np.zeros((1, 128, 128, 3))
    >>> restored, adjusted = NaturalEnhanceNet()(np.zeros((1, 16, 16, 3)), np.zeros((1, 16, 16, 1)), context)
    >>> tuple(restored.shape), tuple(adjusted.shape)
    ((1, 16, 16, 3), (1, 16, 16, 1))
    """

    def __init__(self, widths=(32, 64, 128), blocks=3, context_filters=32, **kwargs):
        super().__init__(**kwargs)
        self.widths, self.blocks, self.context_filters = tuple(widths), blocks, context_filters
        conv = {"padding": "same", "dtype": self.dtype_policy}
        relu = {"activation": "relu", **conv}
        zeros = {"kernel_initializer": "zeros", **conv}  # such a layer changes nothing at first
        self.read = [
            layers.Conv2D(context_filters, 4, strides=4, **relu),
            layers.Conv2D(2 * context_filters, 3, strides=2, **relu),
            layers.Conv2D(4 * context_filters, 3, strides=2, **relu),
        ]
        self.condense = layers.Dense(4 * context_filters, activation="relu", dtype=self.dtype_policy)
        self.balance = layers.Dense(4, kernel_initializer="zeros", dtype="float32")
        plain = {"kernel_initializer": "zeros", "dtype": self.dtype_policy}
        self.modulate = [layers.Dense(2 * widths[-1], **plain) for _ in range(blocks)]

        def block(width):  # Keras saves lists in lists from version 3.15 on
            return [layers.Conv2D(width, 3, **relu), layers.Conv2D(width, 3, **zeros)]

        self.stem = layers.Conv2D(widths[0], 3, **conv)
        self.encoder = [block(width) for width in widths[:-1]]
        self.down = [layers.Conv2D(width, 2, strides=2, **conv) for width in widths[1:]]
        self.deepest = [block(widths[-1]) for _ in range(blocks)]
        self.up = [layers.Conv2D(4 * width, 1, **conv) for width in widths[-2::-1]]
        self.decoder = [block(width) for width in widths[-2::-1]]
        self.head = layers.Conv2D(16, 3, **zeros)
        self.size_multiple = 2 ** len(widths)
        # Two convolutions a block at each level, twice but at the deepest, three layers at 1/2, and the pixels of a block.
        self.receptive_radius = 4 * (self.size_multiple - 2) + 2 * blocks * self.size_multiple + 6 + self.size_multiple - 1

    def build(self, *shapes, **named_shapes):
        channels = 6
        for layer in self.read:
            layer.build((None, None, None, channels))
            channels = layer.filters
        self.condense.build((None, 2 * channels))
        for layer in (self.balance, *self.modulate):
            layer.build((None, channels))
        self.stem.build((None, None, None, 16))
        for pair in (*self.encoder, *self.deepest, *self.decoder):
            for layer in pair:
                layer.build((None, None, None, layer.filters))  # as many channels come in as go out
        for layer, width in (*zip(self.down, self.widths), *zip(self.up, self.widths[::-1])):
            layer.build((None, None, None, width))
        self.head.build((None, None, None, self.widths[0]))
        self.built = True

    def call(self, reflectance, illumination, context):
        vector = self._condensed(context)
        x = ops.concatenate([reflectance, 0.25 * ops.log(illumination + 0.01)], axis=-1)
        x = self.stem(space_to_depth(x, 2))  # (B, H / 2, W / 2, widths[0])
        skips = []
        for (first, second), down in zip(self.encoder, self.down):
            x = x + second(first(x))
            skips.append(x)
            x = down(x)
        for (first, second), modulate in zip(self.deepest, self.modulate):
            scale, shift = ops.split(modulate(vector)[:, None, None], 2, axis=-1)
            x = x + second(first(x) * (1.0 + scale) + shift)
        for (first, second), up in zip(self.decoder, self.up):
            x = depth_to_space(up(x), 2) + skips.pop()
            x = x + second(first(x))
        x = ops.cast(self.head(x), "float32")
        gain, colour, detail = ops.split(x, [1, 4], axis=-1)
        balance = self.balance(vector)[:, None, None]
        colour = colour + balance[..., 1:]
        colour = colour - ops.mean(colour, axis=-1, keepdims=True)  # brightness is the illumination's
        reflectance, illumination = ops.cast(reflectance, "float32"), ops.cast(illumination, "float32")
        restored = reflectance * ops.exp(double(colour)) + depth_to_space(detail, 2)
        return restored, illumination * ops.exp(double(gain + balance[..., :1]))

    def _condensed(self, context):
        """(B, 128, 128, 3) -> (B, 4 * context_filters)."""
        x = ops.concatenate([context, ops.log(context + 0.02)], axis=-1)
        for layer in self.read:
            x = layer(x)
        return self.condense(ops.concatenate([ops.mean(x, axis=(1, 2)), ops.max(x, axis=(1, 2))], axis=-1))

    def get_config(self):
        config = {"widths": self.widths, "blocks": self.blocks, "context_filters": self.context_filters}
        return {**super().get_config(), **config}

    @staticmethod
    def join(decom_net, enhance_net, denoise=None, **kwargs):
        """The model of version 0.1's files, which name no class of its own and a strength of denoising that has no effect."""
        return NaturalRetinexNet(decom_net, enhance_net, **kwargs)


@keras.saving.register_keras_serializable("retinex_keras")
class NaturalRetinexNet(RetinexModel):
    """`NaturalDecomNet` and `NaturalEnhanceNet` joined; `fit` trains both, end to end.

    `compile()` without an optimizer is for tuning trained weights: AdamW with a learning rate that keeps what they know, and a
    running mean of the weights, which `fit` leaves in the model when it ends.

    Args:
        decom_net, enhance_net: the networks; by default new ones.

    Input: (B, H, W, 3) in [0, 1], of any size, and, where this is a part of an image, the context of the whole,
    (B, 128, 128, 3), see `imaging.pixels.context_indices`. Output: as of `RetinexModel`.

    >>> parts = NaturalRetinexNet()(np.zeros((1, 15, 10, 3)))
    >>> tuple(parts["enhanced"].shape), tuple(parts["illumination"].shape)
    ((1, 15, 10, 3), (1, 15, 10, 1))
    """

    term_weights = TERM_WEIGHTS
    takes_context = True
    tile_size = (2048, 2048)

    def __init__(self, decom_net=None, enhance_net=None, **kwargs):
        dtype = kwargs.get("dtype")
        super().__init__(decom_net or NaturalDecomNet(dtype=dtype), enhance_net or NaturalEnhanceNet(dtype=dtype), **kwargs)
        self.build_if_trained()

    def call(self, image, context=None, training=False):
        image, context = image_and_context(image, context)
        image = unit_range(image)
        height, width = ops.shape(image)[1:3]
        if context is None:
            context = gather_2d(image, context_indices(height), context_indices(width))
        else:
            context = unit_range(context)
            if tuple(context.shape[1:3]) not in ((CONTEXT, CONTEXT), (None, None)):
                raise ValueError(f"A context has {CONTEXT}x{CONTEXT} pixels, see `context_indices`. Received {context.shape}.")
        reflectance, illumination = self.decom_net(pad_to_multiple(image, self.size_multiple), training=training)
        restored, adjusted = self.enhance_net(reflectance, illumination, context, training=training)
        parts = self.joined(reflectance, illumination, restored, adjusted)
        return {name: part[:, :height, :width] for name, part in parts.items()}

    def loss_terms(self, low, high, parts, training=True):
        low, _ = image_and_context(low)
        height, width = ops.shape(high)[1:3]
        high_parts = self.decom_net(pad_to_multiple(high, self.size_multiple), training=training)
        high_parts = [part[:, :height, :width] for part in high_parts]
        low_parts = parts["reflectance"], parts["illumination"]
        restored = parts["restored_reflectance"], parts["adjusted_illumination"]
        return natural_terms(low, high, low_parts, high_parts, restored, bool(self.loss_weights["perceptual"]))

    def default_optimizer(self):
        return _optimizer(1e-5, ema_momentum=0.99)


def _optimizer(learning_rate, ema_momentum=0.999):
    """AdamW with clipped gradients and a running mean of the weights."""
    options = {"weight_decay": 1e-4, "global_clipnorm": 1.0, "use_ema": True, "ema_momentum": ema_momentum}
    return keras.optimizers.AdamW(learning_rate, **options)


def _build(filters, seed):
    """A new model."""
    keras.utils.set_random_seed(seed)
    decom_net = NaturalDecomNet(filters)
    return NaturalRetinexNet(decom_net, NaturalEnhanceNet((filters, 2 * filters, 4 * filters), context_filters=filters))


def _compile(model, settings, **loss_weights):
    model.compile(_optimizer(settings.learning_rate), loss_weights)


recipe = Recipe(
    name="natural",
    model=NaturalRetinexNet,
    build=_build,
    defaults={"batch_size": 8, "patch_size": 160, "filters": 32, "learning_rate": 1e-3},
    view=training_view,
    phases=(Phase(name="natural", compile=_compile, schedule=cosine_schedule),),
    refuses=("whole", "decay_epoch"),
)


def _variant(name, perceptual, **changes):
    """The recipe with LPIPS in the loss; it needs the extra `lpips`."""
    phase = dataclasses.replace(recipe.phases[0], compile=functools.partial(_compile, perceptual=perceptual))
    return dataclasses.replace(recipe, name=name, phases=(phase,), **changes)


# What trained `natural` last: `--recipe retinex_keras.recipes.natural:perceptual`.
perceptual = _variant("perceptual", 0.4)

# What trained `lol`, the weights for tables of scores on LOL: `--recipe retinex_keras.recipes.natural:lol`.
lol = _variant("lol", 0.1, view=functools.partial(training_view, plain=True), refuses=(*recipe.refuses, "photos"))
