"""The Python that README and guides show, run as it stands, but for small numbers, on tiny files."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from retinex_keras.inference import load_pretrained

ROOT = Path(__file__).parents[1]


def block(page, word):
    """The one block of Python on a page that holds a word."""
    scripts = re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(), re.DOTALL)
    (script,) = [script for script in scripts if word in script]
    return script


@pytest.fixture
def place(make_pairs, tmp_path, monkeypatch):
    """A folder with a photo, a folder of photos, and pairs by the names that the guides use."""
    for name in ("my_pairs", "LOL/our485", "LOL/eval15"):
        make_pairs(name)
    shutil.copytree(tmp_path / "my_pairs" / "low", tmp_path / "photos")
    shutil.copy(tmp_path / "photos" / "scene.0.png", tmp_path / "photo.jpg")  # the content decides what it is
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(
    ("page", "word", "names"),
    [
        ("README.md", "decompose(", {"bright", "parts", "model"}),
        ("retinex_keras/folders/README.md", "enhance_folder(", {"report"}),
        ("retinex_keras/evaluation/README.md", "lime(", {"parts"}),
    ],
)
def test_what_a_page_shows_runs(page, word, names, place):
    results = {}
    exec(compile(block(page, word), page, "exec"), results)
    assert names <= set(results)
    if "bright" in results:
        assert (results["bright"].shape, results["bright"].dtype) == ((20, 24, 3), np.uint8)
        assert all(name in block(page, word) for name in results["parts"])
    if "report" in results:
        assert [len(files) for files in results["report"]] == [5, 0, 0, 0]


def test_tuning_as_the_readme_shows(place):
    script = block("README.md", ".fit(")
    for number, small in (("160", "16"), ("8", "4"), ("100", "1")):
        script = re.sub(rf"\b{number}\b", small, script)
        script = script.replace("compile()", "compile(run_eagerly=True)")  # graphs take seconds to trace
    exec(compile(script, "README.md", "exec"), {})
    tuned, before = (load_pretrained(weights).get_weights() for weights in ("tuned.keras", "natural"))
    changes = [np.abs(weight - old).max() for weight, old in zip(tuned, before, strict=True)]
    assert 0 < max(changes) < 1e-3


def test_a_fit_of_several_workers_as_the_guide_shows(place):
    """By a process of its own, since TensorFlow wants to know of other workers first; here there are none."""
    script = block("retinex_keras/training/README.md", "Workers()")
    for number, small in (("16", "4"), ("100", "1")):
        script = re.sub(rf"\b{number}\b", small, script)
    script = script.replace("input_context=context", "16, 4, input_context=context").replace("DecomNet()", "DecomNet(4)")
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert "val_psnr" in result.stdout


def test_the_state_of_a_run_becomes_a_model_as_the_guide_shows(place):
    """A run without a step: the mean is what the weights are."""
    from retinex_keras.networks.base import make_variables
    from retinex_keras.recipes.natural import NaturalRetinexNet

    model = NaturalRetinexNet()
    model.compile()
    make_variables(model)
    Path("runs/mine").mkdir(parents=True)
    model.save_weights("runs/mine/natural-00060.weights.h5")
    page = "retinex_keras/training/README.md"
    exec(compile(block(page, "early.keras"), page, "exec"), {})
    assert all(map(np.array_equal, load_pretrained("early.keras").get_weights(), model.get_weights()))


def test_bfloat16_and_the_mean_of_runs_as_the_guide_shows(place):
    page = "retinex_keras/training/README.md"
    exec(compile(block(page, "start.save("), page, "exec"), {})
    start, shipped = load_pretrained("start.keras"), load_pretrained("natural")
    assert start.enhance_net.stem.compute_dtype == "bfloat16"
    for name, change in (("rooms", 0.5), ("streets", 0.1)):
        start.set_weights([weight + change for weight in shipped.get_weights()])
        Path("runs", name).mkdir(parents=True)
        start.save(f"runs/{name}/retinexnet.keras")
    exec(compile(block(page, "mean.save("), page, "exec"), {})
    mean = load_pretrained("mean.keras")
    assert mean.enhance_net.stem.compute_dtype == "float32"
    for weight, old in zip(mean.get_weights(), shipped.get_weights(), strict=True):
        np.testing.assert_allclose(weight, old + 0.3, atol=1e-5)
