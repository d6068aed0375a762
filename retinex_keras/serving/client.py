"""Asks TensorFlow Serving for pictures, by REST or gRPC. It imports no TensorFlow."""

import base64
import collections
import contextlib
import contextvars
import functools
import http.client
import http.cookiejar
import importlib.util
import io
import itertools
import json
import queue
import re
import struct
import sys
import threading
import time
import types
from pathlib import Path

import requests
import urllib3

from retinex_keras.dials import DEFAULTS, Dials
from retinex_keras.folders.plan import Plan, plan_folder
from retinex_keras.folders.run import Outcomes, Report, run_plan
from retinex_keras.imaging import PathLike, png
from retinex_keras.imaging.read import exif_orientation, opened, read_image, read_photo
from retinex_keras.imaging.write import check_is_not_input, check_quality, check_sides, check_writable, encode_png, write_image

NAME = "retinex"  # of the model on the server
PAUSES = (0.2, 0.4, 0.8, 1.6)  # seconds before what can pass is asked again; the last is repeated where somebody answers
PATIENCE = 60  # seconds in which a server has to start, or find time
LONGEST = 10**6  # seconds that a request may take: sockets count no further than 24 days
SHORT = 2**20  # bytes that an answer without a picture may have
LARGEST = 2**31 - 1  # bytes of any answer: gRPC sends no more
FLOAT, STRING = 1, 7  # TensorFlow's DT_FLOAT and DT_STRING
NO_ENTRY = "PERMISSION_DENIED", "it lets nobody in without the right name and password"
PROXIES = {  # what a proxy in front of the server means, whose answer is a page of its own: {status: code and sentence}
    401: NO_ENTRY,
    403: NO_ENTRY,
    413: ("INVALID_ARGUMENT", "a request of this size is too large for it"),
    429: ("UNAVAILABLE", "too many requests"),
    502: ("UNAVAILABLE", "nothing answers behind its proxy"),
    503: ("UNAVAILABLE", "its proxy says so"),
    504: ("GATEWAY_TIMEOUT", "its proxy waits no longer for an answer; give the proxy more time"),
}
_importing = threading.Lock()
_end = contextvars.ContextVar("end")  # of the time for this thread's request, as `time.monotonic` counts
TAKEN = (b"\xff\xd8\xff", b"\x89PNG", b"RIFF")  # by the server: JPEG, PNG, WebP, by what they begin with; of BMP only some
# Where a server does not look for the orientation: in XMP, in a PNG's text, in its compressed XMP.
TURNED = re.compile(rb'tiff:Orientation(?:="|>)[2-8]|Raw profile type exif|XML:com\.adobe\.xmp\x00\x01')


def connect(url: str, version: int | None = None, timeout: float = 600.0) -> "_Rest | _Grpc":
    """Names a server that serves an export of this package; nothing is sent yet.

    Args:
        url: "http://host:8501" for REST, or "grpc://host:8500", which needs the extra `serving`.
        version: of the model; by default the server's latest.
        timeout: seconds that a request may take in all, at most a million.

    Returns:
        An object with three methods. `enhance(contents, most, dials)` takes the bytes of an image file and returns those of a
        PNG; an answer of more than `most` bytes, by default 2 GB, is not read. `status()` returns a dict of the model's
        versions and their states. `close()` ends the connections. The first two raise ValueError if the server refuses the
        image, TimeoutError, ConnectionError if there is no such server, model or version, OSError if the server fails.

    Raises:
        ValueError: if the URL is not of this form, or the version or the time is out of range.
        ModuleNotFoundError: if gRPC is asked for and the extra is missing.

    >>> connect("localhost:8501")
    Traceback (most recent call last):
    ValueError: Expected http://host:port or grpc://host:port. Received 'localhost:8501': name the server so.
    """
    scheme, _, address = url.rstrip("/").partition("://")
    if not address or scheme not in ("http", "https", "grpc"):
        raise ValueError(f"Expected http://host:port or grpc://host:port. Received {_shown(url)!r}: name the server so.")
    if version is not None and not 0 < version < 2**63:
        raise ValueError(
            f"Versions are numbers from 1 on. Received {version}: `retinex request {_shown(url)}` lists what there is."
        )
    if not 0 < timeout <= LONGEST:
        raise ValueError(f"A request takes more than 0 and at most {LONGEST} seconds. Received {timeout}: name another time.")
    return (_Grpc if scheme == "grpc" else _Rest)(url.rstrip("/"), version, timeout)


