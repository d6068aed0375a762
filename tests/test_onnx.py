"""The second engine, ONNX Runtime: the pictures of the first to a level, by the same commands, without TensorFlow and Keras."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from retinex_keras.cli import main
from retinex_keras.engines import choose_engine
from retinex_keras.imaging.read import read_image
from retinex_keras.inference import decompose, enhance, load_pretrained
from retinex_keras.onnx_model import OnnxModel
from retinex_keras.serving.export import export_onnx

onnx = pytest.importorskip("onnx", reason="needs the extra: pip install '.[onnx]'")
pytest.importorskip("onnxruntime", reason="needs the extra: pip install '.[onnx]'")
ROOT = Path(__file__).parents[1]
DARK = ROOT / "notebooks" / "photos" / "coffee_dark.png"


@pytest.fixture(scope="module")
def files(exports, tmp_path_factory):
    """The tiny models as ONNX files: one that is denoised, and one that takes a context."""
    folder = tmp_path_factory.mktemp("onnx")
    for version, model in exports[1].items():
        export_onnx(model, folder / f"{version}.onnx")
    return {version: folder / f"{version}.onnx" for version in exports[1]}


@pytest.mark.parametrize("version", [1, 2])
def test_tiles_are_exact_and_the_same_again_and_again(files, version, random):
    model = OnnxModel(files[version])
    image = random.random((413, 77, 3), dtype="float32")
    expected = decompose(image, model)
    for tile in (64, 200, None):
        for name, values in decompose(image, model, tile=tile).items():
            np.testing.assert_array_equal(values, expected[name], err_msg=f"{name}, tiles of {tile}")


def levels_apart(one, other):
    """The largest difference of two pictures of 8 bits in levels, and the share of values that differ."""
    difference = np.abs(one.astype(int) - other)
    return difference.max(), np.mean(difference > 0)


@pytest.mark.parametrize("version", [1, 2])
def test_pictures_are_those_of_tensorflow_to_a_level(exports, files, version, random):
    for size in ((1, 1), (13, 17), (300, 200)):
        image = random.integers(0, 90, (*size, 3), dtype="uint8")
        most, share = levels_apart(enhance(image, files[version]), enhance(image, exports[1][version]))
        assert most <= 1
        assert share < 1e-3  # a rounding may keep a coefficient of what is denoised; of photos it is a tenth of this


def test_the_shipped_file_is_the_shipped_weights():
    most, share = levels_apart(enhance(DARK, load_pretrained("natural", engine="onnx")), enhance(DARK, "natural"))
    assert most <= 1
    assert share <= 1e-4


def test_the_commands_take_an_onnx_file(files, make_pairs, tmp_path, monkeypatch, capsys):
    make_pairs("pairs", 3)
    shutil.copy(files[2], tmp_path / "mine.onnx")
    monkeypatch.chdir(tmp_path)
    weights = ["--weights", "mine.onnx"]
    assert main(["enhance", "pairs/low", "bright", *weights]) == 0
    assert main(["enhance", "pairs/low/scene.0.png", "one.png", *weights]) == 0
    np.testing.assert_array_equal(read_image("bright/scene.0.png"), read_image("one.png"))
    assert main(["decompose", "pairs/low/scene.0.png", "parts", *weights]) == 0
    assert read_image("parts/scene.0_illumination.png").shape == read_image("one.png").shape
    assert main(["evaluate", "pairs/low", "pairs/high", *weights]) == 0
    assert main(["compare", "pairs/low", "pairs/high", *weights, "--methods", "clahe"]) == 0
    assert "mine.onnx" in capsys.readouterr().out
    assert main(["enhance", "pairs/low/scene.0.png", "two.png", *weights, "--denoise", "1"]) == 2
    assert "was set when it was exported. Received denoise=1.0: omit it" in capsys.readouterr().err


def test_nothing_of_tensorflow_or_keras_is_imported(make_pairs, tmp_path):
    """Where neither is installed, the weights are found by their name too."""
    make_pairs("pairs", 2)
    script = f"""
import importlib.util, sys
for name in ("tensorflow", "keras"):
    sys.modules[name] = None
find = importlib.util.find_spec
importlib.util.find_spec = lambda name, *rest: None if name in ("tensorflow", "keras") else find(name, *rest)
from retinex_keras.cli import main
for command in (
    ["enhance", {str(DARK)!r}, "bright.png"],
    ["enhance", "pairs/low", "bright"],
    ["decompose", {str(DARK)!r}, "parts"],
    ["evaluate", "pairs/low", "pairs/high"],
    ["compare", "pairs/low", "pairs/high", "--methods"],
):
    assert main(command) == 0, command
