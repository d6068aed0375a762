"""What every model of the package promises, and how it trains on pairs of a dark and a well-lit image.

`PairModel` trains: named terms of a loss, their means, scores. `LowLightModel` is what inference, export and evaluation ask of
a model. `RetinexModel` joins a Decom-Net and an Enhance-Net.
"""

import contextlib
import functools

import keras
from keras import ops

from retinex_keras.dials import steer
from retinex_keras.imaging import metrics
from retinex_keras.imaging.pixels import range_error

SCORES = ("psnr", "ssim")
NO_WEIGHTS = "The loss is a mean over whole images. Received sample weights or class weights: leave them out."


def scaled(images):
    """Images of 8 or 16 bits as floats in [0, 1]; floats as they are.

    Args:
        images: uint8, uint16 or float, of any shape.

    Raises:
        ValueError: if they are of another type.

    >>> float(scaled(np.uint8([255]))[0])
    1.0
    """
    dtype = keras.backend.standardize_dtype(images.dtype)
    if dtype in ("uint8", "uint16"):
        return ops.cast(images, "float32") / (255.0 if dtype == "uint8" else 65535.0)
    if "float" not in dtype:
        raise ValueError(f"Expected uint8, uint16 or floats in [0, 1]. Received {dtype}: convert the images.")
    return images


def unit_range(images):
    """`scaled`, and other shapes than (B, H, W, 3) and floats outside [0, 1] are refused.

    In a graph an op checks the range. XLA leaves this op out. JAX checks it only outside compiled functions.

    Raises:
        ValueError: for another shape or type, or values outside [0, 1]; for these in a graph `tf.errors.InvalidArgumentError`.

    >>> unit_range(np.full((1, 8, 8, 3), 255.0, "float32"))
    Traceback (most recent call last):
    ValueError: Expected floats in [0, 1]. Received values from 255 to 255: scale or clip them.
    """
    shape = tuple(images.shape)
    if len(shape) != 4 or shape[-1] != 3:
        raise ValueError(f"Expected images (B, H, W, 3). Received the shape {shape}: one image becomes a batch by image[None].")
    result = scaled(images)
    if result is not images:
        return result
    inside = ops.all(ops.logical_and(images >= 0.0, images <= 1.0))  # NaN is neither
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        if not tf.executing_eagerly():
            message = "Expected floats in [0, 1]: scale or clip them."
            with tf.control_dependencies([tf.debugging.Assert(inside, [message])]):
                return tf.identity(images)
    elif keras.backend.backend() == "jax":
        import jax

        if isinstance(inside, jax.core.Tracer):
            return images
    if not inside:
        raise range_error(float(ops.min(images)), float(ops.max(images)))
    return images


def image_and_context(image, context=None):
    """An image and its context, or None, which come as two arguments or, from a data pipeline, as a pair.

    >>> image_and_context(("image", "context"))
    ('image', 'context')
    """
    return image if isinstance(image, (tuple, list)) else (image, context)


def original_adam(learning_rate=1e-3):
    """Adam as the original uses it: epsilon 1e-8, TensorFlow 1's default, where Keras has 1e-7.

    >>> original_adam().epsilon
    1e-08
    """
    return keras.optimizers.Adam(learning_rate, epsilon=1e-8)


def _innermost(optimizer):
    """The optimizer itself, or the one that it wraps for float16."""
    return getattr(optimizer, "inner_optimizer", optimizer)


def keeps_mean(optimizer):
    """Whether an optimizer, or the one that it wraps for float16, keeps a running mean of the weights.

    >>> keeps_mean(keras.optimizers.Adam(use_ema=True)), keeps_mean(original_adam())
    (True, False)
    """
    return getattr(_innermost(optimizer), "use_ema", False)


@contextlib.contextmanager
def mean_weights(model):
    """Gives a model the running mean of its weights until the block ends, if its optimizer, which is built, keeps one.

    >>> model = keras.Sequential([keras.layers.Input((1,)), keras.layers.Dense(1)])
    >>> model.compile(keras.optimizers.SGD(use_ema=True))
    >>> make_variables(model)
    >>> with mean_weights(model):
    ...     pass
    """
    if not keeps_mean(model.optimizer):
        yield
        return
    weights = model.get_weights()
    model.optimizer.finalize_variable_values(model.trainable_variables)
    try:
        yield
    finally:
        model.set_weights(weights)


