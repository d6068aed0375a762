"""Folders in which something is wrong: names that clash, other runs, kills, closed doors. Files are real; no network runs."""

import os
import resource
import shutil
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest
from PIL import Image

from retinex_keras.cli import main
from retinex_keras.folders.cluster import enhance_on_cluster
from retinex_keras.folders.plan import Place, plan_folder
from retinex_keras.folders.run import enhance_files, run_plan
from retinex_keras.imaging.atomic import atomic_path, remove_leftovers
from retinex_keras.imaging.read import read_image
from retinex_keras.imaging.write import write_image


def copy_folder(folder, out, force=False):
    """A run on a folder whose network leaves the pictures as they are."""
    return run_plan(plan_folder(folder, out, force), lambda plan: enhance_files(plan, lambda image: image, 95, 10**6))


@pytest.fixture
def fill():
    """Writes small images: fill(folder, *names)."""

    def write(folder, *names):
        for i, name in enumerate(names):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            with open(folder / name, "wb") as file:
                Image.new("RGB", (9, 7), (i, 20, 30)).save(file, "png")
        return folder

    return write


@pytest.fixture
def photos(tmp_path, fill):
    return fill(tmp_path / "photos", "a.png", "b.psd", "nested/c.png")


def names(folder):
    """All files below a folder, hidden ones too."""
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_dir())


