"""What users of Keras expect of a model: files, data of any type, metrics, checkpoints, exports, tuning with defaults."""

import re
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

from retinex_keras import load_pairs, training_patches, whole_pairs
from retinex_keras.data.pipeline import training_view
from retinex_keras.inference import enhance, find_model, load_pretrained
from retinex_keras.recipes.natural import NaturalDecomNet, NaturalEnhanceNet, NaturalRetinexNet
from retinex_keras.recipes.paper import DecomNet, EnhanceNet, RetinexNet
from retinex_keras.recipes.simple import SimpleCNN

WEIGHTS = Path(__file__).parents[1] / "checkpoints"


@pytest.mark.parametrize("order", ["keras, retinex_keras", "retinex_keras, keras", "tensorflow, retinex_keras, keras"])
def test_keras_loads_a_file_in_any_order_of_import(order):
    script = f"import {order}\nprint(type(keras.models.load_model({str(WEIGHTS / 'natural.keras')!r})).__name__)"
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert result.stdout == "NaturalRetinexNet\n", result.stderr


@pytest.mark.parametrize("module", ["data.pipeline", "networks.layers", "recipes.paper", "evaluation.scores", "serving.export"])
def test_each_module_can_be_imported_first(module):
    script = f"import retinex_keras.{module}, keras\nfrom retinex_keras import DecomNet"
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr


@pytest.fixture
def networks(tiny, tiny_natural):
    """One compiled model of each kind of training step; eager, since graphs take seconds to trace."""
    tiny.decom_net.compile(run_eagerly=True)
    tiny.enhance_net.compile(decom_net=tiny.decom_net, run_eagerly=True)
    for model in (tiny, tiny_natural):
        model.compile(run_eagerly=True)
    return tiny, tiny.decom_net, tiny.enhance_net, tiny_natural


@pytest.mark.parametrize("policy", ["float32", "mixed_float16"])
def test_a_step_is_traced_once(random, policy):
    """Tracing the step of `natural` takes 9 s on a slow core, more than many short trainings do."""

    class Counting(SimpleCNN):
        traces = 0

        def loss_terms(self, *args):
            Counting.traces += 1
            return super().loss_terms(*args)

    model = Counting(4, dtype=policy)
    model.build((None, None, None, 3))
    model.compile()
    images = random.random((4, 16, 16, 3))
    model.fit(images, images, batch_size=2, epochs=2, verbose=0)
    state = len(model.optimizer.variables)
    model.fit(images, images, batch_size=2, verbose=0)
    assert (Counting.traces, len(model.optimizer.variables)) == (1, state)
    assert model.optimizer.iterations == 6


def test_whole_numbers_are_scaled_wherever_they_are_given(networks, random):
    pixels = random.integers(0, 256, (2, 16, 16, 3), dtype="uint8")
    floats = pixels / np.float32(255)
    for network in networks:
        before = network.get_weights()
        losses = []
        for images in (pixels, floats, pixels.astype("uint16") * 257):
            network.set_weights(before)
            losses.append(network.fit(images, images, verbose=0).history["loss"])
        np.testing.assert_allclose(losses[1:], [losses[0]] * 2, rtol=1e-6)
    for model in (networks[0], networks[3]):
        expected = model(floats)["enhanced"]
        np.testing.assert_allclose(model(pixels)["enhanced"], expected, atol=1e-6)
        np.testing.assert_allclose(model.predict(pixels, verbose=0)["enhanced"], expected, atol=1e-6)


@pytest.mark.parametrize("bad", [255.0, np.nan, -0.1])
def test_floats_beyond_the_range_are_refused(networks, random, bad):
    images = random.random((2, 16, 16, 3), dtype="float32")
    wrong = images.copy()
    wrong[1, 3, 4, 1] = bad
    for network in networks:
        for low, high in ((wrong, images), (images, wrong)):
            with pytest.raises(ValueError, match=r"Expected floats in \[0, 1\]. Received values from .*: scale or clip them"):
                network.fit(low, high, verbose=0)
    for model in (networks[0], networks[1], networks[3]):
        with pytest.raises(ValueError, match=r"Expected floats in \[0, 1\]. Received values from .*: scale or clip them"):
            model(wrong)


