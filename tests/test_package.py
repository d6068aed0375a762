import ast
import doctest
import importlib
import os
import pkgutil
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import retinex_keras
from retinex_keras.data.pairs import load_pairs, load_photos
from retinex_keras.imaging.read import read_image

ROOT = Path(__file__).parents[1]


def test_public_names_exist_and_are_few():
    assert len(retinex_keras.__all__) <= 12
    for name in retinex_keras.__all__:
        assert callable(getattr(retinex_keras, name))
    with pytest.raises(AttributeError, match="nothing"):
        _ = retinex_keras.nothing


def test_type_checkers_see_the_same_names():
    stub = ast.parse((ROOT / "retinex_keras" / "__init__.pyi").read_text())
    names = {alias.asname: node.module for node in stub.body if isinstance(node, ast.ImportFrom) for alias in node.names}
    assert names == {name: f"retinex_keras.{module}" for name, module in retinex_keras._MODULES.items()}


def test_a_folder_named_as_tensorflow_does_no_harm(tmp_path):
    (tmp_path / "tensorflow").mkdir()
    script = "import sys, retinex_keras; sys.path[:] = ['.']; import tensorflow; print(tensorflow.__path__)"
    result = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True)
    assert result.stderr == ""
    assert "_NamespacePath" in result.stdout


def test_the_package_runs_as_a_module():
    command = [sys.executable, "-m", "retinex_keras", "enhance", "--help"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert result.stdout.startswith("usage: retinex enhance")


# The command line is tested as commands; a benchmark takes long, a conversion wants files of the original, JAX, Ray and the
# weights of LPIPS may lack, and workers are several.
WITHOUT = {"__main__", "cli", "evaluation.benchmark", "folders.cluster", "imaging.lpips", "recipes.tf1_checkpoint"}
WITHOUT |= {"training.distribution"}
# Classes that nobody makes by hand.
BASES = {
    "LowLightModel",
    "OneProcess",
    "PhaseNetwork",
    "PairModel",
    "Place",
    "Plan",
    "Report",
    "RetinexModel",
    "Settings",
    "Tiles",
}
# What only the package's own modules call: users see its effects in the examples of what they call.
INTERNAL = {"FormatError", "atomic_path", "carried_out", "check_folder", "check_is_not_input", "check_quality"}
INTERNAL |= {"check_writable", "context_indices", "decode", "decode_deep", "enhance_files", "find_place", "has_avif"}
INTERNAL |= {"check_sides", "is_image_name", "is_whole", "list_images", "locked", "open_file", "opened", "ops_of"}
INTERNAL |= {"readable_suffixes", "reason_of", "remove_leftovers", "run_plan", "scan_folder", "serve", "why_unread"}
INTERNAL |= {"plan_folder", "plan_photos", "request_files", "without_damage"}
MODULES = pkgutil.walk_packages(retinex_keras.__path__, "retinex_keras.")
EXAMPLES = {module.name.removeprefix("retinex_keras.") for module in MODULES if not module.ispkg} - WITHOUT


@pytest.mark.parametrize("name", sorted(EXAMPLES))
def test_public_functions_have_examples_that_run(name, make_pairs, tmp_path, monkeypatch):
    module = importlib.import_module(f"retinex_keras.{name}")
    own = {key: value for key, value in vars(module).items() if getattr(value, "__module__", None) == module.__name__}
    shown = {key: value for key, value in own.items() if key[0] != "_" and key not in BASES | INTERNAL}
    assert [key for key, value in shown.items() if ">>>" not in value.__doc__] == []
    shutil.copy(make_pairs("pairs") / "low" / "scene.0.png", tmp_path / "dark.png")
    monkeypatch.chdir(tmp_path)
    given = {"np": np, "Path": Path, "read_image": read_image, "load_pairs": load_pairs, "load_photos": load_photos}
    assert doctest.testmod(module, extraglobs=given, optionflags=doctest.ELLIPSIS).failed == 0


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """`pip install .` from a copy of the sources into a folder of its own, in which no checkout is in reach."""
    folder = tmp_path_factory.mktemp("installed")
    kept = shutil.ignore_patterns(".*", "build", "*.egg-info", "*.ipynb", "tests", "demo", "runs")
    shutil.copytree(ROOT, folder / "source", ignore=kept)
    options = ["--quiet", "--no-deps", "--target", folder / "site"]
    subprocess.run([sys.executable, "-m", "pip", "install", *options, folder / "source"], check=True)
    shutil.rmtree(folder / "source")
    return folder / "site"


def test_installed_weights_load_from_another_folder(installed, tmp_path):
    script = f"""
import sys
sys.path.insert(0, {str(installed)!r})
import numpy
import retinex_keras
print(retinex_keras.__file__, retinex_keras.load_pretrained().count_params())
retinex_keras.enhance(numpy.zeros((8, 8, 3), "uint8"))
"""
    environment = {name: value for name, value in os.environ.items() if name != "TF_CPP_MIN_LOG_LEVEL"}  # JAX sets it
    result = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert (result.returncode, result.stderr) == (0, ""), "TensorFlow's notices are not shown"
    assert result.stdout.split() == [str(installed / "retinex_keras" / "__init__.py"), "1436405"]


def files_below(folder):
    return {path.relative_to(folder) for path in folder.rglob("*") if path.is_file() and "__pycache__" not in path.parts}


def test_an_installed_copy_has_all_files_and_the_version(installed):
    package = installed / "retinex_keras"
    weights = {Path("checkpoints") / path for path in files_below(ROOT / "checkpoints")}
    photos = {Path("examples") / path for path in files_below(ROOT / "notebooks" / "pairs" / "low")}
    assert files_below(package) == files_below(ROOT / "retinex_keras") | weights | photos
    assert (installed / f"retinex_keras-{retinex_keras.__version__}.dist-info").is_dir()
