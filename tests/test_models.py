"""The networks against the original's TensorFlow 1 graph (retinexnet_tf1.npz), and as Keras models."""

import importlib.util
import os
import subprocess
import sys
import zlib

import keras
import numpy as np
import pytest
import tensorflow as tf

from retinex_keras.networks.layers import enlarge
from retinex_keras.recipes.natural import NaturalDecomNet, NaturalEnhanceNet, NaturalRetinexNet
from retinex_keras.recipes.paper import DecomNet, EnhanceNet, RetinexNet, decomposition_terms, fuse_levels


def direction(name, shape):
    return np.random.RandomState(zlib.crc32(f"direction/{name}".encode())).randn(*shape)


def compiled(model, **options):
    """The two networks of a model, compiled as the original trains them."""
    decom_net, enhance_net = model.decom_net, model.enhance_net
    decom_net.compile(keras.optimizers.Adam(1e-3, epsilon=1e-8), **options)
    enhance_net.compile(keras.optimizers.Adam(1e-3, epsilon=1e-8), decom_net=decom_net, **options)
    return decom_net, enhance_net


def fit(model, low, high, epochs=1):
    return model.fit(low, high, batch_size=len(low), epochs=epochs, shuffle=False, verbose=0).history


def test_parameters_are_the_originals(seeded):
    assert seeded.decom_net.count_params() == 207_748
    assert seeded.enhance_net.count_params() == 236_865
    assert seeded.count_params() == 444_613


@pytest.mark.parametrize("size", ["even", "odd", "wide", "tile"])
def test_outputs_are_the_originals(seeded, original, size):
    parts = seeded(original[f"{size}_low"])
    product = parts["reflectance"] * parts["adjusted_illumination"]
    outputs = {"R": parts["reflectance"], "I": parts["illumination"], "I_delta": parts["adjusted_illumination"], "S": product}
    for name, output in outputs.items():
        np.testing.assert_allclose(output, original[f"{size}/{name}"], rtol=0, atol=1e-5, err_msg=name)
    np.testing.assert_array_equal(parts["enhanced"], np.clip(product, 0, 1))


@pytest.mark.parametrize("phase", ["DecomNet", "RelightNet"])
def test_gradients_are_the_originals(seeded, original, phase):
    model = dict(zip(("DecomNet", "RelightNet"), compiled(seeded)))[phase]
    with tf.GradientTape() as tape:
        inputs = model.inputs(original["even_low"], original["even_high"])
        loss = model.compute_loss(inputs, original["even_high"], model(inputs))
    names = [str(name) for name in original["names"] if name.startswith(phase)]
    gradients = tape.gradient(loss, model.trainable_variables)
    for name, gradient in zip(names, gradients, strict=True):
        gradient = np.asarray(gradient, "float64")
        norm, along = original[f"grad_norm/{name}"], original[f"grad_along/{name}"]
        np.testing.assert_allclose(np.linalg.norm(gradient), norm, rtol=1e-4, err_msg=name)
        np.testing.assert_allclose((gradient * direction(name, gradient.shape)).sum(), along, rtol=1e-4, err_msg=name)


@pytest.mark.parametrize("phase", ["decom", "relight"])
def test_adam_steps_by_fit_are_the_originals(seeded, original, phase):
    model = dict(zip(("decom", "relight"), compiled(seeded)))[phase]
    losses = fit(model, original["even_low"], original["even_high"], epochs=5)["loss"]
    np.testing.assert_allclose(losses, original[f"adam/{phase}/losses"][:5], rtol=1e-3)


