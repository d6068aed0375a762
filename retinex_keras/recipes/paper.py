"""DecomNet, EnhanceNet and RetinexNet: the networks of "Deep Retinex Decomposition for Low-Light Enhancement"
(Wei et al., BMVC 2018), as the original's code has them.

The networks are made of `keras` and `keras.ops` alone and run on every Keras backend; they train on TensorFlow and JAX.
"""

import functools

import keras
from keras import layers, ops

from retinex_keras.imaging.pixels import context_indices
from retinex_keras.networks import losses, metrics
from retinex_keras.networks.denoise import Denoise
from retinex_keras.recipes.natural import NaturalEnhanceNet

if keras.backend.backend() == "jax":
    from retinex_keras import train_jax


def _conv(model, filters, kernel_size, name, **options):
    """A convolution with SAME padding, in the precision of the model that it belongs to."""
    return layers.Conv2D(filters, kernel_size, padding="same", name=name, **{"dtype": model.dtype_policy, **options})


def _minimize(model, low, high):
    """One step of the model's optimizer down the "loss" of `compute_losses`; returns all of its terms."""
    if keras.backend.backend() == "jax":
        gradients, terms = train_jax.gradients(model, low, high)
        model.optimizer.apply(gradients, model.trainable_variables)
        return terms
    import tensorflow as tf  # here, so that the networks also run where only JAX is installed

    with tf.GradientTape() as tape:
        terms, _ = model.compute_losses(low, high, training=True)
        # A strategy of several replicas sums their gradients, and the loss is a mean.
        replicas = tf.distribute.get_strategy().num_replicas_in_sync
        loss = model.optimizer.scale_loss(terms["loss"] / replicas)
    variables = model.trainable_variables
    gradients = tape.gradient(loss, variables)
    norm = model.optimizer.global_clipnorm
    if norm and replicas > 1:  # Keras would clip the gradients of each replica and then sum them
        gradients = tf.distribute.get_replica_context().all_reduce("SUM", gradients)
        gradients = [gradient / replicas for gradient in tf.clip_by_global_norm(gradients, norm)[0]]
    model.optimizer.apply(gradients, variables)
    return terms


def original_adam(learning_rate=1e-3):
    """Adam as the original uses it: epsilon 1e-8, TensorFlow 1's default, where Keras has 1e-7.

    >>> original_adam().epsilon
    1e-08
    """
    return keras.optimizers.Adam(learning_rate, epsilon=1e-8)


def _track(model, values):
    """Updates the model's running means with scalars or one value an image; returns all means of this phase."""
    for name, value in values.items():
        model.means[name].update_state(value)
    return {name: model.means[name].result() for name in values}


def _means(*names):
    return {name: keras.metrics.Mean(name=name) for name in (*names, "psnr", "ssim")}


def _scores(enhanced, high):
    """PSNR and SSIM of the picture that would be saved."""
    enhanced, high = metrics.to_8_bit(enhanced), ops.cast(high, "float32")
    return {"psnr": metrics.psnr(enhanced, high), "ssim": metrics.ssim(enhanced, high)}


