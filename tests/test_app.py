"""The page of `retinex app`: its functions, and a run of it in headless Chromium."""

import contextlib
import json
import os
import re
import shutil
import subprocess
import sys
import time
import urllib.error
import urllib.request
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import pytest
from PIL import Image, ImageCms

import retinex_keras.app
from retinex_keras.app import SIDE, VIEWS, Photo, _examples, _Tab, reduced
from retinex_keras.cli import main
from retinex_keras.engines import shipped_weights
from retinex_keras.folders.run import enhance_folder
from retinex_keras.imaging.read import read_image, read_photo
from retinex_keras.imaging.write import write_image
from retinex_keras.inference import decompose, enhance
from retinex_keras.recipes.simple import SimpleCNN

TURNED = {"exposure": 0.7, "strength": 0.6, "colour": 1.2}
AT_REST = {"exposure": 0.0, "strength": 1.0, "colour": 1.0}
NATURAL = shipped_weights("onnx")["natural"]
with_gradio = pytest.mark.skipif(not find_spec("gradio"), reason="needs the extra: pip install '.[app]'")


@pytest.fixture
def photo(tmp_path, random):
    """A dark photo of 16 bits with alpha, a description and a colour profile, alone in a folder."""
    (tmp_path / "photos").mkdir()
    path = tmp_path / "photos" / "night.png"
    image, alpha = (random.integers(0, most, (44, 60, depth)).astype("uint16") for most, depth in ((9000, 3), (65536, 1)))
    exif = Image.Exif()
    exif[270] = "a description"
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    write_image(path, image, {"alpha": alpha, "exif": exif.tobytes(), "icc_profile": profile})
    return path


@pytest.mark.parametrize("dials", [AT_REST, TURNED])
def test_the_page_shows_what_enhance_makes(photo, dials):
    before, after = Photo(photo, NATURAL).pictures("photo", **dials)
    image = read_image(photo)
    np.testing.assert_array_equal(before, np.round(image / 257).astype("uint8"))
    result = enhance(image / np.float32(65535), NATURAL, **dials) * 255
    assert np.abs(after - result).max() <= 0.51  # half a level is rounding


def test_parts_are_shown_before_and_after(photo):
    parts = decompose(photo, NATURAL, **TURNED)
    shown = Photo(photo, NATURAL)
    for view in ("reflectance", "illumination"):
        for name, picture in zip(VIEWS[view], shown.pictures(view, **TURNED)):
            assert np.abs(picture - 255 * np.clip(parts[name], 0, 1)).max() <= 0.51


def test_a_download_is_the_file_of_the_command_to_the_bit(photo, tmp_path):
    for dials in (AT_REST, TURNED):
        enhance_folder(photo.parent, tmp_path / "command", NATURAL, force=True, **dials)
        Photo(photo, NATURAL).save(tmp_path / "download.png", **dials)
        assert (tmp_path / "download.png").read_bytes() == (tmp_path / "command" / "night.png").read_bytes()
    image, extras = read_photo(tmp_path / "download.png")
    assert (image.dtype, set(extras)) == ("uint16", {"alpha", "exif", "icc_profile"})


def test_weights_without_parts_have_no_dials(photo, tmp_path):
    model = SimpleCNN(4, 2)
    shown = Photo(photo, NATURAL)
    shown.use(model)
    assert not shown.has_dials
    np.testing.assert_array_equal(*(shown.pictures("photo", **dials)[1] for dials in (AT_REST, TURNED)))
    shown.save(tmp_path / "out.png", **TURNED)
    np.testing.assert_array_equal(read_image(tmp_path / "out.png"), enhance(photo, model))
    shown.use(NATURAL)
    assert shown.has_dials


@pytest.mark.parametrize(("shape", "smaller"), [((50, 1600), (50, 1600)), ((3000, 20), (1600, 11)), ((1, 9000), (1, SIDE))])
def test_large_photos_are_shown_smaller(shape, smaller):
    image = np.zeros((*shape, 3), "uint16")
    image[..., 1], image[..., 2] = np.linspace(0, 65535, shape[1]), 65535
    result = reduced(image)
    assert (result.shape, result.dtype) == ((*smaller, 3), "float32")
    np.testing.assert_allclose(result.mean((0, 1)), [0, 0.5, 1], atol=1e-3)
    assert result.min() >= 0
    assert result.max() <= 1