def test_results_that_clash_are_found_before_work(photos, fill, tmp_path):
    fill(photos, "b.psd.png")
    with pytest.raises(ValueError, match=r"b\.psd and .*b\.psd\.png would both become .*out/b\.psd\.png; rename one"):
        copy_folder(photos, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("pair", [("A.png", "a.PNG"), ("caf\u00e9/1.png", "cafe\u0301/1.png"), ("ss.png", "\u00df.png")])
def test_names_that_are_one_on_some_filesystems_clash_there(pair, tmp_path):
    memory = pytest.importorskip("fsspec", reason="fsspec is not installed").filesystem("memory")
    memory.store.clear()
    memory.pipe({f"/in/{name}": b"" for name in pair})
    (tmp_path / "try").mkdir()
    one, other = (tmp_path / "try" / Path(name).parts[0] for name in pair)
    one.touch()
    if other.exists():
        with pytest.raises(ValueError, match="would both become"):
            plan_folder("memory://in", tmp_path / "out")
    else:
        assert len(plan_folder("memory://in", tmp_path / "out").targets) == 2
    assert names(tmp_path) == [f"try/{one.name}"]
    assert len(plan_folder("memory://in", "memory://out").targets) == 2


AT_WORK = """
import sys, time
from retinex_keras.folders.plan import plan_folder
from retinex_keras.folders.run import run_plan
from retinex_keras.imaging.atomic import atomic_path

def work(plan):
    with atomic_path(plan.targets[min(plan.targets)]) as temporary:
        temporary.write_bytes(b"half")
        print("at work", flush=True)
        time.sleep(100)
    yield

run_plan(plan_folder(*sys.argv[1:]), work)
"""


def test_a_second_run_is_refused_and_a_killed_one_is_in_nobodys_way(photos, tmp_path):
    out = tmp_path / "out"
    with subprocess.Popen([sys.executable, "-c", AT_WORK, photos, out], stdout=subprocess.PIPE, text=True) as first:
        assert first.stdout.readline() == "at work\n"
        remove_leftovers(out)  # of nobody who is alive
        before = names(out)
        assert len(before) == 2
        assert all(name.startswith(".retinex") for name in before)
        for force in (False, True):
            with pytest.raises(OSError, match=f"Another run is writing to {out}; wait"):
                copy_folder(photos, out, force)
        assert names(out) == before
        assert len(copy_folder(photos, tmp_path / "elsewhere").made) == 3
        first.send_signal(signal.SIGKILL)
    assert names(out) == before
    report = copy_folder(photos, out)
    assert (len(report.made), report.existing) == (3, [])
    assert names(out) == ["a.png", "b.psd.png", "nested/c.png"]


def test_results_of_a_run_that_has_just_ended_are_not_made_again(photos, tmp_path):
    plan = plan_folder(photos, tmp_path / "out")
    copy_folder(photos, tmp_path / "out")

    def work(plan):
        assert not plan.targets
        yield from ()

    assert len(run_plan(plan, work).existing) == 3


def test_what_is_left_out_is_named(photos, fill, tmp_path, tiny, capsys):
    for name in ("IMG_1.JXL", "nested/raw.X3F", "notes.txt", "film.mp4", "film.mpg", ".hidden.jxl"):
        (photos / name).write_bytes(b"content")
    (photos / "broken.jpg").symlink_to("nowhere")
    (photos / "loop.png").symlink_to("loop.png")
    (photos / "up").symlink_to(photos)
    (photos / "good.png").symlink_to("a.png")
    os.mkfifo(photos / "pipe.png")
    fill(photos, "phone.mpo")
    out = photos / "out"
    fill(out, "more.mpo")  # what lies among the results is no input
    left_out = ["IMG_1.JXL", "broken.jpg", "loop.png", "nested/raw.X3F", "pipe.png", "up"]
    report = copy_folder(photos, out)
    assert [str(path.relative_to(photos)) for path, _ in report.skipped] == left_out
    assert len(report.made) == 5

    tiny.save(tmp_path / "tiny.keras")
    assert main(["enhance", str(photos), str(out), "--weights", str(tmp_path / "tiny.keras")]) == 1
    printed = capsys.readouterr()
    assert (
        printed.out
        == f"enhanced: 0 images into {out}; 5 were there already, 0 are bad, 6 are skipped; --force makes results again\n"
    )
    lines = printed.err.splitlines()[-6:]
    assert [line.split(": ")[1] for line in lines] == [str(photos / name) for name in left_out]
    assert lines[0].endswith("It is a .jxl file, a format that is not read here; save it as a JPEG, PNG or TIFF.")


def test_a_link_is_named_whatever_its_name_is(photos, tmp_path, tiny, monkeypatch, capsys):
    (photos / "link").symlink_to(tmp_path)
    tiny.save(tmp_path / "tiny.keras")
    monkeypatch.chdir(photos)
    assert main(["enhance", ".", str(tmp_path / "out"), "--weights", str(tmp_path / "tiny.keras")]) == 1
    assert "retinex: link: A link to a folder is not followed" in capsys.readouterr().err


def test_only_photos_that_cannot_be_read_are_no_empty_folder(tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.x3f").touch()
    made, existing, bad, skipped = copy_folder(tmp_path / "in", tmp_path / "out")
    assert (made, existing, bad, [path.name for path, _ in skipped]) == ([], [], [], ["a.x3f"])
    memory = pytest.importorskip("fsspec", reason="fsspec is not installed").filesystem("memory")
    memory.store.clear()
    memory.pipe({"/in/a.x3f": b"", "/in/b.txt": b"", "/in/../../c.png": b""})
    assert copy_folder("memory://in", tmp_path / "out").skipped[0][0] == "memory:///in/a.x3f"
    assert names(tmp_path) == ["in/a.x3f"]


@pytest.mark.parametrize("blocked", ["out", "out/nested", "link", "above"])
def test_a_file_in_place_of_a_folder_is_found_before_work(photos, tmp_path, blocked):
    (tmp_path / "out").mkdir()
    if blocked == "link":
        shutil.rmtree(tmp_path / "out")
        (tmp_path / "out").symlink_to("nowhere")
    elif blocked == "out/nested":
        (tmp_path / "out" / "nested").touch()
    else:
        shutil.rmtree(tmp_path / "out")
        (tmp_path / "out").touch()
    before = names(tmp_path)
    with pytest.raises(ValueError, match="is a file where a folder of results has to be; name another folder"):
        copy_folder(photos, tmp_path / "out" / "deeper" / "still" if blocked == "above" else tmp_path / "out")
    assert names(tmp_path) == before


def test_a_run_on_the_root_of_a_disk_goes_on(photos, tmp_path, monkeypatch):
    out = tmp_path / "out"
    inside = photos.relative_to("/") / "a.png", (out / photos.relative_to("/") / "a.png").relative_to("/")
    monkeypatch.setattr(Place, "images", lambda place: ([path.as_posix() for path in inside if Path("/", path).exists()], []))
    assert copy_folder("/", out).made == [Path("/", inside[1])]
    assert copy_folder("/", out).existing == [Path("/", inside[1])]


def test_a_folder_under_another_name_is_not_its_own_output(photos, tmp_path):
    (tmp_path / "link").symlink_to(photos)
    for folder, out in ((photos, tmp_path / "link"), (tmp_path / "link", photos), (photos, photos / "nested" / "..")):
        with pytest.raises(ValueError, match="would overwrite inputs"):
            copy_folder(folder, out, force=True)


def test_links_in_the_folder_of_results_lead_to_no_input_and_no_other_result(photos, fill, tmp_path):
    before = (photos / "nested" / "c.png").read_bytes()
    out = fill(tmp_path / "out", "other/x.png")
    (out / "nested").symlink_to(photos / "nested")
    with pytest.raises(ValueError, match="would overwrite inputs"):
        copy_folder(photos, out, force=True)
    assert (photos / "nested" / "c.png").read_bytes() == before
    (out / "nested").unlink()
    (out / "nested").symlink_to("other")
    fill(photos, "other/c.png")
    with pytest.raises(ValueError, match=r"nested/c\.png and .*other/c\.png would both become"):
        copy_folder(photos, out)
    (photos / "other" / "c.png").rename(photos / "other" / "d.png")
    assert len(copy_folder(photos, out).made) == 4
    assert names(out) == ["a.png", "b.psd.png", "other/c.png", "other/d.png", "other/x.png"]


def test_an_empty_name_is_no_folder(photos, tmp_path, monkeypatch):
    monkeypatch.chdir(photos)
    for folder, out in (("", tmp_path / "out"), (photos, "")):
        with pytest.raises(ValueError, match="name of a folder is empty"):
            copy_folder(folder, out)


@pytest.mark.parametrize(("out", "message"), [("", "is empty"), ("memory://out", "memory:// of one process is not that")])
def test_what_is_no_place_for_a_cluster(photos, tmp_path, tiny, out, message):
    for package in ("ray", "fsspec"):
        pytest.importorskip(package, reason=f"{package} is not installed")
    tiny.save(tmp_path / "tiny.keras")
    with pytest.raises(ValueError, match=message):
        enhance_on_cluster(photos, out, weights=tmp_path / "tiny.keras")


ORDINARY = """
import sys
from retinex_keras.folders.plan import plan_folder
from retinex_keras.folders.run import enhance_files, run_plan
from retinex_keras.imaging.write import check_writable

for folder, out in zip(sys.argv[1::2], sys.argv[2::2]):
    try:
        report = run_plan(plan_folder(folder, out), lambda plan: enhance_files(plan, lambda image: image, 95, 10**6))
        print(len(report.made), [(path.name, reason) for path, reason in report.bad + report.skipped])
    except (ValueError, OSError) as error:
        print(error)
try:
    check_writable("full/a.png")
except OSError as error:
    print(error)
"""


@pytest.mark.skipif(os.geteuid() == 0 and not shutil.which("setpriv"), reason="nothing is closed to root")
def test_closed_doors(photos, fill, tmp_path, monkeypatch):
    """By a process without root's right to pass through them."""
    monkeypatch.chdir(tmp_path)
    fill(tmp_path, "photos/closed/d.png", "inner/nested/x", "taken/.retinex.lock/x")
    Path("photos/a.png").chmod(0)
    Path("full").mkdir()
    closed = {"photos/closed": 0, "full": 0o500, "inner/nested": 0o500}
    for folder, mode in closed.items():
        Path(folder).chmod(mode)
    runs = [("photos", "out"), ("photos/closed", "out"), *(("photos", out) for out in ("full", "full/er", "inner", "taken"))]
    given_up = ["setpriv", "--bounding-set=-dac_override,-dac_read_search"] if os.geteuid() == 0 else []
    result = subprocess.run([*given_up, sys.executable, "-c", ORDINARY, *sum(runs, ())], capture_output=True, text=True)
    for folder in closed:
        Path(folder).chmod(0o700)
    some, none, *full, inner, taken, photo = result.stdout.splitlines()
    assert some.startswith("2 [('a.png', ")
    assert "('closed', 'The folder cannot be listed (Permission denied); check its permissions.')" in some
    assert none == "The folder photos/closed cannot be listed (Permission denied); check its permissions."
    assert [*full, photo] == ["The folder full cannot be written to; change its permissions, or name another one."] * 3
    assert inner == "The folder inner/nested cannot be written to; change its permissions, or name another one."
    assert taken.startswith("taken/.retinex.lock cannot be made (Is a directory): mend that")


def test_a_full_disk_is_said_and_leaves_nothing(tmp_path, random):
    """The largest size of a file stands for it."""
    path = tmp_path / "a.png"
    write_image(path, random.random((4, 4, 3)))
    before, limits = path.read_bytes(), resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, limits[1]))
    try:
        with pytest.raises(OSError, match=r"^.*/a\.png could not be written \(File too large\)\.$"):
            write_image(path, random.random((50, 50, 3)))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert names(tmp_path) == ["a.png"]
    assert path.read_bytes() == before


