import io
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from retinex_keras import __version__
from retinex_keras.cli import _parser, main
from retinex_keras.folders.run import enhance_folder
from retinex_keras.imaging.read import read_image, read_photo
from retinex_keras.imaging.write import write_image


@pytest.fixture
def weights(tiny, tmp_path):
    tiny.save(tmp_path / "tiny.keras")
    return ["--weights", str(tmp_path / "tiny.keras")]


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
    for name in ("sheet.jpg", "sheet.bmp"):  # matplotlib does not write the latter
        assert main([*command, str(tmp_path / name), "--force"]) == 0
        height, width = read_image(tmp_path / name).shape[:2]
        assert width / height == pytest.approx(2 * 17 / 13, rel=0.15)


def test_decompose_writes_and_names_all_pictures(photo, weights, tmp_path, capsys):
    assert main(["decompose", str(photo), str(tmp_path / "parts"), *weights]) == 0
    printed = capsys.readouterr().out.splitlines()
    names = ["enhanced", "reflectance", "illumination", "restored reflectance", "adjusted illumination"]
    assert [line.split(": ")[0] for line in printed] == names
    assert all(read_image(line.split(": ")[1]).shape == (13, 17, 3) for line in printed)


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


REFUSED = """
enhance: the following arguments are required: image, out
enhance photo.png: required: out
enhanc photo.png out.png: invalid choice: 'enhanc'
enhance photo.png out.png --wieghts paper: unrecognized arguments: --wieghts paper
enhance missing.png out.png: missing.png is not a file
enhance missing out: missing is not a file
enhance text.txt out.png: text.txt is not an image
enhance zero.jpg out.png: zero.jpg is not an image
enhance photo.png nowhere/out.png: There is no folder
enhance photo.png out.xbm: suffix decides
enhance photo.png out: suffix decides
enhance photo.png photo.png: never overwritten
enhance photo.png d/../photo.png: never overwritten
enhance photo.png .: never overwritten
enhance "" out.png: argument image: is empty
enhance photo.png "": argument out: is empty
enhance photo.png out.png --weights "": argument --weights: is empty
enhance photo.png out.png --sheet "": argument --sheet: is empty
enhance photo.png out.png --weights papper: no weights 'papper'. Shipped ones: lol, natural, paper, simple
enhance photo.png out.png --engine torch: invalid choice: 'torch'
enhance photo.png out.png --denoise nan: 0, for none, or a larger number. Received 'nan'
enhance photo.png out.png --denoise=-1: 0, for none, or a larger number. Received '-1'
enhance photo.png out.jpg --quality 0: from 1 to 100
enhance photo.png out.jpg --quality best: from 1 to 100. Received 'best'
enhance . out --quality 101: from 1 to 100
enhance photo.png out.png --max-pixels 0: 1 or larger
enhance photo.png out.png --max-pixels 9: 17x13 pixels, more than 9
enhance photo.png out.png --sheet photo.png: never overwritten
enhance photo.png out.png --sheet d/../out.png: both d/../out.png
enhance photo.png d/b.png: d/b.png exists: add --force
enhance photo.png out.png --sheet d/b.png: d/b.png exists: add --force
enhance photo.png out.png --sheet folder.png: folder.png is a folder
enhance photo.png out.png --sheet sheet.gif: suffix decides
enhance d out --sheet sheet.png: leave --sheet out
enhance d out.png: out.png is the name of a picture
enhance d d: never overwritten
enhance d d/../d: never overwritten
enhance d/.. out --weights nothing: no weights 'nothing'
enhance empty out: holds no image
enhance photo.png d/b.png out.png: out.png is the name of a picture
enhance photo.png d/b.png text.txt: text.txt is a file
enhance photo.png d/photo.png out: photo.png and d/photo.png would both become
enhance photo.png empty out: empty is a folder. Expected photos
enhance x.png y.png out: None of the photos is there
enhance d/b.png photo.png d: never overwritten
enhance photo.png d/b.png out --sheet sheet.png: leave --sheet out
enhance - photo.png out: Standard input, -, is one photo
enhance - out.png: Standard input is not an image
enhance photo.png - --json: leave --json out
enhance photo.png d/b.png -: Standard output, -, is for one picture
enhance d -: Standard output, -, is for one picture
enhance d - --cluster local: Standard output, -, is for one picture
enhance missing/ out: There is no folder missing
enhance s3://bucket/photos out: add --cluster local
enhance photo.png out.png --cluster local: A cluster takes one folder
decompose photo.png: required: out
decompose missing.png out: missing.png is not a file
decompose photo.png photo.png: is a file; name a folder
decompose "" out: argument image: is empty
decompose photo.png d/photo.png out: would both become
decompose a.png a_restored.png out: a.png and a_restored.png would both become out/a_restored_reflectance.png
decompose a.png a_reflectance.png .: never overwritten
decompose photo.png -: argument out: -, for a stream, is known to `retinex enhance` alone
decompose - out: argument image: -, for a stream
decompose photo.png s3://bucket/out: argument out: expected a path. Received s3://bucket/out: addresses are for
decompose d out: d is a folder. Expected photos
decompose photo.png out --weights nothing: no weights 'nothing'
decompose photo.png out --max-pixels 9: raise max_pixels
evaluate d missing: There is no folder missing
evaluate d photo.png: photo.png is a file. Expected a folder
evaluate d d --weights nothing: no weights 'nothing'
evaluate d empty: holds no image
evaluate d d --format xml: invalid choice: 'xml'
evaluate d d --results missing: There is no folder missing
evaluate d d --results d --denoise 0: leave --weights, --denoise and --engine out
evaluate d d --results d --weights paper: leave --weights, --denoise and --engine out
evaluate photos: photos holds no image in a format that is read here; put some there. a.jxl is there: It is a .jxl file
compare d missing: There is no folder missing
compare d d --methods magic: no method 'magic'
compare d d --weights nothing: no weights 'nothing'
compare d d --sheet folder.png: is a folder
compare d d --sheet d/photo.png: never overwritten
convert out.keras: nothing to convert
convert --decom missing out.keras: no folder missing
convert --decom empty out.keras: no TensorFlow checkpoint
convert --decom empty out.h5: end in .keras
export out --weights nothing: no weights 'nothing'
export "": argument out: is empty
export out --version 0: 1 or larger
export out --max-pixels=-1: 1 or larger
export out --version 9223372036854775807: out of range
export out.pb --format onnx: ONNX files end in .onnx
export out.onnx --version 2: --version and --max-pixels are of a SavedModel
export out.onnx --max-pixels 100: --version and --max-pixels are of a SavedModel
export gs://bucket/out: argument out: expected a path
export nowhere/out.onnx: There is no folder nowhere
enhance photo.png out.png --exposure 4: exposure goes from -3 to 3
enhance photo.png out.png --exposure x: expected a number
enhance photo.png out.png --exposure -1 --brightness .5: leave one out
decompose photo.png out --strength 2: strength goes from 0 to 1
request http://127.0.0.1:1 photo.png out.png --colour=-1: colour goes from 0 to 2
evaluate d --oracle-brightness: name both folders
train: required: --out
train nowhere --out run: There is no folder
train --out run: nothing to train on
train d --out "": argument --out: is empty
train --photos d --out run --epochs 0: 1 or larger
train --photos d --out run --learning-rate nan: above 0
train --photos d --out run --recipe papper: no recipe 'papper'
train --photos d --out run --validation nowhere: There is no folder
train --photos d --out run --weights nothing: no weights 'nothing'
train --photos d --out run --workers a:1,b:1: which of the 2 workers
train --photos d --out run --index 0: --index is one of --workers
request: required: url
request localhost:8501: Expected http://
request http://localhost:1 photo.png: name the picture to write
request http://localhost:1 missing.png out.png: missing.png is not a file
request http://localhost:1 photo.png photo.png: never overwritten
request http://localhost:1 photo.png out.txt: suffix decides
request http://localhost:1 photo.png d/b.png: d/b.png exists: add --force
request http://localhost:1 photo.png new/ --colour=-1: colour goes from 0 to 2
request http://localhost:1 photo.png -: argument out: -, for a stream
request http://localhost:1 d s3://bucket/out: argument out: expected a path. Received s3://bucket/out
request http://localhost:1 d d: never overwritten
request http://localhost:1 photo.png out.jpg --timeout nan: above 0
request http://localhost:1 --timeout 0: above 0
request http://localhost:1 --version -1: 1 or larger
request http://localhost:1 d out --at-once 0: 1 or larger
request http://localhost:1 "" out.png: argument image: is empty
benchmark --runs 0: 1 or larger
benchmark --weights nothing: no weights 'nothing'
benchmark --recipe nothing: no recipe 'nothing'
"""


