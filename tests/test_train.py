import csv
import dataclasses
import functools
import json
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import keras
import numpy as np
import pytest

from retinex_keras.cli import main
from retinex_keras.data.pairs import load_pairs
from retinex_keras.folders.plan import Place
from retinex_keras.imaging.read import read_image
from retinex_keras.inference import load_pretrained
from retinex_keras.recipes import find_recipe
from retinex_keras.training.run import OneProcess, train_retinexnet
from retinex_keras.training.state import RunState, Samples, check_same_run

TINY = {"recipe": "paper", "epochs": 4, "batch_size": 4, "patch_size": 16, "filters": 4, "every": 2, "verbose": 0}
QUICK = TINY | {"recipe": "simple", "epochs": 1}
COMMAND = ["--recipe=paper", "--epochs=6", "--batch-size=4", "--patch-size=16", "--filters=4", "--every=2"]


def log(run, phase):
    """The log of a phase, a dict an epoch, without the time."""
    with open(run / f"{phase}.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    return [{key: float(value or "nan") for key, value in row.items() if key != "seconds"} for row in rows]


def epochs_done(run, phase):
    """The epochs that the state of a phase holds, 0 without one."""
    return max((int(path.name.split("-")[1].split(".")[0]) for path in run.glob(f"{phase}-*.weights.h5")), default=0)


@pytest.fixture
def pairs(make_pairs):
    return make_pairs("pairs", count=9)


def test_a_killed_run_ends_where_an_uninterrupted_one_does(pairs, tmp_path, capsys):
    """A real process is killed in either phase and between them, and started again with the same command."""
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    train_retinexnet(pairs, whole, **TINY | {"epochs": 6})
    arguments = ["train", str(pairs), "--out", str(killed), *COMMAND]
    command = [sys.executable, "-m", "retinex_keras.cli", *arguments]
    for phase, epoch, delay in (("decom", 1, 0.03), ("decom", 6, 0.0), ("enhance", 2, 0.03)):
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        while process.poll() is None and epochs_done(killed, phase) < epoch:
            time.sleep(0.001)
        time.sleep(delay)
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL, "the run ended before it was killed"
    (killed / ".retinex-12345678.part").mkdir()  # what a kill in the middle of a write leaves
    (killed / ".retinex-12345678.part" / "x.csv").write_text("half")
    (killed / "samples" / ".retinex-12345678.part").mkdir()
    (killed / ".my-notes").write_text("not ours")
    assert not (killed / "retinexnet.keras").exists()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)

    # The two are nearly always equal to the bit; now and then TensorFlow's sums differ in the last digit.
    for phase in ("decom", "enhance"):
        assert len(log(whole, phase)) == 6
        for expected, resumed in zip(log(whole, phase), log(killed, phase), strict=True):
            assert resumed == pytest.approx(expected, rel=1e-5)
    models = (load_pretrained(run / "retinexnet.keras").get_weights() for run in (whole, killed))
    for expected, resumed in zip(*models, strict=True):
        np.testing.assert_allclose(resumed, expected, rtol=1e-4, atol=1e-6)
    assert [path.name for path in killed.rglob(".*")] == [".my-notes"]
    shutil.rmtree(pairs)
    capsys.readouterr()
    assert main(arguments) == 0
    assert capsys.readouterr().out == f"This run is finished: {killed / 'retinexnet.keras'}\n"


def test_a_run_leaves_logs_samples_and_a_model_without_optimizer(pairs, tmp_path, make_pairs):
    run = tmp_path / "run"
    path = train_retinexnet(pairs, run, validation=make_pairs("validation", count=2), **TINY | {"every": 3})
    assert sorted(file.name for file in (run / "samples").iterdir()) == [
        f"{phase}-0000{epoch}.png" for phase in ("decom", "enhance") for epoch in (3, 4)
    ]
    rows = log(run, "enhance")
    assert [row["val_psnr"] > 0 for row in rows] == [False, False, True, True]
    assert [row["learning_rate"] for row in rows] == pytest.approx([1e-3, 1e-4, 1e-4, 1e-4])
    assert any((run / "logs" / "decom").rglob("events.out.tfevents.*"))
    assert not load_pretrained(path).decom_net.compiled
    assert path.stat().st_size < 1.5 * (run / "decom-00004.weights.h5").stat().st_size


