"""Asks TensorFlow Serving for pictures, by REST or gRPC. It imports no TensorFlow."""

import base64
import concurrent.futures
import importlib.util
import json
import re
import sys
import types
from pathlib import Path

import requests
from urllib3.util import Retry

from retinex_keras.folders.plan import Plan, plan_folder
from retinex_keras.folders.run import Outcomes, Report, run_plan
from retinex_keras.imaging import PathLike
from retinex_keras.imaging.read import read_image, read_photo
from retinex_keras.imaging.write import check_is_not_input, check_quality, check_writable, encode_png, write_image

NAME = "retinex"  # of the model on the server
TAKEN = (b"\xff\xd8\xff", b"\x89PNG", b"RIFF", b"BM")  # by the server: JPEG, PNG, WebP, BMP, by what they begin with
RETRIES = 4  # of what can pass: a server that starts, or is busy


def connect(url: str, version: int | None = None, timeout: float = 600.0) -> "_Rest | _Grpc":
    """Names a server that serves an export of this package; nothing is sent yet.

    Args:
        url: "http://host:8501" for REST, or "grpc://host:8500", which needs the extra `serving`.
        version: of the model; by default the server's latest.
        timeout: seconds that a request may take.

    Returns:
        An object with two methods. `enhance(contents)` takes the bytes of an image file and returns those of a PNG;
        `status()` returns a dict of the model's versions and their states. They raise ValueError if the server refuses the
        image, TimeoutError, ConnectionError if there is no such server, model or version, OSError if the server fails.

    Raises:
        ValueError: if the URL is not of this form.
        ModuleNotFoundError: if gRPC is asked for and the extra is missing.

    >>> connect("localhost:8501")
    Traceback (most recent call last):
    ValueError: Expected http://host:port or grpc://host:port. Received 'localhost:8501': name the server so.
    """
    scheme, _, address = url.rstrip("/").partition("://")
    if not address or scheme not in ("http", "https", "grpc"):
        raise ValueError(f"Expected http://host:port or grpc://host:port. Received {url!r}: name the server so.")
    return (_Grpc if scheme == "grpc" else _Rest)(url.rstrip("/"), version, timeout)


class _Rest:
    def __init__(self, url, version, timeout):
        self.url, self.timeout = url, timeout
        self.model = f"{url}/v1/models/{NAME}" + (f"/versions/{version}" if version else "")
        passing = Retry(
            RETRIES,
            read=False,  # a request that timed out is still being computed
            status_forcelist=(429, 502, 503),
            allowed_methods=None,  # POST too: asking twice changes nothing
            backoff_factor=0.2,
            raise_on_status=False,
        )
        self.session = requests.Session()
        for scheme in ("http://", "https://"):
            self.session.mount(scheme, requests.adapters.HTTPAdapter(max_retries=passing, pool_maxsize=64))

    def enhance(self, contents):
        instances = [{"b64": base64.b64encode(contents).decode()}]
        predictions = self._ask("POST", f"{self.model}:predict", "predictions", json={"instances": instances})
        return base64.b64decode(predictions[0]["b64"])

    def status(self):
        answer = self._ask("GET", self.model, "model_version_status")
        return dict(sorted((int(entry["version"]), entry["state"]) for entry in answer))

    def _ask(self, method, url, key, **options):
        try:
            answer = self.session.request(method, url, timeout=(10, self.timeout), **options)
        except requests.Timeout:
            raise _error(self.url, "DEADLINE_EXCEEDED") from None
        except requests.RequestException as error:
            raise _error(self.url, "UNAVAILABLE", type(error).__name__) from None
        codes = {400: "INVALID_ARGUMENT", 404: "NOT_FOUND", 503: "UNAVAILABLE", 504: "DEADLINE_EXCEEDED"}
        try:
            content = answer.json()[key if answer.ok else "error"]
        except (ValueError, KeyError, TypeError):
            raise _error(self.url, "NOT_FOUND", f"its answer, {answer.status_code}, is none of TensorFlow Serving") from None
        if answer.ok:
            return content
        raise _error(self.url, codes.get(answer.status_code, f"status {answer.status_code}"), content)