def contents(folder):
    """What is in a folder: the bytes of each file, and None for each folder."""
    return {path: path.read_bytes() if path.is_file() else None for path in folder.rglob("*")}


def test_what_cannot_be_done_is_one_sentence_before_tensorflow_is_imported_and_work_begins(photo, tmp_path):
    for name in ("d", "empty", "folder.png", "photos"):
        (tmp_path / name).mkdir()
    (tmp_path / "photos" / "a.jxl").touch()
    for name in ("d/photo.png", "d/b.png", "a.png", "a_restored.png", "a_reflectance.png"):
        shutil.copy(photo, tmp_path / name)
    (tmp_path / "text.txt").write_text("text")
    (tmp_path / "zero.jpg").touch()
    before = contents(tmp_path)
    lines = [line.split(": ", 1) for line in REFUSED.strip().splitlines()]
    script = """
import shlex, sys
from retinex_keras.cli import main
for command in sys.argv[1:]:
    print(main(shlex.split(command)), *{"tensorflow", "keras"} & set(sys.modules), file=sys.stderr)
"""
    commands = [command for command, _ in lines]
    process = [sys.executable, "-c", script, *commands]
    result = subprocess.run(process, cwd=tmp_path, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    printed = result.stderr.splitlines()
    for (command, message), sentence, code in zip(lines, printed[::2], printed[1::2], strict=True):
        assert message in sentence, command
        assert sentence.startswith("retinex: "), command
        assert code == "2", command
    assert result.stdout == ""
    assert contents(tmp_path) == before


def test_an_error_of_a_real_process_is_one_line(tmp_path):
    """TensorFlow's own chatter at start does not get through."""
    command = [sys.executable, "-m", "retinex_keras.cli", "enhance", "missing.png", "out.png"]
    environment = {name: value for name, value in os.environ.items() if name != "TF_CPP_MIN_LOG_LEVEL"}  # JAX sets it
    result = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert result.returncode == 2
    assert result.stderr == "retinex: missing.png is not a file; check the path.\n"


def retinex(arguments, folder, **options):
    """Runs a line of the shell, in which `retinex` is the command; ONNX Runtime starts at once."""
    line = f'retinex() {{ "{sys.executable}" -m retinex_keras "$@"; }}\n{arguments}'
    return subprocess.run(["sh", "-c", line], cwd=folder, capture_output=True, **options)


@pytest.mark.parametrize("closed", ["2>&-", ">&-", "<&- >&- 2>&-", "2>&1 | true", ">/dev/null 2>/dev/full"])
def test_work_is_done_where_a_standard_stream_is_closed_or_not_read(photo, tmp_path, closed):
    pytest.importorskip("onnxruntime")
    command = f"(retinex enhance photo.png out.png --engine onnx; echo $? > code) {closed}"
    retinex(command, tmp_path)
    assert (tmp_path / "code").read_text() == "0\n"
    assert read_image(tmp_path / "out.png").shape == (13, 17, 3)
    (code,) = {
        retinex(f"(retinex {command}; echo $? > code) {closed}", tmp_path).returncode for command in ("--help", "enhance")
    }
    assert (code, (tmp_path / "code").read_text()) == (0, "2\n")


def test_a_report_on_a_full_disk_is_an_error_after_the_work(photo, tmp_path):
    pytest.importorskip("onnxruntime")
    result = retinex("retinex enhance photo.png out.png --engine onnx > /dev/full", tmp_path)
    assert (result.returncode, result.stderr) == (2, b"retinex: No space left on device.\n")
    assert (tmp_path / "out.png").exists()


def test_names_that_are_no_text_stop_no_work(photo, tmp_path):
    pytest.importorskip("onnxruntime")
    name = os.fsencode(tmp_path) + b"/b\xff.png"
    shutil.copy(photo, name)
    code = "; echo $? > code"
    retinex(f"(retinex decompose b*.png photo.png parts --engine onnx{code}) | head -0", tmp_path)
    assert (tmp_path / "code").read_text() == "0\n"
    assert len(list((tmp_path / "parts").iterdir())) == 10
    result = retinex("retinex enhance b*.png photo.png out --engine onnx --json", tmp_path)
    made = [Path(path).name for path in json.loads(result.stdout)["made"]]
    assert (result.returncode, made) == (0, [os.fsdecode(b"b\xff.png"), "photo.png"])


def stopped_while_tensorflow_loads(arguments, **options):
    """What a command printed and its exit code, (output, errors, code)."""
    if not Path("/proc/self/maps").exists():
        pytest.skip("there is no /proc")
    command = [sys.executable, "-m", "retinex_keras", *arguments]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, **pipes, **options) as process:
        while "tensorflow" not in Path(f"/proc/{process.pid}/maps").read_text():
            time.sleep(0.05)
            assert process.poll() is None
        process.send_signal(signal.SIGINT)
        return *process.communicate(), process.returncode