def test_files_of_a_tab_are_few_and_vanish_with_it(photo, tmp_path):
    tab = _Tab(Photo(photo, NATURAL), "night.png", tmp_path)
    first = tab.draw("photo", AT_REST)
    for _ in range(5):
        last = tab.draw("photo", TURNED)
    assert last[0] == first[0]
    assert last[1] != first[1]
    assert len(list(Path(tab.folder).iterdir())) == 4
    assert read_photo(last[1])[1]["icc_profile"] == read_photo(photo)[1]["icc_profile"]
    assert tab.draw("illumination", TURNED)[0] != first[0]
    for view in ("photo", "illumination", "photo"):
        assert (tab.draw(view, TURNED)[0] == first[0]) == (view == "photo")
    assert len(list(Path(tab.folder).iterdir())) == 5
    saved = [tab.save(suffix, TURNED) for suffix in (".jpg", ".png")]
    assert [file.exists() for file in saved] == [False, True]
    folder = Path(tab.folder)
    assert folder.is_dir()
    del tab
    assert not folder.exists()


@with_gradio
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere"], "There is no folder nowhere"),
        (["."], "holds no image"),
        (["--weights", "nothing"], "no weights 'nothing'"),
        (["--weights", "paper", "--engine", "onnx"], "no weights 'paper'. Shipped ones: natural"),
        (["--out", "results"], "Received results for results, but no folder of photos"),
        (["--out", "s3://bucket/results"], "expected a path. Received s3://bucket/results"),
        (["--port", "70000"], "from 1 to 65535. Received 70000"),
    ],
)
def test_a_page_that_cannot_be_is_one_sentence(arguments, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["app", "--no-browser", *arguments]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_dark_photos_to_try_come_with_the_package():
    assert {"coffee", "rocket"} < {path.stem for path in _examples()}


def test_without_gradio_the_sentence_names_the_extra(monkeypatch, capsys):
    monkeypatch.setattr(retinex_keras.app, "find_spec", lambda name: None)
    assert main(["app"]) == 2
    assert "pip install '.[app]'" in capsys.readouterr().err


@pytest.fixture
def server(photo):
    """The process of a page with a folder, without TensorFlow; it starts while the browser does."""
    shutil.copy(photo, photo.with_name(os.fsdecode(b"\xff.png")))  # a name that is no text
    script = """
import importlib.util, os, signal, sys
find = importlib.util.find_spec
importlib.util.find_spec = lambda name, *rest: None if name in ("tensorflow", "keras") else find(name, *rest)
from retinex_keras.cli import main
code = main(sys.argv[1:])
print(*[name for name in ("tensorflow", "keras") if name in sys.modules], os.environ["no_proxy"], flush=True)
assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
sys.exit(code)
"""
    command = [sys.executable, "-c", script, "app", str(photo.parent), "--no-browser"]
    environment = {name: value for name, value in os.environ.items() if name != "no_proxy"} | {"NO_PROXY": "intranet"}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, env=environment, **pipes) as process:
        try:
            yield process
        finally:
            process.terminate()
            printed, errors = process.communicate(timeout=30)
    assert (printed.strip(), errors, process.returncode) == ("intranet,127.0.0.1", "retinex: stopped\n", 130)


@pytest.fixture
def browser(tmp_path):
    """Headless Chromium, of which a test says why it is skipped where there is none."""
    webdriver = pytest.importorskip("selenium.webdriver", reason="needs selenium")
    from selenium.webdriver.chrome.service import Service

    programs = [
        next(filter(None, map(shutil.which, names)), None) for names in (("chromium", "google-chrome"), ("chromedriver",))
    ]
    if None in programs:
        pytest.skip("needs Chromium and its driver: apt-get install chromium chromium-driver")
    options = webdriver.ChromeOptions()
    options.binary_location = programs[0]
    names = "headless=new no-sandbox disable-gpu disable-quic no-first-run disable-background-networking"
    for name in f"{names} disable-component-update disable-sync user-data-dir={tmp_path / 'profile'}".split():
        options.add_argument(f"--{name}")
    options.add_experimental_option("prefs", {"download.default_directory": str(tmp_path / "downloads")})
    options.set_capability("goog:loggingPrefs", {"performance": "ALL"})
    with webdriver.Chrome(options, Service(programs[1])) as driver:
        yield driver