class _Grpc:
    def __init__(self, url, version, timeout):
        self.url, self.version, self.timeout = url, version, timeout
        self.grpc, self.messages, self.statuses, predictions, models = _serving_modules()
        policy = {
            "maxAttempts": RETRIES + 1,
            "initialBackoff": "0.2s",
            "maxBackoff": "2s",
            "backoffMultiplier": 2,
            "retryableStatusCodes": ["UNAVAILABLE"],
        }
        options = [
            ("grpc.service_config", json.dumps({"methodConfig": [{"name": [{}], "retryPolicy": policy}]})),
            ("grpc.per_rpc_retry_buffer_size", 2**30),  # larger requests would not be sent again
            ("grpc.max_send_message_length", -1),  # no limit, where gRPC has 4 MB
            ("grpc.max_receive_message_length", -1),
        ]
        channel = self.grpc.insecure_channel(url.removeprefix("grpc://"), options)
        self.predictions = predictions.PredictionServiceStub(channel)
        self.models = models.ModelServiceStub(channel)

    def enhance(self, contents):
        request = self.messages.PredictRequest()
        image = request.inputs["image_bytes"]
        image.dtype = 7  # DT_STRING
        image.tensor_shape.dim.add(size=1)
        image.string_val.append(contents)
        return self._ask(self.predictions.Predict, request).outputs["enhanced_bytes"].string_val[0]

    def status(self):
        answer = self._ask(self.models.GetModelStatus, self.statuses.GetModelStatusRequest())
        states = self.statuses.ModelVersionStatus.State
        return dict(sorted((entry.version, states.Name(entry.state)) for entry in answer.model_version_status))

    def _ask(self, method, request):
        request.model_spec.name = NAME
        if self.version:
            request.model_spec.version.value = self.version
        try:
            return method(request, timeout=self.timeout)
        except self.grpc.RpcError as error:
            raise _error(self.url, error.code().name, error.details() or "") from None


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
        from tensorflow_serving.apis import (
            get_model_status_pb2,
            model_service_pb2_grpc,
            predict_pb2,
            prediction_service_pb2_grpc,
        )
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"gRPC takes the package {error.name}: pip install 'retinex_keras[serving]', or use REST, http://host:8501."
        ) from None
    finally:
        if package:
            del sys.modules["tensorflow"]
    return grpc, predict_pb2, get_model_status_pb2, prediction_service_pb2_grpc, model_service_pb2_grpc


def _error(url, code, message=""):
    """The exception for a failed request, by gRPC's name of what happened."""
    message = re.sub(r"\{\{.*?\}\} ?|assertion failed: |[\[\]]", "", (message.splitlines() or [""])[0])  # of the graph's ops
    if code == "INVALID_ARGUMENT":
        return ValueError(f"the server refused it: {message}")
    if code == "DEADLINE_EXCEEDED":
        return TimeoutError(f"{url} gave no answer in time; ask for longer with --timeout, or fewer images at once.")
    if code == "NOT_FOUND":
        return ConnectionError(f"{url} has no such model or version ({message}); `retinex request {url}` lists what it has.")
    if code == "UNAVAILABLE":
        return ConnectionError(f"{url} cannot be reached or is too busy ({message}); is it running, is the port right?")
    return OSError(f"{url} failed: {code}, {message}")


def request_image(server: "_Rest | _Grpc", image: PathLike, out: PathLike, quality: int = 95) -> None:
    """Lets a server brighten the image in a file, and writes the result as `retinex enhance` does.

    Args:
        server: from `connect`.
        image: its path.
        out: path of the result, whose suffix decides the format; alpha and metadata are those of the image.
        quality: of JPEG, WebP and AVIF, 1 to 100.

    Raises:
        FileNotFoundError: if there is no such file, or no folder for the result.
        ValueError: if the image, the result's path or the quality is wrong, or the server refuses the image.
        ConnectionError, TimeoutError, OSError: if the server cannot be reached, takes too long, or fails.

    >>> request_image(connect("http://localhost:8501"), "dark.png", "dark.png")
    Traceback (most recent call last):
    ValueError: dark.png is the input; inputs are never overwritten, so give the result another name.
    """
    check_is_not_input(out, image)
    check_writable(out, quality)
    write_image(out, *_enhanced(server, image), quality)


def request_folder(
    server: "_Rest | _Grpc", folder: PathLike, out: PathLike, force: bool = False, quality: int = 95, at_once: int = 4
) -> Report:
    """Lets a server brighten a folder of this machine, with the arguments, results and rules of `folders.run.enhance_folder`.

    Args:
        server: from `connect`.
        at_once: requests that are under way at a time.

    Raises:
        ConnectionError: if there is no such server, model or version. It ends the work; the same call goes on with it.
        FileNotFoundError: if there is no such folder.
        ValueError: if `folder` holds no image, results would overwrite inputs, the quality is not from 1 to 100, or
            `at_once` is less than 1.

    >>> request_folder(connect("http://localhost:8501"), "pairs/low", "bright", at_once=0)
    Traceback (most recent call last):
    ValueError: At least one request is under way at a time. Received 0.
    """
    check_quality(quality)
    if at_once < 1:
        raise ValueError(f"At least one request is under way at a time. Received {at_once}.")
    return run_plan(plan_folder(folder, out, force), lambda plan: _request_files(plan, server, quality, at_once))


def _request_files(plan: Plan, server: "_Rest | _Grpc", quality: int, at_once: int) -> Outcomes:
    """The executor of `run_plan` by requests."""

    def ask(image):
        try:
            plan.sink.write(plan.targets[image], *_enhanced(server, image), quality)
        except ConnectionError:
            raise
        except (ValueError, OSError) as error:
            return str(error)

    pool = concurrent.futures.ThreadPoolExecutor(at_once)
    try:
        yield from zip(plan.targets, pool.map(ask, plan.targets))
    finally:
        pool.shutdown(cancel_futures=True)


def _enhanced(server, path):
    """What a server makes of the image in a file, and the extras of the file."""
    photo, extras = read_photo(path)
    contents = Path(path).read_bytes()
    if not contents.startswith(TAKEN):
        contents = encode_png(photo)
    del photo
    try:
        return read_image(server.enhance(contents)), extras
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