@pytest.mark.parametrize("shape", [(16, 16, 3), (1, 16, 16, 4), (1, 16, 16)])
def test_other_shapes_are_refused(networks, shape):
    images = np.zeros(shape, "uint8")
    message = re.escape(f"Expected images (B, H, W, 3). Received the shape {shape}: one image becomes a batch by image[None].")
    for model in (networks[0], networks[1], networks[3]):
        with pytest.raises(ValueError, match=message):
            model(images)


def test_floats_beyond_the_range_are_refused_in_graphs(tiny, random):
    images = random.random((2, 16, 16, 3), dtype="float32")
    tiny.decom_net.compile(jit_compile=False)
    tiny.compile(jit_compile=False)
    for call in (
        lambda: tiny.decom_net.fit(255 * images, images, verbose=0),
        lambda: tiny.fit(images, 255 * images, verbose=0),
        lambda: tiny.evaluate(255 * images, images, verbose=0),
        lambda: tiny.predict(255 * images, verbose=0),
    ):
        with pytest.raises(tf.errors.InvalidArgumentError, match=r"Expected floats in \[0, 1\]: scale or clip them"):
            call()


def test_metrics_are_honoured_and_foreign_losses_refused(networks, random):
    low, high = (random.random((2, 16, 16, 3), dtype="float32") for _ in range(2))
    tiny, decom_net, enhance_net, natural = networks
    for network, options in ((tiny, {}), (decom_net, {}), (enhance_net, {"decom_net": decom_net}), (natural, {})):
        network.compile(metrics=["mae"], run_eagerly=True, **options)
        history = network.fit(low, high, verbose=0).history
        assert "psnr" not in history
        scores = network.evaluate(low, high, verbose=0, return_dict=True)
        assert {"loss", "mae", "psnr", "ssim"} <= set(scores)
        with pytest.raises(ValueError, match="has a loss of its own. Received loss='mse'"):
            network.compile(loss="mse", **options)
        with pytest.raises(ValueError, match="Received weighted_metrics"):
            network.compile(weighted_metrics=["mae"], **options)
        with pytest.raises(ValueError, match="terms of the loss are .*Received nonsense"):
            network.compile(loss_weights={"nonsense": 1}, **options)
    picture = np.asarray(natural(low)["enhanced"])
    assert scores["mae"] == pytest.approx(np.abs(picture - high).mean(), rel=1e-5)
    with pytest.raises(ValueError, match="sample weights or class weights"):
        natural.fit(low, high, sample_weight=np.ones(2), verbose=0)


def test_a_checkpoint_goes_on_where_it_was(networks, random, tmp_path):
    """Optimizer, its state, weights of terms and metrics come back from the file of a `ModelCheckpoint`."""
    low, high = (random.random((4, 16, 16, 3), dtype="float32") for _ in range(2))
    tiny, decom_net, enhance_net, natural = networks
    path = tmp_path / "checkpoint.keras"
    options = {"batch_size": 2, "shuffle": False, "verbose": 0}
    for network in (tiny, decom_net, natural):
        term = next(iter(network.term_weights))
        network.compile(keras.optimizers.Adam(1e-3), {term: 0.5}, metrics=["mae"], run_eagerly=True)
        network.fit(low, high, callbacks=[keras.callbacks.ModelCheckpoint(path)], **options)
        loaded = keras.models.load_model(path)
        expected, resumed = (net.fit(low, high, **options).history for net in (network, loaded))
        assert resumed["loss"] == pytest.approx(expected["loss"], rel=1e-5)
        assert set(resumed) == set(expected)
        assert int(loaded.optimizer.iterations) == 4
    enhance_net.compile(decom_net=decom_net, loss_weights={"smooth_adjusted": 1.0}, run_eagerly=True)
    enhance_net.fit(low, high, **options)
    enhance_net.save(path)
    loaded = keras.models.load_model(path)
    with pytest.raises(ValueError, match="pass a trained one to compile"):
        loaded.fit(low, high, **options)
    loaded.compile(loaded.optimizer, decom_net=decom_net, loss_weights=loaded.loss_weights, run_eagerly=True)
    expected, resumed = (net.fit(low, high, **options).history for net in (enhance_net, loaded))
    assert resumed["loss"] == pytest.approx(expected["loss"], rel=1e-5)


