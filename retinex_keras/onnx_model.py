"""Weights in an ONNX file, run by ONNX Runtime: the second engine. It needs neither TensorFlow nor Keras."""

import functools
import json
import os
from pathlib import Path

import numpy as np

from retinex_keras.dials import STEERED, steer

VERSION = 1  # of what the file's metadata say
threads = 0  # that new models compute with; 0: of all processors
ABOUT = ("size_multiple", "tile_margin", "tile_size", "takes_context")  # of `networks.base.LowLightModel`, kept in the file


class OnnxModel:
    """What `retinex export --format onnx` wrote, with the attributes of `networks.base.LowLightModel`.

    Args:
        path: of the file. It is read whole, so that it can name no other file.

    Raises:
        FileNotFoundError: if there is no such file.
        ModuleNotFoundError: if ONNX Runtime is not installed.
        ValueError: if it is no such file.

    >>> OnnxModel("dark.png")
    Traceback (most recent call last):
    ValueError: dark.png could not be loaded by ONNX Runtime (...); pass a file that `retinex export --format onnx` made.
    """

    def __init__(self, path: str | os.PathLike):
        try:
            import onnxruntime
        except ImportError:
            raise ModuleNotFoundError(f"{path} needs ONNX Runtime: pip install '.[onnx]' in retinex_keras's folder.") from None
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 4  # what it finds fault with is raised, too
        try:
            session = onnxruntime.InferenceSession(Path(path).read_bytes(), options, providers=["CPUExecutionProvider"])
            about = json.loads(session.get_modelmeta().custom_metadata_map.get("retinex_keras", "{}"))
        except FileNotFoundError:
            raise FileNotFoundError(f"{path} is not a file; check the path.") from None
        except Exception as error:  # ONNX Runtime has errors of its own
            reason = (str(error).split(" : ")[-1] or type(error).__name__).splitlines()[0]
            raise ValueError(
                f"{path} could not be loaded by ONNX Runtime ({reason}); pass a file that `retinex export --format onnx` made."
            ) from None
        self.path, self.session, self.outputs = path, session, [output.name for output in session.get_outputs()]
        if not self._understands(about):
            raise ValueError(
                f"{path} is of another program or version; export the weights again, by `retinex export --format onnx`."
            )
        for name in ABOUT:
            setattr(self, name, about[name])
        self._check_outputs()

    def _understands(self, about):
        if not isinstance(about, dict) or about.get("version") != VERSION or not isinstance(about.get("takes_context"), bool):
            return False
        multiple, margin, sides = (about.get(name) for name in ("size_multiple", "tile_margin", "tile_size"))
        numbers = [multiple, margin, *sides] if isinstance(sides, list) and len(sides) == 2 else [None]
        if not all(isinstance(number, int) and 0 <= number < 2**16 for number in numbers) or 0 in (multiple, *sides):
            return False
        if multiple > 256:  # images are padded to it
            return False
        inputs = ["image", "context"] if about["takes_context"] else ["image"]
        fits = not any(number % multiple for number in numbers)
        return fits and "enhanced" in self.outputs and [value.name for value in self.session.get_inputs()] == inputs

    def _check_outputs(self):
        """Computes a small picture, 64 pixels a side or a little more: a weight that is NaN shows in some of its outputs."""
        side = -(-64 // self.size_multiple) * self.size_multiple
        image, context = (np.linspace(0, 1, 3 * n * n, dtype="float32").reshape(1, n, n, 3) for n in (side, 128))
        for name, values in self._run(self.outputs, image, context).items():
            if getattr(values, "dtype", None) != np.float32 or values.shape[:-1] != (1, side, side):
                raise ValueError(f"{self.path} makes no picture of the size of its input, but another {name}; export it again.")
            if not np.isfinite(values).all():
                raise ValueError(f"{self.path} holds weights that are NaN or infinite: its {name} is; train them again.")

    @property
    def decomposes(self):
        return set(STEERED) <= set(self.outputs)

    def runner(self, *names, steered=False):
        """As of `networks.base.LowLightModel`."""
        return self._run_steered if steered else functools.partial(self._run, list(names or self.outputs))

    def _run_steered(self, image, context, dials):
        return steer(self._run(self.outputs, image, context), image, *map(float, dials))

    def _run(self, names, image, context):
        inputs = {"image": image} | ({"context": context} if self.takes_context else {})
        try:
            return dict(zip(names, self.session.run(names, inputs)))
        except Exception as error:  # of another kind for each failure
            raise ValueError(f"{self.path} could not be computed: {str(error).splitlines()[0]}") from None

    def with_denoising(self, strength):
        raise ValueError(f"The denoising of an ONNX file was set when it was exported. Received denoise={strength}: omit it.")