def test_a_temporary_file_is_out_of_reach_of_others(tmp_path):
    path = tmp_path / "new.weights.h5"
    with atomic_path(path) as one, atomic_path(path) as other:
        assert one.parent != other.parent  # two processes of one number, in two containers, do not meet
        assert stat.S_IMODE(one.parent.stat().st_mode) == 0o700
        assert one.parent.parent == tmp_path
        assert one.name.endswith(".weights.h5")
        one.write_text("one")
        other.write_text("other")
    assert path.read_text() == "one"
    assert names(tmp_path) == ["new.weights.h5"]


def test_the_mode_of_a_file_is_that_of_any_new_one_or_of_the_one_it_replaces(tmp_path):
    (tmp_path / "ordinary").touch()
    modes = []
    for mode in (None, 0o600, 0o664):
        if mode:
            (tmp_path / "a.txt").chmod(mode)
        with atomic_path(tmp_path / "a.txt") as temporary:
            temporary.write_text("content")
        modes.append((tmp_path / "a.txt").stat().st_mode)
    assert [stat.S_IMODE(mode) for mode in modes] == [stat.S_IMODE((tmp_path / "ordinary").stat().st_mode), 0o600, 0o664]


def test_a_planted_link_is_replaced_and_not_followed(photos, tmp_path):
    victim, out = tmp_path / "victim.txt", tmp_path / "out"
    victim.write_text("kept")
    (out / "nested").mkdir(parents=True)
    (out / "a.png").symlink_to(victim)
    (out / ".retinex-12345678.part").symlink_to(photos)
    (out / "nested" / ".retinex-12345678.part").write_text("no folder")
    assert len(copy_folder(photos, out, force=True).made) == 3
    assert read_image(out / "a.png").shape == (7, 9, 3)
    (out / ".retinex.lock").symlink_to(victim)
    with pytest.raises(OSError, match="mend that"):
        copy_folder(photos, out, force=True)
    assert victim.read_text() == "kept"
    assert len(names(photos)) == 3


