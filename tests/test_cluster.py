import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from retinex_keras.cli import main
from retinex_keras.folders.cluster import _Enhancer
from retinex_keras.folders.plan import find_place, plan_folder
from retinex_keras.folders.run import enhance_folder


def processes(name, ancestor):
    """The ids of the processes that are called so and descend from another."""
    parents, named = {}, []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parents[int(folder.name)] = int((folder / "stat").read_text().rsplit(")", 1)[1].split()[1])
            if (folder / "cmdline").read_text().startswith(name):
                named.append(int(folder.name))
        except OSError:  # it has ended
            continue

    def descends(process):
        return process == ancestor or (process in parents and descends(parents[process]))

    return [process for process in named if descends(process)]


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="it looks for the worker in /proc")
def test_a_worker_that_is_killed_loses_and_doubles_nothing(tiny, random, tmp_path):
    pytest.importorskip("ray", reason="Ray is not installed")
    photos, plain, out = (tmp_path / name for name in ("photos", "plain", "out"))
    (photos / "nested").mkdir(parents=True)
    for i in range(70):
        pixels = random.integers(0, 60, (60 + i, 80, 3), dtype="uint8")
        odd = os.fsdecode(b"\xff") if i == 69 else ""  # a name that is no UTF-8
        Image.fromarray(pixels).save(photos / ("nested" if i % 3 else "") / f"{odd}{i}.png")
    (photos / "bad.jpg").write_bytes(b"no image")
    tiny.save(tmp_path / "tiny.keras")
    options = ["--weights", str(tmp_path / "tiny.keras")]
    assert main(["enhance", str(photos), str(plain), *options]) == 1
    out.mkdir()
    (out / "0.png").write_text("kept")

    command = [sys.executable, "-m", "retinex_keras.cli", "enhance", photos, out, "--cluster", "local", *options]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    while process.poll() is None and len([*out.glob("*.png"), *out.glob("nested/*.png")]) < 5:
        time.sleep(0.01)
    workers = processes("ray::MapWorker", process.pid)
    assert workers, "it ended before it was killed"
    assert (out / ".retinex.lock").exists()
    for worker in workers:
        os.kill(worker, signal.SIGKILL)
    printed, errors = process.communicate(timeout=200)
    assert process.returncode == 1, errors
    assert printed.splitlines()[-1] == f"enhanced: 69 images into {out}; 1 was there already, 1 is bad"
    assert f"retinex: {photos / 'bad.jpg'} is not an image" in errors
    results = {path.relative_to(out) for path in out.rglob("*") if path.is_file()}
    assert results == {path.relative_to(plain) for path in plain.rglob("*.png")}
    assert not list(out.rglob(".*"))
    assert (out / "0.png").read_text() == "kept"
    for name in results - {Path("0.png")}:
        with Image.open(out / name) as made, Image.open(plain / name) as expected:
            np.testing.assert_array_equal(made, expected, err_msg=str(name))


def test_addresses_of_folders(tiny, random, tmp_path, monkeypatch):
    """What an actor does, in this process, where its files lie in memory; a name may hold what a URL escapes."""
    memory = pytest.importorskip("fsspec", reason="fsspec is not installed").filesystem("memory")
    plain = tmp_path / "my photos"
    (plain / "a [b]").mkdir(parents=True)
    for name in ("1.png", "a [b]/2%20::.jpg"):
        Image.fromarray(random.integers(0, 60, (20, 24, 3), dtype="uint8")).save(plain / name)
    (plain / "bad.png").write_bytes(b"no image")
    (plain / ".hidden.png").write_bytes(b"not looked at")
    tiny.save(tmp_path / "tiny.keras")
    enhance_folder(plain, tmp_path / "expected", tiny)
    memory.store.clear()
    memory.put(str(plain), "/in", recursive=True)
    threads = "tensorflow.config.threading.set_intra_op_parallelism_threads"
    monkeypatch.setattr(threads, lambda count: None)  # only a process that has not begun can set it
    for i, (folder, out) in enumerate(
        [(plain, "memory://sent"), ("memory://in", tmp_path / "got it"), ("memory://in", "memory://in/out/")]
    ):
        plan = plan_folder(folder, out)
        assert len(plan.targets) == 3
        assert not plan.existing
        enhancer = _Enhancer(plan, tmp_path / "tiny.keras", None, None, {}, quality=95, max_pixels=10**6)
        images, targets = ([os.fsencode(path) for path in paths] for paths in (plan.targets, plan.targets.values()))
        rows = enhancer({"image": images, "target": targets})
        assert [reason != b"" for reason in rows["reason"]] == ["bad.png" in image for image in plan.targets]
        (reason,) = filter(None, rows["reason"])
        assert reason.decode().startswith(f"{plan.source.full_name(plan.source.folder)}/bad.png is not an image")
        again = plan_folder(folder, out)
        assert len(again.targets) == 1
        assert len(again.existing) == 2
        if plan.sink.filesystem:
            memory.get(plan.sink.folder, str(tmp_path / str(i)), recursive=True)
            out = tmp_path / str(i)
        files = sorted(path.relative_to(out) for path in out.rglob("*") if path.is_file())
        assert files == [Path("1.png"), Path("a [b]/2%20::.jpg")]
        for name in files:
            assert (out / name).read_bytes() == (tmp_path / "expected" / name).read_bytes()