def test_a_loaded_model_is_exported_by_keras(tiny, tmp_path, random):
    tiny.save(tmp_path / "tiny.keras")
    load_pretrained(tmp_path / "tiny.keras").export(tmp_path / "exported", verbose=False)
    served = tf.saved_model.load(tmp_path / "exported")
    for size in ((16, 24), (13, 17)):
        image = random.random((1, *size, 3), dtype="float32")
        np.testing.assert_allclose(served.serve(image)["enhanced"], tiny(image)["enhanced"], atol=1e-6)


def test_weights_that_were_written_again_are_loaded_again(tmp_path):
    path, image = tmp_path / "a.keras", np.full((8, 8, 3), 50, "uint8")
    pictures = []
    for bias in (0.2, 0.9):
        keras.utils.set_random_seed(0)
        model = RetinexNet(DecomNet(4, 1), EnhanceNet(4))
        model.build((None, None, None, 3))
        model.enhance_net.output_conv.bias.assign([bias])
        model.save(path)
        pictures.append(enhance(image, path).mean())
        assert find_model(path) is find_model(str(path))
    assert pictures[1] > pictures[0] + 20


def test_fine_tuning_with_defaults_keeps_what_the_weights_know():
    pairs = load_pairs(WEIGHTS.parent / "notebooks" / "pairs")
    model = load_pretrained("natural")
    model.compile(run_eagerly=True)  # in half of the time of a graph, for so few steps
    before = model.evaluate(whole_pairs(pairs), verbose=0, return_dict=True)["psnr"]
    patches = training_patches(pairs, 64, 4, view=training_view)
    model.fit(patches, steps_per_epoch=4, shuffle=False, verbose=0)
    assert not any(map(np.array_equal, load_pretrained("natural").get_weights(), model.get_weights()))
    assert model.evaluate(whole_pairs(pairs), verbose=0, return_dict=True)["psnr"] > before - 0.1


def test_scores_of_whole_numbers_are_those_of_floats(tiny, random):
    pixels = random.integers(0, 256, (2, 16, 16, 3), dtype="uint8")
    tiny.decom_net.compile(run_eagerly=True)
    tiny.enhance_net.compile(decom_net=tiny.decom_net, run_eagerly=True)
    for network in (tiny.decom_net, tiny.enhance_net):
        whole, floats = (
            network.evaluate(images, images, verbose=0, return_dict=True) for images in (pixels, pixels / np.float32(255))
        )
        assert whole == pytest.approx(floats, rel=1e-5)


def test_what_is_no_pair_is_one_sentence(networks, random):
    images = random.random((2, 16, 16, 3), dtype="float32")
    for network in networks:
        with pytest.raises(ValueError, match="learns from pairs"):
            network.fit(images, verbose=0)
    with pytest.raises(ValueError, match="no sample or class weights"):
        networks[1].fit(images, images, sample_weight=np.ones(2), verbose=0)


def test_single_batches_and_uneven_ones_are_scored_by_the_image(networks, random):
    low, high = (random.random((3, 16, 16, 3), dtype="float32") for _ in range(2))
    _, decom_net, enhance_net, natural = networks
    for network, options in ((decom_net, {}), (enhance_net, {"decom_net": decom_net}), (natural, {})):
        network.compile(run_eagerly=True, **options)
        together = network.test_on_batch(low, high, return_dict=True)
        apart = network.evaluate(low, high, batch_size=2, verbose=0, return_dict=True)
        assert apart == pytest.approx(together, rel=1e-4)
        assert network.train_on_batch(low, high, return_dict=True)["loss"] == pytest.approx(together["loss"], rel=1e-5)


