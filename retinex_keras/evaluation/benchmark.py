"""Speed on this machine: enhancing, the training steps, and what feeds them, next to the machine's own peak."""

import os
import resource
import statistics
import sys
import tempfile
import timeit
from importlib.util import find_spec
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from retinex_keras.data.pipeline import training_patches
from retinex_keras.inference import enhance
from retinex_keras.networks.base import make_variables
from retinex_keras.onnx_model import OnnxModel
from retinex_keras.serving.export import export_onnx
from retinex_keras.training.run import Settings

SIZES = {"600x400": (400, 600), "1080p": (1080, 1920), "12 MP": (3000, 4000)}


def benchmark(models: dict, recipes: list = (), sizes: list = tuple(SIZES), runs: int = 5) -> dict:
    """Measures and prints, a line at a time; medians after a warm-up, reading and writing of files left out.

    Where ONNX Runtime and tf2onnx are installed, it is measured too.

    Args:
        models: {name: model}, for enhancing.
        recipes: from `find_recipe`, for training new networks.
        sizes: names in `SIZES`.
        runs: measurements of each kind.

    Returns:
        The numbers as a dict, {what: value}.
    """
    if unknown := [size for size in sizes if size not in SIZES]:
        raise ValueError(f"There is no size {unknown[0]!r}; use {', '.join(SIZES)}.")
    results = {"sgemm GFLOP/s": 1e-9 * _sgemm_flops(runs)}
    threads = tf.config.threading.get_intra_op_parallelism_threads() or os.cpu_count()
    print(f"TensorFlow {tf.__version__}, Keras {keras.__version__}, {threads} threads, medians of {runs} runs")
    print(f"sgemm: {results['sgemm GFLOP/s']:.0f} GFLOP/s")
    largest = max(sizes, key=SIZES.get)
    for model in models.values():  # before anything is computed in one piece
        enhance(np.zeros((*SIZES[largest], 3), "float32"), model)
    results["peak MiB"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)
    print(f"peak memory with {largest}: {results['peak MiB']:.0f} MiB")
    has_onnx = find_spec("onnxruntime") and find_spec("tf2onnx")
    onnx_models = {name: _in_onnx_runtime(model) for name, model in models.items() if has_onnx}
    for size in sizes:
        image = np.random.default_rng(0).random((*SIZES[size], 3), dtype="float32")
        pixels = image[..., 0].size
        for name, model in models.items():
            seconds = _median_seconds(lambda model=model, image=image: enhance(image, model), runs)
            share = _flops(model, 400, 600) / 240_000 * pixels / seconds / results["sgemm GFLOP/s"] * 1e-9
            results[f"{name} {size} seconds"] = seconds
            line = f"{name}, {size}: {seconds:.3f} s, {pixels / seconds * 1e-6:.2f} megapixels/s, {share:.0%} of sgemm"
            if size != "12 MP":  # in one piece it would take many times the memory
                graph = tf.function(lambda x, model=model: model(x)["enhanced"])
                whole = _median_seconds(lambda graph=graph, image=image: graph(image[None]).numpy(), runs)
                line += f", {seconds / whole:.2f} times the bare graph"
            if name in onnx_models:
                seconds = _median_seconds(lambda model=onnx_models[name], image=image: enhance(image, model), runs)
                results[f"{name} {size} ONNX seconds"] = seconds
                line += f", ONNX Runtime {seconds:.3f} s"
            print(line)
    rates = _training_rates(recipes, runs)
    for name, value in rates.items():
        print(f"{name}: {value:.0f}")
    return results | rates


def _in_onnx_runtime(model):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "model.onnx")
        export_onnx(model, path)
        return OnnxModel(path)


def _median_seconds(function, runs):
    function()
    return statistics.median(timeit.repeat(function, number=1, repeat=runs))


def _sgemm_flops(runs, size=2048):
    """Floating-point operations a second of a large float32 matrix product."""
    matrix = tf.random.stateless_normal((size, size), (0, 0))
    return 2 * size**3 / _median_seconds(lambda: tf.matmul(matrix, matrix).numpy(), runs)


def _flops(model, height, width):
    """Floating-point operations of the model on one image, two a multiply-add."""
    signature = tf.TensorSpec((1, height, width, 3))
    graph = tf.function(model).get_concrete_function(signature).graph
    tf.get_logger().setLevel("ERROR")  # the profiler tells at each use that it is TensorFlow 1's; there is no newer one
    profiler = tf.compat.v1.profiler
    options = profiler.ProfileOptionBuilder(profiler.ProfileOptionBuilder.float_operation()).with_empty_output().build()
    return profiler.profile(graph, options=options).total_float_ops


def _training_rates(recipes, runs):
    """Patches a second of each recipe: of its data pipeline alone, and of its training steps, on images of noise."""
    rates = {}
    for recipe in recipes:
        model = recipe.build(recipe.defaults["filters"], 0)
        size, count = recipe.defaults["patch_size"], recipe.defaults["batch_size"]
        shape = 2, max(400, size), max(600, size), 3
        images = [np.random.default_rng(i).integers(0, 256, shape, dtype="uint8") for i in range(max(32, count))]
        patches = training_patches(images, size, count, view=recipe.view)
        iterator = iter(patches)
        seconds = _median_seconds(lambda: [next(iterator) for _ in range(20)], runs)  # noqa: B023, called at once
        rates[f"{recipe.name}, data, {size}x{size} patches/s"] = 20 * count / seconds
        for phase in recipe.phases:
            network = phase.network(model)
            phase.compile(model, Settings.of(recipe))
            make_variables(network)
            options = {"steps_per_epoch": 3, "shuffle": False, "verbose": 0}
            seconds = _median_seconds(lambda: network.fit(patches, **options), runs)  # noqa: B023
            rates[f"{recipe.name}, {type(network).__name__}, {size}x{size} patches/s"] = 3 * count / seconds
    return rates