def make_variables(model):
    """Makes the variables of a compiled model and of its optimizer. A step that has to make some itself is traced twice.

    >>> model = keras.Sequential([keras.layers.Conv2D(1, 3)])
    >>> model.compile()
    >>> make_variables(model)
    >>> model.built, model.optimizer.built
    (True, True)
    """
    if not model.built:  # one that begins with weights is
        model.build((None, None, None, 3))
    if not model.optimizer.built:  # the one for float16 would begin anew
        model.optimizer.build(model.trainable_variables)
        if keeps_mean(model.optimizer):  # else it is zero until the first step, and `fit` without a step would leave zeros
            for mean, weight in zip(_innermost(model.optimizer)._model_variables_moving_average, model.trainable_variables):
                mean.assign(ops.convert_to_numpy(weight))


def _replicas():
    """How many replicas of tf.distribute share a batch. Their gradients are summed, and a loss is a mean."""
    if keras.backend.backend() != "tensorflow":
        return 1
    import tensorflow as tf

    return tf.distribute.get_strategy().num_replicas_in_sync


def _clip_whole_batch(optimizer):
    """Makes `global_clipnorm` that of the whole batch: Keras would clip the part of each replica and then sum the parts."""
    import tensorflow as tf

    apply, replicas = optimizer.apply, _replicas()

    def clip_and_apply(gradients, trainable_variables=None):
        gradients = tf.distribute.get_replica_context().all_reduce("SUM", list(gradients))
        gradients, _ = tf.clip_by_global_norm(gradients, optimizer.global_clipnorm)
        apply([gradient / replicas for gradient in gradients], trainable_variables)

    optimizer.apply = clip_and_apply


