"""A stand-in for TensorFlow Serving, whose binary the tests do not have: the same wire, REST and gRPC, around
`tf.saved_model`. It follows the documented rules as far as the client needs them and shows nothing of the real server's
queues, loading and speed. `python stand_in_server.py VERSIONS` runs it by hand.
"""

import base64
import concurrent.futures
import http.server
import json
import re
import sys
import threading
import time
from pathlib import Path

import tensorflow as tf

NAME = "retinex"


class StandIn:
    """Serves the versions in a folder. `failures` is what the next requests get: (status of HTTP, name of gRPC's code)."""

    def __init__(self, folder):
        models = {int(path.name): tf.saved_model.load(str(path)) for path in Path(folder).iterdir() if path.name.isdecimal()}
        self.signatures = {version: model.signatures for version, model in models.items()}
        self.models = models  # they keep the variables
        self.failures, self.delay, self.under_way, self.most_under_way = [], 0.0, 0, 0
        self.lock = threading.Lock()

    def predict(self, version, signature, inputs):
        """The strings of `enhanced_bytes`; LookupError if there is no such version or signature."""
        with self.lock:
            self.under_way += 1
            self.most_under_way = max(self.most_under_way, self.under_way)
        try:
            time.sleep(self.delay)
            if version not in self.signatures:
                raise LookupError(f"Servable not found for request: Specific({NAME}, {version})")
            function = self.signatures[version][signature or "serving_default"]
            types = {name: spec.dtype for name, spec in function.structured_input_signature[1].items()}
            tensors = {name: tf.constant(values, types[name]) for name, values in inputs.items()}
            return function(**tensors)["enhanced_bytes"].numpy()
        finally:
            with self.lock:
                self.under_way -= 1

    def failure(self):
        with self.lock:
            return self.failures.pop(0) if self.failures else None


def _words(error):
    """What the server would say: Python puts lines of its own before it, such as "Graph execution error"."""
    return error.message[re.search(r"^.*\n\t \[\[|\Z", error.message, re.MULTILINE).start() :] or error.message


def serve_rest(stand_in, port=0):
    """Starts the REST side; returns the server of the standard library, which has `server_port` and `shutdown`."""

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def answer(self, status, content):
            body = json.dumps(content).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def version(self, ending):
            match = re.fullmatch(rf"/v1/models/{NAME}(?:/versions/(\d+))?{ending}", self.path)
            if not match:
                raise LookupError(f"Malformed request: {self.command} {self.path}")
            return int(match[1]) if match[1] else None

        def do_GET(self):
            try:
                version = self.version("")
            except LookupError as error:
                return self.answer(404, {"error": str(error)})
            status = {"state": "AVAILABLE", "status": {"error_code": "OK", "error_message": ""}}
            found = [{"version": str(v), **status} for v in stand_in.signatures if version in (None, v)]
            if not found:
                return self.answer(404, {"error": f"Could not find version {version} of model {NAME}"})
            self.answer(200, {"model_version_status": found})

        def do_POST(self):
            body = self.rfile.read(int(self.headers["Content-Length"]))
            failure = stand_in.failure()
            if failure:
                return self.answer(failure[0], {"error": failure[1]})
            try:
                version = self.version(":predict") or max(stand_in.signatures)
                request = json.loads(body)
                rows = [row if "image_bytes" in row else {"image_bytes": row} for row in request["instances"]]
                inputs = {name: [row[name] for row in rows] for name in rows[0]}
                inputs["image_bytes"] = [base64.b64decode(value["b64"]) for value in inputs["image_bytes"]]
                results = stand_in.predict(version, request.get("signature_name"), inputs)
            except LookupError as error:
                return self.answer(404, {"error": str(error)})
            except tf.errors.InvalidArgumentError as error:
                return self.answer(400, {"error": _words(error)})
            # The output's name ends in _bytes, so that its strings are sent as base64.
            self.answer(200, {"predictions": [{"b64": base64.b64encode(result).decode()} for result in results]})

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", port), Handler)
    server.handle_error = lambda *_: None  # of clients that are gone
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server


def serve_grpc(stand_in, address="127.0.0.1:0"):
    """Starts the gRPC side; returns the server, which has `stop`, and its port."""
    import grpc
    from tensorflow_serving.apis import (
        get_model_status_pb2,
        model_service_pb2_grpc,
        predict_pb2,
        prediction_service_pb2_grpc,
    )

    class Predictions(prediction_service_pb2_grpc.PredictionServiceServicer):
        def Predict(self, request, context):
            failure = stand_in.failure()
            if failure:
                context.abort(grpc.StatusCode[failure[1]], "as the test wants it")
            answer = predict_pb2.PredictResponse()
            try:
                version = request.model_spec.version.value or max(stand_in.signatures)
                if request.model_spec.name != NAME:
                    raise LookupError(f"Servable not found for request: Latest({request.model_spec.name})")
                inputs = {name: tf.make_ndarray(tensor).tolist() for name, tensor in request.inputs.items()}
                results = stand_in.predict(version, request.model_spec.signature_name, inputs)
            except LookupError as error:
                context.abort(grpc.StatusCode.NOT_FOUND, str(error))
            except tf.errors.InvalidArgumentError as error:
                context.abort(grpc.StatusCode.INVALID_ARGUMENT, _words(error))
            answer.outputs["enhanced_bytes"].CopyFrom(tf.make_tensor_proto(results, tf.string))
            return answer

    class Models(model_service_pb2_grpc.ModelServiceServicer):
        def GetModelStatus(self, request, context):
            answer = get_model_status_pb2.GetModelStatusResponse()
            for version in stand_in.signatures:
                state = get_model_status_pb2.ModelVersionStatus.AVAILABLE
                answer.model_version_status.add(version=version, state=state)
            return answer

    unlimited = [("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1)]
    server = grpc.server(concurrent.futures.ThreadPoolExecutor(16), options=unlimited)
    prediction_service_pb2_grpc.add_PredictionServiceServicer_to_server(Predictions(), server)
    model_service_pb2_grpc.add_ModelServiceServicer_to_server(Models(), server)
    port = server.add_insecure_port(address)
    server.start()
    return server, port


if __name__ == "__main__":
    served = StandIn(sys.argv[1])
    serve_rest(served, 8501)
    serve_grpc(served, "127.0.0.1:8500")[0].wait_for_termination()