def test_the_natural_recipe_killed_and_resumed_ends_where_an_uninterrupted_run_does(pairs, tmp_path, make_pairs, monkeypatch):
    validation = make_pairs("validation", count=1)
    options = TINY | {"recipe": "natural", "photos": pairs / "high", "validation": validation}
    folders = [pairs, make_pairs("more", count=2)]
    show = Samples.on_epoch_end

    def copy(self, epoch, logs=None):
        if epoch == 1:  # as a kill would leave it now, between two states
            shutil.copytree(tmp_path / "whole", tmp_path / "stopped")
        show(self, epoch, logs)

    with monkeypatch.context() as patched:
        patched.setattr(Samples, "on_epoch_end", copy)
        whole = train_retinexnet(folders, tmp_path / "whole", **options)
    stopped = train_retinexnet(folders, tmp_path / "stopped", **options)
    for expected, resumed in zip(log(whole.parent, "natural"), log(stopped.parent, "natural"), strict=True):
        assert resumed == pytest.approx(expected, rel=1e-4, nan_ok=True)
    stopped.unlink()  # as if it was killed before it wrote the model
    stopped = train_retinexnet(folders, tmp_path / "stopped", **options)
    for expected, resumed in zip(*(load_pretrained(path).get_weights() for path in (whole, stopped)), strict=True):
        np.testing.assert_allclose(resumed, expected, rtol=1e-3, atol=1e-5)
    assert [row["learning_rate"] for row in log(whole.parent, "natural")] == pytest.approx([1e-3, 7.525e-4, 2.575e-4, 1e-5])
    pictures = functools.partial(find_recipe("natural").phases[0].pictures, load_pretrained(whole))
    Samples(tmp_path / "final", {4}, load_pairs(validation), pictures).on_epoch_end(3)  # shown is what is scored and shipped
    expected = read_image(tmp_path / "final-00004.png")
    for run in (whole.parent, stopped.parent):
        shown = sorted((run / "samples").iterdir())
        assert [path.name for path in shown] == ["natural-00002.png", "natural-00004.png"]
        np.testing.assert_allclose(read_image(shown[1]).astype(int), expected, rtol=0, atol=1)


def test_weights_of_the_other_recipe_are_refused(pairs, tmp_path):
    with pytest.raises(ValueError, match="not of the recipe natural"):
        train_retinexnet(pairs, tmp_path / "run", recipe="natural", weights="paper")
    assert not (tmp_path / "run").exists()


def test_the_simple_recipe_learns_and_goes_on_from_its_weights(pairs, tmp_path, make_pairs, monkeypatch):
    options = TINY | {"recipe": "simple", "epochs": 30, "every": 30, "learning_rate": 0.01}
    first = train_retinexnet(pairs, tmp_path / "first", validation=make_pairs("validation", count=1), **options)
    losses = [row["loss"] for row in log(first.parent, "simple")]
    assert losses[-1] < 0.7 * losses[0]
    assert [path.name for path in (first.parent / "samples").iterdir()] == ["simple-00030.png"]
    options |= {"epochs": 1, "learning_rate": 1e-12, "filters": None}
    of_one_size = dataclasses.replace(find_recipe("simple"), refuses=("filters",))
    monkeypatch.setattr("retinex_keras.recipes.simple.of_one_size", of_one_size, raising=False)
    options["recipe"] = "retinex_keras.recipes.simple:of_one_size"
    second = train_retinexnet(pairs, tmp_path / "second", weights=first, **options)
    for before, after in zip(load_pretrained(first).get_weights(), load_pretrained(second).get_weights(), strict=True):
        np.testing.assert_allclose(after, before, rtol=0, atol=1e-6)
    with pytest.raises(ValueError, match="not of the recipe natural"):
        train_retinexnet(pairs, tmp_path / "third", weights=first)
    with pytest.raises(ValueError, match="has no filters; leave it out"):
        train_retinexnet(pairs, tmp_path / "third", **options | {"filters": 4})


def test_photos_alone_and_whole_images_from_weights(pairs, tmp_path, tiny):
    tiny.save(tmp_path / "tiny.keras")
    options = TINY | {"epochs": 1, "patch_size": None, "filters": None, "learning_rate": 1e-12}
    options["weights"] = tmp_path / "tiny.keras"
    path = train_retinexnet(None, tmp_path / "run", photos=pairs / "high", whole=True, **options)
    for before, after in zip(tiny.get_weights(), load_pretrained(path).get_weights(), strict=True):
        np.testing.assert_allclose(after, before, rtol=0, atol=1e-6)
    assert json.loads((tmp_path / "run" / "run.json").read_text())["settings"]["patch_size"] == 128


def test_a_second_run_in_the_same_folder_is_refused(pairs, tmp_path):
    pytest.importorskip("fcntl", reason="this system knows no locks")
    run = tmp_path / "run"
    with Place(None, str(run)).reserved(()), pytest.raises(OSError, match="Another run is writing to .*; wait for its end"):
        train_retinexnet(pairs, run, **QUICK)
    assert not list(run.glob("*.h5"))
    assert train_retinexnet(pairs, run, **QUICK).exists()
    assert not list(run.glob(".*"))


