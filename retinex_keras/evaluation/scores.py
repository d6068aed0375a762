"""Scores of pictures against their references: a row for each image, or for each method."""

import csv
import functools
import io
import json
import time

import numpy as np
from tqdm import tqdm

from retinex_keras.data.pairs import find_pairs, load_scene
from retinex_keras.imaging import PathLike, metrics
from retinex_keras.imaging.pixels import TENSORFLOW_LUMA, to_float
from retinex_keras.inference import enhance

PROTOCOL = (
    "Scored is the 8-bit picture that would be saved. PSNR: RGB, one value an image, then the mean. SSIM: Gaussian window 11, "
    "sigma 1.5, K1 0.01, K2 0.03; RGB is the mean over channels, grey is ITU-R 601 luma. PSNR GT mean: the picture scaled to "
    "the reference's mean luma, which leaks the reference into the result. Seconds: the method alone, without files."
)


def score(picture: np.ndarray, reference: np.ndarray) -> dict[str, float]:
    """The scores of one picture, by the protocol (`PROTOCOL`).

    Args:
        picture, reference: (H, W, 3), uint8, H and W at least 11.

    Returns:
        A dict: `PSNR` and `PSNR GT mean` in dB, `SSIM RGB` and `SSIM grey` up to 1.

    Raises:
        ValueError: if the picture is smaller than the window of SSIM, 11x11.

    >>> list(score(*load_scene(["dark.png", "pairs/high/scene.0.png"])))
    ['PSNR', 'SSIM RGB', 'SSIM grey', 'PSNR GT mean']
    """
    image, truth = to_float(picture)[None], to_float(reference)[None]
    grey, grey_truth = (side @ np.float32(TENSORFLOW_LUMA)[:, None] for side in (image, truth))
    scale = np.mean(grey_truth) / max(float(np.mean(grey)), 1e-6)
    return {
        "PSNR": float(metrics.psnr(image, truth)[0]),
        "SSIM RGB": float(metrics.ssim(image, truth)[0]),
        "SSIM grey": float(metrics.ssim(grey, grey_truth)[0]),
        "PSNR GT mean": float(metrics.psnr(metrics.to_8_bit(image * scale), truth)[0]),
    }


def score_pairs(low: PathLike, high: PathLike, model) -> list[dict]:
    """Enhances every image of a folder and scores the results, by the protocol (`PROTOCOL`).

    Args:
        low, high: folders of dark images and of their references, matched by file stem.
        model: a model, the name of shipped weights, or the path of a `.keras` or `.onnx` file.

    Returns:
        A list of dicts, one for each image: `image` (its stem), `size`, the scores of `score`, and `seconds`.

    Raises:
        FileNotFoundError: if a folder or the weights are missing.
        ValueError: if an image has no partner, is unreadable or below 11x11, or the sizes of a pair differ; it names the files.

    >>> [row["size"] for row in score_pairs("pairs/low", "pairs/high", "paper")][:2]
    ['24x20', '25x21']
    """
    pairs = find_pairs(low, high)
    enhance(load_scene(pairs[0])[0], model)  # a warm-up, which is not timed
    return _score_scenes(pairs, functools.partial(enhance, model=model))


def score_results(results: PathLike, high: PathLike) -> list[dict]:
    """Scores the pictures that another program made, by the protocol (`PROTOCOL`).

    Args:
        results, high: folders of pictures and of their references, matched by file stem.

    Returns:
        A list of dicts, one for each image: `image` (its stem), `size`, and the scores of `score`.

    Raises:
        FileNotFoundError: if a folder is missing.
        ValueError: if an image has no partner, is unreadable or below 11x11, or the sizes of a pair differ; it names the files.

    >>> len(score_results("pairs/low", "pairs/high"))
    5
    """
    return _score_scenes(find_pairs(results, high))


