"""Enhances all images of a folder. It imports TensorFlow only where a network of this process does the work."""

import collections
import concurrent.futures
import contextlib
import itertools
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from retinex_keras.dials import check_dials
from retinex_keras.folders.plan import Plan, plan_folder
from retinex_keras.imaging import MAX_PIXELS, PathLike
from retinex_keras.imaging.write import check_quality, check_sides
from retinex_keras.recipes import DEFAULT

Outcomes = Iterator[tuple[str, str | None]]  # images, and the reasons why they are bad


class Report(NamedTuple):
    """What became of the images of a folder; files are paths, or addresses where they lie elsewhere."""

    made: list[Path | str]  # results
    existing: list[Path | str]  # results that were there already
    bad: list[tuple[Path | str, str]]  # each bad image, and the reason
    skipped: list[tuple[Path | str, str]]  # each photo in a format that is not read here, link or closed folder, and the reason


def enhance_folder(
    folder: PathLike,
    out: PathLike,
    weights=DEFAULT,
    force: bool = False,
    quality: int = 95,
    max_pixels: int = MAX_PIXELS,
    **dials: float | None,
) -> Report:
    """Enhances all images of a folder and its subfolders, into the same places below another folder.

    The next files are read and the last ones written while the network works. A result has the name of its image, with
    ".png" added to formats that are only read; alpha, metadata and 16 bits are kept as far as its format can hold them.
    Results that exist are not made again, so that a stopped run goes on. Of two runs that write to one folder of this machine,
    or of a network, the second one is refused while the first one works; this takes a filesystem with locks (flock).

    Args:
        folder: of the images, a path or an address of fsspec; hidden files and files that are no images by their suffix are
            left alone. Links to folders are not followed.
        out: folder of the results, a path or an address; it may lie in `folder`, but not be it.
        weights: a model, the name of shipped weights, or the path of a `.keras` or `.onnx` file.
        force: if True, results that exist are made again.
        quality: of results in JPEG, WebP and AVIF, 1 to 100.
        max_pixels: larger images are bad files.
        dials: as `inference.enhance` takes them, for all images.

    Returns:
        A `Report` of four lists: `made` and `existing`, of results, `bad` and `skipped`, of pairs of path and reason.

    Raises:
        FileNotFoundError: if there is no such folder, or there are no such weights.
        ValueError: if `folder` holds no image, results would overwrite inputs or each other, `out` is a file, the quality is
            not from 1 to 100, an address is wrong, or the file of the weights holds something else.
        OSError: if another run is writing to `out`, it cannot be written to, or a folder or store cannot be listed.

    >>> report = enhance_folder("pairs/low", "bright")
    >>> len(report.made), report.existing, report.bad, report.skipped
    (5, [], [], [])
    """
    from retinex_keras.inference import enhance, find_model  # here, since the client of a server needs no TensorFlow

    check_quality(quality)
    plan = plan_folder(folder, out, force)  # before the model is loaded, which takes seconds
    model = find_model(weights)
    check_dials(model, **dials)
    return run_plan(plan, lambda plan: enhance_files(plan, lambda image: enhance(image, model, **dials), quality, max_pixels))


@contextlib.contextmanager
def carried_out(plan: Plan, executor: Callable[[Plan], Outcomes]) -> Iterator[tuple[Plan, Outcomes]]:
    """Yields a plan, without what exists by now, and its images as they end: with None, or with the reason why one is bad.

    The executor yields them. An error of it ends the work; so does another run on the same folder of results, before it
    begins (OSError).
    """
    results = [*plan.targets.values(), *map(str, plan.existing)]
    with plan.sink.reserved(results) if plan.alone and plan.targets else contextlib.nullcontext():
        plan = plan if plan.sink.filesystem else plan.without_results()  # of a run that has just ended
        with contextlib.closing(executor(plan)) as ended:
            yield plan, ended


def run_plan(plan: Plan, executor: Callable[[Plan], Outcomes]) -> Report:
    """Carries out a plan, with a bar of progress; arguments and errors as of `carried_out`."""
    from tqdm import tqdm  # here, since it takes a tenth of a second

    made, bad = [], []
    with carried_out(plan, executor) as (plan, ended):
        for image, reason in tqdm(ended, total=len(plan.targets), unit="image", disable=None if sys.stderr else True):
            if reason is None:
                made.append(plan.sink.full_name(plan.targets[image]))
            else:
                bad.append((plan.source.full_name(image), reason))
    return Report(made, plan.existing, sorted(bad), plan.skipped)


def enhance_files(plan: Plan, brighten: Callable, quality: int, max_pixels: int) -> Outcomes:
    """The executor in this process: it reads one image ahead, and holds at most three results until they are written.

    `brighten` makes an image brighter: an array (H, W, 3), uint8 or uint16, to another one.
    """

    def write(image, picture, extras):
        try:
            plan.sink.write(plan.targets[image], picture, extras, quality)
        except (ValueError, OSError) as error:
            return image, str(error)
        return image, None

    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        following = ((image, pool.submit(plan.source.read, image, max_pixels)) for image in plan.targets)
        readings, writings = collections.deque(itertools.islice(following, 1)), collections.deque()
        while readings:
            readings.extend(itertools.islice(following, 1))
            image, reading = readings.popleft()
            try:
                photo, extras = reading.result()
                check_sides(plan.targets[image], photo.shape[:2])
                picture = brighten(photo)
                del photo, reading  # a large image need not be held while its result is encoded
                writings.append(pool.submit(write, image, picture, extras))
                del picture
            except (ValueError, OSError) as error:
                yield image, str(error)
            if len(writings) > 2:
                yield writings.popleft().result()
        for writing in writings:
            yield writing.result()