@pytest.mark.parametrize(
    ("folder", "out", "message"),
    [
        ("memory://in", "memory:///in/", "Results in memory:///in would overwrite inputs"),
        ("memory://in/in", "memory://in", "would overwrite inputs"),
        ("memory://none", "memory://out", "memory:///none holds no image"),
        ("memory://in/1.png", "memory://out", "holds no image"),
        ("unknown://in", "memory://out", "unknown://in cannot be reached: Protocol not known"),
        ("simplecache::memory://in", "memory://out", "chain of addresses"),
        ("memory://in", "simplecache::http://169.254.169.254/", "chain of addresses"),
        ("http://169.254.169.254/latest", "memory://out", "no store that keeps files"),
        ("memory://in", "https://example.org/out", "no store that keeps files"),
        ("memory://in", "github://owner:name@main/out", "no store that keeps files"),
        ("file://in", "memory://out", "three slashes"),
    ],
)
def test_addresses_that_are_refused(folder, out, message):
    memory = pytest.importorskip("fsspec", reason="fsspec is not installed").filesystem("memory")
    for name in ("/in/1.png", "/in/in/1.png", "/in/in/in/1.png"):
        memory.pipe_file(name, b"")
    with pytest.raises(ValueError, match=message):
        plan_folder(folder, out, force=True)


def test_addresses_need_no_cluster(tiny, random, tmp_path):
    memory = pytest.importorskip("fsspec", reason="fsspec is not installed").filesystem("memory")
    memory.store.clear()
    (tmp_path / "photos").mkdir()
    Image.fromarray(random.integers(0, 60, (20, 24, 3), dtype="uint8")).save(tmp_path / "photos" / "1.png")
    assert enhance_folder(tmp_path / "photos", "memory://out", tiny) == (["memory:///out/1.png"], [], [], [])
    assert enhance_folder(tmp_path / "photos", "memory://out", tiny) == ([], ["memory:///out/1.png"], [], [])
    enhance_folder(tmp_path / "photos", tmp_path / "out", tiny)
    assert memory.cat_file("/out/1.png") == (tmp_path / "out" / "1.png").read_bytes()


def test_a_folder_above_the_inputs_takes_results_but_no_inputs_of_others(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a" / "a").mkdir(parents=True)
    (tmp_path / "a" / "1.png").write_bytes(b"")
    assert plan_folder("a", ".").targets == {"a/1.png": "1.png"}
    (tmp_path / "a" / "a" / "1.png").write_bytes(b"")
    with pytest.raises(ValueError, match="would overwrite inputs"):
        plan_folder("a", tmp_path)
    (tmp_path / "a" / "out").mkdir()
    (tmp_path / "a" / "out" / "1.png").write_bytes(b"")
    (tmp_path / "a" / "link.png").symlink_to(tmp_path / "a" / "out" / "1.png")
    plan = plan_folder("a", "a/out")  # what lies there, under whatever name, is no input
    assert plan.targets == {"a/a/1.png": "a/out/a/1.png"}
    assert plan.existing == [Path("a/out/1.png")]


def test_an_address_of_files_is_a_folder(tmp_path):
    pytest.importorskip("fsspec", reason="fsspec is not installed")
    assert find_place(f"file://{tmp_path}/a b/") == (None, str(tmp_path / "a b"))


def test_without_ray_it_is_said_what_to_install(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    assert main(["enhance", str(tmp_path), str(tmp_path / "out"), "--cluster", "local"]) == 2
    assert "pip install '.[cluster]'" in capsys.readouterr().err