def test_the_other_workers_end_if_the_first_has_no_folder(pairs, tmp_path):
    class First(OneProcess):
        """The first of several workers; what it tells the others."""

        def __init__(self):
            self.told = []

        def agree(self, settings):
            self.told.append(settings)

    first = First()
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="run cannot be made .*name another folder"):
        train_retinexnet(pairs, tmp_path / "file" / "run", strategy=first, **TINY)
    assert first.told[0] == {"readable images": True}
    assert first.told[-1] == {"usable folder": False}
    with pytest.raises(FileNotFoundError, match="no folder"):
        train_retinexnet(tmp_path / "nothing", tmp_path / "run", strategy=first, **TINY)
    assert first.told[-1] == {"readable images": False}


def test_a_finished_run_is_not_trained_again_nor_by_other_settings_or_images(pairs, tmp_path, make_pairs, capsys):
    final = train_retinexnet(pairs, tmp_path / "run", **QUICK)
    before = final.stat().st_mtime_ns
    assert train_retinexnet(pairs, tmp_path / "run", **QUICK) == final
    assert final.stat().st_mtime_ns == before
    assert "finished" in capsys.readouterr().out
    with pytest.raises(ValueError, match="seed was 0 and is 1"):
        train_retinexnet(pairs, tmp_path / "run", **QUICK | {"seed": 1})
    final.unlink()
    others = make_pairs("others", count=9)
    (others / "high" / "scene.0.png").write_bytes((others / "low" / "scene.0.png").read_bytes())
    with pytest.raises(ValueError, match="fingerprint was .*use the same settings and images"):
        train_retinexnet(others, tmp_path / "run", **QUICK)
    (tmp_path / "run" / "run.json").write_text("{}")
    with pytest.raises(ValueError, match="not the note of a run"):
        train_retinexnet(pairs, tmp_path / "run", **QUICK)


@pytest.mark.parametrize(
    "note", ["[1]", '{"settings": []}', '{"settings": "seed"}', "{}", "null", "", "[" * 10**5, "\xff\xfe", None]
)
def test_what_is_no_note_of_a_run_is_one_sentence(tmp_path, note):
    if note is None:
        (tmp_path / "run.json").mkdir()
    else:
        (tmp_path / "run.json").write_text(note, "latin1")
    with pytest.raises(ValueError, match="run.json is not the note of a run; choose another folder for the run.$"):
        check_same_run(tmp_path, {"seed": 0})


def test_a_state_of_another_optimizer_is_refused(tmp_path):
    """Keras itself only warns, and leaves the optimizer as it is."""
    network = keras.Sequential([keras.layers.Input((1,)), keras.layers.Dense(1)])
    network.compile("adam")
    network.optimizer.build(network.trainable_variables)
    network.save_weights(tmp_path / "decom-00001.weights.h5")
    (tmp_path / "decom.csv").write_text("epoch,seconds\n0,1\n")
    assert RunState(tmp_path, "decom", network, True, print).epoch == 1
    network.compile("sgd")
    network.optimizer.build(network.trainable_variables)
    with pytest.raises(ValueError, match="are not the state of this run .*could not be loaded"):
        RunState(tmp_path, "decom", network, True, print)


@pytest.mark.parametrize(
    ("log", "message"),
    [
        ("", "0 of 2 epochs are in the log"),
        ("epoch,seconds\n", "0 of 2 epochs"),
        ("epoch,seconds\n0,1\n", "1 of 2 epochs"),
        ("epoch,seconds\n0\n1\n", "NoneType"),
        ("epoch\n0\n1\n", "seconds"),
        ("x" * 200_000, "field larger than"),
        (None, "No such file"),
    ],
)
def test_a_damaged_log_is_one_sentence(tmp_path, log, message):
    network = keras.Sequential([keras.layers.Input((1,)), keras.layers.Dense(1)])
    network.compile()
    network.save_weights(tmp_path / "decom-00002.weights.h5")
    if log is not None:
        (tmp_path / "decom.csv").write_text(log)
    with pytest.raises(ValueError, match=f"decom.csv are not the state of this run .*{message}.*; choose another folder.$"):
        RunState(tmp_path, "decom", network, True, print)
    (tmp_path / "decom-00002.weights.h5").write_bytes(b"")
    with pytest.raises(ValueError, match="are not the state of this run"):
        RunState(tmp_path, "decom", network, True, print)


@pytest.mark.parametrize(("name", "other"), [("tune", "tune-all"), ("fine-tune.2", "fine"), ("a[b]", "a")])
def test_a_phase_of_any_name_and_length_goes_on_from_its_own_last_state(tmp_path, name, other):
    network = keras.Sequential([keras.layers.Input((1,)), keras.layers.Dense(1)])
    network.compile()
    (tmp_path / f"{other}-00007.weights.h5").write_bytes(b"of another phase")
    (tmp_path / f"{name}.csv").write_text("seconds\n" + "1\n" * 99_999)
    network.save_weights(tmp_path / f"{name}-99999.weights.h5")
    state = RunState(tmp_path, name, network, True, print)
    state.set_model(network)
    state.on_train_begin()
    state.on_epoch_end(99_999, {"loss": 0.5})
    assert RunState(tmp_path, name, network, True, print).epoch == 100_000
    names = {path.name for path in tmp_path.glob("*.h5")}
    assert names == {f"{other}-00007.weights.h5", f"{name}-100000.weights.h5"}