def answer(address, path, **headers):
    """The status and the policy of an answer."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    request = urllib.request.Request(address + path, headers=headers)
    with contextlib.suppress(urllib.error.HTTPError), opener.open(request) as response:
        return response.status, response.headers["Content-Security-Policy"]
    return 403, None


@with_gradio
def test_a_photo_is_dropped_steered_and_downloaded(server, browser, photo, tmp_path):
    from selenium.common.exceptions import StaleElementReferenceException
    from selenium.webdriver.common.by import By
    from selenium.webdriver.common.keys import Keys
    from selenium.webdriver.support.ui import WebDriverWait

    def find(selector, text=""):
        return [element for element in browser.find_elements(By.CSS_SELECTOR, selector) if text in element.text]

    def wait(condition):
        return WebDriverWait(browser, 30, 0.05, [StaleElementReferenceException]).until(lambda _: condition())

    def pictures():
        sources = browser.execute_script("return [...document.images].map(image => image.src)")
        return [source for source in sources if "/file=" in source]

    address = re.search(r"http://127\.0\.0\.1:\d+/", server.stdout.readline())[0]
    browser.get(address)
    wait(lambda: find("input[type=file]"))[0].send_keys(str(photo))
    first = wait(lambda: len(pictures()) == 2 and pictures())
    exposure = find("input[type=range]")[0]
    assert all(field.get_attribute("readonly") for field in find("input[type=number]"))
    for _ in range(3):
        exposure.send_keys(Keys.ARROW_RIGHT)  # a step of 0.05
    wait(lambda: pictures()[0] == first[0] and pictures()[1] != first[1])
    wait(lambda: find("button", "Download at full size"))[0].click()
    download = tmp_path / "downloads" / "night_bright.png"
    wait(download.exists)
    assert exposure.get_attribute("value") == "0.15"
    command = ["enhance", str(photo), str(tmp_path / "command.png"), "--weights", str(NATURAL), "--exposure", "0.15"]
    assert main(command) == 0
    assert download.read_bytes() == (tmp_path / "command.png").read_bytes()

    (tmp_path / "notes.txt").write_text("hello")
    find("input[type=file]")[0].send_keys(str(tmp_path / "notes.txt"))
    assert wait(lambda: find(".error", "notes.txt"))[0].text.startswith("notes.txt is not an image")
    assert len(pictures()) == 2
    assert find(".message", "Made night_bright.png")
    find("input[type=file]")[0].send_keys(str(photo))
    wait(lambda: not find(".error"))
    assert not find(".message", "Made night_bright.png")  # which is about the photo before
    find("button", "Brighten all")[0].click()
    text = wait(lambda: find(".message", "Made: 2"))[0].text
    results = photo.parent.with_name("photos_bright")
    assert str(results) in text
    assert (results / photo.name).read_bytes() == download.read_bytes()

    for i in range(200):
        shutil.copy(photo, photo.with_name(f"{i}.png"))
    find("button", "Stop")[0].click()  # nothing runs any more
    time.sleep(2)
    assert wait(lambda: find(".message", "Made: 2"))
    assert not find(".message", "Stopped.")
    find("button", "Brighten all")[0].click()
    wait(lambda: find(".message", " of 200"))
    find("button", "Stop")[0].click()
    wait(lambda: find(".message", "Stopped."))
    count = len(list(results.glob("*.png")))
    assert 0 < count < 202
    find("button", "Brighten all")[0].click()
    assert f"Already there: {count}." in wait(lambda: find(".message", f"Made: {202 - count}"))[0].text

    messages = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    sent = [message["params"]["request"]["url"] for message in messages if message["method"] == "Network.requestWillBeSent"]
    hosts = {urlsplit(url).netloc for url in sent if urlsplit(url).scheme in ("http", "https", "ws", "wss")}
    assert hosts == {urlsplit(address).netloc}

    status, policy = answer(address, "config")
    assert status == 200
    assert "default-src 'self'" in policy
    assert answer(address, "config", Origin="http://elsewhere.org")[0] == 403
    assert answer(address, "config", Host="elsewhere.org")[0] == 403
    assert answer(address, f"gradio_api/file={photo}")[0] == 403