def _shown(url):
    """A URL without a name and a password that it may hold."""
    return re.sub("//.*@", "//", url)


def _has_time(pause, patience):
    """Whether this thread's request may be repeated after a pause, for all of its own time and the client's patience."""
    return time.monotonic() + pause < min(_end.get(), patience)


def _seconds_left():
    """Of the time for this thread's request; TimeoutError if it is over."""
    seconds = _end.get() - time.monotonic()
    if seconds <= 0:
        raise TimeoutError
    return seconds


class _Answer(http.client.HTTPResponse):
    """An answer that has to be there in time as a whole. Sockets give each part of it the time anew."""

    def __init__(self, sock, *rest, **options):
        super().__init__(sock, *rest, **options)
        read = self.fp.raw.readinto
        self.fp.raw.readinto = lambda buffer: sock.settimeout(_seconds_left()) or read(buffer)


class _InTime:
    """What keeps a connection of urllib3 to the time for the whole request."""

    response_class = _Answer

    def send(self, data):
        if self.sock is None:
            self.connect()
        self.sock.settimeout(_seconds_left())
        super().send(data)


class _Adapter(requests.adapters.HTTPAdapter):
    def get_connection_with_tls_context(self, *args, **options):
        pool = super().get_connection_with_tls_context(*args, **options)
        if not issubclass(pool.ConnectionCls, _InTime):
            pool.ConnectionCls = type("InTime", (_InTime, type(pool).ConnectionCls), {})
        return pool


class _Rest:
    def __init__(self, url, version, timeout):
        self.url, self.timeout = _shown(url), timeout
        self.model = f"{url}/v1/models/{NAME}" + (f"/versions/{version}" if version else "")
        self.session = requests.Session()
        self.session.get_redirect_target = lambda _: None  # where it follows none, it would still read a redirect's body
        self.session.cookies.set_policy(http.cookiejar.DefaultCookiePolicy(allowed_domains=[]))
        self.session.headers["Accept-Encoding"] = "identity"  # what is small stays small
        for scheme in ("http://", "https://"):
            self.session.mount(scheme, _Adapter(pool_maxsize=64))

    def enhance(self, contents, most=LARGEST, dials=DEFAULTS):
        image = {"b64": base64.b64encode(contents).decode()}
        request = {"instances": [image]}
        if dials != DEFAULTS:
            request = {"signature_name": "steered", "instances": [{"image_bytes": image} | _sent(dials)]}
        answer = self._ask("POST", f"{self.model}:predict", most, json=request)
        with _understood(self.url):
            (prediction,) = answer["predictions"]
            return base64.b64decode(prediction["b64"], validate=True)

    def status(self):
        answer = self._ask("GET", self.model)
        with _understood(self.url):
            return _states((int(entry["version"]), entry["state"]) for entry in answer["model_version_status"])

    def close(self):
        self.session.close()

    def _ask(self, method, url, most=SHORT, **options):
        """The content of a good answer, from JSON."""
        _end.set(time.monotonic() + self.timeout)
        try:
            status, body = self._answer(method, url, most, options)
        except (requests.RequestException, urllib3.exceptions.HTTPError, TimeoutError) as error:
            code = "DEADLINE_EXCEEDED" if time.monotonic() >= _end.get() else "UNAVAILABLE"
            raise _error(self.url, code, type(error).__name__) from None
        if len(body) > most:
            raise _error(self.url, "RESOURCE_EXHAUSTED", f"its answer has more than {most} bytes")
        if 300 <= status < 400:
            raise ConnectionError(f"{self.url} redirects to another address; name the server itself.")
        with _understood(self.url, status):
            if sum(map(body.count, b"[{,")) > 10**5:  # JSON of a picture has six, and each may take a hundred bytes of memory
                raise ValueError
            answer = json.loads(body)
            if status < 300:
                return answer
            message = str(answer["error"])
        codes = {400: "INVALID_ARGUMENT", 404: "NOT_FOUND", 503: "UNAVAILABLE", 504: "DEADLINE_EXCEEDED"}
        raise _error(self.url, codes.get(status, f"status {status}"), message)

    def _answer(self, method, url, most, options):
        """The status and the body of an answer, which is cut soon after `most` bytes; what can pass is asked again."""
        patience = time.monotonic() + PATIENCE
        for count, pause in enumerate(itertools.chain(PAUSES, itertools.repeat(PAUSES[-1]))):
            timeout = min(10, _seconds_left()), _seconds_left()
            try:
                with self.session.request(method, url, timeout=timeout, stream=True, **options) as answer:
                    status, body = answer.status_code, bytearray()
                    while len(body) <= most and (part := answer.raw.read(2**20, decode_content=False)):
                        body += part
                if status not in (429, 502, 503) or not _has_time(pause, patience):
                    return status, body
            except requests.ConnectionError as error:
                nobody = isinstance(error.args[0], urllib3.exceptions.MaxRetryError)
                if nobody and count == len(PAUSES) or not _has_time(pause, patience):
                    raise
            time.sleep(pause)