def test_validation_images_too_small_for_ssim_are_found_before_training(pairs, tmp_path, make_pairs):
    with pytest.raises(ValueError, match="side of 8 pixels, too few for SSIM"):
        train_retinexnet(pairs, tmp_path / "run", validation=make_pairs("validation", 1, (8, 12)), **TINY)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"epochs": 0}, "at least 1"),
        ({"learning_rate": 0}, "above 0"),
        ({"seed": -1}, "from 0 to"),
        ({"decay_epoch": 0}, "decay_epoch is at least 1"),
        ({"weights": "paper"}, "leave it out"),
        ({"recipe": "retinex_keras.recipes.natural:lol", "photos": "photos"}, "recipe lol has no photos; leave it out"),
        ({"batch_size": 0}, "batch_size is at least 1"),
        ({"batch_size": 100}, "9 images give no batch of 100: use a batch_size from 1 to 9"),
        ({"patch_size": 100}, "patches of 100"),
        ({"weights": "nothing", "filters": None}, "no weights 'nothing'"),
    ],
)
def test_bad_settings_are_found_before_training(pairs, tmp_path, options, message):
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        train_retinexnet(pairs, tmp_path / "run", **TINY | options)
    assert not (tmp_path / "run").exists()


def test_a_bad_data_folder_leaves_no_run(pairs, tmp_path):
    shutil.rmtree(pairs / "low")
    with pytest.raises(FileNotFoundError, match="no folder"):
        train_retinexnet(pairs, tmp_path / "run", **TINY)
    assert not (tmp_path / "run").exists()


def test_a_loss_that_is_not_finite_stops_the_run_and_keeps_the_last_state(pairs, tmp_path):
    run = tmp_path / "run"
    train_retinexnet(pairs, run, **TINY | {"epochs": 1})
    state = run / "enhance-00001.weights.h5"
    good = state.read_bytes()
    (run / "retinexnet.keras").unlink()
    note = run / "run.json"
    note.write_text(
        re.sub(r'"(epochs)": 1', r'"\1": 4', note.read_text()).replace('"learning_rate": 0.001', '"learning_rate": 1e+38')
    )
    with pytest.raises(FloatingPointError, match="stopped being finite in epoch 2"):
        train_retinexnet(pairs, run, **TINY | {"epochs": 4, "learning_rate": 1e38, "decay_epoch": 1})
    assert state.read_bytes() == good
    assert {path.name for path in run.glob("*.weights.h5")} == {"decom-00001.weights.h5", "enhance-00001.weights.h5"}


def test_a_full_disk_stops_the_run_and_keeps_the_last_state(pairs, tmp_path):
    """The largest size of a file stands for it."""
    run, limits = tmp_path / "run", resource.getrlimit(resource.RLIMIT_FSIZE)

    class Full(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            if epoch == 1:
                resource.setrlimit(resource.RLIMIT_FSIZE, (2**19, limits[1]))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RunState, "on_epoch_begin", Full.on_epoch_begin)
        try:
            with pytest.raises(OSError, match=r"simple-00002\.weights\.h5 could not be written \(File too large\)"):
                train_retinexnet(pairs, run, **QUICK | {"epochs": 3})
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert [path.name for path in run.glob("*.h5")] == ["simple-00001.weights.h5"]
    assert train_retinexnet(pairs, run, **QUICK | {"epochs": 3}).exists()


def test_the_script_of_the_readme(pairs, tmp_path, monkeypatch):
    """Runs the guide's `fit` by hand as it stands, on a small folder and for one epoch."""
    guide = (Path(__file__).parents[1] / "retinex_keras" / "training" / "README.md").read_text()
    script = next(block for block in re.findall(r"```python\n(.*?)```", guide, re.DOTALL) if ".fit(" in block)
    assert len(script.strip().splitlines()) <= 15
    for number, small in (("100", "1"), ("16", "4"), ("48", "16")):
        script = re.sub(rf"\b{number}\b", small, script)
    monkeypatch.chdir(tmp_path)
    shutil.copytree(pairs, tmp_path / "LOL" / "our485")
    exec(compile(script, "README.md", "exec"), {})
    assert isinstance(keras.saving.load_model(tmp_path / "retinexnet.keras"), keras.Model)
    assert len(load_pairs(pairs)) == 9
