"""A recipe of a user's own is one module, which the commands take like those of the package."""

import dataclasses
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from retinex_keras.cli import main
from retinex_keras.imaging.read import read_image
from retinex_keras.inference import decompose, enhance, load_pretrained
from retinex_keras.recipes import find_recipe
from retinex_keras.training.run import train_retinexnet

GUIDE = Path(__file__).parents[1] / "retinex_keras" / "training" / "README.md"


def guide_module():
    """The module of the guide to a recipe of your own, with tiny defaults."""
    blocks = re.findall(r"```python\n(.*?)```", GUIDE.read_text(), re.DOTALL)
    (module,) = [block for block in blocks if "recipe = Recipe(" in block]
    small = {"batch_size": 4, "patch_size": 16, "filters": 4}
    for name, number in small.items():
        module, count = re.subn(rf'"{name}": \d+', f'"{name}": {number}', module)
        assert count == 1
    return module.replace("(1024, 1024)", "(64, 128)")


@pytest.fixture(scope="module")
def mine(tmp_path_factory):
    """A folder on Python's path with the module, and for other processes too."""
    folder = tmp_path_factory.mktemp("modules")
    (folder / "mine.py").write_text(guide_module())
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(folder))
        patch.setenv("PYTHONPATH", os.pathsep.join([str(folder), *sys.path]))
        yield folder


def test_the_commands_take_a_recipe_of_a_users_own(mine, make_pairs, tmp_path, monkeypatch, capsys, random):
    make_pairs("pairs", 5)
    make_pairs("other", 2)
    monkeypatch.chdir(tmp_path)
    train = ["train", "pairs", "--recipe", "mine:recipe", "--out", "run", "--validation", "other", "--every", "2"]
    assert main([*train, "--epochs", "2"]) == 0
    assert json.loads(Path("run/run.json").read_text())["settings"]["recipe"] == "gain"
    assert [path.name for path in Path("run/samples").iterdir()] == ["gain-00002.png"]
    Path("run/retinexnet.keras").rename("first.keras")
    assert main([*train, "--epochs", "2"]) == 0  # as if it was killed before it wrote the model
    assert Path("run/retinexnet.keras").read_bytes() != b""
    weights = ["--weights", "run/retinexnet.keras"]
    expected, again = (load_pretrained(path).get_weights() for path in ("first.keras", "run/retinexnet.keras"))
    for one, two in zip(expected, again, strict=True):
        np.testing.assert_array_equal(one, two)
    tuned = ["train", "pairs", "--recipe", "mine:recipe", "--out", "tuned", *weights, "--epochs", "1"]
    assert main(tuned) == 0

    capsys.readouterr()
    assert main(["evaluate", "other/low", "other/high", *weights]) == 0
    assert main(["compare", "other/low", "other/high", *weights, "--methods", "clahe"]) == 0
    assert main(["enhance", "other/low", "bright", *weights]) == 0
    assert main(["decompose", "other/low/scene.0.png", "parts", *weights]) == 0
    printed = capsys.readouterr().out
    assert "enhanced: 2 images into bright" in printed
    assert "gain: parts/scene.0_gain.png" in printed
    photo = read_image("other/low/scene.0.png")
    np.testing.assert_array_equal(read_image("bright/scene.0.png"), enhance(photo, "run/retinexnet.keras"))
    assert main(["enhance", "other/low/scene.0.png", "x.png", *weights, "--denoise", "1"]) == 2
    assert "take no strength of denoising" in capsys.readouterr().err


def test_its_tiles_are_exact_and_its_exports_give_the_same(mine, tmp_path, random):
    recipe = find_recipe("mine:recipe")
    model = recipe.build(4, 0)
    model.build((None, None, None, 3))
    model.save(tmp_path / "mine.keras")
    image = random.random((150, 301, 3), dtype="float32")
    bare = model(image[None])
    for tile in (None, 16, 64):
        for name, values in decompose(image, model, tile).items():
            np.testing.assert_allclose(values, bare[name][0], rtol=0, atol=1e-6, err_msg=f"{name}, tiles of {tile}")
    weights = ["--weights", str(tmp_path / "mine.keras")]
    assert main(["export", str(tmp_path / "served"), *weights]) == 0
    served = tf.saved_model.load(tmp_path / "served" / "1").signatures
    np.testing.assert_allclose(served["decompose"](image=image[None])["gain"], bare["gain"], rtol=1e-6)
    pixels = (255 * image).astype("uint8")
    png = served["serving_default"](image_bytes=tf.constant([tf.io.encode_png(pixels).numpy()]))["enhanced_bytes"][0]
    levels = np.abs(tf.io.decode_png(png).numpy().astype(int) - enhance(pixels, model))
    assert levels.max() <= 1
    assert np.mean(levels > 0) < 1e-4
    runtime = pytest.importorskip("onnxruntime")
    pytest.importorskip("tf2onnx")
    assert main(["export", str(tmp_path / "mine.onnx"), "--format", "onnx", *weights]) == 0
    session = runtime.InferenceSession(tmp_path / "mine.onnx")
    np.testing.assert_allclose(session.run(["gain"], {"image": image[None]})[0], bare["gain"], atol=1e-5)


