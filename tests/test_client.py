import base64
import concurrent.futures
import contextlib
import gzip
import http.server
import io
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import types
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, PngImagePlugin
from stand_in_server import StandIn, serve_grpc, serve_rest
from test_formats import dng, gradient, heic

from retinex_keras.cli import main
from retinex_keras.imaging.read import read_image, read_photo
from retinex_keras.imaging.write import write_image
from retinex_keras.inference import enhance
from retinex_keras.serving.client import _is_read_otherwise, connect, request_folder


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


@pytest.mark.parametrize("dials", [{"exposure": 0.7, "strength": 0.6, "colour": 1.2}, {"brightness": 0.3}])
def test_a_server_turns_the_dials_as_enhance_does(url, exports, photo, tmp_path, dials):
    options = [f"--{name}={value}" for name, value in dials.items()]
    assert main(["request", url, str(photo), str(tmp_path / "out.png"), *options]) == 0
    expected = enhance(photo, exports[1][2], **dials)
    np.testing.assert_array_equal(read_image(tmp_path / "out.png"), expected)
    assert not np.array_equal(expected, enhance(photo, exports[1][2]))
    (tmp_path / "photos").mkdir()
    photo.rename(tmp_path / "photos" / "photo.png")
    assert main(["request", url, str(tmp_path / "photos"), str(tmp_path / "out"), *options]) == 0
    np.testing.assert_array_equal(read_image(tmp_path / "out" / "photo.png"), expected)


@pytest.mark.skipif(not shutil.which("curl"), reason="curl is not installed")
def test_the_guides_lines_for_the_shell(urls, stand_in, exports, photo, tmp_path):
    guide = (Path(__file__).parents[1] / "retinex_keras" / "serving" / "README.md").read_text()
    (lines,) = re.findall(r"\n\n((?:    .*\n)*.*curl (?:.*\n    )*.*)", guide)
    stand_in.failures, stand_in.delay = [], 0.0
    photo.rename(tmp_path / "photo.jpg")  # a server goes by the content
    subprocess.run(lines.replace("http://localhost:8501", urls["rest"]), shell=True, cwd=tmp_path, check=True)
    np.testing.assert_array_equal(read_image(tmp_path / "bright.png"), enhance(tmp_path / "photo.jpg", exports[1][2]))


def test_the_guides_python(urls, stand_in, exports, photo, tmp_path, monkeypatch):
    guide = (Path(__file__).parents[1] / "retinex_keras" / "serving" / "README.md").read_text()
    script = next(block for block in re.findall(r"```python\n(.*?)```", guide, re.DOTALL) if "connect(" in block)
    stand_in.failures, stand_in.delay = [], 0.0
    (tmp_path / "photos").mkdir()
    shutil.copy(photo, tmp_path / "photo.jpg")
    photo.rename(tmp_path / "photos" / "photo.png")
    monkeypatch.chdir(tmp_path)
    exec(compile(script.replace("http://localhost:8501", urls["rest"]), "README.md", "exec"), {})
    np.testing.assert_array_equal(read_image("bright.png"), enhance("photo.jpg", exports[1][2], exposure=0.7))
    np.testing.assert_array_equal(read_image("bright/photo.png"), enhance("photo.jpg", exports[1][2]))


def test_what_the_result_cannot_be_is_said_before_it_is_asked_for(photo, tmp_path, capsys):
    Image.new("RGB", (17000, 2)).save(photo)
    nobody = ["request", "http://127.0.0.1:1"]
    assert main([*nobody, str(photo), str(tmp_path / "wide.webp")]) == 2
    assert "its format ends at 16383 pixels a side" in capsys.readouterr().err
    assert main([*nobody, str(photo.parent), str(tmp_path / "bright.jpg")]) == 2
    assert "is the name of a picture. Expected that of a folder" in capsys.readouterr().err


def test_the_suffix_decides_the_format(url, photo, tmp_path):
    assert main(["request", url, str(photo), str(tmp_path / "out.jpg")]) == 0
    with Image.open(tmp_path / "out.jpg") as result:
        assert (result.format, result.size) == ("JPEG", (17, 13))