def test_names_of_any_bytes_and_of_any_length(fill, tmp_path):
    odd = [os.fsdecode(b"\xff\xfe.png"), "n" * 251 + ".png", "d" * 255 + "/1.png", "dots" + "." * 247 + ".png", "a\nb.png"]
    too_long = "n" * 251 + ".psd"  # its result has .png added
    photos = fill(tmp_path / "photos", *odd, too_long)
    made, _, bad, _ = copy_folder(photos, tmp_path / "out")
    assert sorted(path.relative_to(tmp_path / "out").as_posix() for path in made) == sorted(odd)
    assert [(path.name, reason[-43:]) for path, reason in bad] == [(too_long, " could not be written (File name too long).")]
    assert names(tmp_path / "out") == sorted(odd)


def test_a_clock_that_is_wrong_changes_nothing(photos, tmp_path):
    for year, path in zip((1960, 2099), sorted(photos.glob("*.*"))):
        os.utime(path, ((year - 1970) * 31556952,) * 2)
    out = tmp_path / "out"
    assert len(copy_folder(photos, out).made) == 3
    for path in out.rglob("*"):
        os.utime(path, (time.time() + 10**9,) * 2)
    (out / "a.png").unlink()
    assert [len(files) for files in copy_folder(photos, out)] == [1, 2, 0, 0]