@keras.saving.register_keras_serializable("retinex_keras")
class DecomNet(keras.Model):
    """Splits an image into reflectance and illumination, S = R * I.

    It trains on pairs `(low, high)` of a dark and a well-lit image of one scene, each (B, H, W, 3) in [0, 1]. `evaluate`
    also gives PSNR and SSIM of the reflectance of the dark image in the illumination of the well-lit one, against the
    well-lit image: what a perfect adjustment of the illumination would reach.

    Args:
        filters: channels of the inner layers.
        depth: number of 3x3 convolutions with ReLU.

    Input: (B, H, W, 3) in [0, 1]. Output: `(reflectance, illumination)`, float32, (B, H, W, 3) and (B, H, W, 1) in (0, 1).

    >>> reflectance, illumination = DecomNet()(np.zeros((1, 16, 16, 3)))
    >>> tuple(reflectance.shape), tuple(illumination.shape)
    ((1, 16, 16, 3), (1, 16, 16, 1))
    """

    def __init__(self, filters=64, depth=5, **kwargs):
        super().__init__(**kwargs)
        self.filters, self.depth = filters, depth
        self.means = _means("loss", *losses.DECOMPOSITION_WEIGHTS)
        self.loss_weights = losses.DECOMPOSITION_WEIGHTS
        self.shallow = _conv(self, filters, 9, "shallow_feature_extraction")
        self.activated = [_conv(self, filters, 3, f"activated_{i}", activation="relu") for i in range(depth)]
        self.recon = _conv(self, 4, 3, "recon")
        self.reach = 4 + depth + 1  # pixels from an output pixel to the farthest input pixel that it depends on

    def build(self, input_shape):
        self.shallow.build((*input_shape[:3], 4))
        for layer in (*self.activated, self.recon):
            layer.build((*input_shape[:3], self.filters))
        self.built = True

    def call(self, image):
        x = ops.concatenate([ops.max(image, axis=-1, keepdims=True), image], axis=-1)  # (B, H, W, 4)
        x = self.shallow(x)
        for layer in self.activated:
            x = layer(x)
        x = ops.sigmoid(ops.cast(self.recon(x), "float32"))  # (B, H, W, 4)
        return x[..., :3], x[..., 3:]

    def compute_losses(self, low, high, training):
        """The terms of `losses.decomposition_losses` for a batch of pairs; and the dark images relit by the well-lit ones."""
        low_parts, high_parts = self(low, training=training), self(high, training=training)
        terms = losses.decomposition_losses(low, high, low_parts, high_parts, self.loss_weights)
        return terms, low_parts[0] * high_parts[1]

    def compile(self, optimizer=None, loss_weights=None, **kwargs):
        """Takes the optimizer (by default `original_adam()`) and Keras's options; the losses are the paper's.

        `loss_weights` changes `losses.DECOMPOSITION_WEIGHTS`: {"equal_r": 0} leaves that term out.
        """
        super().compile(optimizer=optimizer or original_adam(), **kwargs)
        self.loss_weights = losses.DECOMPOSITION_WEIGHTS | (loss_weights or {})
        if len(self.loss_weights) > len(losses.DECOMPOSITION_WEIGHTS):
            names = ", ".join(losses.DECOMPOSITION_WEIGHTS)
            raise ValueError(f"The terms of the loss are {names}. Received loss_weights={loss_weights}: name some of these.")

    def get_compile_config(self):
        return None

    @property
    def metrics(self):
        return list(self.means.values())

    def train_step(self, data):
        low, high = data
        return _track(self, _minimize(self, low, high))

    def test_step(self, data):
        low, high = data
        terms, relit = self.compute_losses(low, high, training=False)
        return _track(self, terms | _scores(relit, high))

    def get_config(self):
        return {**super().get_config(), "filters": self.filters, "depth": self.depth}