def test_enlarging_follows_tensorflow_1_at_every_size(random):
    """The kernel's rule in NumPy; at 198 from 50 exact division would give another index."""
    for size in (1, 2, 3, 5, 17, 70, 198, 230, 1001):
        for coarse in {-(-size // 2), -(-size // 4)}:
            x = random.random((1, coarse, coarse, 2), dtype="float32")
            index = np.floor(np.arange(size, dtype="float32") * (np.float32(coarse) / np.float32(size))).astype(int)
            np.testing.assert_array_equal(enlarge(x, (size, size)), x[:, index][:, :, index])


@pytest.mark.parametrize("size", [(16, 24), (13, 17), (1, 3)])
def test_the_end_of_enhance_net_is_its_two_convolutions_in_plain_order(random, size):
    """The oracle: the levels enlarged and concatenated, a 1x1 convolution, then a 3x3 one."""
    sides = [[-(-side // step) for side in size] for step in (4, 2, 1)]
    levels = [random.standard_normal((2, *side, 5)).astype("float32") for side in sides]
    fusion, last = keras.layers.Conv2D(5, 1), keras.layers.Conv2D(1, 3, padding="same")
    fusion.build((None, None, None, 15)), last.build((None, None, None, 5))
    for layer in (fusion, last):
        layer.bias.assign(random.standard_normal(layer.bias.shape))
    plain = last(fusion(np.concatenate([enlarge(level, size) for level in levels], axis=-1)))
    np.testing.assert_allclose(fuse_levels(levels, fusion, last), plain, rtol=0, atol=1e-5)


@pytest.mark.parametrize(("policy", "jit_compile"), [("mixed_float16", False), ("mixed_bfloat16", True)])
def test_fit_in_graph_and_xla_at_any_precision(random, policy, jit_compile):
    keras.utils.set_random_seed(0)  # of a few filters all may be dead
    low, high = (random.random((2, 13, 17, 3), dtype="float32") for _ in range(2))
    model = RetinexNet(DecomNet(4, 1, dtype=policy), EnhanceNet(4, dtype=policy), dtype=policy)
    model.build((None, None, None, 3))
    for network in (*compiled(model, jit_compile=jit_compile), model):
        if network is model:
            model.compile(keras.optimizers.Adam(1e-3), jit_compile=jit_compile)
        before = network.get_weights()
        history = fit(network, low, high, epochs=8)  # in float16, steps are left out until the loss scale fits
        assert np.isfinite(history["loss"]).all()
        assert len(before) > 0
        assert not any(map(np.array_equal, before, network.get_weights()))
    assert {output.dtype for output in model(low).values()} == {tf.float32}
    assert model.decom_net.activated[0].compute_dtype == keras.DTypePolicy(policy).compute_dtype


@pytest.mark.parametrize("shape", [(1, 1, 1), (3, 2, 9)])
def test_any_size_and_batch_trains(random, tiny, shape):
    low, high = (random.random((*shape, 3), dtype="float32") for _ in range(2))
    tiny.compile(keras.optimizers.Adam(1e-3), jit_compile=False)
    history = fit(tiny, low, high)
    assert {"loss", "recon_low", "equal_r", "smooth_high", "relight", "smooth_adjusted"} <= set(history)
    assert {name: output.shape[1:3] for name, output in tiny(low).items()} == dict.fromkeys(tiny(low), shape[1:])


def test_enhance_net_leaves_decom_net_alone(random, tiny):
    low, high = (random.random((2, 16, 16, 3), dtype="float32") for _ in range(2))
    decom_net, enhance_net = compiled(tiny, run_eagerly=True)
    before = decom_net.get_weights()
    fit(enhance_net, low, high)
    assert all(map(np.array_equal, before, decom_net.get_weights()))
    assert len(enhance_net.weights) == 18  # its own: Decom-Net's are not among them


def test_the_default_optimizer_is_the_originals(tiny):
    tiny.compile()
    assert tiny.optimizer.epsilon == 1e-8
    assert float(tiny.optimizer.learning_rate) == pytest.approx(1e-3)


def test_a_term_is_left_out_by_its_weight(random):
    low, high = random.random((2, 2, 8, 8, 3)).astype("float32")
    net = DecomNet(4, 1)
    net.compile(loss_weights={"equal_r": 0, "smooth_low": 2})
    terms = decomposition_terms(low, high, *net((low, high)))
    total = net.compute_loss((low, high), high, net((low, high)))
    weights = {"recon_low": 1, "recon_high": 1, "recon_mutual_low": 0.001, "recon_mutual_high": 0.001}
    weights |= {"smooth_low": 2, "smooth_high": 0.1}
    assert float(total) == pytest.approx(sum(weight * float(terms[name]) for name, weight in weights.items()))
    with pytest.raises(ValueError, match="terms of the loss are .*equal_r"):
        net.compile(loss_weights={"equal": 0})


def test_enhance_net_without_decom_net_says_so():
    with pytest.raises(ValueError, match="Received decom_net=None"):
        EnhanceNet(4).compile("adam")


def test_evaluate_gives_scores_of_the_rounded_result(random, tiny):
    low, high = (random.random((3, 16, 16, 3), dtype="float32") for _ in range(2))
    for network in (*compiled(tiny, run_eagerly=True), tiny):
        if network is tiny:
            tiny.compile(run_eagerly=True)
        scores = network.evaluate(low, high, batch_size=2, return_dict=True, verbose=0)
    rounded = np.round(np.asarray(tiny(low)["enhanced"]) * 255) / 255
    per_image = -10 * np.log10(np.mean((rounded - high) ** 2, axis=(1, 2, 3)))
    np.testing.assert_allclose(scores["psnr"], per_image.mean(), rtol=1e-5)
    assert -1 <= scores["ssim"] <= 1


def test_saved_and_loaded_is_the_same_to_the_bit(tmp_path, random, tiny):
    image = random.random((1, 19, 23, 3), dtype="float32")
    fit(compiled(tiny, run_eagerly=True)[0], image, image)
    for model in (tiny, tiny.decom_net):
        model.save(tmp_path / "model.keras")
        loaded = keras.saving.load_model(tmp_path / "model.keras")
        assert type(loaded) is type(model)
        for before, after in zip(tf.nest.flatten(model(image)), tf.nest.flatten(loaded(image)), strict=True):
            np.testing.assert_array_equal(before, after)


@pytest.mark.skipif(importlib.util.find_spec("jax") is None, reason="JAX is not installed")
def test_networks_and_losses_on_the_jax_backend(original, tmp_path):
    """In a process of its own, since the backend is chosen at import; no TensorFlow is imported there."""
    script = f"""
import sys
sys.modules["tensorflow"] = None
sys.path.insert(0, {os.path.dirname(__file__)!r})
import numpy as np
from retinex_keras.networks import losses
from retinex_keras.recipes.paper import DecomNet, EnhanceNet, RetinexNet
from conftest import seeded_weight
original = np.load({os.path.join(os.path.dirname(__file__), "retinexnet_tf1.npz")!r})
model = RetinexNet()
model.build((None, None, None, 3))
for name, variable in zip(original["names"], model.weights, strict=True):
    variable.assign(seeded_weight(str(name), variable.shape))
for size in ("even", "odd"):
    low, high = original[size + "_low"], original[size + "_high"]
    parts = model(low)
    np.testing.assert_allclose(parts["adjusted_illumination"], original[size + "/I_delta"], rtol=0, atol=1e-5)
    loss = model.compute_loss(low, high, parts)
    expected = original[size + "/loss/loss_Decom"] + original[size + "/loss/loss_Relight"]
    np.testing.assert_allclose(loss, expected, rtol=1e-5)
"""
    environment = os.environ | {"KERAS_BACKEND": "jax"}
    result = subprocess.run([sys.executable, "-c", script], env=environment, cwd=tmp_path, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr


@pytest.mark.skipif(importlib.util.find_spec("jax") is None, reason="JAX is not installed")
@pytest.mark.parametrize("recipe", ["paper", "natural", "phases"])
def test_a_step_on_jax_equals_one_on_tensorflow(recipe, tmp_path):
    """Loss and gradients, the latter as what plain descent changes."""
    script = """
import sys
if sys.argv[3] == "jax":
    sys.modules["tensorflow"] = None
import keras
import numpy as np
from retinex_keras.inference import load_pretrained
folder, recipe, backend = sys.argv[1:]
model = load_pretrained(folder + "/model.keras")
data = np.load(folder + "/data.npz")
results = {}
low = (data["low"], data["context"]) if recipe == "natural" else data["low"]
networks = [(model, {})]
if recipe == "phases":
    networks = [(model.decom_net, {}), (model.enhance_net, {"decom_net": model.decom_net})]
for network, options in networks:
    network.compile(keras.optimizers.SGD(1.0), **options)
    logs = network.fit(low, data["high"], batch_size=2, verbose=0).history
    results |= {name: value[0] for name, value in logs.items()}
    results |= {f"weight {i}": value for i, value in enumerate(model.get_weights())}
    logs = network.evaluate(low, data["high"], batch_size=2, verbose=0, return_dict=True)
    results |= {f"val {name}": value for name, value in logs.items()}
np.savez(f"{folder}/{backend}.npz", **results)
model = load_pretrained(folder + "/model.keras")
model.compile(keras.optimizers.Adam(use_ema=True))
def stop(batch, logs=None):
    raise KeyboardInterrupt
for callbacks in ([], [keras.callbacks.LambdaCallback(on_train_batch_end=stop)], []):  # each fit goes on from the one before
    before = model.get_weights()
    try:
        model.fit(low, data["high"], batch_size=2, verbose=0, callbacks=callbacks)
    except KeyboardInterrupt:
        assert callbacks
    assert all(np.isfinite(weights).all() for weights in model.get_weights())
    assert any((old != new).any() for old, new in zip(before, model.get_weights()))
"""
    rng = np.random.default_rng(0)
    natural = NaturalRetinexNet(NaturalDecomNet(4, 1), NaturalEnhanceNet((4, 8), 1, 4))
    model = natural if recipe == "natural" else RetinexNet(DecomNet(4), EnhanceNet(4))
    model.build((None, None, None, 3))
    model.set_weights([rng.normal(0, 0.1, weight.shape) for weight in model.get_weights()])
    model.save(tmp_path / "model.keras")
    high, context = rng.random((2, 24, 24, 3), "float32"), rng.random((2, 128, 128, 3), "float32")
    np.savez(tmp_path / "data.npz", low=0.2 * high, high=high, context=context)
    for backend in ("tensorflow", "jax"):
        command = [sys.executable, "-c", script, tmp_path, recipe, backend]
        result = subprocess.run(command, env=os.environ | {"KERAS_BACKEND": backend}, capture_output=True, text=True)
        assert result.returncode == 0, result.stderr
    expected, actual = np.load(tmp_path / "tensorflow.npz"), np.load(tmp_path / "jax.npz")
    assert set(expected) == set(actual)
    assert {"loss", "weight 0", "val psnr"} <= set(actual)
    for name in expected:
        np.testing.assert_allclose(actual[name], expected[name], rtol=1e-4, atol=1e-5, err_msg=name)
