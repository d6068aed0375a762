"""The notebooks: executed from top to bottom on tiny data, and committed as such an execution on the photos leaves them."""

import os
from pathlib import Path

import numpy as np
import pytest

from retinex_keras.imaging.read import read_image
from retinex_keras.imaging.write import write_image

nbformat = pytest.importorskip("nbformat", reason="needs the extra: pip install '.[notebooks]'")
nbclient = pytest.importorskip("nbclient", reason="needs the extra: pip install '.[notebooks]'")

FOLDER = Path(__file__).parents[1] / "notebooks"
# What replaces the parameters of each, and how many figures it shows.
NOTEBOOKS = {
    "1-data": ({"pairs": "", "size": 16}, 8),
    "2-decomposition": ({"pairs": "", "filters": 4, "size": 16, "steps": 2}, 3),
    "3-enhancement": ({"pairs": "", "photos": "", "most": 2}, 8),
    "4-training": ({"pairs": "", "filters": 4, "size": 16, "epochs": 2, "tuning_size": 16, "tuning_steps": 2}, 6),
    "5-your-photo": ({"photo": "low/0.png", "folder": "results"}, 3),
}
PATHS = "pairs", "photos", "photo", "folder"  # parameters that are paths in the folder of tiny photos
# What somebody does to the widgets afterwards, and sees.
ACTIONS = {
    "5-your-photo": """
import datetime

automatic, first = after.value, before.value
sliders["exposure"].value = 1
assert after.value != automatic and before.value == first
sliders["exposure"].value = 0
assert after.value == automatic
view.value = "adjusted_illumination"
assert after.value != automatic

def drop(path):
    file = {"name": path.name, "type": "", "size": 0, "content": memoryview(path.read_bytes())}
    file["last_modified"] = datetime.datetime.now()
    upload.value = (file,)

drop(Path(photo).parent.parent / "hubble.jpg")
assert before.value != first
sliders["strength"].value = 0
button.click()
saved, _ = read_photo(Path(folder) / "hubble_bright.jpg")
assert np.abs(saved.astype(int) - read_photo(now["source"])[0]).mean() < 10  # the photo, but for the JPEG
seen = before.value
bad = Path(folder) / "bad.jpg"
bad.write_bytes(b"no picture")
drop(bad)
assert message.value.startswith("bad.jpg: ") and before.value == seen
"""
}


def figures(notebook):
    """The outputs of a notebook that are pictures; its code cells must have run, in order, without an error."""
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    outputs = [output for cell in cells for output in cell.outputs]
    assert not [output for output in outputs if output.output_type == "error" or output.get("name") == "stderr"]
    return [output for output in outputs if "image/jpeg" in output.get("data", {})]


@pytest.fixture
def tiny_photos(tmp_path, random):
    """Three pairs and a photo of the sky."""
    for side, limit in (("low", 40), ("high", 256)):
        (tmp_path / side).mkdir()
        for i in range(3):
            write_image(tmp_path / side / f"{i}.png", random.integers(0, limit, (48, 64, 3), dtype="uint8"))
    write_image(tmp_path / "hubble.jpg", random.integers(0, 40, (48, 64, 3), dtype="uint8"))
    return str(tmp_path)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")
@pytest.mark.parametrize("name", NOTEBOOKS)
def test_a_notebook_runs_from_top_to_bottom(name, tiny_photos, monkeypatch):
    path = os.pathsep.join(filter(None, [str(FOLDER.parent), os.environ.get("PYTHONPATH")]))
    monkeypatch.setenv("PYTHONPATH", path)
    parameters, count = NOTEBOOKS[name]
    notebook = nbformat.read(FOLDER / f"{name}.ipynb", as_version=4)
    (cell,) = [cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", [])]
    values = {key: os.path.join(tiny_photos, value) if key in PATHS else value for key, value in parameters.items()}
    assert all(parameter in cell.source for parameter in values)
    cell.source += "".join(f"\n{parameter} = {value!r}" for parameter, value in values.items())
    if name in ACTIONS:
        notebook.cells.append(nbformat.v4.new_code_cell(ACTIONS[name]))
    nbclient.NotebookClient(notebook, timeout=600, kernel_name="python3", resources={"metadata": {"path": FOLDER}}).execute()
    assert len(figures(notebook)) == count


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_a_committed_notebook_shows_all_figures_and_is_small(name):
    notebook = nbformat.read(FOLDER / f"{name}.ipynb", as_version=4)
    assert len(figures(notebook)) == NOTEBOOKS[name][1]
    assert (FOLDER / f"{name}.ipynb").stat().st_size < 700_000


def test_the_dark_photos_are_made_as_their_readme_says(tmp_path, monkeypatch):
    script = (FOLDER / "photos" / "README.md").read_text().split("```python\n")[2].split("```")[0]
    monkeypatch.chdir(FOLDER)
    (tmp_path / "low").mkdir()
    exec(compile(script.replace('Path("pairs/low")', f"Path({str(tmp_path / 'low')!r})"), "README.md", "exec"), {})
    names = sorted(path.name for path in (FOLDER / "pairs" / "low").iterdir())
    assert names == sorted(path.name for path in (tmp_path / "low").iterdir())
    for name in names:
        made, kept = (read_image(folder / name).astype(int) for folder in (tmp_path / "low", FOLDER / "pairs" / "low"))
        assert np.abs(made - kept).max() <= 2  # decoders of JPEG differ
