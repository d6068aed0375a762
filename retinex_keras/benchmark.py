"""Speed on this machine: enhancing, the training steps, and what feeds them, next to the machine's own peak."""

import os
import resource
import statistics
import time

import keras
import numpy as np
import tensorflow as tf

from retinex_keras.data import training_patches
from retinex_keras.inference import enhance
from retinex_keras.models import DecomNet, EnhanceNet

SIZES = {"400x600": (400, 600), "1080p": (1080, 1920), "12 MP": (3000, 4000)}


def benchmark(model, sizes=("400x600", "1080p"), runs=5, training=True):
    """Measures and prints, a line at a time; medians after a warm-up, reading and writing of files left out.

    Args:
        model: a `RetinexNet`, for enhancing; the training steps are those of the original recipe's networks.
        sizes: names in `SIZES`.
        runs: measurements of each kind.
        training: whether the training steps and their data are measured too.

    Returns:
        The numbers as a dict, {what: value}.
    """
    results = {"sgemm GFLOP/s": 1e-9 * _sgemm_flops(runs)}
    threads = tf.config.threading.get_intra_op_parallelism_threads() or os.cpu_count()
    print(f"TensorFlow {tf.__version__}, Keras {keras.__version__}, {threads} threads, medians of {runs} runs")
    print(f"sgemm: {results['sgemm GFLOP/s']:.0f} GFLOP/s")
    for name in sizes:
        image = np.random.default_rng(0).random((*SIZES[name], 3), dtype="float32")
        seconds = _median_seconds(lambda image=image: enhance(image, model), runs)
        share = _flops(model, 400, 600) / 240_000 * image[..., 0].size / seconds / results["sgemm GFLOP/s"] * 1e-9
        results[f"{name} seconds"] = seconds
        print(f"enhance {name}: {seconds:.3f} s, {image[..., 0].size / seconds * 1e-6:.2f} megapixels/s, {share:.0%} of sgemm")
    if training:
        results |= _training_rates(runs)
        for name in ("data", "DecomNet", "EnhanceNet"):
            print(f"patches of 48x48 a second, {name}: {results[f'{name} patches/s']:.0f}")
    results["peak MiB"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"peak memory: {results['peak MiB']:.0f} MiB")
    return results


def _median_seconds(function, runs):
    function()
    times = []
    for _ in range(runs):
        start = time.perf_counter()
        function()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


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


def _training_rates(runs):
    """Patches a second of the pipeline alone and of a step of each network, on 400x600 images of noise."""
    images = [np.random.default_rng(i).integers(0, 256, (2, 400, 600, 3), dtype="uint8") for i in range(32)]
    patches = training_patches(images)
    iterator = iter(patches)
    rates = {"data patches/s": 1600 / _median_seconds(lambda: [next(iterator) for _ in range(100)], runs)}
    decom_net, enhance_net = DecomNet(), EnhanceNet()
    decom_net.compile()
    enhance_net.compile(decom_net=decom_net)
    for network in (decom_net, enhance_net):
        seconds = _median_seconds(lambda n=network: n.fit(patches, steps_per_epoch=5, shuffle=False, verbose=0), runs)
        rates[f"{type(network).__name__} patches/s"] = 80 / seconds
    return rates