def test_weights_find_their_module_in_another_process(mine, tmp_path):
    model = find_recipe("mine:recipe").build(4, 0)
    model.build((None, None, None, 3))
    model.save(tmp_path / "mine.keras")
    script = f"import retinex_keras; print(type(retinex_keras.load_pretrained({str(tmp_path / 'mine.keras')!r})).__module__)"
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert result.stdout == "mine\n", result.stderr
    lost = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=lost)
    assert "No module named 'mine'" in result.stderr


def test_weights_find_a_module_that_a_finder_of_its_own_imports(mine, tmp_path):
    """As that of a package which was installed to be edited in place."""
    model = find_recipe("mine:recipe").build(4, 0)
    model.build((None, None, None, 3))
    model.save(tmp_path / "mine.keras")
    script = f"""
import importlib.util, sys, retinex_keras
class Finder:
    @staticmethod
    def find_spec(name, path=None, target=None):
        return importlib.util.spec_from_file_location(name, {str(mine / "mine.py")!r}) if name == "mine" else None
sys.meta_path.append(Finder)
print(type(retinex_keras.load_pretrained({str(tmp_path / "mine.keras")!r})).__module__)
"""
    elsewhere = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=elsewhere)
    assert result.stdout == "mine\n", result.stderr


def test_a_benchmark_measures_it_with_large_batches_and_patches(mine, monkeypatch, capsys, tmp_path):
    from retinex_keras.evaluation import benchmark

    monkeypatch.setitem(benchmark.SIZES, "small", (16, 24))
    recipe = find_recipe("mine:recipe")
    recipe = dataclasses.replace(recipe, defaults={**recipe.defaults, "batch_size": 33})
    large = dataclasses.replace(recipe, defaults={**recipe.defaults, "batch_size": 1, "patch_size": 416}, phases=())
    model = recipe.build(4, 0)
    model.build((None, None, None, 3))
    benchmark.benchmark({"mine": model}, [recipe, large], ["small"], runs=1)
    printed = capsys.readouterr().out
    assert "mine, small: " in printed
    assert "gain, GainNet, 16x16 patches/s: " in printed
    assert "gain, data, 416x416 patches/s: " in printed


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nothing", "no recipe 'nothing'; use one of natural, paper, simple, or module:attribute"),
        ("nowhere:recipe", "could not be imported .*No module named 'nowhere'"),
        ("mine:nothing", "could not be imported .*nothing"),
        ("mine:GainNet", "'mine:GainNet' is a type. Expected a retinex_keras.recipes.Recipe"),
    ],
)
def test_what_is_no_recipe_is_said(mine, name, message, tmp_path, capsys):
    with pytest.raises(ValueError, match=message):
        find_recipe(name)


def test_no_module_that_does_not_use_this_package_is_imported_for_a_file(tmp_path, mine):
    """A file can name any module, for what its import does."""
    import zipfile

    model = find_recipe("mine:recipe").build(4, 0)
    model.build((None, None, None, 3))
    model.save(tmp_path / "mine.keras")
    with zipfile.ZipFile(tmp_path / "mine.keras") as file:
        entries = {name: file.read(name) for name in file.namelist()}
    config = json.loads(entries["config.json"])
    (mine / "script.py").write_text("raise SystemExit('it was executed')")
    (mine / "folder").mkdir()
    (mine / "folder" / "__init__.py").write_text("raise SystemExit('it was executed')")
    for module in ("antigravity", "script", "folder.inner", "nowhere", ""):
        entries["config.json"] = json.dumps(config | {"module": module, "registered_name": "other>Net"}).encode()
        with zipfile.ZipFile(tmp_path / "bad.keras", "w") as file:
            for name, content in entries.items():
                file.writestr(name, content)
        with pytest.raises(ValueError, match="could not be loaded|needs the module"):
            load_pretrained(tmp_path / "bad.keras")
    assert "antigravity" not in sys.modules


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (('@keras.saving.register_keras_serializable("', '#("'), "cannot be loaded: decorate it with"),
        (("def get_config(self)", "def other(self)"), "comes back from a file with weights|filters"),
        (("def call(self, image, context=None", "def call(self, image"), "GainNet.call takes .image, context=None"),
        (('"steep": 0.1', '"stepe": 0.1'), "term_weights names squared, stepe. Received from loss_terms: squared, steep"),
        (('"learning_rate": 1e-3', '"rate": 1e-3'), "The defaults of a recipe are .*learning_rate"),
    ],
)
def test_mistakes_in_a_recipe_are_found_before_training(damage, message, make_pairs, tmp_path, monkeypatch):
    module = guide_module().replace('"filters": 4', '"filters": 5')  # not the default of `__init__`
    assert damage[0] in module
    name = f"broken{abs(hash(message))}"
    (tmp_path / f"{name}.py").write_text(module.replace(*damage).replace('"mine"', f'"{name}"'))
    monkeypatch.syspath_prepend(str(tmp_path))
    make_pairs("pairs", 5)
    with pytest.raises(ValueError, match=message):
        train_retinexnet(tmp_path / "pairs", tmp_path / "run", f"{name}:recipe", epochs=1, verbose=0)