class PairModel(keras.Model):
    """A model that trains on pairs `(low, high)` of one scene, each (B, H, W, 3) in [0, 1], by a loss of named terms.

    A subclass names the terms and their weights in `term_weights`, and computes them in `loss_terms`. `fit` then shows each
    term, `evaluate` also PSNR and SSIM of the 8-bit picture that would be saved. It trains by Keras's own step.
    """

    term_weights = {}

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        if taken := {"loss", *SCORES} & set(self.term_weights):
            names = ", ".join(sorted(taken))
            raise ValueError(f"{type(self).__name__}.term_weights names {names}, which is shown beside the terms: rename it.")
        self.loss_weights = dict(self.term_weights)
        self.means = {name: keras.metrics.Mean(name=name) for name in ("loss", *self.term_weights, *SCORES)}
        self.scores_batches = False

    def loss_terms(self, low, high, parts, training=True):
        """The terms of the loss for a batch, {name in `term_weights`: scalar}.

        Args:
            low: the dark images, (B, H, W, 3) in [0, 1]; with a context, `(images, context)`.
            high: the well-lit images, (B, H, W, 3) in [0, 1].
            parts: what the model returns for `low`.
            training: as of `call`.
        """
        raise NotImplementedError

    def picture(self, low, high, parts):
        """The picture that is scored against `high`, (B, H, W, 3); arguments as of `loss_terms`."""
        return parts["enhanced"]

    def default_optimizer(self):
        """The optimizer of a `compile()` without one."""
        return original_adam()

    def compile(self, optimizer=None, loss_weights=None, loss=None, weighted_metrics=None, **kwargs):
        """Takes an optimizer (by default that of the recipe), `loss_weights`, and Keras's options, such as `metrics`.

        Args:
            optimizer: a Keras optimizer, or its name.
            loss_weights: changes of `term_weights`: {"equal_r": 0} leaves that term out.
            loss, weighted_metrics: not taken; the loss is the model's own.

        Raises:
            ValueError: for a loss or weighted metrics, or a term that the loss does not have.
        """
        if loss is not None or weighted_metrics is not None:
            name, value = ("loss", loss) if loss is not None else ("weighted_metrics", weighted_metrics)
            raise ValueError(f"{type(self).__name__} has a loss of its own. Received {name}={value!r}: leave it out.")
        if not isinstance(loss_weights or {}, dict):
            raise ValueError(f"Expected loss_weights as a dict, {{term: weight}}. Received {loss_weights!r}.")
        if unknown := set(loss_weights or {}) - set(self.term_weights):
            names = ", ".join(self.term_weights)
            raise ValueError(f"The terms of the loss are {names}. Received {', '.join(sorted(unknown))}: name some of these.")
        super().compile(optimizer=self.default_optimizer() if optimizer is None else optimizer, **kwargs)
        self.loss_weights = self.term_weights | dict(loss_weights or {})
        if _innermost(self.optimizer).global_clipnorm and _replicas() > 1:
            _clip_whole_batch(_innermost(self.optimizer))

    def fit(self, x=None, y=None, batch_size=None, epochs=1, verbose="auto", callbacks=None, *args, **kwargs):
        """Keras's `fit`. Where the optimizer keeps a running mean of the weights, the mean is what is scored meanwhile."""
        if kwargs.get("class_weight"):
            raise ValueError(NO_WEIGHTS)
        if self.built and self.compiled:
            on_tensorflow = keras.backend.backend() == "tensorflow"
            with self.distribute_strategy.scope() if on_tensorflow else contextlib.nullcontext():
                make_variables(self)
        with_mean, swap = self.compiled and keeps_mean(self.optimizer), None
        if with_mean:
            callbacks = keras.tree.flatten(callbacks or [])
            if not any(isinstance(callback, keras.callbacks.SwapEMAWeights) for callback in callbacks):
                swap = keras.callbacks.SwapEMAWeights()
                callbacks.insert(0, swap)
        try:
            return super().fit(x, y, batch_size, epochs, verbose, callbacks, *args, **kwargs)
        finally:
            with contextlib.suppress(Exception):  # an error in a step can leave no weights; that error is what matters
                if swap:
                    swap.on_test_end()  # after Ctrl-C in a validation, the mean is still in the model
                if with_mean and keras.backend.backend() == "jax":
                    # Keras lets a weight and its mean share a buffer, after Ctrl-C too: the next `fit` would donate it twice.
                    self.set_weights([weights.copy() for weights in self.get_weights()])

    def get_compile_config(self):
        config = super().get_compile_config()
        return config and config | {"loss_weights": dict(self.loss_weights), "optimizer_built": self.optimizer.built}

    def compile_from_config(self, config):
        config = keras.saving.deserialize_keras_object(config)
        optimizer_built = config.pop("optimizer_built")
        PairModel.compile(self, **config)
        if optimizer_built:  # then the file has its state
            self.optimizer.build(self.trainable_variables)

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        """Notes the terms and returns their weighted sum; of several replicas, each one's share of it."""
        if sample_weight is not None:
            raise ValueError(NO_WEIGHTS)
        if y is None:
            raise ValueError("The model learns from pairs. Received dark images alone: pass the well-lit ones as y.")
        low = tuple(map(scaled, x)) if isinstance(x, (tuple, list)) else scaled(x)
        one, other = [tuple(images.shape[1:3]) for images in (low[0] if isinstance(low, tuple) else low, y)]
        if one != other and None not in one + other:
            raise ValueError(f"The two images of a pair must have one size. Received height and width {one} and {other}.")
        of_layers = [ops.sum(ops.cast(loss, "float32")) for loss in self.losses]  # now: `loss_terms` may call layers again
        terms = self.loss_terms(low, unit_range(y), y_pred, training)
        if set(terms) != set(self.term_weights):
            expected, received = (", ".join(sorted(names)) for names in (self.term_weights, terms))
            raise ValueError(f"{type(self).__name__}.term_weights names {expected}. Received from loss_terms: {received}.")
        loss = sum([weight * terms[name] for name, weight in self.loss_weights.items()] + of_layers)
        self._update_means({"loss": loss, **terms}, ops.shape(y)[0])
        self.scores_batches = not training
        return loss if _replicas() == 1 else loss / _replicas()

    def compute_metrics(self, x, y, y_pred, sample_weight=None):
        high = ops.cast(scaled(y), "float32")
        picture = self.picture(x, high, y_pred)
        if self.scores_batches:
            shown = metrics.to_8_bit(picture)
            self._update_means({"psnr": metrics.psnr(shown, high), "ssim": metrics.ssim(shown, high)})
        results = super().compute_metrics(x, high, picture)
        return {name: value for name, value in results.items() if self.scores_batches or name not in SCORES}

    def _update_means(self, values, images=None):
        for name, value in values.items():  # means over so many images, or one value an image
            self.means[name].update_state(value, images)

    @property
    def metrics(self):
        others = [metric for metric in super().metrics if metric.name not in self.means]
        return [*self.means.values(), *others]


