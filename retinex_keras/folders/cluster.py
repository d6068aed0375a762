"""Folders of millions of images, on the machines of a Ray cluster."""

import functools
import logging
import os
from pathlib import Path

from retinex_keras import onnx_model
from retinex_keras.dials import check_dials
from retinex_keras.engines import choose_engine, locate_weights, shipped_weights
from retinex_keras.folders.plan import Plan, plan_folder
from retinex_keras.folders.run import Outcomes, Report, enhance_files, run_plan
from retinex_keras.imaging import MAX_PIXELS, PathLike, is_address
from retinex_keras.imaging.write import check_quality
from retinex_keras.inference import enhance, load_pretrained
from retinex_keras.recipes import DEFAULT

BATCH = 16  # images a task: as many are made again after a crash


class _Enhancer:
    """An actor with a model of its own. It gets batches of a plan's images and targets, and adds the reason, b"" if made.

    All are bytes, as files' names need not be text.
    """

    def __init__(self, plan, weights, denoise, engine, dials, quality, max_pixels):
        if choose_engine(weights, engine) == "onnx":  # one thread, since the other processors have actors of their own
            onnx_model.threads = 1
        else:
            import tensorflow as tf

            tf.config.threading.set_intra_op_parallelism_threads(1)
        self.plan, self.options = plan, (quality, max_pixels)
        self.enhance = functools.partial(enhance, weights=load_pretrained(weights, denoise, engine), **dials)

    def __call__(self, rows):
        images = [os.fsdecode(image) for image in rows["image"]]
        plan = self.plan._replace(targets=dict(zip(images, map(os.fsdecode, rows["target"]))))
        reasons = dict(enhance_files(plan, self.enhance, *self.options))
        return rows | {"reason": [os.fsencode(reasons[image] or "") for image in images]}


def enhance_on_cluster(
    folder: PathLike,
    out: PathLike,
    address: str = "local",
    weights: PathLike = DEFAULT,
    denoise: float | None = None,
    engine: str | None = None,
    force: bool = False,
    quality: int = 95,
    max_pixels: int = MAX_PIXELS,
    **dials: float | None,
) -> Report:
    """Enhances a folder on a Ray cluster, with the arguments, results and rules of `run.enhance_folder`.

    Each actor has one model and one processor, or one GPU where the cluster has any. A task is a few images; if a worker
    dies, another one does its images again. All results are whole files, so that none is lost or damaged by that.

    Args:
        folder, out: folders that all machines of the cluster see under this name, or addresses of fsspec. `folder` must be
            one that can be listed, `out` one of an object store, where a file appears whole, as "s3://bucket/bright". All
            machines need fsspec's package for it, as s3fs, and the right to read and write there.
        address: of the cluster, or "local": one that is started on this machine, for the time of the call.
        weights: the name of shipped weights, or the path of a file that all machines see.
        denoise: strength of denoising, for the paper's weights alone; by default their own.
        engine: as `load_pretrained` takes it.

    Raises:
        FileNotFoundError: if there is no such folder, or there are no such weights.
        ValueError: if Ray is not installed, `folder` holds no image, results would overwrite inputs or each other, `out` is a
            file, the quality is not from 1 to 100, an address is wrong, or the weights cannot be used so.
        OSError: if there is no cluster at the address, if it fails, if another run is writing to `out`, or if a folder or store
            cannot be listed or written to.
    """
    try:
        import ray
    except ImportError:
        raise ValueError(
            "A cluster needs Ray, which is not installed: pip install '.[cluster]' in retinex_keras's folder."
        ) from None
    found, path = locate_weights(weights, engine)
    if str(weights) not in shipped_weights(found):
        weights = path.absolute()
    check_quality(quality)
    folder, out = (Path(place).absolute() if str(place) and not is_address(place) else place for place in (folder, out))
    plan = plan_folder(folder, out, force)
    if any(getattr(place.filesystem, "protocol", None) == "memory" for place in (plan.source, plan.sink)):
        raise ValueError("The memory:// of one process is not that of another; name a folder, or an address of a store.")
    check_dials(load_pretrained(weights, denoise, engine), **dials)  # says now what is wrong with weights or dials
    settings = {"weights": weights, "denoise": denoise, "engine": engine, "dials": dials}
    settings |= {"quality": quality, "max_pixels": max_pixels}
    return run_plan(plan, lambda plan: _in_actors(ray, plan, address, settings))


def _in_actors(ray, plan: Plan, address: str, settings: dict) -> Outcomes:
    """The executor of `run_plan` on a cluster."""
    if not plan.targets:
        return
    rows = [{"image": os.fsencode(image), "target": os.fsencode(target)} for image, target in plan.targets.items()]
    ray.data.DataContext.get_current().enable_progress_bars = False
    logging.getLogger("ray.data").setLevel("ERROR")
    ray.init(address, logging_level="ERROR", include_dashboard=False if address == "local" else None, log_to_driver=False)
    try:
        resources = ray.cluster_resources()
        on_gpus = resources.get("GPU") and choose_engine(settings["weights"], settings["engine"]) == "tensorflow"
        device = "GPU" if on_gpus else "CPU"
        tasks = ray.data.from_items(rows, override_num_blocks=-(-len(rows) // BATCH)).map_batches(
            _Enhancer,
            fn_constructor_kwargs={"plan": plan._replace(targets={}, existing=[], skipped=[]), **settings},
            batch_size=BATCH,
            compute=ray.data.ActorPoolStrategy(min_size=1, max_size=int(resources[device])),
            **{"num_gpus" if device == "GPU" else "num_cpus": 1},
        )
        for row in tasks.iter_rows():
            yield os.fsdecode(row["image"]), os.fsdecode(row["reason"]) or None
    except ray.exceptions.RayError as error:
        raise OSError(f"The cluster failed: {error}".splitlines()[0]) from error
    finally:
        ray.shutdown()
