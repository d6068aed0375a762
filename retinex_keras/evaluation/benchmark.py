"""Speed on this machine: enhancing, the training steps, and what feeds them, next to the machine's own peak."""

import os
import resource
import statistics
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from retinex_keras.data.pipeline import training_patches
from retinex_keras.inference import enhance
from retinex_keras.recipes.natural import NaturalDecomNet, NaturalEnhanceNet
from retinex_keras.recipes.paper import DecomNet, EnhanceNet, RetinexNet
from retinex_keras.serving.export import export_onnx

SIZES = {"400x600": (400, 600), "1080p": (1080, 1920), "12 MP": (3000, 4000)}


def benchmark(models, sizes=tuple(SIZES), runs=5):
    """Measures and prints, a line at a time; medians after a warm-up, reading and writing of files left out.

    Where ONNX Runtime and tf2onnx are installed, it is measured too.

    Args:
        models: a dict of `RetinexNet`s by name, for enhancing; the training steps are those of new networks of both recipes.
        sizes: names in `SIZES`.
        runs: measurements of each kind.

    Returns:
        The numbers as a dict, {what: value}.
    """
    results = {"sgemm GFLOP/s": 1e-9 * _sgemm_flops(runs)}
    threads = tf.config.threading.get_intra_op_parallelism_threads() or os.cpu_count()
    print(f"TensorFlow {tf.__version__}, Keras {keras.__version__}, {threads} threads, medians of {runs} runs")
    print(f"sgemm: {results['sgemm GFLOP/s']:.0f} GFLOP/s")
    largest = max(sizes, key=SIZES.get)
    for model in models.values():  # before anything is computed in one piece
        enhance(np.zeros((*SIZES[largest], 3), "float32"), model)
    results["peak MiB"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"peak memory with {largest}: {results['peak MiB']:.0f} MiB")
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
                if find_spec("onnxruntime") and find_spec("tf2onnx"):
                    session = _onnx_session(model)
                    onnx = _median_seconds(lambda s=session, i=image: s.run(["enhanced"], {"image": i[None]}), runs)
                    results[f"{name} {size} ONNX seconds"] = onnx
                    line += f", ONNX Runtime {onnx:.3f} s"
            print(line)
    results |= _training_rates(runs)
    for name, value in results.items():
        if name.endswith("patches/s"):
            print(f"{name}: {value:.0f}")
    return results


def _onnx_session(model):
    import onnxruntime

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "model.onnx")
        export_onnx(model, path)
        return onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])


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
    """Patches a second of the pipeline alone and of the training steps of each recipe, on 400x600 images of noise."""
    images = [np.random.default_rng(i).integers(0, 256, (2, 400, 600, 3), dtype="uint8") for i in range(32)]
    patches = training_patches(images)
    iterator = iter(patches)
    rates = {"paper, data, 48x48 patches/s": 1600 / _median_seconds(lambda: [next(iterator) for _ in range(100)], runs)}
    decom_net, enhance_net, natural = DecomNet(), EnhanceNet(), RetinexNet(NaturalDecomNet(), NaturalEnhanceNet())
    decom_net.compile()
    enhance_net.compile(decom_net=decom_net)
    natural.compile()
    views = training_patches(images, 160, 8, context=True)
    for what, network, data, count in (
        ("paper, DecomNet, 48x48", decom_net, patches, 16),
        ("paper, EnhanceNet, 48x48", enhance_net, patches, 16),
        ("natural, 160x160", natural, views, 8),
    ):
        seconds = _median_seconds(lambda n=network, d=data: n.fit(d, steps_per_epoch=3, shuffle=False, verbose=0), runs)
        rates[f"{what} patches/s"] = 3 * count / seconds
    return rates