class _Grpc:
    def __init__(self, url, version, timeout):
        self.url, self.version, self.timeout = url, version, timeout
        with _importing:  # of one thread at a time, since it changes `sys.modules`
            self.grpc, self.messages, self.statuses = _serving_modules()
        self.channels, self.making = {}, threading.Lock()

    def enhance(self, contents, most=LARGEST, dials=DEFAULTS):
        request = self.messages.PredictRequest()
        image = request.inputs["image_bytes"]
        image.dtype = STRING
        image.tensor_shape.dim.add(size=1)
        image.string_val.append(contents)
        if dials != DEFAULTS:
            request.model_spec.signature_name = "steered"
            for name, value in _sent(dials).items():
                request.inputs[name].dtype = FLOAT
                request.inputs[name].tensor_shape.dim.add(size=1)
                request.inputs[name].float_val.append(value)
        answer = self._ask("PredictionService/Predict", request, self.messages.PredictResponse, most)
        with _understood(self.url):
            tensor = answer.outputs["enhanced_bytes"]
            if tensor.dtype != STRING:
                raise TypeError
            (picture,) = tensor.string_val
            return picture

    def status(self):
        request, response = self.statuses.GetModelStatusRequest(), self.statuses.GetModelStatusResponse
        answer, names = self._ask("ModelService/GetModelStatus", request, response), self.statuses.ModelVersionStatus.State
        with _understood(self.url):
            return _states((entry.version, names.Name(entry.state)) for entry in answer.model_version_status)

    def close(self):
        for channel in self.channels.values():
            channel.close()
        self.channels.clear()

    def _ask(self, method, request, response, most=SHORT):
        request.model_spec.name = NAME
        if self.version:
            request.model_spec.version.value = self.version
        method = self._channel(most).unary_unary(f"/tensorflow.serving.{method}", type(request).SerializeToString)
        _end.set(time.monotonic() + self.timeout)
        patience = time.monotonic() + PATIENCE
        for count, pause in enumerate(itertools.chain(PAUSES, itertools.repeat(PAUSES[-1]))):
            try:
                body = method(request, timeout=_end.get() - time.monotonic())
                break
            except self.grpc.RpcError as error:
                code, message = error.code().name, error.details() or ""
                nobody = message.startswith(("failed to connect", "DNS"))
                if code != "UNAVAILABLE" or nobody and count == len(PAUSES) or not _has_time(pause, patience):
                    raise _error(self.url, code, message) from None
            time.sleep(pause)
        with _understood(self.url):
            return response.FromString(body)

    def _channel(self, most):
        """A channel that takes answers of so many bytes, or up to twice as many: each channel has a connection of its own."""
        most = min(2 ** most.bit_length(), LARGEST)
        options = {
            "grpc.enable_retries": 0,  # gRPC's own can be endless, and fill the memory
            "grpc.max_send_message_length": -1,  # no limit, where gRPC has 4 MB
            "grpc.max_receive_message_length": most,
        }
        with self.making:
            if most not in self.channels:
                self.channels[most] = self.grpc.insecure_channel(self.url.removeprefix("grpc://"), [*options.items()])
            return self.channels[most]


