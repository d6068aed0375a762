import re
import shutil
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import seeded_weight

from retinex_keras.cli import main
from retinex_keras.recipes.paper import DecomNet, EnhanceNet, RetinexNet
from retinex_keras.recipes.tf1_checkpoint import convert_checkpoint

NAMES = {"decom": "DecomNet", "enhance": "RelightNet"}
PUBLISHED = Path(__file__).parents[2] / "shared" / "parity" / "tf1_checkpoint"


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Checkpoints as TensorFlow 1's Saver writes them, both with Adam's slots, Enhance-Net's with a stale Decom-Net too."""
    original = np.load(Path(__file__).with_name("retinexnet_tf1.npz"))
    shapes = {}
    for network, scope in ((DecomNet(), "DecomNet"), (EnhanceNet(), "RelightNet")):
        network.build((None, None, None, 3))
        names = [str(name) for name in original["names"] if name.startswith(scope)]
        shapes[scope] = {name: weight.shape for name, weight in zip(names, network.weights, strict=True)}
    folders = {}
    for key, scope in NAMES.items():
        folders[key] = tmp_path_factory.mktemp(key)
        with tf.Graph().as_default(), tf.compat.v1.Session() as session:

            def variable(name, value):
                return tf.compat.v1.get_variable(name, initializer=value, use_resource=False)

            for name, shape in shapes[scope].items():
                variable(name, seeded_weight(name, shape))
                for slot in ("Adam", "Adam_1"):
                    variable(f"{name}/{slot}", np.zeros(shape, "float32"))
            if key == "enhance":
                variable("DecomNet/conv2d/kernel", np.zeros((3, 3), "float32"))
                variable("beta1_power", np.float32(0.9))
            session.run(tf.compat.v1.global_variables_initializer())
            tf.compat.v1.train.Saver().save(session, str(folders[key] / "RetinexNet-tensorflow"))
    return folders


def test_both_folders_give_the_originals_outputs(folders, original, monkeypatch):
    monkeypatch.chdir(folders["decom"])
    model, notes = convert_checkpoint(**folders | {"decom": "."})
    output = model(original["odd_low"])["adjusted_illumination"]
    np.testing.assert_allclose(output, original["odd/I_delta"], rtol=0, atol=1e-5)
    assert "read 14 variables" in notes[0]
    assert "28 variables of the optimizer" in notes[1]
    assert "read 18 variables" in notes[2]
    assert "37 variables of the optimizer" in notes[3]
    assert "1 variables of other networks are left over: DecomNet/conv2d/kernel." in notes[4]


@pytest.mark.skipif(not PUBLISHED.is_dir(), reason="needs ../shared/parity, which is not part of the project")
def test_the_shared_checkpoints(original):
    model, _ = convert_checkpoint(PUBLISHED / "Decom", PUBLISHED / "Relight")
    output = model(original["wide_low"])["adjusted_illumination"]
    np.testing.assert_allclose(output, original["wide/I_delta"], rtol=0, atol=1e-5)


@pytest.mark.parametrize(("key", "network"), [("decom", DecomNet), ("enhance", EnhanceNet)])
def test_one_folder_gives_one_network(folders, tmp_path, capsys, key, network):
    assert main(["convert", f"--{key}", str(folders[key]), str(tmp_path / "out.keras")]) == 0
    assert "none is missing" in capsys.readouterr().out
    loaded = keras.saving.load_model(tmp_path / "out.keras")
    assert type(loaded) is network
    first = {"decom": "DecomNet/shallow_feature_extraction/kernel", "enhance": "RelightNet/conv2d/kernel"}[key]
    np.testing.assert_array_equal(loaded.weights[0], seeded_weight(first, loaded.weights[0].shape))


def test_the_command_writes_a_retinexnet(folders, tmp_path, capsys):
    out = tmp_path / "out.keras"
    assert main(["convert", *(word for key in NAMES for word in (f"--{key}", str(folders[key]))), str(out)]) == 0
    assert capsys.readouterr().out.endswith(f"\nRetinexNet: {out}\n")
    assert isinstance(keras.saving.load_model(out), RetinexNet)


def test_a_stale_absolute_path_in_the_checkpoint_file(folders, tmp_path):
    """As in a folder that was copied from the machine that trained."""
    shutil.copytree(folders["decom"], tmp_path / "copy")
    (tmp_path / "copy" / "checkpoint").write_text('model_checkpoint_path: "/home/somebody/Decom/RetinexNet-tensorflow"\n')
    assert isinstance(convert_checkpoint(decom=tmp_path / "copy")[0], DecomNet)


def broken(folder, how):
    data, index = (next(folder.glob(f"*.{kind}*")) for kind in ("data", "index"))
    if how == "short data":
        data.write_bytes(data.read_bytes()[:100_000])
    elif how == "no data":
        data.unlink()
    elif how == "short index":
        index.write_bytes(index.read_bytes()[:200])
    elif how == "no index":
        index.unlink()


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("short data", "could not be read .*is the copy complete"),
        ("no data", "could not be read .*is the copy complete"),
        ("short index", "could not be read .*is the copy complete"),
        ("no index", "holds no TensorFlow checkpoint"),
    ],
)
def test_incomplete_files(folders, tmp_path, capsys, how, message):
    shutil.copytree(folders["decom"], tmp_path / "copy")
    broken(tmp_path / "copy", how)
    assert main(["convert", "--decom", str(tmp_path / "copy"), str(tmp_path / "out.keras")]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert re.search(message, error)
    assert not (tmp_path / "out.keras").exists()


def test_another_networks_checkpoint_and_wrong_folders(folders, tmp_path):
    with pytest.raises(ValueError, match="lacks 14 of the 14 variables of DecomNet: .*It holds .*RelightNet"):
        convert_checkpoint(decom=folders["enhance"])
    with pytest.raises(FileNotFoundError, match="no folder"):
        convert_checkpoint(decom=tmp_path / "nothing")
    with pytest.raises(FileNotFoundError, match="holds no TensorFlow checkpoint"):
        convert_checkpoint(decom=tmp_path)
    with pytest.raises(ValueError, match="nothing to convert"):
        convert_checkpoint()


def test_variables_of_another_shape(tmp_path):
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        for layer in ("shallow_feature_extraction", *(f"activated_layer_{i}" for i in range(5)), "recon_layer"):
            for kind in ("kernel", "bias"):
                tf.compat.v1.get_variable(f"DecomNet/{layer}/{kind}", initializer=np.zeros(3, "float32"), use_resource=False)
        session.run(tf.compat.v1.global_variables_initializer())
        tf.compat.v1.train.Saver().save(session, str(tmp_path / "model"))
    with pytest.raises(ValueError, match=r"of shape \(3,\). Expected \(9, 9, 4, 64\)"):
        convert_checkpoint(decom=tmp_path)


def test_the_output_must_be_a_keras_file(folders, tmp_path, capsys):
    assert main(["convert", "--decom", str(folders["decom"]), str(tmp_path / "out.h5")]) == 2
    assert "out.keras" in capsys.readouterr().err