class LowLightModel(PairModel):
    """A model from a dark image to a bright one: what inference, export and evaluation may ask of any model.

    `call(image, context=None, training=False)` returns a dict of float32 images; `enhanced`, (B, H, W, 3) in [0, 1], is one of
    them. The image may also be the pair `(image, context)`, as a data pipeline gives it. `filters` is the number of channels
    by which a recipe makes the model larger or smaller.

    Attributes:
        size_multiple: the sides of a tile are multiples of it, in pixels, since the networks halve them.
        tile_margin: how many pixels around a tile must be seen so that it comes out as in the whole image; a multiple of
            `size_multiple`.
        tile_size: the largest height and width of a tile that suits the model, in pixels; measure it.
        takes_context: whether the context of the whole image (`imaging.pixels.context_indices`) matters to a tile.
        decomposes: whether the output has the parts of a `RetinexModel`, so that dials can steer it.
    """

    size_multiple = 1
    tile_margin = 0
    tile_size = (1024, 1024)
    takes_context = False
    decomposes = False

    def runner(self, *names, steered=False):
        """A function of an image and its context, (1, H, W, 3) and (1, 128, 128, 3), to the outputs of these names, or all.

        If it is steered, it takes as a third argument what `dials.steer` takes: exposure, strength and colour, (3,).
        """
        return _graph(self, names, steered)

    def with_denoising(self, strength):
        """The same weights with another strength of denoising.

        Raises:
            ValueError: if nothing is denoised after the networks.
        """
        raise ValueError(f"These weights take no strength of denoising. Received denoise={strength}: leave it out.")

    def export(self, filepath, format="tf_saved_model", verbose=None, input_signature=None, **kwargs):
        """Keras's `export`, for images of any size and number unless a signature says otherwise."""
        signature = input_signature or [keras.InputSpec("float32", (None, None, None, 3), name="image")]
        super().export(filepath, format, verbose, signature, **kwargs)


def _outputs(model, names, image, context, dials=None):
    parts = model(image, context, training=False)
    if dials is not None:
        parts = steer(parts, image, *ops.unstack(dials))
    return {name: parts[name] for name in names or parts}


@functools.lru_cache(maxsize=4)
def _graph(model, names, steered):
    """One graph for all sizes: a folder of mixed sizes compiles once."""
    outputs = functools.partial(_outputs, model, names)
    if keras.backend.backend() != "tensorflow":
        return outputs
    import tensorflow as tf

    images = tf.TensorSpec((1, None, None, 3), tf.float32)
    dials = [tf.TensorSpec((3,), tf.float32)] if steered else []
    return tf.function(outputs, input_signature=[images, images, *dials], autograph=False)


class RetinexModel(LowLightModel):
    """A Decom-Net and an Enhance-Net joined: the image is split, S = R * I, both are improved, and their product is the result.

    Args:
        decom_net, enhance_net: the networks, which have a `receptive_radius`; the latter has a `size_multiple`.

    Output: a dict of float32 images: `enhanced` (B, H, W, 3), clipped to [0, 1]; `reflectance` (B, H, W, 3) and `illumination`
    (B, H, W, 1), in [0, 1]; `restored_reflectance` (B, H, W, 3), without noise, and `adjusted_illumination` (B, H, W, 1), both
    not bounded.
    """

    decomposes = True

    def __init__(self, decom_net, enhance_net, **kwargs):
        super().__init__(**kwargs)
        self.decom_net, self.enhance_net = decom_net, enhance_net

    def build_if_trained(self):
        """Called at the end of `__init__`: what joins two built networks is built too, unless a subclass builds more."""
        if type(self).build is RetinexModel.build and self.decom_net.built and self.enhance_net.built:
            self.build((None, None, None, 3))

    def build(self, input_shape):
        for network in (self.decom_net, self.enhance_net):
            if not network.built:  # a trained one is
                network.build(input_shape)
            if not network.trainable:  # as a file may say; Keras leaves its layers trainable
                network.trainable = True  # else TensorFlow would take the next line for no change
                network.trainable = False
        self.built = True

    @property
    def filters(self):
        return self.decom_net.filters

    @property
    def size_multiple(self):
        return self.enhance_net.size_multiple

    @property
    def tile_margin(self):
        radius = self.decom_net.receptive_radius + self.enhance_net.receptive_radius
        return -(-radius // self.size_multiple) * self.size_multiple

    @staticmethod
    def joined(reflectance, illumination, restored, adjusted):
        return {
            "enhanced": ops.clip(restored * adjusted, 0.0, 1.0),
            "reflectance": reflectance,
            "illumination": illumination,
            "restored_reflectance": restored,
            "adjusted_illumination": adjusted,
        }

    def get_config(self):
        networks = {"decom_net": self.decom_net, "enhance_net": self.enhance_net}
        return super().get_config() | {name: keras.saving.serialize_keras_object(net) for name, net in networks.items()}

    @classmethod
    def from_config(cls, config):
        return cls(**config | cls.networks_of(config))

    @staticmethod
    def networks_of(config):
        """The two networks of a configuration, not compiled."""
        names = "decom_net", "enhance_net"
        return {name: keras.saving.deserialize_keras_object(config[name] | {"compile_config": None}) for name in names}