def test_a_slash_at_the_end_makes_a_folder(url, photo, tmp_path, capsys):
    for _ in range(2):  # a result that exists is kept
        assert main(["request", url, str(photo), f"{tmp_path / 'new' / 'bright'}/"]) == 0
        assert str(tmp_path / "new" / "bright") in capsys.readouterr().out
    assert read_image(tmp_path / "new" / "bright" / "photo.png").shape == (13, 17, 3)


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


@pytest.mark.parametrize("name", ["a.jpg", "a.png", "packed.png", "both.jpg"])
def test_an_orientation_where_the_server_does_not_look_turns_the_photo(url, exports, tmp_path, random, name):
    photo, info = tmp_path / name, PngImagePlugin.PngInfo()
    exif = Image.Exif()
    exif[0x0112] = 6
    info.add_text("Raw profile type exif", f"\nexif\n{len(exif.tobytes()):8}\n{exif.tobytes().hex()}\n")
    xmp = '<x tiff:Orientation="6"/>'
    if name == "packed.png":
        info = PngImagePlugin.PngInfo()
        info.add_itxt("XML:com.adobe.xmp", xmp, zip=True)
    others = {"pnginfo": info} if name.endswith("png") else {"xmp": xmp.encode()}
    others |= {"exif": exif} if name == "both.jpg" else {}
    Image.fromarray(random.integers(0, 60, (13, 17, 3), "uint8")).save(photo, **others)
    assert _is_read_otherwise(photo.read_bytes()) == (name != "both.jpg")
    assert main(["request", url, str(photo), str(tmp_path / "out.png")]) == 0
    assert read_image(tmp_path / "out.png").shape == (17, 13, 3)
    np.testing.assert_array_equal(read_image(tmp_path / "out.png"), enhance(photo, exports[1][2]))


