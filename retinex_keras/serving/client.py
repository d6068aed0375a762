"""Asks TensorFlow Serving for pictures, by REST or gRPC. It imports no TensorFlow."""

import base64
import concurrent.futures
import importlib.util
import json
import re
import sys
import tempfile
import types
from pathlib import Path

from retinex_keras.folders.plan import results_of_folder
from retinex_keras.imaging.read import read_image, read_photo
from retinex_keras.imaging.write import check_quality, check_writable, write_image

NAME = "retinex"  # of the model on the server
RETRIES = 4  # of what can pass: a server that starts, or is busy


def connect(url, version=None, timeout=600.0):
    """Names a server that serves an export of this package; nothing is sent yet.

    Args:
        url: "http://host:8501" for REST, or "grpc://host:8500", which needs the extra `serving`.
        version: of the model; by default the server's latest.
        timeout: seconds that a request may take.

    Returns:
        An object of two methods. `enhance(contents)` takes the bytes of an image file and returns those of a PNG;
        `status()` returns a dict of the model's versions and their states. They raise ValueError if the server refuses the
        image, TimeoutError, ConnectionError if there is no such server, model or version, OSError if the server fails.

    Raises:
        ValueError: if it is no such URL.
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
        import requests
        from urllib3.util import Retry

        self.url, self.timeout, self.requests = url, timeout, requests
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
        except self.requests.Timeout:
            raise _error(self.url, "DEADLINE_EXCEEDED") from None
        except self.requests.RequestException as error:
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
        options = {
            "grpc.service_config": json.dumps({"methodConfig": [{"name": [{}], "retryPolicy": policy}]}),
            "grpc.per_rpc_retry_buffer_size": 2**30,  # larger requests would not be sent again
            "grpc.max_send_message_length": -1,  # no limit, where gRPC has 4 MB
            "grpc.max_receive_message_length": -1,
        }
        channel = self.grpc.insecure_channel(url.removeprefix("grpc://"), list(options.items()))
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


def request_image(server, path, out, quality=95):
    """Lets a server, from `connect`, brighten the image in a file, and writes the result as `retinex enhance` does.

    Args:
        server: from `connect`.
        path: of the image.
        out: path of the result, whose suffix decides the format; alpha and metadata are those of the image.
        quality: of JPEG and WebP, 1 to 100.

    Raises:
        FileNotFoundError, ValueError, OSError: what `read_photo`, `write_image` and `server.enhance` raise.

    >>> request_image(connect("http://localhost:8501"), "dark.png", "dark.png")
    Traceback (most recent call last):
    ValueError: dark.png is the input; inputs are never overwritten, so give the result another name.
    """
    path, out = Path(path), Path(out)
    if out.exists() and path.exists() and out.samefile(path):
        raise ValueError(f"{out} is the input; inputs are never overwritten, so give the result another name.")
    check_writable(out, quality)
    extras = read_photo(path)[1]
    try:
        enhanced = server.enhance(path.read_bytes())
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "enhanced.png").write_bytes(enhanced)
        write_image(out, read_image(Path(folder, "enhanced.png")), extras, quality)


def request_folder(server, folder, out, force=False, quality=95, at_once=4):
    """Lets a server brighten all images of a folder and its subfolders, as `inference.enhance_folder` does it itself.

    Args:
        server: from `connect`.
        folder, out, force, quality: as there.
        at_once: requests that are under way at a time.

    Returns:
        Three lists of paths and reasons, as there.

    Raises:
        ConnectionError: if there is no such server, model or version; it ends the work, which the same call goes on with.
        FileNotFoundError, ValueError: as there.

    >>> request_folder(connect("http://localhost:8501"), "pairs/low", "bright", at_once=0)
    Traceback (most recent call last):
    ValueError: At least one request is under way at a time. Received 0.
    """
    from tqdm import tqdm  # here, since it takes a tenth of a second

    check_quality(quality)
    if at_once < 1:
        raise ValueError(f"At least one request is under way at a time. Received {at_once}.")
    targets, existing = results_of_folder(folder, out, force)
    made, bad = [], []

    def ask(path):
        try:
            targets[path].parent.mkdir(parents=True, exist_ok=True)
            request_image(server, path, targets[path], quality)
        except ConnectionError:
            raise
        except (ValueError, OSError) as error:
            return str(error)

    pool = concurrent.futures.ThreadPoolExecutor(at_once)
    try:
        for path, reason in zip(targets, tqdm(pool.map(ask, targets), total=len(targets), unit="image", disable=None)):
            bad.append((path, reason)) if reason else made.append(targets[path])
    finally:
        pool.shutdown(cancel_futures=True)
    return made, existing, bad
