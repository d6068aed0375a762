import concurrent.futures
import http.server
import io
import os
import socket
import subprocess
import sys
import threading

import numpy as np
import pytest
from PIL import Image
from stand_in_server import StandIn, serve_grpc, serve_rest
from test_formats import dng, gradient, heic

from retinex_keras.cli import main
from retinex_keras.imaging.read import read_image, read_photo
from retinex_keras.imaging.write import write_image
from retinex_keras.inference import enhance
from retinex_keras.serving.client import connect


@pytest.fixture(scope="module")
def stand_in(exports):
    return StandIn(exports[0])


@pytest.fixture(scope="module")
def urls(stand_in):
    rest = serve_rest(stand_in)
    urls = {"rest": f"http://127.0.0.1:{rest.server_port}"}
    try:
        grpc, port = serve_grpc(stand_in)
        urls["grpc"] = f"grpc://127.0.0.1:{port}"
    except ModuleNotFoundError:
        grpc = None
    yield urls
    rest.shutdown()
    rest.server_close()
    if grpc:
        grpc.stop(None).wait()


@pytest.fixture(params=["rest", "grpc"])
def url(request, urls, stand_in):
    if request.param not in urls:
        pytest.skip("tensorflow-serving-api is not installed")
    stand_in.failures, stand_in.delay, stand_in.most_under_way = [], 0.0, 0
    return urls[request.param]


@pytest.fixture
def photo(tmp_path, random):
    Image.fromarray(random.integers(0, 60, (13, 17, 3), dtype="uint8")).save(tmp_path / "photo.png")
    return tmp_path / "photo.png"


def saved(image, format):
    stream = io.BytesIO()
    Image.fromarray(image).save(stream, format)
    return stream.getvalue()


@pytest.mark.parametrize("version", [1, 2, None])
def test_a_photo_comes_back_as_enhance_makes_it(url, exports, tmp_path, random, capsys, version):
    photo, out, expected = (tmp_path / name for name in ("photo.png", "out.png", "expected.png"))
    pixels = random.integers(0, 65536, (13, 17, 4), "uint16")
    write_image(photo, pixels[..., :3] // 9, {"alpha": pixels[..., 3:], "dpi": (300.0, 300.0)})
    assert main(["request", url, str(photo), str(out), *(["--version", str(version)] if version else [])]) == 0
    assert capsys.readouterr().out == f"enhanced: {out}\n"
    write_image(expected, enhance(photo, exports[1][version or 2]), read_photo(photo)[1])
    assert out.read_bytes() == expected.read_bytes()


def test_the_suffix_decides_the_format(url, photo, tmp_path):
    assert main(["request", url, str(photo), str(tmp_path / "out.jpg")]) == 0
    with Image.open(tmp_path / "out.jpg") as result:
        assert (result.format, result.size) == ("JPEG", (17, 13))


@pytest.mark.parametrize("name", ["a.tif", "a.gif", "a.dng", "a.heic"])
def test_what_the_server_does_not_take_is_sent_as_png(url, exports, tmp_path, random, name):
    if name.endswith(("dng", "heic")):
        pytest.importorskip({"dng": "rawpy", "heic": "pillow_heif"}[name[2:]], reason="the extra formats is not installed")
    photo = tmp_path / name
    if name == "a.tif":
        write_image(photo, random.integers(0, 65536, (13, 17, 3), "uint16"))
    elif name == "a.gif":
        Image.fromarray(random.integers(0, 60, (13, 17), "uint8")).save(photo)
    else:
        photo.write_bytes(dng(6) if name == "a.dng" else heic(gradient()))
    assert main(["request", url, str(photo), str(tmp_path / "out.png")]) == 0
    result, expected = read_image(tmp_path / "out.png"), enhance(photo, exports[1][2])
    assert result.dtype == expected.dtype == (np.uint16 if name in ("a.tif", "a.dng") else np.uint8)
    np.testing.assert_array_equal(result, expected)


def test_without_a_photo_the_versions_are_listed(url, capsys):
    assert main(["request", url]) == 0
    assert capsys.readouterr().out == "version 1: AVAILABLE\nversion 2: AVAILABLE\n"


def test_a_folder_with_junk_goes_on_where_it_stopped(url, exports, stand_in, photo, tmp_path, capsys):
    folder, out = tmp_path / "photos", tmp_path / "out"
    (folder / "nested").mkdir(parents=True)
    for i in range(6):
        with Image.open(photo) as image:
            image.rotate(10 * i).save(folder / "nested" / f"{i}.png")
    (folder / "bad.jpg").write_bytes(b"hello")
    Image.new("CMYK", (8, 8)).save(folder / "cmyk.jpg")  # what the server alone cannot read
    (out / "nested").mkdir(parents=True)
    (out / "nested" / "0.png").write_text("kept")
    stand_in.delay = 0.05
    assert main(["request", url, str(folder), str(out), "--at-once", "3"]) == 1
    printed = capsys.readouterr()
    assert printed.out == f"enhanced: 5 images into {out}; 1 were there already, 2 are bad\n"
    bad, cmyk = printed.err.splitlines()[-2:]
    assert bad.startswith(f"retinex: {folder / 'bad.jpg'} is not an image")
    assert cmyk.startswith(f"retinex: {folder / 'cmyk.jpg'}: the server refused it: Expected RGB")
    assert 1 < stand_in.most_under_way <= 3
    assert (out / "nested" / "0.png").read_text() == "kept"
    for i in range(1, 6):
        expected = enhance(folder / "nested" / f"{i}.png", exports[1][2])
        np.testing.assert_array_equal(read_image(out / "nested" / f"{i}.png"), expected)


def test_broken_files_among_many_at_once_harm_no_other(url, exports, random):
    images = [random.integers(0, 60, (8 + i % 7, 40 - i, 3), dtype="uint8") for i in range(30)]
    files = [saved(image, ("PNG", "BMP")[i % 2]) for i, image in enumerate(images)]
    files[5::10] = [b"", b"hello", files[25][:200]]
    server = connect(url)

    def ask(contents):
        try:
            return np.asarray(Image.open(io.BytesIO(server.enhance(contents))))
        except ValueError as error:
            return str(error)

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(ask, files))
    for i, (image, answer) in enumerate(zip(images, answers)):
        if i % 10 == 5:
            assert answer.startswith("the server refused it: ")
        else:
            np.testing.assert_array_equal(answer, enhance(image, exports[1][2]))