def test_without_a_photo_the_versions_are_listed(url, capsys):
    assert main(["request", url]) == 0
    assert capsys.readouterr().out == "version 1: AVAILABLE\nversion 2: AVAILABLE\n"
    assert main(["request", url, "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"1": "AVAILABLE", "2": "AVAILABLE"}


def test_threads_that_ask_at_once_share_a_channel():
    pytest.importorskip("tensorflow_serving")
    server = connect("grpc://127.0.0.1:1")

    def slow(*_):
        time.sleep(0.05)
        return object()

    server.grpc = types.SimpleNamespace(insecure_channel=slow)
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        assert len(set(pool.map(server._channel, [100] * 4))) == 1


def test_photos_at_an_address_are_not_said_to_be_missing(tmp_path):
    fsspec = pytest.importorskip("fsspec")
    fsspec.filesystem("memory").pipe_file("/elsewhere/a.png", b"content")
    with pytest.raises(ValueError, match="A server is sent photos of this machine. Received memory://elsewhere"):
        request_folder(connect("http://127.0.0.1:1"), "memory://elsewhere", tmp_path / "out")


def test_a_folder_with_junk_goes_on_where_it_stopped(url, exports, stand_in, photo, tmp_path, capsys):
    folder, out = tmp_path / "photos", tmp_path / "out"
    (folder / "nested").mkdir(parents=True)
    for i in range(6):
        with Image.open(photo) as image:
            image.rotate(10 * i).save(folder / "nested" / f"{i}.png")
    (folder / "bad.jpg").write_bytes(b"hello")
    Image.new("CMYK", (8, 8), (200, 0, 0, 99)).save(folder / "cmyk.jpg")  # what the server alone cannot read
    (out / "nested").mkdir(parents=True)
    (out / "nested" / "0.png").write_text("kept")
    stand_in.delay = 0.05
    assert main(["request", url, str(folder), str(out), "--at-once", "3"]) == 1
    printed = capsys.readouterr()
    assert printed.out == f"enhanced: 6 images into {out}; 1 was there already, 1 is bad\n"
    assert printed.err.splitlines()[-1].startswith(f"retinex: {folder / 'bad.jpg'} is not an image")
    write_image(out / "expected.jpg", enhance(folder / "cmyk.jpg", exports[1][2]))
    np.testing.assert_array_equal(read_image(out / "cmyk.jpg"), read_image(out / "expected.jpg"))
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


def test_what_can_pass_is_asked_again(url, stand_in, photo, tmp_path, monkeypatch):
    monkeypatch.setattr("retinex_keras.serving.client.PAUSES", (0.01,))
    stand_in.failures = [(503, "UNAVAILABLE")] * 5
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


def test_many_threads_may_connect_at_once(tmp_path):
    pytest.importorskip("tensorflow_serving", reason="tensorflow-serving-api is not installed")
    script = """
import concurrent.futures
from retinex_keras.serving.client import connect
with concurrent.futures.ThreadPoolExecutor(50) as pool:
    for server in pool.map(connect, ["grpc://127.0.0.1:1"] * 50):
        server.close()
"""
    subprocess.run([sys.executable, "-c", script], check=True)


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


def test_no_tensorflow_is_imported(url, photo, tmp_path):
    script = f"""
import sys
from retinex_keras.cli import main
code = main(["request", {url!r}, {str(photo)!r}, {str(tmp_path / "out.png")!r}])
sys.exit(code or "tensorflow.python" in sys.modules)
"""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    assert subprocess.run([sys.executable, "-c", script], env=environment).returncode == 0


@contextlib.contextmanager
def hostile(answer, pause=0.0):
    """The URL of a server that answers anything with these bytes, one by one if there is a pause, and then hangs up."""

    def serve():
        with contextlib.suppress(OSError):  # the listener is closed
            while True:
                connection, _ = listener.accept()
                threading.Thread(target=speak, args=(connection,), daemon=True).start()

    def speak(connection):
        with connection, contextlib.suppress(OSError):
            connection.recv(2**16)
            for part in [answer] if not pause else (answer[i : i + 1] for i in range(len(answer))):
                connection.sendall(part)
                time.sleep(pause)
            connection.shutdown(socket.SHUT_WR)
            while connection.recv(2**16):  # closed before it read all, it would break the connection
                pass

    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=serve, daemon=True).start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        listener.shutdown(socket.SHUT_RDWR)


def answer(body, status="200 OK", header="X: x"):
    return f"HTTP/1.1 {status}\r\n{header}\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body


def predictions(contents):
    return answer(json.dumps({"predictions": [{"b64": base64.b64encode(contents).decode()}]}).encode())


def refusal(url, photo, capsys, *options):
    """The sentence that a request of a photo ends with."""
    out = photo.parent / "out.png"
    assert main(["request", url, str(photo), str(out), *options]) == 2
    error = capsys.readouterr().err
    assert error.startswith("retinex: ")
    assert error.count("\n") == 1
    assert error[:-1].isprintable()
    assert not out.exists()
    return error


@pytest.mark.parametrize(
    "body",
    [b'{"predictions": []}', b'{"predictions": [{}]}', b'{"predictions": [{"b64": 5}]}', b'{"predictions": [{"b64": "#"}]}']
    + [b"[" * 10**5, b'{"a": ' * 900 + b"1" + b"}" * 900, b"\xff", b"", b"[1e999]", b"[" + b"[]," * 10**5 + b"[]]"],
)
def test_answers_that_are_not_of_tensorflow_serving(photo, capsys, body):
    with hostile(answer(body)) as url:
        assert "none of TensorFlow Serving" in refusal(url, photo, capsys)


@pytest.mark.parametrize(
    ("status", "message"),
    [("413 Too Large", "the server refused it: a request of this size"), ("504 Gateway Timeout", "its proxy waits no longer")]
    + [("502 Bad Gateway", "cannot be reached or is too busy"), ("403 Forbidden", "refuses this client (it lets nobody in")],
)
def test_a_proxys_page_is_taken_by_its_status(photo, capsys, status, message):
    with hostile(answer(b"<html>no</html>", status)) as url:
        assert message in refusal(url, photo, capsys, "--timeout", "0.5")


def test_a_password_is_not_printed(photo, capsys):
    with hostile(answer(b"<html>no</html>", "401 Unauthorized")) as url:
        secret = url.replace("//", "//me:SECRET@")
        assert main(["request", secret]) == 2
        with pytest.raises(ValueError, match="Versions are numbers") as caught:
            connect(secret, version=0)
    for message in (capsys.readouterr().err, str(caught.value)):
        assert url in message
        assert "SECRET" not in message


def test_ctrl_c_does_not_wait_for_a_server(photo, tmp_path):
    def interrupt(*_):
        raise KeyboardInterrupt

    with socket.create_server(("127.0.0.1", 0)) as silent:
        server = connect(f"http://127.0.0.1:{silent.getsockname()[1]}", timeout=60)
        before = signal.signal(signal.SIGALRM, interrupt)
        start = time.monotonic()
        signal.setitimer(signal.ITIMER_REAL, 0.5)
        try:
            with pytest.raises(KeyboardInterrupt):
                request_folder(server, photo.parent, tmp_path / "out")
        finally:
            signal.signal(signal.SIGALRM, before)
        assert time.monotonic() < start + 50


@pytest.mark.parametrize(
    "entry", [{}, {"version": "x", "state": "END"}, {"version": 1, "state": "\x1b[31m"}, {"version": 1e999}]
)
def test_states_that_are_not_of_tensorflow_serving(capsys, entry):
    with hostile(answer(json.dumps({"model_version_status": [entry]}).encode())) as url:
        assert main(["request", url]) == 2
    assert "none of TensorFlow Serving" in capsys.readouterr().err


def test_what_a_server_says_cannot_reach_the_terminal(photo, capsys):
    for error in ("\x1b[31mred\n" * 9, 5, "{{" * 10**5, "\ud800"):
        with hostile(answer(json.dumps({"error": error}).encode(), "400 Bad Request")) as url:
            assert len(refusal(url, photo, capsys)) < 3000


@pytest.mark.parametrize(
    ("contents", "message"),
    [
        (saved(np.zeros((14, 17, 3), "uint8"), "PNG"), "It has 17x14 pixels, the photo has 17x13"),
        (saved(np.zeros((13, 17, 3), "uint8"), "BMP"), "It is no PNG"),
        (saved(np.zeros((13, 17), "uint16"), "PNG"), "It has 16 bits a value, the photo has 8"),
        (saved(np.zeros((13, 17, 3), "uint8"), "PNG")[:50], "is not its picture"),
    ],
)
def test_a_picture_that_is_not_the_photos_is_not_written(photo, capsys, contents, message):
    with hostile(predictions(contents)) as url:
        assert message in refusal(url, photo, capsys)


def test_a_photo_on_its_side_is_compared_upright(tmp_path, random):
    exif = Image.Exif()
    exif[0x112] = 6
    Image.fromarray(random.integers(0, 60, (13, 17, 3), dtype="uint8")).save(tmp_path / "photo.png", exif=exif)
    with hostile(predictions(saved(np.zeros((17, 13, 3), "uint8"), "PNG"))) as url:
        assert main(["request", url, str(tmp_path / "photo.png"), str(tmp_path / "out.png")]) == 0


@pytest.mark.parametrize("head", [b"", b"HTTP/1.1 200 OK\r\nX: ", b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n"])
def test_the_time_limit_is_for_the_whole_answer(photo, capsys, head):
    start = time.monotonic()
    with hostile(head + b"HTTP/1.1 100 Continue\r\n\r\n" * 9, pause=0.1) as url:
        assert "no answer in time" in refusal(url, photo, capsys, "--timeout", "0.5")
    assert time.monotonic() - start < 5


def test_the_time_limit_holds_against_a_flood_and_a_promise(photo, capsys):
    start = time.monotonic()
    with hostile(b"HTTP/1.1 100 Continue\r\n\r\n" * 10**6) as url:
        assert "no answer in time" in refusal(url, photo, capsys, "--timeout", "0.5")
    with hostile(answer(b'{"error": "busy"}', "503 Busy", "Retry-After: 9999")) as url:
        assert "too busy" in refusal(url, photo, capsys, "--timeout", "0.5")
    assert time.monotonic() - start < 5


def test_a_large_or_packed_answer_and_a_redirect_are_not_followed(photo, capsys):
    with hostile(answer(bytes(3 * 2**20))) as url:
        assert "its answer has more than" in refusal(url, photo, capsys)
    with hostile(answer(gzip.compress(bytes(10**6)), header="Content-Encoding: gzip")) as url:
        assert "none of TensorFlow Serving" in refusal(url, photo, capsys)
    with hostile(answer(bytes(3 * 2**20), "302 Found", "Location: http://127.0.0.1:1/")) as url:
        assert "its answer has more than" in refusal(url, photo, capsys)
    with hostile(answer(b"", "302 Found", "Location: http://127.0.0.1:1/")) as url:
        assert "redirects to another address" in refusal(url, photo, capsys)


@contextlib.contextmanager
def hostile_grpc(answer):
    """The URL of a gRPC server that answers anything with these bytes."""
    grpc = pytest.importorskip("grpc")
    pytest.importorskip("tensorflow_serving")
    handler = grpc.unary_unary_rpc_method_handler(lambda request, context: answer)
    services = {"PredictionService": "Predict", "ModelService": "GetModelStatus"}.items()
    server = grpc.server(concurrent.futures.ThreadPoolExecutor(1), options=[("grpc.max_send_message_length", -1)])
    server.add_generic_rpc_handlers(
        [grpc.method_handlers_generic_handler(f"tensorflow.serving.{name}", {method: handler}) for name, method in services]
    )
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield f"grpc://127.0.0.1:{port}"
    server.stop(None).wait()


def test_answers_of_grpc_are_not_trusted_either(photo, capsys):
    messages = pytest.importorskip("tensorflow_serving.apis.predict_pb2")

    def tensor(*strings, dtype=7, name="enhanced_bytes"):
        message = messages.PredictResponse()
        message.outputs[name].dtype = dtype
        message.outputs[name].string_val.extend(strings)
        return message.SerializeToString()

    picture, other = (saved(np.zeros((height, 17, 3), "uint8"), "PNG") for height in (13, 14))
    for contents, message in {
        tensor(): "none of TensorFlow Serving",
        tensor(picture, picture): "none of TensorFlow Serving",
        tensor(picture, dtype=1): "none of TensorFlow Serving",
        tensor(picture, name="other"): "none of TensorFlow Serving",
        b"": "none of TensorFlow Serving",
        b"\xff" * 99: "none of TensorFlow Serving",
        tensor(other): "It has 17x14 pixels, the photo has 17x13",
        bytes(5 * 2**20): "larger than max",
    }.items():
        with hostile_grpc(contents) as url:
            assert message in refusal(url, photo, capsys)


def test_a_grpc_server_that_says_goodbye_again_and_again(photo, capsys):
    pytest.importorskip("tensorflow_serving")
    settings, goodbye = b"\0\0\0\4\0\0\0\0\0", b"\0\0\x08\7\0\0\0\0\0" + bytes(8)
    with hostile(settings + goodbye) as url:
        assert "cannot be reached" in refusal(url.replace("http", "grpc"), photo, capsys, "--timeout", "0.5")


def test_many_clients_at_once_finish_and_leave_no_connection(url, stand_in, random):
    photo = saved(random.integers(0, 60, (8, 8, 3), dtype="uint8"), "PNG")
    before = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else None
    servers = [connect(url) for _ in range(50)]
    with concurrent.futures.ThreadPoolExecutor(50) as pool:
        answers = set(pool.map(lambda i: servers[i % 50].enhance(photo), range(200)))
    assert len(answers) == 1
    for server in servers:
        server.close()
    deadline = time.monotonic() + 5
    while before and len(os.listdir("/proc/self/fd")) > before + 5 and time.monotonic() < deadline:
        time.sleep(0.05)  # the server's side closes by itself
    assert not before or len(os.listdir("/proc/self/fd")) <= before + 5