def test_a_stop_while_tensorflow_is_imported_is_one_line(photo, tmp_path):
    _, errors, code = stopped_while_tensorflow_loads(["enhance", photo, tmp_path / "out.png"])
    assert (errors, code) == ("retinex: stopped\n", 130)


def test_without_a_command_its_help_is_shown(capsys):
    assert main([]) == 2
    assert capsys.readouterr().err.startswith("usage: retinex ")
    with pytest.raises(SystemExit, match="0"):
        main(["--version"])
    assert capsys.readouterr().out == f"retinex {__version__}\n"


def test_standard_input_and_output(photo, weights, tmp_path, capsysbinary, monkeypatch):
    assert main(["enhance", str(photo), str(tmp_path / "out.png"), *weights]) == 0
    capsysbinary.readouterr()
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(photo.read_bytes())))
    assert main(["enhance", "-", "-", *weights]) == 0
    printed = capsysbinary.readouterr()
    assert (printed.out, printed.err) == ((tmp_path / "out.png").read_bytes(), b"")
    with open(photo) as file:
        monkeypatch.setattr("sys.stdin", file)
        assert main(["enhance", "-", str(tmp_path / "again.jpg"), *weights]) == 0
    assert read_image(tmp_path / "again.jpg").shape == (13, 17, 3)