def _sent(dials):
    """The dials as the signature `steered` takes them."""
    return {name: float(value or 0.0) for name, value in dials._asdict().items()}


@contextlib.contextmanager
def _understood(url, status="OK"):
    """For what takes an answer apart: a server can send anything."""
    try:
        yield
    except Exception:  # of all kinds
        code, message = PROXIES.get(status, ("NOT_FOUND", f"its answer, {status}, is none of TensorFlow Serving"))
        raise _error(url, code, message) from None


def _states(entries):
    """The versions of a model and their states, in order."""
    states = dict(sorted(entries))
    if not states or not all(re.fullmatch("[A-Z_]{1,30}", state) for state in states.values()):
        raise ValueError
    return states


@functools.cache
def _serving_modules():
    """gRPC and the modules of tensorflow-serving-api.

    These import a few messages from folders of TensorFlow, and thus all of it, for seconds. An empty package in its place,
    for as long as they load, gives them the messages alone.
    """
    package = None if "tensorflow" in sys.modules else importlib.util.find_spec("tensorflow")
    if package:
        sys.modules["tensorflow"] = types.ModuleType("tensorflow")
        sys.modules["tensorflow"].__path__ = package.submodule_search_locations
    try:
        import grpc
        from tensorflow_serving.apis import get_model_status_pb2, predict_pb2
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"gRPC takes the package {error.name}: pip install '.[serving]' in retinex_keras's folder, or use REST, http://host:8501."
        ) from None
    finally:
        if package:
            del sys.modules["tensorflow"]
    return grpc, predict_pb2, get_model_status_pb2


def _error(url, code, message=""):
    """The exception for a failed request, by gRPC's name of what happened."""
    line = (message[:2000].splitlines() or [""])[0]
    line = re.sub(r"\{\{.*?\}\} ?|assertion failed: |[\[\]]", "", line)  # of the graph's ops
    message = "".join(filter(str.isprintable, line))  # nothing that a terminal obeys
    if code == "INVALID_ARGUMENT":
        return ValueError(f"the server refused it: {message}")
    if code == "DEADLINE_EXCEEDED":
        return TimeoutError(f"{url} gave no answer in time; ask for longer with --timeout, or fewer images at once.")
    if code == "NOT_FOUND":
        return ConnectionError(f"{url} has no such model or version ({message}); `retinex request {url}` lists what it has.")
    if code in ("PERMISSION_DENIED", "UNAUTHENTICATED"):
        return ConnectionError(f"{url} refuses this client ({message}); for REST: http://NAME:PASSWORD@host:port.")
    if code == "UNAVAILABLE":
        return ConnectionError(f"{url} cannot be reached or is too busy ({message}); is it running, is the port right?")
    return OSError(f"{url} failed: {code}, {message}")


def request_image(server: "_Rest | _Grpc", image: PathLike, out: PathLike, quality: int = 95, **dials: float | None) -> None:
    """Lets a server brighten the image in a file, and writes the result as `retinex enhance` does.

    Args:
        server: from `connect`.
        image: its path.
        out: path of the result, whose suffix decides the format; alpha and metadata are those of the image.
        quality: of JPEG, WebP and AVIF, 1 to 100.
        dials: as `inference.enhance` takes them.

    Raises:
        FileNotFoundError: if there is no such file, or no folder for the result.
        ValueError: if the image, the result's path, the quality or a dial is wrong, or the server refuses the image.
        ConnectionError, TimeoutError, OSError: if the server cannot be reached, takes too long, or fails.

    >>> request_image(connect("http://localhost:8501"), "dark.png", "dark.png")
    Traceback (most recent call last):
    ValueError: dark.png is the input; inputs are never overwritten, so give the result another name.
    """
    dials = Dials(**dials).check()
    check_is_not_input(out, image)
    check_writable(out, quality)
    write_image(out, *_enhanced(server, image, out, dials), quality)


