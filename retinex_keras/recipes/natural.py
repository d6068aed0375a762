"""The networks of the natural recipe: the same split into reflectance and illumination, made for natural pictures and speed.

They depart from the paper's where that pays. They work at a half of the resolution and below, the details are carried by
the image itself; the decomposition is exact, S = R * I; the adjustment knows the whole image, however small the tile that
it works on; and Enhance-Net also restores the reflectance, as KinD does (Zhang et al., "Kindling the Darkness", ACM MM 2019).
`RetinexNet(NaturalDecomNet(), NaturalEnhanceNet())` joins and trains them.
"""

import keras
from keras import layers, ops


def _space_to_depth(x, block):
    """(B, H, W, C) -> (B, H / block, W / block, block * block * C)."""
    height, width, channels = ops.shape(x)[1], ops.shape(x)[2], x.shape[-1]
    x = ops.reshape(x, (-1, height // block, block, width // block, block * channels))
    x = ops.transpose(x, (0, 1, 3, 2, 4))
    return ops.reshape(x, (-1, height // block, width // block, block * block * channels))


def _depth_to_space(x, block):
    """The inverse of `_space_to_depth`."""
    height, width, channels = ops.shape(x)[1], ops.shape(x)[2], x.shape[-1] // block**2
    x = ops.reshape(x, (-1, height, width, block, block * channels))
    x = ops.transpose(x, (0, 1, 3, 2, 4))
    return ops.reshape(x, (-1, height * block, width * block, channels))


def _double(x):
    """(B, H, W, C) at twice the size, bilinear; Keras's own does not run where the size is not known beforehand."""
    for axis in (1, 2):
        padded = ops.concatenate([ops.take(x, [0], axis), x, ops.take(x, [-1], axis)], axis)
        before, after = (padded[:, :-2], padded[:, 2:]) if axis == 1 else (padded[:, :, :-2], padded[:, :, 2:])
        pairs = ops.stack([0.75 * x + 0.25 * before, 0.75 * x + 0.25 * after], axis=axis + 1)
        shape = [-1, *ops.shape(x)[1:]]
        shape[axis] *= 2
        x = ops.reshape(pairs, shape)
    return x


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
        self.reach = 4 * (depth + 2) + 9  # pixels from an output pixel to the farthest input pixel that it depends on

    def build(self, input_shape):
        self.first.build((None, None, None, 64))
        for layer in (*self.inner, self.last):
            layer.build((None, None, None, self.filters))
        self.built = True

    def call(self, image):
        brightest = ops.max(image, axis=-1, keepdims=True)
        x = ops.log(ops.concatenate([brightest, image], axis=-1) + 0.02)
        x = self.first(_space_to_depth(x, 4))  # (B, H / 4, W / 4, filters)
        for layer in self.inner:
            x = layer(x)
        # The brightest of a pixel's neighbourhood, as wide as the bilinear enlargement looks.
        bound = ops.max_pool(ops.max_pool(brightest, 4, strides=4), 3, strides=1, padding="same")
        bound = ops.maximum(ops.cast(bound, "float32"), 1e-3)
        illumination = bound + (1.0 - bound) * ops.sigmoid(ops.cast(self.last(x), "float32"))
        illumination = _double(_double(illumination))
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
    (B, 128, 128, 3), the pixels at `images.context_indices`; all in [0, 1].
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

        def block(width):
            return [layers.Conv2D(width, 3, **relu), layers.Conv2D(width, 3, **zeros)]

        self.stem = layers.Conv2D(widths[0], 3, **conv)
        self.encoder = [block(width) for width in widths[:-1]]
        self.down = [layers.Conv2D(width, 2, strides=2, **conv) for width in widths[1:]]
        self.deepest = [block(widths[-1]) for _ in range(blocks)]
        self.up = [layers.Conv2D(4 * width, 1, **conv) for width in widths[-2::-1]]
        self.decoder = [block(width) for width in widths[-2::-1]]
        self.head = layers.Conv2D(16, 3, **zeros)
        self.grid = 2 ** len(widths)
        # Two convolutions a block at each level, twice but at the deepest, three layers at 1/2, and the pixels of a block.
        self.reach = 4 * (self.grid - 2) + 2 * blocks * self.grid + 6 + self.grid - 1

    def build(self, *shapes, **named_shapes):
        channels = 6
        for layer in self.read:
            layer.build((None, None, None, channels))
            channels = layer.filters
        self.condense.build((None, 2 * channels))
        for layer in (self.balance, *self.modulate):
            layer.build((None, channels))
        self.stem.build((None, None, None, 16))
        for width, pair in zip(
            (*self.widths, *self.widths[-1:] * (self.blocks - 1), *self.widths[-2::-1]),
            (*self.encoder, *self.deepest, *self.decoder),
        ):
            for layer in pair:
                layer.build((None, None, None, width))
        for i, layer in enumerate(self.down):
            layer.build((None, None, None, self.widths[i]))
        for i, layer in enumerate(self.up):
            layer.build((None, None, None, self.widths[-1 - i]))
        self.head.build((None, None, None, self.widths[0]))
        self.built = True

    def call(self, reflectance, illumination, context):
        vector = self._condensed(context)
        x = ops.concatenate([reflectance, 0.25 * ops.log(illumination + 0.01)], axis=-1)
        x = self.stem(_space_to_depth(x, 2))  # (B, H / 2, W / 2, widths[0])
        skips = []
        for (first, second), down in zip(self.encoder, self.down):
            x = x + second(first(x))
            skips.append(x)
            x = down(x)
        for (first, second), modulate in zip(self.deepest, self.modulate):
            scale, shift = ops.split(modulate(vector)[:, None, None], 2, axis=-1)
            x = x + second(first(x) * (1.0 + scale) + shift)
        for (first, second), up in zip(self.decoder, self.up):
            x = _depth_to_space(up(x), 2) + skips.pop()
            x = x + second(first(x))
        x = ops.cast(self.head(x), "float32")
        gain, colour, detail = ops.split(x, [1, 4], axis=-1)
        balance = self.balance(vector)[:, None, None]
        colour = colour + balance[..., 1:]
        colour = colour - ops.mean(colour, axis=-1, keepdims=True)  # brightness is the illumination's
        reflectance, illumination = ops.cast(reflectance, "float32"), ops.cast(illumination, "float32")
        restored = reflectance * ops.exp(_double(colour)) + _depth_to_space(detail, 2)
        return restored, illumination * ops.exp(_double(gain + balance[..., :1]))

    def _condensed(self, context):
        """(B, 128, 128, 3) -> (B, 4 * context_filters)."""
        x = ops.concatenate([context, ops.log(context + 0.02)], axis=-1)
        for layer in self.read:
            x = layer(x)
        return self.condense(ops.concatenate([ops.mean(x, axis=(1, 2)), ops.max(x, axis=(1, 2))], axis=-1))

    def get_config(self):
        config = {"widths": self.widths, "blocks": self.blocks, "context_filters": self.context_filters}
        return {**super().get_config(), **config}