def compare(low: PathLike, high: PathLike, methods: dict, path: PathLike | None = None, most: int = 6) -> list[dict]:
    """Scores several methods on the same pairs, and shows their pictures side by side.

    Args:
        low, high: folders of dark images and of their references, matched by file stem.
        methods: {name: function}. A function takes a dark image and returns a bright one, both (H, W, 3), uint8.
        path: the file of a sheet: a row for each scene; input, methods and reference in the columns. Without it, no sheet.
        most: the largest number of scenes on the sheet. They are taken at equal distances.

    Returns:
        A list of dicts, one for each method, the input first: `method`, the means of the scores of `score`, and the median of
        `seconds`.

    Raises:
        FileNotFoundError: if a folder is missing.
        ValueError: if an image has no partner, is unreadable or below 11x11, or the sizes of a pair differ; it names the files.

    >>> [row["method"] for row in compare("pairs/low", "pairs/high", {"threefold": lambda image: 3 * image})]
    ['input', 'threefold']
    """
    pairs = find_pairs(low, high)
    pictures = {paths: [] for paths in pairs[:: -(-len(pairs) // most)]} if path else {}
    methods = {"input": np.copy, **methods}
    for method in methods.values():
        method(load_scene(pairs[0])[0])  # a warm-up, which is not timed; it also shows at once what a method lacks
    rows = [{"method": name, **_means(_score_scenes(pairs, method, pictures))} for name, method in methods.items()]
    if path:
        from retinex_keras.evaluation.plots import sheet  # here, since matplotlib may be missing

        sheet([[*row, load_scene(paths)[1]] for paths, row in pictures.items()], [*methods, "reference"], path)
    return rows


def _score_scenes(pairs, method=None, pictures=()):
    """The rows of the pictures that `method` makes of the first images, or of these images as they are.

    `pictures` is a dict of lists. The list of a pair receives its picture; pairs that are not in the dict are only scored.
    """
    rows = []
    for paths in tqdm(pairs, "scoring", unit="image", leave=False, disable=None):
        picture, reference = load_scene(paths)
        start = time.perf_counter()
        picture = method(picture) if method else picture
        timing = {"seconds": time.perf_counter() - start} if method else {}
        height, width = picture.shape[:2]
        try:
            rows.append({"image": paths[0].stem, "size": f"{width}x{height}", **score(picture, reference), **timing})
        except ValueError as error:
            raise ValueError(f"{paths[0]}: {error}") from None
        if paths in pictures:
            pictures[paths].append(picture)
    return rows


def _means(rows):
    """The mean of every column of numbers; of `seconds` the median."""
    columns = {name: [row[name] for row in rows] for name, value in rows[0].items() if not isinstance(value, str)}
    return {name: float(np.median(column) if name == "seconds" else np.mean(column)) for name, column in columns.items()}


def report(rows: list[dict], about: str, form: str = "text") -> str:
    """Writes rows as a table, after a line about them and the protocol.

    Args:
        rows: rows of images (`score_pairs`, `score_results`), whose means are added, or of methods (`compare`).
        about: what was scored, in one line.
        form: "text", "csv" or "json".

    Returns:
        The table, without a newline at its end.

    >>> print(report([{"method": "lime", "PSNR": 14.2}], "Means over two pairs.", "csv").splitlines()[-1])
    lime,14.2
    """
    images = "image" in rows[0]
    if form == "json":
        content = {"images": rows, "mean": _means(rows)} if images else {"methods": rows}
        return json.dumps({"about": about, "protocol": PROTOCOL, **content}, indent=1)
    if images:
        rows = [*rows, {"image": "mean", "size": "", **_means(rows)}]
    if form == "csv":
        lines = io.StringIO()
        csv.writer(lines, lineterminator="\n").writerows([rows[0], *(row.values() for row in rows)])
        return f"# {about}\n# {PROTOCOL}\n{lines.getvalue()}".rstrip()

    def text(column, value):
        return value if isinstance(value, str) else f"{value:.{2 if column.startswith('PSNR') else 3}f}"

    table = [list(rows[0]), *([text(*cell) for cell in row.items()] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*table)]
    return "\n".join([about, PROTOCOL, *("  ".join(map(str.rjust, line, widths)) for line in table)])
