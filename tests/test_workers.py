"""Training on several devices and machines: real processes on loopback, and two logical devices of one process."""

import csv
import itertools
import signal
import socket
import subprocess
import sys
import time
import types

import numpy as np
import pytest
import tensorflow as tf

from retinex_keras.cli import main
from retinex_keras.data.pipeline import training_patches
from retinex_keras.inference import load_pretrained
from retinex_keras.training import run as train
from retinex_keras.training.distribution import Workers
from retinex_keras.training.run import train_retinexnet

# The reader's own `fit` of the natural networks, alone and on two devices: nested elements, clipped gradients, validation.
FIT = """
import sys
import keras, numpy as np, tensorflow as tf
from retinex_keras import load_pairs, training_patches, whole_pairs
from retinex_keras.recipes.natural import NaturalDecomNet, NaturalEnhanceNet, NaturalRetinexNet
from retinex_keras.data.pipeline import training_view

cpu, pairs = tf.config.list_physical_devices("CPU")[0], load_pairs(sys.argv[1])
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
results = []
def scaled(optimizer):
    return keras.optimizers.LossScaleOptimizer(optimizer, 1024.0)  # as for float16; the optimizer that it wraps clips
mirrored = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
for strategy, wrap in ((tf.distribute.get_strategy(), lambda optimizer: optimizer), (mirrored, scaled)):
    keras.utils.set_random_seed(0)
    with strategy.scope():
        model = NaturalRetinexNet(NaturalDecomNet(4, 1), NaturalEnhanceNet((4, 6), 1, 4))
        model.build((None, None, None, 3))
        for i, variable in enumerate(model.trainable_variables):  # none is zero, so that each matters
            variable.assign(variable + 0.02 * np.random.default_rng(i).standard_normal(variable.shape))
        model.compile(wrap(keras.optimizers.SGD(1.0, global_clipnorm=0.1)))
    patches = training_patches(pairs, 16, 4, view=training_view)
    validation = whole_pairs(pairs[:2], strategy.num_replicas_in_sync)
    history = model.fit(patches, steps_per_epoch=2, epochs=1, validation_data=validation, shuffle=False, verbose=0)
    results.append((model.get_weights(), history.history))
(alone, scores), (shared, shared_scores) = results
for expected, weight in zip(alone, shared, strict=True):
    np.testing.assert_allclose(weight, expected, rtol=0, atol=1e-5)
assert set(scores) == set(shared_scores) and "val_psnr" in scores
for name in scores:
    np.testing.assert_allclose(shared_scores[name], scores[name], rtol=1e-5, atol=1e-6, err_msg=name)
"""


def test_fit_on_two_devices_is_fit_on_one(make_pairs):
    script = [sys.executable, "-c", FIT, make_pairs("pairs", count=9)]
    result = subprocess.run(script, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr


def log(run, phase):
    """The log of a phase, a dict an epoch, without the time."""
    with open(run / f"{phase}.csv", newline="") as file:
        return [{key: float(value or "nan") for key, value in row.items() if key != "seconds"} for row in csv.DictReader(file)]


def patches_of_workers(images, size, batch_size, seed, first_epoch, view, _, steps):
    """The global batches of two workers, in one process."""
    shares = []
    for worker in range(2):
        place = tf.distribute.InputContext(num_input_pipelines=2, input_pipeline_id=worker, num_replicas_in_sync=2)
        mine = images[worker::2]
        shares.append(training_patches(mine, size, batch_size, seed, first_epoch, view, place, steps))
    return tf.data.Dataset.zip(*shares).map(lambda *shares: tuple(tf.concat(sides, 0) for sides in zip(*shares)))


def start(command):
    """Two workers that run `retinex train`, on ports of loopback that are free."""
    listeners = [socket.create_server(("127.0.0.1", 0)) for _ in range(2)]
    workers = ",".join(f"127.0.0.1:{listener.getsockname()[1]}" for listener in listeners)
    for listener in listeners:
        listener.close()
    command = [sys.executable, "-m", "retinex_keras.cli", "train", *command, "--workers", workers]
    pipes = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "text": True}
    return [subprocess.Popen([*command, "--index", index], **pipes) for index in "01"]


def test_two_workers_of_which_one_is_killed_end_where_one_process_does(make_pairs, tmp_path, monkeypatch):
    pairs, validation, alone, run = make_pairs("pairs", 9), make_pairs("validation", 1), tmp_path / "alone", tmp_path / "run"
    options = {"epochs": 2, "batch_size": 4, "patch_size": 16, "filters": 4, "recipe": "paper", "verbose": 0}
    with monkeypatch.context() as patch:
        patch.setattr(train, "training_patches", patches_of_workers)
        train_retinexnet(pairs, alone, validation=validation, **options)

    command = [pairs, "--recipe", "paper", "--out", run, "--validation", validation]
    command += ["--epochs=2", "--batch-size=4", "--patch-size=16", "--filters=4"]
    first, second = start(command)
    while first.poll() is None and not list(run.glob("decom-*.weights.h5")):
        time.sleep(0.01)
    second.send_signal(signal.SIGKILL)
    first.communicate(timeout=120)
    second.communicate()
    assert first.returncode, "it went on alone"
    assert not (run / "retinexnet.keras").exists()
    for process in start(command):
        _, message = process.communicate()
        assert process.returncode == 0, message

    for phase in ("decom", "enhance"):
        for expected, row in zip(log(alone, phase), log(run, phase), strict=True):
            assert row == pytest.approx(expected, rel=1e-5, abs=1e-6, nan_ok=True)
    models = (load_pretrained(folder / "retinexnet.keras").get_weights() for folder in (alone, run))
    for expected, weight in zip(*models, strict=True):
        np.testing.assert_allclose(weight, expected, rtol=0, atol=1e-5)


def test_no_worker_waits_for_one_whose_files_are_bad(make_pairs, tmp_path):
    pairs = make_pairs("pairs")
    (pairs / "low" / "scene.1.png").write_bytes(b"junk")
    first, second = start([pairs, "--out", tmp_path / "run", "--batch-size=2", "--patch-size=16"])
    assert "differ in one of readable images" in first.communicate(timeout=120)[1]
    assert "scene.1.png is not an image" in second.communicate(timeout=120)[1]
    assert (first.returncode, second.returncode) == (2, 2)
    assert not (tmp_path / "run").exists()


def test_every_file_is_one_workers():
    def share(task_type, task_id, **jobs):
        cluster = tf.train.ClusterSpec({job: [f"host:{i}" for i in range(count)] for job, count in jobs.items()})
        resolver = tf.distribute.cluster_resolver.SimpleClusterResolver(cluster, task_type=task_type, task_id=task_id)
        return Workers.share.fget(types.SimpleNamespace(cluster_resolver=resolver))

    tasks = [("chief", 0), ("worker", 0), ("worker", 1)]
    parts = [range(10)[share(*task, chief=1, worker=2)] for task in tasks]
    assert sorted(itertools.chain(*parts)) == list(range(10))
    assert [part[0] for part in parts] == [0, 1, 2]
    assert list(range(5)[share("worker", 1, worker=2)]) == [1, 3]
    assert range(5)[share(None, None)] == range(5)  # no cluster
    with pytest.raises(ValueError, match="'evaluator'; those who train are chief or worker"):
        share("evaluator", 0, worker=1, evaluator=1)


def test_an_index_that_is_no_workers_is_refused(tmp_path, capsys):
    assert main(["train", "pairs", "--out", str(tmp_path), "--workers", "a:1,b:1", "--index", "2"]) == 2
    assert "which of the 2 workers this is, from 0. Received 2" in capsys.readouterr().err