@keras.saving.register_keras_serializable("retinex_keras")
class EnhanceNet(keras.Model):
    """Adjusts the illumination at several scales: an encoder-decoder whose decoder's levels are all seen by the output.

    It trains on pairs `(low, high)`, each (B, H, W, 3) in [0, 1], with the Decom-Net that is given to `compile`; that
    network is not changed.

    Args:
        filters: channels of every inner layer.

    Input: reflectance and illumination, (B, H, W, 3) and (B, H, W, 1) in [0, 1]; called with both: `net(r, i)`.
    Output: the adjusted illumination, float32, (B, H, W, 1). It is not bounded.

    >>> tuple(EnhanceNet()(np.zeros((1, 16, 16, 3)), np.zeros((1, 16, 16, 1))).shape)
    (1, 16, 16, 1)
    """

    def __init__(self, filters=64, **kwargs):
        super().__init__(**kwargs)
        self.filters = filters
        self.means = _means("loss", *losses.ADJUSTMENT_WEIGHTS)
        self.conv0 = _conv(self, filters, 3, "conv0")
        self.down = [_conv(self, filters, 3, f"down{i}", strides=2, activation="relu") for i in (1, 2, 3)]
        self.up = [_conv(self, filters, 3, f"up{i}", activation="relu") for i in (1, 2, 3)]
        self.double = layers.UpSampling2D(2, dtype=self.dtype_policy)
        self.fusion = _conv(self, filters, 1, "fusion")
        self.output_conv = _conv(self, 1, 3, "output")
        self.grid = 8
        self.reach = 15

    def build(self, reflectance_shape, illumination_shape=None):
        self.conv0.build((*reflectance_shape[:3], 4))
        for layer in (*self.down, *self.up, self.double, self.output_conv):
            layer.build((*reflectance_shape[:3], self.filters))
        self.fusion.build((*reflectance_shape[:3], 3 * self.filters))
        self.built = True

    def call(self, reflectance, illumination):
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
        # What follows is linear: a 1x1 convolution of the levels, enlarged and concatenated, and a 3x3 one to one channel. The
        # nine summands of the latter are taken of each level before it is enlarged, which costs less time and memory.
        taps = ops.reshape(ops.transpose(self.output_conv.kernel, (2, 0, 1, 3)), (self.filters, 9))
        kernels = ops.split(self.fusion.kernel, 3, axis=2)
        coarse, middle, fine = [ops.conv(level, ops.matmul(kernel, taps)) for level, kernel in zip(decoded, kernels)]
        x = _enlarge(coarse, (height, width)) + _enlarge(middle, (height, width)) + fine + ops.matmul(self.fusion.bias, taps)
        x = ops.conv(x, ops.reshape(ops.eye(9, dtype=x.dtype), (3, 3, 9, 1)), padding="same") + self.output_conv.bias
        return ops.cast(x, "float32")

    def compute_losses(self, low, high, training):
        """The terms of `losses.adjustment_losses` for a batch of pairs; and the enhanced images."""
        reflectance, illumination = self._decompose(low)
        adjusted = self(reflectance, illumination, training=training)
        return losses.adjustment_losses(high, reflectance, adjusted), reflectance * adjusted

    def compile(self, optimizer=None, decom_net=None, **kwargs):
        """Takes the optimizer (by default `original_adam()`), the trained Decom-Net, and Keras's options."""
        if not isinstance(decom_net, DecomNet):
            raise ValueError(
                f"EnhanceNet learns from what Decom-Net makes of the images. Received decom_net={decom_net!r}: "
                "pass a trained DecomNet to compile(decom_net=...)."
            )
        super().compile(optimizer=optimizer or original_adam(), **kwargs)
        self._decompose = functools.partial(decom_net, training=False)  # a plain callable is not tracked as a layer

    def get_compile_config(self):
        return None

    @property
    def metrics(self):
        return list(self.means.values())

    def train_step(self, data):
        low, high = data
        return _track(self, _minimize(self, low, high))

    def test_step(self, data):
        low, high = data
        terms, enhanced = self.compute_losses(low, high, training=False)
        return _track(self, terms | _scores(enhanced, high))

    def get_config(self):
        return {**super().get_config(), "filters": self.filters}


def _enlarge(x, size):
    """Nearest-neighbour resize to (height, width) by the rule of TensorFlow 1: index floor(i * float32(in / out)).

    It gathers rows and columns, since the gradient of a nearest resize does not compile under XLA. The rounding to float32
    is part of the rule: at one size in four between 1 and 20,000 exact division gives another index somewhere.
    """
    for axis, target in zip((1, 2), size):
        scale = ops.cast(ops.shape(x)[axis], "float32") / ops.cast(target, "float32")
        index = ops.floor(ops.cast(ops.arange(target), "float32") * scale)
        x = ops.take(x, ops.cast(index, "int32"), axis=axis)
    return x


def _after(first, x):
    """x, but not before the first is computed. Else TensorFlow works on both side by side, which takes more memory."""
    if keras.backend.backend() != "tensorflow":
        return x
    import tensorflow as tf

    with tf.control_dependencies([first]):
        return tf.identity(x)


def _taken(image, indices):
    """The rows and columns of (B, H, W, C) at the indices."""
    for axis, index in zip((1, 2), indices):
        image = ops.take(image, index, axis=axis)
    return image


