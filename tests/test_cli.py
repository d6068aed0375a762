import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from retinex_keras.cli import _parser, main
from retinex_keras.folders.run import enhance_folder
from retinex_keras.imaging.read import read_image, read_photo
from retinex_keras.imaging.write import write_image


@pytest.fixture
def weights(tiny, tmp_path):
    tiny.save(tmp_path / "tiny.keras")
    return ["--weights", str(tmp_path / "tiny.keras")]


@pytest.fixture
def photo(tmp_path, random):
    Image.fromarray(random.integers(0, 60, (13, 17, 3), dtype="uint8")).save(tmp_path / "photo.png")
    return tmp_path / "photo.png"


def test_help_needs_no_tensorflow():
    script = "import sys; sys.modules['tensorflow'] = None; from retinex_keras.cli import main; main(['--help'])"
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert result.returncode == 0
    assert all(command in result.stdout for command in ("train", "enhance", "decompose", "evaluate", "convert"))


def test_enhance(photo, weights, tmp_path, capsys):
    out = tmp_path / "bright.jpg"
    assert main(["enhance", str(photo), str(out), *weights]) == 0
    assert capsys.readouterr().out == f"enhanced: {out}\n"
    assert read_image(out).shape == (13, 17, 3)


def test_a_sheet_shows_a_photo_before_and_after(photo, weights, tmp_path, capsys):
    command = ["enhance", str(photo), str(tmp_path / "bright.png"), *weights, "--sheet"]
    assert main([*command, str(photo)]) == 2
    assert main(["enhance", str(tmp_path), str(tmp_path / "out"), "--sheet", "sheet.png"]) == 2
    errors = capsys.readouterr().err.splitlines()
    assert ["never overwritten" in errors[0], "leave --sheet out" in errors[1]] == [True, True]
    assert main([*command, str(tmp_path / "sheet.jpg")]) == 0
    height, width = read_image(tmp_path / "sheet.jpg").shape[:2]
    assert width / height == pytest.approx(2 * 17 / 13, rel=0.15)


def test_decompose_writes_and_names_all_pictures(photo, weights, tmp_path, capsys):
    assert main(["decompose", str(photo), str(tmp_path / "parts"), *weights]) == 0
    printed = capsys.readouterr().out.splitlines()
    names = ["enhanced", "reflectance", "illumination", "restored reflectance", "adjusted illumination"]
    assert [line.split(": ")[0] for line in printed] == names
    assert all(read_image(line.split(": ")[1]).shape == (13, 17, 3) for line in printed)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("missing.png", None, "is not a file"),
        ("text.png", b"hello", "is not an image"),
        ("empty.jpg", b"", "is not an image"),
    ],
)
def test_bad_input_is_one_sentence_and_writes_nothing(tmp_path, weights, capsys, name, content, message):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    assert main(["enhance", str(tmp_path / name), str(tmp_path / "out.png"), *weights]) == 2
    error = capsys.readouterr().err
    assert error.startswith("retinex: ")
    assert message in error
    assert error.count("\n") == 1
    assert not (tmp_path / "out.png").exists()