def test_a_photo_on_standard_input_is_not_overwritten(photo, tmp_path):
    before = photo.read_bytes()
    result = retinex("retinex enhance - photo.png < photo.png", tmp_path, text=True)
    assert (result.returncode, "never overwritten" in result.stderr) == (2, True)
    assert photo.read_bytes() == before


def test_several_photos_into_a_folder(photo, weights, tmp_path, capsys):
    """A bad one does not stop the others, results that exist are kept, and one photo goes by the same rules."""
    names = [str(photo), str(tmp_path / "bad.jpg"), str(tmp_path / "other.gif")]
    Image.open(photo).save(names[2])
    Path(names[1]).write_bytes(b"bad")
    out = tmp_path / "out"
    assert main(["enhance", names[0], f"{out}/", *weights]) == 0
    assert capsys.readouterr().out == f"enhanced: 1 image into {out}/; 0 were there already, 0 are bad\n"
    (out / "photo.png").write_text("kept")
    assert main(["enhance", *names, str(out), *weights, "--json"]) == 1
    printed = capsys.readouterr()
    report = json.loads(printed.out)
    assert report["made"] == [str(out / "other.gif.png")]
    assert report["existing"] == [str(out / "photo.png")]
    assert [bad["image"] for bad in report["bad"]] == [names[1]]
    assert printed.err.splitlines() == [f"retinex: {report['bad'][0]['reason']}"]
    assert (out / "photo.png").read_text() == "kept"
    assert main(["enhance", names[0], str(out), *weights, "--force"]) == 0
    assert main(["enhance", names[0], str(tmp_path / "one.png"), *weights, "--json"]) == 0
    assert json.loads(capsys.readouterr().out.split("\n", 1)[1])["made"] == [str(tmp_path / "one.png")]
    assert (out / "photo.png").read_bytes() == (tmp_path / "one.png").read_bytes()


def test_several_photos_are_decomposed(photo, weights, tmp_path, capsys):
    shutil.copy(photo, tmp_path / "other.png")
    names = [str(tmp_path / name) for name in ("photo.png", "missing.png", "other.png")]
    assert main(["decompose", *names, str(tmp_path / "parts"), *weights]) == 1
    printed = capsys.readouterr()
    assert printed.out.splitlines()[-1] == f"decomposed: 2 images into {tmp_path / 'parts'}; 0 were there already, 1 is bad"
    assert printed.err == f"retinex: {names[1]} is not a file; check the path.\n"
    assert len(list((tmp_path / "parts").iterdir())) == 10


def test_what_cannot_be_decomposed_does_not_stop_the_others(photo, weights, tmp_path, capsys):
    shutil.copy(photo, tmp_path / "other.png")
    (tmp_path / "parts" / "photo_illumination.png").mkdir(parents=True)
    names = [str(tmp_path / name) for name in ("photo.png", "other.png")]
    assert main(["decompose", *names, str(tmp_path / "parts"), *weights]) == 1
    printed = capsys.readouterr()
    assert "decomposed: 1 image into" in printed.out
    assert "photo_illumination.png is a folder" in printed.err
    assert len(list((tmp_path / "parts").glob("other_*.png"))) == 5