def test_what_can_pass_is_asked_again(url, stand_in, photo, tmp_path):
    stand_in.failures = [(503, "UNAVAILABLE")] * 2
    assert main(["request", url, str(photo), str(tmp_path / "out.png")]) == 0
    assert stand_in.failures == []


@pytest.mark.parametrize(
    ("failure", "options", "message"),
    [
        ((400, "INVALID_ARGUMENT"), [], "the server refused it"),
        ((500, "INTERNAL"), [], "failed"),
        (None, ["--version", "7"], "no such model or version"),
        (None, ["--timeout", "0.2"], "no answer in time"),
    ],
)
def test_what_stays_is_asked_once_and_is_one_sentence(url, stand_in, photo, tmp_path, capsys, failure, options, message):
    stand_in.failures = [failure, (200, "OK")] if failure else []
    stand_in.delay = 0.6 if "--timeout" in options else 0.0
    assert main(["request", url, str(photo), str(tmp_path / "out.png"), *options]) == 2
    error = capsys.readouterr().err
    assert error.startswith("retinex: ")
    assert message in error
    assert error.count("\n") == 1
    assert len(stand_in.failures) == bool(failure)
    assert not (tmp_path / "out.png").exists()


@pytest.mark.parametrize("scheme", ["http", "grpc"])
def test_a_folder_ends_with_its_server(urls, scheme, photo, tmp_path, capsys):
    if scheme == "grpc" and "grpc" not in urls:
        pytest.skip("tensorflow-serving-api is not installed")
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"{scheme}://127.0.0.1:{unused.getsockname()[1]}"
    assert main(["request", url, str(photo.parent), str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith(f"retinex: {url} cannot be reached")


def test_messages_beyond_4_megabytes(url, random):
    noise = saved(random.integers(0, 256, (1200, 1200, 3), dtype="uint8"), "BMP")
    assert len(noise) > 4 * 2**20
    assert len(connect(url).enhance(noise)) > 10**6


def test_another_server_is_none_of_ours(tmp_path, photo, capsys):

    class Page(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

    server = http.server.HTTPServer(("127.0.0.1", 0), Page)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    assert main(["request", f"http://127.0.0.1:{server.server_port}"]) == 2
    server.shutdown()
    server.server_close()
    assert "none of TensorFlow Serving" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["localhost:8501"], "Expected http://host:port or grpc://host:port"),
        (["http://127.0.0.1:1", "photo.png"], "name the picture to write"),
        (["http://127.0.0.1:1", "missing.png", "out.png"], "is not a file"),
        (["http://127.0.0.1:1", "photo.png", "out.xbm"], "suffix decides"),
        (["http://127.0.0.1:1", "photo.png", "photo.png"], "never overwritten"),
        (["http://127.0.0.1:1", ".", "."], "never overwritten"),
        (["http://127.0.0.1:1", ".", "out", "--at-once", "0"], "At least one request"),
    ],
)
def test_what_cannot_be_asked_is_said_at_once(photo, tmp_path, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(tmp_path)
    assert main(["request", *arguments]) == 2
    assert message in capsys.readouterr().err
    assert sorted(tmp_path.iterdir()) == [photo]


def test_no_tensorflow_is_imported(url, photo, tmp_path):
    script = f"""
import sys
from retinex_keras.cli import main
code = main(["request", {url!r}, {str(photo)!r}, {str(tmp_path / "out.png")!r}])
sys.exit(code or "tensorflow.python" in sys.modules)
"""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    assert subprocess.run([sys.executable, "-c", script], env=environment).returncode == 0