"""
    result = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    np.testing.assert_array_equal(read_image(tmp_path / "bright.png"), enhance(DARK, load_pretrained(engine="onnx")))


def test_the_engine_can_be_chosen(tmp_path, capsys):
    assert choose_engine("natural", "onnx") == "onnx"
    assert choose_engine(tmp_path / "mine.keras") == "tensorflow"
    command = ["enhance", str(DARK), str(tmp_path / "out.png"), "--engine"]
    assert main([*command, "onnx"]) == 0
    np.testing.assert_array_equal(read_image(tmp_path / "out.png"), enhance(DARK, load_pretrained(engine="onnx")))
    with pytest.raises(ValueError, match="is for the engine onnx. Received engine='tensorflow'"):
        choose_engine("mine.onnx", "tensorflow")
    for command in (["export", str(tmp_path / "served")], ["benchmark"]):
        assert main([*command, "--weights", "mine.onnx"]) == 2
        assert "is for the engine onnx" in capsys.readouterr().err
    with pytest.raises(ValueError, match="Received '.*w.keras': name it w.onnx"):
        export_onnx(load_pretrained("simple"), tmp_path / "w.keras")
    with pytest.raises(ValueError, match="no engine 'torch'; use one of tensorflow, onnx"):
        load_pretrained("natural", engine="torch")
    assert main(["enhance", str(DARK), str(tmp_path / "out.png"), "--engine", "onnx", "--weights", "paper"]) == 2
    assert "no weights 'paper'. Shipped ones: natural" in capsys.readouterr().err


def saved(model, path):
    onnx.save(model, path)
    return path


def test_files_that_are_no_weights_are_one_sentence(files, tmp_path, capsys):
    (tmp_path / "junk.onnx").write_bytes(b"junk")
    (tmp_path / "cut.onnx").write_bytes(files[2].read_bytes()[:5000])
    (tmp_path / "empty.onnx").write_bytes(b"")
    model = onnx.load(files[2])
    onnx.helper.set_model_props(model, {"retinex_keras": '{"version": 99}'})
    saved(model, tmp_path / "newer.onnx")
    good = {"version": 1, "size_multiple": 8, "tile_margin": 120, "tile_size": [64, 64], "takes_context": True}
    wrong = {"tile_margin": "many"}, {"size_multiple": 0}, {"tile_size": 5}, {"tile_size": [60, 64]}, {"takes_context": False}
    for number, change in enumerate(wrong):
        onnx.helper.set_model_props(model, {"retinex_keras": json.dumps(good | change)})
        saved(model, tmp_path / f"wrong{number}.onnx")
    onnx.save(onnx.load(files[2]), tmp_path / "external.onnx", save_as_external_data=True, size_threshold=0, location="data")
    identity = onnx.helper.make_graph(
        [onnx.helper.make_node("Identity", ["x"], ["y"])],
        "other",
        [onnx.helper.make_tensor_value_info("x", 1, [1])],
        [onnx.helper.make_tensor_value_info("y", 1, [1])],
    )
    saved(onnx.helper.make_model(identity, opset_imports=[onnx.helper.make_opsetid("", 18)]), tmp_path / "other.onnx")
    (tmp_path / "elsewhere").mkdir()
    Image.new("RGB", (8, 8)).save(tmp_path / "photo.png")
    names = ["junk", "cut", "empty", "newer", "external", "other", "missing", *(f"wrong{i}" for i in range(len(wrong)))]
    for name in names:
        command = [
            "enhance",
            str(tmp_path / "photo.png"),
            str(tmp_path / "out.png"),
            "--weights",
            str(tmp_path / f"{name}.onnx"),
        ]
        assert main(command) == 2, name
        error = capsys.readouterr().err
        assert error.count("\n") == 1, error
        assert name in error
    assert not (tmp_path / "out.png").exists()


def test_a_file_larger_than_the_memory_is_one_sentence(monkeypatch):
    def read(path):
        raise MemoryError

    monkeypatch.setattr(Path, "read_bytes", read)
    with pytest.raises(ValueError, match=r"natural.onnx could not be loaded by ONNX Runtime \(MemoryError\)"):
        load_pretrained(engine="onnx")


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_weights_that_are_not_finite_are_refused(files, tmp_path, value):
    model = onnx.load(files[2])
    kernel = next(one for one in model.graph.initializer if len(one.dims) == 4)
    kernel.raw_data = np.full(kernel.dims, value, "float32").tobytes()
    with pytest.raises(ValueError, match="weights that are NaN or infinite"):
        OnnxModel(saved(model, tmp_path / "broken.onnx"))


def test_outputs_that_are_no_pictures_are_refused(files, tmp_path):
    model = onnx.load(files[2])
    (enhanced,) = (output for output in model.graph.output if output.name == "enhanced")
    node = next(node for node in model.graph.node if "enhanced" in node.output)
    node.output[list(node.output).index("enhanced")] = "picture"
    model.graph.node.append(onnx.helper.make_node("Shape", ["picture"], ["enhanced"]))
    enhanced.CopyFrom(onnx.helper.make_tensor_value_info("enhanced", onnx.TensorProto.INT64, [4]))
    with pytest.raises(ValueError, match="makes no picture of the size of its input"):
        OnnxModel(saved(model, tmp_path / "other.onnx"))


def test_the_guides_program_needs_onnx_runtime_and_pillow_alone(tmp_path, monkeypatch):
    guide = (ROOT / "retinex_keras" / "serving" / "README.md").read_text()
    script = next(block for block in re.findall(r"```python\n(.*?)```", guide, re.DOTALL) if "InferenceSession" in block)
    assert len(script.strip().splitlines()) <= 15
    assert set(re.findall(r"^(?:import|from) (\w+)", script, re.MULTILINE)) == {"numpy", "onnxruntime", "PIL"}
    shutil.copy(ROOT / "checkpoints" / "natural.onnx", tmp_path)
    shutil.copy(DARK, tmp_path / "photo.jpg")
    monkeypatch.chdir(tmp_path)
    exec(compile(script, "README.md", "exec"), {})
    most, share = levels_apart(read_image("bright.png"), enhance(DARK, load_pretrained(engine="onnx")))
    assert most <= 1
    assert share < 1e-3