def test_a_photo_is_no_result_under_another_name(photo, tmp_path, capsys):
    """As where case does not count: a link stands for the second name."""
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "photo.png").hardlink_to(photo)
    assert main(["enhance", str(photo), f"{tmp_path / 'out'}/", "--force"]) == 2
    assert "never overwritten" in capsys.readouterr().err


def test_nothing_is_left_of_a_picture_for_standard_output(photo, tmp_path):
    environment = {**os.environ, "TMPDIR": str(tmp_path / "temporary")}
    (tmp_path / "temporary").mkdir()
    output, _, code = stopped_while_tensorflow_loads(["enhance", photo, "-", "--weights", "paper"], env=environment)
    assert (output, code) == ("", 130)
    assert list((tmp_path / "temporary").iterdir()) == []


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
    assert printed.out == f"enhanced: 4 images into {out}; 0 were there already, 1 is bad\n"
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
    assert "enhanced: 1 image into" in capsys.readouterr().out
    assert (out / "a.png").read_text() == "kept"
    assert read_image(out / "nested" / "a.png").shape == (13, 17, 3)
    assert main(["enhance", str(folder), str(out), "--force", *weights]) == 0
    assert read_image(out / "a.png").shape == (13, 17, 3)


def test_a_folder_with_unknown_weights_is_refused_as_a_whole(folder, tmp_path):
    with pytest.raises(FileNotFoundError, match="no weights 'nothing'"):
        enhance_folder(folder, tmp_path / "out", "nothing")
    assert not (tmp_path / "out").exists()


ROOT = Path(__file__).parents[1]
# The guides that train come first, since others use what they trained.
GUIDED = "training", "folders", "evaluation", "serving"
GUIDES = [ROOT / "README.md", *(ROOT / "retinex_keras" / name / "README.md" for name in GUIDED)]


def test_every_command_of_the_readme_runs(make_pairs, tmp_path, monkeypatch):
    """And of the guides, on tiny files. What other tests run, and what wants several machines, is only understood."""
    text = "\n".join(path.read_text() for path in GUIDES)
    lines = re.findall(r"^    (?:until |PYTHONPATH=\. )?retinex (.*?)(?:;.*| +#.*)?$", text, re.MULTILINE)
    for name in ("LOL/our485", "LOL/eval15", "SICE/pairs", "my_pairs"):
        make_pairs(name)
    for source, target in (("low", "photos"), ("high", "DIR")):
        shutil.copytree(tmp_path / "LOL/eval15" / source, tmp_path / target)
    shutil.copy(tmp_path / "photos/scene.0.png", tmp_path / "photo.jpg")  # the content decides what it is
    monkeypatch.chdir(tmp_path)
    small, new = ["--epochs=1", "--batch-size=4", "--patch-size=16", "--every=1"], ["--filters=4"]
    commands = [shlex.split(line) for line in lines]
    elsewhere = {"--workers", "--cluster", "my_recipe:recipe", "runs/gain/retinexnet.keras", "runs/natural"}
    for command in commands:
        if command[0] in ("app", "benchmark", "export", "request", "convert") or not elsewhere.isdisjoint(command):
            _parser().parse_args(command)
        else:
            options = small + new * ("--weights" not in command) if command[0] == "train" else []
            assert main(command + options) == 0, command
    run = {"app", "enhance", "decompose", "evaluate", "compare", "train", "export", "request", "benchmark", "convert"}
    assert {command[0] for command in commands} == run


PAGES = [*GUIDES, *sorted(ROOT.glob("checkpoints/*.md")), *sorted(ROOT.glob("notebooks/**/README.md"))]


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


@pytest.mark.parametrize("command", [["export", "serving"], ["export", "out.onnx"], ["benchmark"]])
def test_what_needs_tensorflow_says_so_on_jax(command, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("keras.backend.backend", lambda: "jax")
    assert main(command) == 2
    assert "needs TensorFlow. Received Keras on jax: unset KERAS_BACKEND." in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_several_machines_on_jax_are_refused(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("KERAS_BACKEND", "jax")
    monkeypatch.setenv("TF_CONFIG", "{}")
    assert main(["train", str(tmp_path), "--out", str(tmp_path / "run")]) == 2
    assert "train together only on TensorFlow" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
