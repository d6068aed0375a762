"""Folders of millions of images, on the machines of a Ray cluster."""

import contextlib
import logging
import secrets
import tempfile
from pathlib import Path, PurePosixPath

import numpy as np
import tensorflow as tf
from tqdm import tqdm

from retinex_keras.images import MAX_PIXELS, check_quality, is_image_name, result_name, results_of_folder
from retinex_keras.inference import enhance_files, load_pretrained

BATCH = 16  # images a task: as many are made again after a crash


class _Enhancer:
    """An actor with a model of its own; its calls get and return batches of rows, as dicts of arrays."""

    def __init__(self, weights, denoise, **options):
        tf.config.threading.set_intra_op_parallelism_threads(1)  # the other processors have actors of their own
        self.model, self.options = load_pretrained(weights, denoise), options

    def __call__(self, rows):
        reasons, targets, origins = {}, {}, {}
        with tempfile.TemporaryDirectory() as folder:  # for what does not lie in a folder of this machine
            for i, (image, target) in enumerate(zip(rows["image"], rows["target"])):
                here = Path(folder, str(i), PurePosixPath(image).name) if is_address(image) else Path(image)
                result = Path(folder, str(i), "results", PurePosixPath(target).name) if is_address(target) else Path(target)
                with _reason(reasons, image):
                    if is_address(image):
                        _fetch(image, here)
                    targets[here], origins[here] = result, (image, target)
            for path, reason in enhance_files(targets, self.model, **self.options)[1]:
                image, _ = origins.pop(path)
                reasons[image] = reason.replace(str(path), image)
            for path, (image, target) in origins.items():
                with _reason(reasons, image):
                    if is_address(target):
                        _store(targets[path], target)
        return rows | {
            "bad": np.array([image in reasons for image in rows["image"]]),
            "reason": [reasons.get(image, "") for image in rows["image"]],
        }


def is_address(place):
    """Whether a place is an address that fsspec knows, and not a folder or file that all machines see.

    >>> is_address("s3://bucket/photos"), is_address(Path("photos"))
    (True, False)
    """
    return "://" in str(place)


def _filesystem(address):
    import fsspec

    try:
        return fsspec.core.url_to_fs(address)
    except (ImportError, ValueError) as error:  # it says what to install, or that there is no such protocol
        raise ValueError(f"{address} cannot be reached: {error}.") from error


def _fetch(address, path):
    filesystem, remote = _filesystem(address)
    path.parent.mkdir(parents=True, exist_ok=True)
    filesystem.get_file(remote, str(path))


def _store(path, address):
    """Under a hidden name first: whoever looks at the folder never sees a part of a file."""
    filesystem, remote = _filesystem(address)
    parent = remote.rpartition("/")[0]
    hidden = f"{parent}/.{secrets.token_hex(8)}{path.suffix}"
    filesystem.makedirs(parent, exist_ok=True)
    filesystem.put_file(str(path), hidden)
    filesystem.mv(hidden, remote)


@contextlib.contextmanager
def _reason(reasons, image):
    """Notes why an image is bad, whatever it is that its kind of address fails with."""
    try:
        yield
    except Exception as error:
        reasons[image] = f"{image}: {error or type(error).__name__}"


def _results(folder, out, force):
    """`results_of_folder` where one of both is an address: {address of an image: that of its result}, and those that exist."""
    folder, out = (str(place) if is_address(place) else f"file://{Path(place).absolute()}" for place in (folder, out))
    folder, out = folder.rstrip("/"), out.rstrip("/")
    if folder == out:
        raise ValueError(f"{out} is the folder of the inputs, which are never overwritten; name another folder.")
    (source, root), (sink, _) = _filesystem(folder), _filesystem(out)
    try:
        names = sorted(path.removeprefix(root).lstrip("/") for path in source.find(root))
    except Exception as error:  # each kind of address fails with errors of its own
        raise OSError(f"{folder} could not be listed ({error or type(error).__name__}); check the address.") from error
    images = {name: f"{folder}/{name}" for name in names if is_image_name(name)}
    targets = {path: f"{out}/{result_name(name)}" for name, path in images.items() if not path.startswith(f"{out}/")}
    if not targets:
        raise ValueError(f"{folder} holds no image in a format that Pillow reads; put some there.")
    existing = {} if force else {path: to for path, to in targets.items() if sink.exists(to)}
    return {path: to for path, to in targets.items() if path not in existing}, list(existing.values())


def enhance_folder(
    folder, out, address="local", weights="natural", denoise=None, force=False, quality=95, max_pixels=MAX_PIXELS
):
    """`inference.enhance_folder` on a Ray cluster: the same results, and the same rules for bad files and existing results.

    Each actor has one model and one processor, or one GPU where the cluster has any. A task is a few images; those of a
    worker that dies are done again by another one. All results are whole files, so that none is lost or damaged by that.

    Args:
        folder, out: folders that all machines of the cluster see under this name, or addresses that fsspec knows, as
            "s3://bucket/photos"; some need a package of their own on all machines, as s3fs.
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
    if is_address(folder) or is_address(out):
        targets, existing = _results(folder, out, force)
        rows = [{"image": image, "target": target} for image, target in targets.items()]
    else:
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