def test_what_does_not_fit_together_is_one_sentence(networks, random):
    small, large = (random.random((2, side, side, 3), dtype="float32") for side in (16, 24))
    tiny, decom_net, enhance_net, natural = networks
    for network, options in ((tiny, {}), (decom_net, {}), (enhance_net, {"decom_net": decom_net}), (natural, {})):
        network.compile(run_eagerly=True, **options)
        with pytest.raises(ValueError, match=r"must have one size. Received height and width \(24, 24\) and \(16, 16\)"):
            network.fit(large, small, verbose=0)
        with pytest.raises(ValueError, match="sample weights or class weights"):
            network.fit(small, small, class_weight={0: 1.0}, verbose=0)
        for weights in ([1.0], 0.5, "mae"):
            with pytest.raises(ValueError, match="Expected loss_weights as a dict, {term: weight}. Received"):
                network.compile(None, loss_weights=weights, **options)
    context = random.random((2, 128, 128, 3), dtype="float32")
    with pytest.raises(ValueError, match="A context has 128x128 pixels"):
        natural((small, context[:, ::2]))
    with pytest.raises(ValueError, match=r"Expected floats in \[0, 1\]. Received values from .* to 25"):
        natural((small, 255 * context))


def test_losses_of_layers_count(networks, random):
    images = random.random((2, 16, 16, 3), dtype="float32")
    for network in networks[:2]:
        before = network.test_on_batch(images, images, return_dict=True)["loss"]
        kernel = networks[1].shallow.kernel
        kernel.regularizer = keras.regularizers.L2(1.0)
        extra = float(np.square(kernel).sum())
        assert network.test_on_batch(images, images, return_dict=True)["loss"] == pytest.approx(before + extra, rel=1e-4)
        assert extra > 0.1
        kernel.regularizer = None


def test_a_frozen_network_stays_frozen_in_a_file(networks, random, tmp_path):
    images = random.random((2, 16, 16, 3), dtype="float32")
    for model in (networks[0], networks[3]):
        model.decom_net.trainable = False
        model.compile(keras.optimizers.Adam(0.1), run_eagerly=True)
        model.fit(images, images, verbose=0)
        model.save(tmp_path / "frozen.keras")
        loaded = keras.models.load_model(tmp_path / "frozen.keras")
        assert len(loaded.trainable_variables) == len(model.trainable_variables) == len(model.enhance_net.trainable_variables)
        before = loaded.decom_net.get_weights()
        loaded.fit(images, images, verbose=0)
        assert all(map(np.array_equal, before, loaded.decom_net.get_weights()))


def test_the_running_mean_is_what_is_scored_and_what_stays(networks, random):
    images = random.random((4, 16, 16, 3), dtype="float32")
    natural = networks[3]
    optimizer, epochs = keras.optimizers.AdamW(0.03, use_ema=True, ema_momentum=0.9), []
    natural.compile(optimizer, run_eagerly=True)
    start = natural.get_weights()
    natural.fit(images, images, epochs=1, initial_epoch=1, verbose=0)  # no step at all
    assert all(map(np.array_equal, start, natural.get_weights()))
    seen = keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: epochs.append(epoch))
    history = natural.fit(images, images, 2, 2, 0, [seen], validation_data=(images, images)).history
    assert epochs == [0, 1]
    scores = natural.evaluate(images, images, verbose=0, return_dict=True)
    assert scores["psnr"] == pytest.approx(history["val_psnr"][-1], abs=0.01)
    assert scores["loss"] == pytest.approx(history["val_loss"][-1], rel=1e-4)
    means = [np.asarray(mean) for mean in optimizer._model_variables_moving_average]
    assert all(map(np.array_equal, means, natural.get_weights()))