def request_folder(
    server: "_Rest | _Grpc",
    folder: PathLike,
    out: PathLike,
    force: bool = False,
    quality: int = 95,
    at_once: int = 4,
    **dials: float | None,
) -> Report:
    """Lets a server brighten a folder of this machine, with the arguments, results and rules of `folders.run.enhance_folder`.

    Args:
        server: from `connect`.
        at_once: requests that are under way at a time.

    Raises:
        ConnectionError: if there is no such server, model or version. It ends the work; the same call goes on with it.
        FileNotFoundError: if there is no such folder.
        ValueError: if `folder` holds no image or is an address, results would overwrite inputs, the quality is not from 1 to
            100, or `at_once` is less than 1.

    >>> request_folder(connect("http://localhost:8501"), "pairs/low", "bright", at_once=0)
    Traceback (most recent call last):
    ValueError: At least one request is under way at a time. Received 0.
    """
    check_quality(quality)
    if at_once < 1:
        raise ValueError(f"At least one request is under way at a time. Received {at_once}.")
    dials, plan = Dials(**dials).check(), plan_folder(folder, out, force)
    if plan.source.filesystem:
        raise ValueError(f"A server is sent photos of this machine. Received {folder}: copy them into a folder here.")
    return run_plan(plan, lambda plan: request_files(plan, server, quality, at_once, dials))


def request_files(plan: Plan, server: "_Rest | _Grpc", quality: int, at_once: int, dials: Dials) -> Outcomes:
    """The executor of `run_plan` by requests."""

    def ask(image):
        try:
            plan.sink.write(plan.targets[image], *_enhanced(server, image, plan.targets[image], dials), quality)
        except ConnectionError:
            raise
        except (ValueError, OSError) as error:
            return str(error)

    def work():
        with contextlib.suppress(IndexError):  # none is waiting
            while True:
                image = waiting.popleft()
                try:
                    ended.put((image, ask(image), None))
                except BaseException as error:
                    ended.put((image, None, error))

    waiting, ended = collections.deque(plan.targets), queue.SimpleQueue()
    threads = [threading.Thread(target=work, daemon=True) for _ in range(at_once)]  # which Ctrl-C need not wait for
    for thread in threads:
        thread.start()
    try:
        for _ in plan.targets:
            image, reason, error = ended.get()
            if error:
                raise error
            yield image, reason
    except Exception:
        waiting.clear()
        for thread in threads:
            thread.join()
        raise
    finally:
        waiting.clear()


def _enhanced(server, path, out, dials):
    """What a server makes of the image in a file, and the extras of the file."""
    photo, extras = read_photo(path)
    check_sides(out, photo.shape[:2])
    (height, width, _), dtype, size = photo.shape, photo.dtype, photo.nbytes
    contents = Path(path).read_bytes()
    if not contents.startswith(TAKEN) or _is_read_otherwise(contents):
        contents = encode_png(photo)
    del photo
    try:  # twice its bytes are more than its PNG can have, in base64 too
        answer = server.enhance(contents, 2 * size + SHORT, dials)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    try:
        return _picture(answer, width, height, dtype), extras
    except ValueError as error:
        raise OSError(f"{path}: the server's answer is not its picture: {error}") from None


def _is_read_otherwise(contents):
    """Whether the server would refuse a photo, for its colours, or not find its orientation, which only Pillow does."""
    with opened(io.BytesIO(contents)) as file:
        if file.mode == "CMYK" or file.mode in ("L", "LA") and "icc_profile" in file.info:
            return True
        return bool(TURNED.search(contents)) and exif_orientation(file.info.get("exif", b"")) is None


def _picture(answer, width, height, dtype):
    """The picture in an answer, which has to be a PNG of the photo's size and depth."""
    if not answer.startswith(png.SIGNATURE):
        raise ValueError("It is no PNG.")
    came = struct.unpack(">II", answer[16:24].ljust(8))
    if came != (width, height):
        raise ValueError(f"It has {came[0]}x{came[1]} pixels, the photo has {width}x{height}.")
    picture = read_image(answer, width * height)
    if picture.dtype != dtype or picture.shape[:2] != (height, width):
        raise ValueError(f"It has {8 * picture.itemsize} bits a value, the photo has {8 * dtype.itemsize}.")
    return picture
