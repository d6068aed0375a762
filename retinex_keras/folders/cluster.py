"""Folders of millions of images, on the machines of a Ray cluster."""

import contextlib
import logging
import os
import tempfile
from pathlib import Path, PurePosixPath

import numpy as np
import tensorflow as tf
from tqdm import tqdm

from retinex_keras.folders.plan import is_address, result_name, results_of_folder
from retinex_keras.imaging.read import MAX_PIXELS, is_image_name, list_images
from retinex_keras.imaging.write import check_quality
from retinex_keras.inference import enhance_files, load_pretrained

BATCH = 16  # images a task: as many are made again after a crash


class _Enhancer:
    """An actor with a model of its own; its calls get and return batches of rows, as dicts of arrays.

    A row's paths are those of the filesystems `source` and `sink` of fsspec, or of this machine where these are None.
    """

    def __init__(self, weights, denoise, source=None, sink=None, **options):
        tf.config.threading.set_intra_op_parallelism_threads(1)  # the other processors have actors of their own
        self.model, self.source, self.sink, self.options = load_pretrained(weights, denoise), source, sink, options

    def __call__(self, rows):
        reasons, targets, rows_of = {}, {}, {}
        with tempfile.TemporaryDirectory() as folder:  # for what lies elsewhere
            for i, (image, target) in enumerate(zip(rows["image"], rows["target"])):
                here = Path(image) if self.source is None else Path(folder, str(i), "in", PurePosixPath(image).name)
                result = Path(target) if self.sink is None else Path(folder, str(i), "out", PurePosixPath(target).name)
                with _reason(reasons, image):
                    if self.source:
                        here.parent.mkdir(parents=True)
                        self.source.get_file(image, str(here))
                    targets[here], rows_of[here] = result, (image, target)
            for here, reason in enhance_files(targets, self.model, **self.options)[1]:
                image, _ = rows_of.pop(here)
                reasons[image] = reason.replace(str(here), str(_full(self.source, image)))
            for here, (image, target) in rows_of.items():
                with _reason(reasons, image):
                    if self.sink:
                        self.sink.put_file(str(targets[here]), target)
        bad = np.array([image in reasons for image in rows["image"]])
        return rows | {"bad": bad, "reason": [reasons.get(image, "") for image in rows["image"]]}


@contextlib.contextmanager
def _reason(reasons, image):
    """Notes why an image is bad, whatever it is that its filesystem fails with."""
    try:
        yield
    except Exception as error:
        reasons[image] = str(error) or type(error).__name__


def _place(place):
    """What a folder or an address names: a filesystem of fsspec, or None for this machine's, and the path there."""
    if not is_address(place):
        return None, Path(place)
    import fsspec
    from fsspec.implementations.local import LocalFileSystem

    try:
        filesystem, path = fsspec.core.url_to_fs(str(place))
    except Exception as error:  # it says what to install, that there is no such protocol, or what else the address lacks
        raise ValueError(f"{place} cannot be reached: {str(error) or type(error).__name__}.") from error
    if "::" in str(place):
        raise ValueError(f"{place} is a chain of addresses; name a folder that needs no other.")
    return (None, Path(path)) if isinstance(filesystem, LocalFileSystem) else (filesystem, path.rstrip("/"))


def _full(filesystem, path):
    return Path(path) if filesystem is None else filesystem.unstrip_protocol(path)


def _results(source, folder, sink, out, force):
    """`results_of_folder` where one of both is elsewhere: {path of an image: path of its result}, and those that exist."""
    if source is None:
        names = [path.relative_to(folder).as_posix() for path in list_images(folder)]
    else:
        names = [path.removeprefix(folder).lstrip("/") for path in _files(source, folder)]
        names = sorted(name for name in names if is_image_name(name))
        if not names:
            raise ValueError(
                f"{_full(source, folder)} is no folder with images in a format that Pillow reads; check the address."
            )
    folder, out = (str(path.absolute()) if isinstance(path, Path) else path for path in (folder, out))
    targets = {f"{folder}/{name}": f"{out}/{result_name(name)}" for name in names}
    if source == sink:
        inside = out.startswith(f"{folder}/")  # then earlier results are no inputs
        targets = {image: to for image, to in targets.items() if not (inside and image.startswith(f"{out}/"))}
        if not targets.keys().isdisjoint(targets.values()):
            raise ValueError(f"Results in {_full(sink, out)} would overwrite inputs; name another folder.")
    existing = {}
    if not force:
        there = _files(sink, out) if sink else {target for target in targets.values() if os.path.exists(target)}
        existing = {image: target for image, target in targets.items() if target in there}
    return {image: target for image, target in targets.items() if image not in existing}, list(existing.values())


def _files(filesystem, folder):
    try:
        return set(filesystem.find(folder))
    except FileNotFoundError:
        return set()
    except Exception as error:  # each filesystem fails with errors of its own
        reason = str(error) or type(error).__name__
        raise OSError(f"{_full(filesystem, folder)} could not be listed ({reason}); check the address.") from error


def enhance_folder(
    folder, out, address="local", weights="natural", denoise=None, force=False, quality=95, max_pixels=MAX_PIXELS
):
    """`inference.enhance_folder` on a Ray cluster: the same results, and the same rules for bad files and existing results.

    Each actor has one model and one processor, or one GPU where the cluster has any. A task is a few images; those of a
    worker that dies are done again by another one. All results are whole files, so that none is lost or damaged by that.

    Args:
        folder, out: folders that all machines of the cluster see under this name, or addresses of fsspec. `folder` is one
            that can be listed, `out` one of an object store, where a file appears whole, as "s3://bucket/bright". All
            machines need fsspec's package for it, as s3fs, and the right to read and write there.
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
    (source, folder), (sink, out) = _place(folder), _place(out)
    if source or sink:
        targets, existing = _results(source, folder, sink, out, force)
    else:
        targets, existing = results_of_folder(folder.absolute(), out.absolute(), force)
    rows = [{"image": str(image), "target": str(target)} for image, target in targets.items()]
    existing = [_full(sink, target) for target in existing]
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
            fn_constructor_args=(weights, denoise, source, sink),
            fn_constructor_kwargs={"quality": quality, "max_pixels": max_pixels},
            batch_size=BATCH,
            compute=ray.data.ActorPoolStrategy(min_size=1, max_size=int(resources[device])),
            **{"num_gpus" if device == "GPU" else "num_cpus": 1},
        )
        with tqdm(total=len(rows), unit="image", disable=None) as bar:
            for row in tasks.iter_rows():
                if row["bad"]:
                    bad.append((_full(source, row["image"]), row["reason"]))
                else:
                    made.append(_full(sink, row["target"]))
                bar.update()
    except ray.exceptions.RayError as error:
        raise OSError(f"The cluster failed: {error}".splitlines()[0]) from error
    finally:
        ray.shutdown()
    return made, existing, sorted(bad)