@keras.saving.register_keras_serializable("retinex_keras")
class RetinexNet(keras.Model):
    """Decom-Net and Enhance-Net joined: from a dark image to a bright one.

    `fit` on pairs `(low, high)` tunes both networks together, end to end (Wei et al., section 4.1), on the sum of their
    losses; train them one after the other first.

    Args:
        decom_net: a `DecomNet`; by default a new one.
        enhance_net: an `EnhanceNet`; by default a new one.
        denoise: strength of `Denoise` on the reflectance of the enhanced image; 0 gives the original's. Training does not
            see it, and natural networks restore the reflectance themselves.

    Input: (B, H, W, 3) in [0, 1]. Output: a dict of float32 images: `enhanced` (B, H, W, 3), clipped to [0, 1];
    `reflectance` (B, H, W, 3) and `illumination` (B, H, W, 1), in (0, 1); `restored_reflectance` (B, H, W, 3), without noise;
    `adjusted_illumination` (B, H, W, 1), not bounded.

    >>> parts = RetinexNet()(np.zeros((1, 16, 16, 3)))
    >>> tuple(parts["enhanced"].shape), tuple(parts["illumination"].shape)
    ((1, 16, 16, 3), (1, 16, 16, 1))
    """

    def __init__(self, decom_net=None, enhance_net=None, denoise=4.0, **kwargs):
        super().__init__(**kwargs)
        self.decom_net = decom_net or DecomNet(dtype=self.dtype_policy)
        self.enhance_net = enhance_net or EnhanceNet(dtype=self.dtype_policy)
        self.denoise = Denoise(denoise)
        self.natural = isinstance(self.enhance_net, NaturalEnhanceNet)
        terms = losses.NATURAL_WEIGHTS if self.natural else losses.DECOMPOSITION_WEIGHTS | losses.ADJUSTMENT_WEIGHTS
        self.means = _means("loss", *terms)
        if self.decom_net.built and self.enhance_net.built:
            self.build((None, None, None, 3))

    def build(self, input_shape):
        for network in (self.decom_net, self.enhance_net, self.denoise):
            if not network.built:  # a trained one is
                network.build(input_shape)
        self.built = True

    @property
    def grid(self):
        """What the sides of an image should be multiples of, and of a tile must be: the networks halve them so often."""
        return self.enhance_net.grid

    @property
    def halo(self):
        """How many pixels around a tile the networks must see, so that it comes out as in the whole image; on the grid."""
        reach = self.decom_net.reach + max(self.enhance_net.reach, self.denoise.radius)
        return -(-reach // self.grid) * self.grid

    def call(self, image, context=None, training=False):
        if self.natural:
            return self._natural(image, context, training)
        reflectance, illumination = self.decom_net(image, training=training)
        adjusted = self.enhance_net(reflectance, illumination, training=training)
        restored = self.denoise(_after(adjusted, reflectance), illumination)
        return {
            "enhanced": ops.clip(restored * adjusted, 0.0, 1.0),
            "reflectance": reflectance,
            "illumination": illumination,
            "restored_reflectance": restored,
            "adjusted_illumination": adjusted,
        }

    def _natural(self, image, context, training):
        height, width = size = ops.shape(image)[1:3]
        if context is None:
            context = _taken(image, [context_indices(side) for side in size])
        reflectance, illumination = self.decom_net(self._padded(image), training=training)
        restored, adjusted = self.enhance_net(reflectance, illumination, context, training=training)
        parts = {
            "enhanced": ops.clip(restored * adjusted, 0.0, 1.0),
            "reflectance": reflectance,
            "illumination": illumination,
            "restored_reflectance": restored,
            "adjusted_illumination": adjusted,
        }
        return {name: part[:, :height, :width] for name, part in parts.items()}

    def _padded(self, image):
        """The image with its border repeated, to sides that the networks halve without a rest."""
        for axis in (1, 2):
            copies = [1, 1, 1, 1]
            copies[axis] = self.grid - 1 - (ops.shape(image)[axis] - 1) % self.grid  # ONNX knows no other modulo
            image = ops.concatenate([image, ops.tile(ops.take(image, [-1], axis), copies)], axis)
        return image

    def compute_losses(self, low, high, training):
        """All terms of both networks for a batch of pairs, "loss" the sum of both losses; and the enhanced images."""
        low, context = low if isinstance(low, (tuple, list)) else (low, None)
        parts = self(low, context, training=training)
        if self.natural:
            height, width = ops.shape(high)[1:3]
            high_parts = [part[:, :height, :width] for part in self.decom_net(self._padded(high), training=training)]
            low_parts = parts["reflectance"], parts["illumination"]
            restored_parts = parts["restored_reflectance"], parts["adjusted_illumination"]
            return losses.natural_losses(low, high, low_parts, high_parts, restored_parts), parts["enhanced"]
        low_parts = parts["reflectance"], parts["illumination"]
        decomposition = losses.decomposition_losses(low, high, low_parts, self.decom_net(high, training=training))
        adjustment = losses.adjustment_losses(high, parts["reflectance"], parts["adjusted_illumination"])
        return decomposition | adjustment | {"loss": decomposition["loss"] + adjustment["loss"]}, parts["enhanced"]

    def compile(self, optimizer=None, **kwargs):
        """Takes the optimizer (by default `original_adam()`) and Keras's options; the losses are the paper's."""
        super().compile(optimizer=optimizer or original_adam(), **kwargs)

    def get_compile_config(self):
        return None

    @property
    def metrics(self):
        return list(self.means.values())

    def train_step(self, data):
        low, high = data
        return _track(self, _minimize(self, low, high))

    def test_step(self, data):
        low, high = data
        terms, enhanced = self.compute_losses(low, high, training=False)
        return _track(self, terms | _scores(enhanced, high))

    def get_config(self):
        networks = {"decom_net": self.decom_net, "enhance_net": self.enhance_net}
        networks = {k: keras.saving.serialize_keras_object(v) for k, v in networks.items()}
        return {**super().get_config(), **networks, "denoise": self.denoise.strength}

    @classmethod
    def from_config(cls, config):
        names = ("decom_net", "enhance_net")
        return cls(**config | {name: keras.saving.deserialize_keras_object(config[name]) for name in names})


@keras.saving.register_keras_serializable("retinex_keras")
class SimpleCNN(keras.Model):
    """Convolutions from the dark image to what is added to it, without Retinex: what the decomposition is compared with.

    It trains on pairs `(low, high)`, each (B, H, W, 3) in [0, 1], on the mean absolute error.

    Args:
        filters: channels of the inner layers.
        depth: number of 3x3 convolutions.

    Input: (B, H, W, 3) in [0, 1]. Output: a dict of one float32 image: `enhanced` (B, H, W, 3), clipped to [0, 1].

    >>> tuple(SimpleCNN()(np.zeros((1, 16, 16, 3)))["enhanced"].shape)
    (1, 16, 16, 3)
    """

    natural, grid = False, 1  # as of a `RetinexNet`; it halves no sides

    def __init__(self, filters=64, depth=5, **kwargs):
        super().__init__(**kwargs)
        self.filters, self.depth = filters, depth
        self.halo = depth
        self.means = _means("loss")
        self.inner = [_conv(self, filters, 3, f"conv{i}", activation="relu") for i in range(depth - 1)]
        self.last = _conv(self, 3, 3, "output")

    def build(self, input_shape):
        for i, layer in enumerate((*self.inner, self.last)):
            layer.build((*input_shape[:3], self.filters if i else 3))
        self.built = True

    def _brightened(self, image):
        x = image
        for layer in self.inner:
            x = layer(x)
        return image + ops.cast(self.last(x), "float32")

    def call(self, image, context=None, training=False):
        return {"enhanced": ops.clip(self._brightened(image), 0.0, 1.0)}

    def compute_losses(self, low, high, training):
        """The mean absolute error for a batch of pairs, before clipping; and the enhanced images."""
        enhanced = self._brightened(low)
        return {"loss": ops.mean(ops.abs(enhanced - high))}, enhanced

    def compile(self, optimizer=None, **kwargs):
        """Takes the optimizer (by default `original_adam()`) and Keras's options."""
        super().compile(optimizer=optimizer or original_adam(), **kwargs)

    def get_compile_config(self):
        return None

    @property
    def metrics(self):
        return list(self.means.values())

    def train_step(self, data):
        low, high = data
        return _track(self, _minimize(self, low, high))

    def test_step(self, data):
        low, high = data
        terms, enhanced = self.compute_losses(low, high, training=False)
        return _track(self, terms | _scores(enhanced, high))

    def get_config(self):
        return {**super().get_config(), "filters": self.filters, "depth": self.depth}


if keras.backend.backend() == "jax":
    for _network in (DecomNet, EnhanceNet, RetinexNet, SimpleCNN):
        _network.train_step = train_jax.stateless(_network.train_step)
        _network.test_step = train_jax.stateless(_network.test_step)