def test_a_stop_in_a_validation_leaves_weights_and_their_mean_in_their_places(random):
    images, optimizer = random.random((4, 16, 16, 3), dtype="float32"), keras.optimizers.AdamW(0.03, use_ema=True)

    def stop(logs):
        raise KeyboardInterrupt

    model = SimpleCNN(2, 2)
    model.build((None, None, None, 3))
    model.compile(optimizer, run_eagerly=True)
    start = model.get_weights()
    stopping = keras.callbacks.LambdaCallback()
    stopping.on_test_begin = stop
    with pytest.raises(KeyboardInterrupt):
        model.fit(images, images, 1, validation_data=(images, images), callbacks=[stopping], verbose=0)
    mean, weight = np.asarray(optimizer._model_variables_moving_average[0]), model.get_weights()[0]
    assert np.abs(mean - start[0]).mean() < 0.6 * np.abs(weight - start[0]).mean()  # the mean stays behind


@pytest.mark.parametrize("name", ["loss", "psnr", "ssim"])
def test_a_term_cannot_have_the_name_of_a_score(name):
    class Own(SimpleCNN):
        term_weights = {"l1": 1.0, name: 1.0}

    with pytest.raises(ValueError, match=f"Own.term_weights names {name}, which is shown beside the terms"):
        Own(2)


def test_a_subclass_with_a_layer_of_its_own_comes_back(random, tmp_path):
    @keras.saving.register_keras_serializable("tests")
    class Wider(NaturalRetinexNet):
        def __init__(self, **kwargs):
            super().__init__(**kwargs)
            self.extra = keras.layers.Conv2D(3, 1)

        def build(self, shape):
            super().build(shape)
            self.extra.build((None, None, None, 3))

    model = Wider(decom_net=NaturalDecomNet(4, 1), enhance_net=NaturalEnhanceNet((4, 6), 1, 4))
    model.build((None, None, None, 3))
    model.save(tmp_path / "wider.keras")
    loaded = keras.models.load_model(tmp_path / "wider.keras")
    assert all(map(np.array_equal, model.get_weights(), loaded.get_weights()))
    assert len(loaded.extra.get_weights()) == 2


def test_a_context_is_taken_by_models_that_need_none(random):
    images, context = random.random((2, 16, 16, 3), dtype="float32"), random.random((2, 128, 128, 3), dtype="float32")
    for model in (RetinexNet(DecomNet(4, 1), EnhanceNet(4)), SimpleCNN(4, 2)):
        model.compile(run_eagerly=True)
        history = model.fit((images, context), images, verbose=0).history
        assert np.isfinite(history["loss"]).all()
        np.testing.assert_array_equal(model((images, context))["enhanced"], model(images)["enhanced"])
    decom_net = DecomNet(4, 1)
    decom_net.compile(run_eagerly=True)
    for given in (images, (images, context)):
        assert decom_net.evaluate(given, images, verbose=0)[0] == pytest.approx(
            decom_net.evaluate(images, images, verbose=0)[0]
        )


def test_the_plain_cnn_trains_in_half_precision(random):
    images = random.random((2, 16, 16, 3), dtype="float32")
    model = SimpleCNN(4, 2, dtype="mixed_float16")
    model.compile(run_eagerly=True)
    assert np.isfinite(model.fit(images, images, verbose=0).history["loss"]).all()


@keras.saving.register_keras_serializable("tests")
class Mine(NaturalRetinexNet):
    pass


def test_a_class_of_a_users_own_comes_back_as_such(tmp_path):
    model = Mine(NaturalDecomNet(4, 1), NaturalEnhanceNet((4, 8), 1, 4))
    model.build((None, None, None, 3))
    model.save(tmp_path / "mine.keras")
    assert type(load_pretrained(tmp_path / "mine.keras")) is Mine


def test_an_empty_batch_and_a_wrong_model_are_refused(tiny):
    with pytest.raises(ValueError, match=r"shape \(0, 4, 4, 3\)"):
        enhance(np.zeros((0, 4, 4, 3), "uint8"), tiny)
    with pytest.raises(ValueError, match="Received 5"):
        enhance(np.zeros((4, 4, 3), "uint8"), 5)


def test_a_model_loads_where_standard_error_is_closed():
    script = "import retinex_keras; retinex_keras.load_pretrained('simple')"
    result = subprocess.run(["sh", "-c", f'exec "{sys.executable}" -c "{script}" 2>&-'])
    assert result.returncode == 0