def test_the_input_is_never_overwritten(photo, weights, capsys):
    before = photo.read_bytes()
    assert main(["enhance", str(photo), str(photo), *weights]) == 2
    assert "never overwritten" in capsys.readouterr().err
    assert photo.read_bytes() == before


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda data: data[: len(data) // 2], "could not be loaded"),
        (lambda data: data[:3000] + bytes(100) + data[3100:], "could not be loaded"),
        (lambda data: b"", "could not be loaded"),
        (None, "no weights"),
    ],
)
def test_bad_weights_are_one_sentence(photo, weights, tmp_path, capsys, damage, message):
    bad = tmp_path / "bad.keras"
    if damage:
        bad.write_bytes(damage((tmp_path / "tiny.keras").read_bytes()))
    assert main(["enhance", str(photo), str(tmp_path / "out.png"), "--weights", str(bad)]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (["enhance", "photo.png", "nowhere/out.png"], "There is no folder"),
        (["enhance", "photo.png", "out.xbm"], "suffix decides"),
        (["decompose", "photo.png", "photo.png"], "is a file; name a folder"),
        (["enhance", "photo.png", "out.jpg", "--quality", "0"], "from 1 to 100"),
        (["enhance", ".", "out", "--quality", "101"], "from 1 to 100"),
        (["enhance", "photo.png", "out.png", "--max-pixels", "9"], "17x13 pixels, more than 9"),
        (["decompose", "photo.png", "out", "--max-pixels", "9"], "raise max_pixels"),
        (["benchmark", "--runs", "0"], "at least one run"),
        (["train", "nowhere", "--out", "run"], "There is no folder"),
        (["train", "--out", "run"], "nothing to train on"),
    ],
)
def test_what_cannot_be_done_is_said_before_it_is_begun(photo, weights, tmp_path, capsys, monkeypatch, command, message):
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.iterdir())
    assert main([*command, *(weights if command[0] != "train" else [])]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert sorted(tmp_path.iterdir()) == before


def test_an_error_of_a_real_process_is_one_line(tmp_path):
    """TensorFlow's own chatter at start does not get through."""
    command = [sys.executable, "-m", "retinex_keras.cli", "enhance", "missing.png", "out.png"]
    environment = {name: value for name, value in os.environ.items() if name != "TF_CPP_MIN_LOG_LEVEL"}  # JAX sets it
    result = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert result.returncode == 2
    assert result.stderr == "retinex: missing.png is not a file; check the path.\n"


def test_a_grey_photo_of_one_pixel(tmp_path, weights):
    Image.fromarray(np.array([[7]], "uint8")).save(tmp_path / "one.png")
    assert main(["enhance", str(tmp_path / "one.png"), str(tmp_path / "out.png"), *weights]) == 0
    assert read_image(tmp_path / "out.png").shape == (1, 1, 3)


@pytest.fixture
def folder(photo, tmp_path):
    """Photos in two folders and junk: text, a damaged image, a hidden file."""
    folder = tmp_path / "photos"
    (folder / "nested" / "more").mkdir(parents=True)
    for name in ("a.png", "b.jpg", "nested/a.png", "nested/more/c.gif"):
        with Image.open(photo) as image:
            image.save(folder / name)
    (folder / "notes.txt").write_text("not an image")
    (folder / ".hidden.png").write_text("not an image")
    (folder / "bad.jpg").write_bytes((folder / "b.jpg").read_bytes()[:300])
    return folder


def test_a_folder_with_junk(folder, weights, tmp_path, capsys):
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    out = folder / "out"
    assert main(["enhance", str(folder), str(out), *weights]) == 1
    printed = capsys.readouterr()
    assert printed.out == f"enhanced: 4 images into {out}; 0 were there already, 1 are bad\n"
    assert printed.err.splitlines()[-1].startswith(f"retinex: {folder / 'bad.jpg'} ")
    results = sorted(str(path.relative_to(out)) for path in out.rglob("*") if path.is_file())
    assert results == ["a.png", "b.jpg", "nested/a.png", "nested/more/c.gif.png"]
    assert main(["enhance", str(folder / "a.png"), str(tmp_path / "one.png"), *weights]) == 0
    np.testing.assert_array_equal(read_image(out / "nested" / "a.png"), read_image(tmp_path / "one.png"))
    assert before == {path: path.read_bytes() for path in before}


def test_what_a_file_holds_besides_its_colours_is_kept(weights, tmp_path, random):
    """By a file and by a folder: alpha, 16 bits, resolution; a JPEG is smaller with less quality."""
    deep = random.integers(0, 9000, (13, 17, 4), dtype="uint16")
    (tmp_path / "photos").mkdir()
    write_image(tmp_path / "photos" / "a.png", deep[..., :3], {"alpha": deep[..., 3:], "dpi": (300.0, 300.0)})
    write_image(tmp_path / "photos" / "b.jpg", deep[..., :3])
    for quality in ("30", "95"):
        assert main(["enhance", str(tmp_path / "photos"), str(tmp_path / quality), "--quality", quality, *weights]) == 0
        single = ["enhance", str(tmp_path / "photos" / "b.jpg"), str(tmp_path / f"{quality}.jpg"), "--quality", quality]
        assert main([*single, *weights]) == 0
        assert (tmp_path / f"{quality}.jpg").read_bytes() == (tmp_path / quality / "b.jpg").read_bytes()
    assert (tmp_path / "30.jpg").stat().st_size < (tmp_path / "95.jpg").stat().st_size
    assert main(["enhance", str(tmp_path / "photos" / "a.png"), str(tmp_path / "a.tif"), *weights]) == 0
    for path in (tmp_path / "30" / "a.png", tmp_path / "a.tif"):
        image, extras = read_photo(path)
        assert image.dtype == np.uint16
        np.testing.assert_array_equal(extras["alpha"], deep[..., 3:])
        assert extras["dpi"] == pytest.approx((300, 300), abs=0.01)


def test_a_folder_goes_on_where_it_was_stopped(folder, weights, tmp_path, capsys):
    out = tmp_path / "out"
    (folder / "bad.jpg").unlink()
    assert main(["enhance", str(folder), str(out), *weights]) == 0
    (out / "nested" / "a.png").unlink()
    (out / "a.png").write_text("kept")
    assert main(["enhance", str(folder), str(out), *weights]) == 0
    assert "enhanced: 1 images" in capsys.readouterr().out
    assert (out / "a.png").read_text() == "kept"
    assert read_image(out / "nested" / "a.png").shape == (13, 17, 3)
    assert main(["enhance", str(folder), str(out), "--force", *weights]) == 0
    assert read_image(out / "a.png").shape == (13, 17, 3)


def test_a_folder_is_never_its_own_output(folder, weights, capsys):
    assert main(["enhance", str(folder), str(folder / "nested" / ".."), *weights]) == 2
    assert "never overwritten" in capsys.readouterr().err


def test_a_folder_with_unknown_weights_is_refused_as_a_whole(folder, tmp_path):
    with pytest.raises(FileNotFoundError, match="no weights 'nothing'"):
        enhance_folder(folder, tmp_path / "out", "nothing")
    assert not (tmp_path / "out").exists()


ROOT = Path(__file__).parents[1]
# The guides that train come first, since others use what they trained.
GUIDED = "training", "folders", "evaluation", "serving"
GUIDES = [ROOT / "README.md", *(ROOT / "retinex_keras" / name / "README.md" for name in GUIDED)]


def test_every_command_of_the_readme_runs(make_pairs, tmp_path, monkeypatch):
    """And of the guides, on tiny files. What tests of their own run, and what wants several machines, is only understood."""
    text = "\n".join(path.read_text() for path in GUIDES)
    lines = re.findall(r"^    (?:until |PYTHONPATH=\. )?retinex (.*?)(?:;.*| +#.*)?$", text, re.MULTILINE)
    for name in ("LOL/our485", "LOL/eval15", "SICE/pairs"):
        make_pairs(name)
    for source, target in (("low", "photos"), ("high", "DIR")):
        shutil.copytree(tmp_path / "LOL/eval15" / source, tmp_path / target)
    shutil.copy(tmp_path / "photos/scene.0.png", tmp_path / "photo.jpg")  # the content decides what it is
    monkeypatch.chdir(tmp_path)
    small = ["--epochs=1", "--batch-size=4", "--patch-size=16", "--filters=4", "--every=1"]
    commands = [shlex.split(line) for line in lines]
    elsewhere = {"--workers", "--cluster", "my_recipe:recipe", "runs/gain/retinexnet.keras"}
    for command in commands:
        if command[0] in ("app", "benchmark", "export", "request", "convert") or not elsewhere.isdisjoint(command):
            _parser().parse_args(command)
        else:
            assert main(command + small * (command[0] == "train")) == 0, command
    run = {"app", "enhance", "decompose", "evaluate", "compare", "train", "export", "request", "benchmark", "convert"}
    assert {command[0] for command in commands} == run


PAGES = [*GUIDES, ROOT / "checkpoints" / "README.md", *sorted(ROOT.glob("notebooks/**/README.md"))]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_a_page_is_easy_to_read(page):
    """Its links lead to files and headings that exist, its lines fit a window, and the first page takes three minutes."""
    text = page.read_text()
    for link in re.findall(r"\]\(([^)]+)\)", text):
        path, _, heading = link.partition("#")
        if "://" not in link:
            target = page.parent / path if path else page
            assert target.exists(), link
            headings = re.findall(r"^#+ (.*)", target.read_text(), re.MULTILINE) if heading else []
            names = [re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in headings]
            assert not heading or heading in names, link
    assert [line for line in text.splitlines() if len(line) >= 128] == []
    assert page != GUIDES[0] or len(text.splitlines()) <= 150
