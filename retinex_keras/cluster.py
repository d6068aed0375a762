"""Folders of millions of images, on the machines of a Ray cluster."""

import logging
from pathlib import Path

import numpy as np
import tensorflow as tf
from tqdm import tqdm

from retinex_keras.images import MAX_PIXELS, check_quality, results_of_folder
from retinex_keras.inference import enhance_files, load_pretrained

BATCH = 16  # images a task: as many are made again after a crash


class _Enhancer:
    """An actor with a model of its own; its calls get and return batches of rows, as dicts of arrays."""

    def __init__(self, weights, denoise, **options):
        tf.config.threading.set_intra_op_parallelism_threads(1)  # the other processors have actors of their own
        self.model, self.options = load_pretrained(weights, denoise), options

    def __call__(self, rows):
        targets = {Path(image): Path(target) for image, target in zip(rows["image"], rows["target"])}
        bad = dict(enhance_files(targets, self.model, **self.options)[1])
        return rows | {"bad": np.array([image in bad for image in targets]), "reason": [bad.get(i, "") for i in targets]}


def enhance_folder(
    folder, out, address="local", weights="natural", denoise=None, force=False, quality=95, max_pixels=MAX_PIXELS
):
    """`inference.enhance_folder` on a Ray cluster: the same results, and the same rules for bad files and existing results.

    Each actor has one model and one processor, or one GPU where the cluster has any. A task is a few images; those of a
    worker that dies are done again by another one. All results are whole files, so that none is lost or damaged by that.

    Args:
        folder, out: folders that all machines of the cluster see under this name.
        address: of the cluster, or "local": one that is started on this machine, for the time of the call.
        weights, denoise: as in `load_pretrained`; a path is one that all machines see.
        force, quality, max_pixels: as in `inference.enhance_folder`.

    Returns:
        Three lists of paths and reasons: the results made, those that existed, and (image, reason) of each bad file.

    Raises:
        FileNotFoundError, ValueError: as `inference.enhance_folder`; or if Ray is not installed.
        OSError: if there is no cluster at the address, or it fails.
    """
    try:
        import ray
    except ImportError:
        raise ValueError("A cluster needs Ray, which is not installed: pip install 'retinex_keras[cluster]'.") from None
    load_pretrained(weights, denoise)  # says now what is wrong with them
    check_quality(quality)
    targets, existing = results_of_folder(folder, out, force)
    rows = [{"image": str(image.absolute()), "target": str(target.absolute())} for image, target in targets.items()]
    made, bad = [], []
    if not rows:
        return made, existing, bad
    ray.data.DataContext.get_current().enable_progress_bars = False
    logging.getLogger("ray.data").setLevel("ERROR")
    ray.init(address, logging_level="ERROR", include_dashboard=False if address == "local" else None, log_to_driver=False)
    try:
        resources, device = ray.cluster_resources(), "GPU" if ray.cluster_resources().get("GPU") else "CPU"
        tasks = ray.data.from_items(rows, override_num_blocks=-(-len(rows) // BATCH)).map_batches(
            _Enhancer,
            fn_constructor_args=(weights, denoise),
            fn_constructor_kwargs={"quality": quality, "max_pixels": max_pixels},
            batch_size=BATCH,
            compute=ray.data.ActorPoolStrategy(min_size=1, max_size=int(resources[device])),
            **{"num_gpus" if device == "GPU" else "num_cpus": 1},
        )
        places = dict(zip((row["image"] for row in rows), targets))
        with tqdm(total=len(rows), unit="image", disable=None) as bar:
            for row in tasks.iter_rows():
                image = places[row["image"]]
                if row["bad"]:
                    bad.append((image, row["reason"]))
                else:
                    made.append(targets[image])
                bar.update()
    except ray.exceptions.RayError as error:
        raise OSError(f"The cluster failed: {error}".splitlines()[0]) from error
    finally:
        ray.shutdown()
    return made, existing, sorted(bad)
