"""Scores of a folder of pairs, one row an image."""

import csv
import functools
import io
import json
import time

import numpy as np
from tqdm import tqdm

from retinex_keras.data.pairs import find_pairs, load_scene
from retinex_keras.evaluation.plots import sheet
from retinex_keras.imaging.pixels import to_float
from retinex_keras.inference import enhance
from retinex_keras.networks import metrics
from retinex_keras.networks.losses import grayscale

PROTOCOL = (
    "Scored is the 8-bit picture that would be saved. PSNR: RGB, one value an image, then the mean. SSIM: Gaussian window 11, "
    "sigma 1.5, K1 0.01, K2 0.03; RGB is the mean over channels, grey is ITU-R 601 luma. PSNR GT mean: the picture scaled to "
    "the reference's mean luma, which leaks the reference into the result. Seconds: the method alone, without files."
)


def score(picture, reference):
    """The scores of one picture, {column: value}; both (H, W, 3), uint8.

    >>> list(score(*load_scene(["dark.png", "pairs/high/scene.0.png"])))
    ['PSNR', 'SSIM RGB', 'SSIM grey', 'PSNR GT mean']
    """
    image, truth = to_float(picture)[None], to_float(reference)[None]
    scale = np.mean(grayscale(truth)) / max(float(np.mean(grayscale(image))), 1e-6)
    return {
        "PSNR": float(metrics.psnr(image, truth)[0]),
        "SSIM RGB": float(metrics.ssim(image, truth)[0]),
        "SSIM grey": float(metrics.ssim(grayscale(image), grayscale(truth))[0]),
        "PSNR GT mean": float(metrics.psnr(metrics.to_8_bit(image * scale), truth)[0]),
    }


def score_pairs(low, high, model):
    """Enhances every image of a folder and scores it by the protocol (`PROTOCOL`).

    Args:
        low, high: folders of dark images and of their references, matched by file stem.
        model: a `RetinexNet` or `SimpleCNN`.

    Returns:
        A list of dicts, one an image: `image` (its stem), `size`, the columns of `score`, and `seconds`.

    Raises:
        FileNotFoundError, ValueError: naming the files that are missing, unreadable or of different sizes; none is skipped.

    >>> from retinex_keras import load_pretrained
    >>> rows = score_pairs("pairs/low", "pairs/high", load_pretrained("paper"))
    >>> rows[0]["image"], rows[0]["size"]
    ('scene.0', '24x20')
    """
    pairs = find_pairs(low, high)
    enhance(load_scene(pairs[0])[0], model)  # a warm-up, which is not timed
    return _score_method(pairs, functools.partial(enhance, model=model))


def _score_method(pairs, method, pictures=None):
    """The rows of what `method` makes of each dark image; `pictures` receives it for those that are its keys."""
    rows = []
    for paths in tqdm(pairs, "scoring", unit="image", leave=False, disable=None):
        dark, reference = load_scene(paths)
        start = time.perf_counter()
        picture = method(dark)
        seconds = time.perf_counter() - start
        rows.append(_row(paths, picture, reference) | {"seconds": seconds})
        if pictures and paths in pictures:
            pictures[paths].append(picture)
    return rows


def compare(low, high, methods, path=None, most=6):
    """Scores several methods on the same pairs, and shows their pictures side by side.

    Args:
        low, high: folders of dark images and of their references, matched by file stem.
        methods: {name: function} from a dark image to a bright one, each (H, W, 3), uint8.
        path: where to write the sheet: a row a scene; input, methods and reference in the columns. By default none is.
        most: so many scenes, taken at equal distances, are on the sheet.

    Returns:
        A list of dicts, one a method, the input first: `method`, the means of the columns of `score`, the median of `seconds`.

    Raises:
        FileNotFoundError, ValueError: as `score_pairs`.

    >>> rows = compare("pairs/low", "pairs/high", {"threefold": lambda image: 3 * image})
    >>> [row["method"] for row in rows]
    ['input', 'threefold']
    """
    pairs = find_pairs(low, high)
    pictures = {paths: [] for paths in pairs[:: -(-len(pairs) // most)]} if path else None
    methods = {"input": np.copy, **methods}
    for method in methods.values():
        method(load_scene(pairs[0])[0])  # a warm-up, which is not timed; what a method lacks is said now
    rows = [{"method": name, **means(_score_method(pairs, method, pictures))} for name, method in methods.items()]
    if path:
        sheet([[*row, load_scene(paths)[1]] for paths, row in pictures.items()], [*methods, "reference"], path)
    return rows


def score_results(results, high):
    """Scores the pictures that another program made, by the same protocol.

    Args:
        results, high: folders of pictures and of their references, matched by file stem.

    Returns:
        As `score_pairs`, without `seconds`.

    Raises:
        FileNotFoundError, ValueError: as `score_pairs`.

    >>> len(score_results("pairs/low", "pairs/high"))
    5
    """
    pairs = tqdm(find_pairs(results, high), "scoring", unit="image", leave=False, disable=None)
    return [_row(paths, *load_scene(paths)) for paths in pairs]


def _row(paths, picture, reference):
    height, width = picture.shape[:2]
    try:
        return {"image": paths[0].stem, "size": f"{width}x{height}", **score(picture, reference)}
    except ValueError as error:
        raise ValueError(f"{paths[0]}: {error}") from None


def means(rows):
    """The mean of every column, of the seconds the median.

    >>> means([{"image": "a", "PSNR": 20.0}, {"image": "b", "PSNR": 21.0}])
    {'PSNR': 20.5}
    """
    columns = [column for column, value in rows[0].items() if not isinstance(value, str)]
    return {c: float((np.median if c == "seconds" else np.mean)([row[c] for row in rows])) for c in columns}


def report(rows, about, form="text"):
    """The rows (of images, with their means; or of methods) as "text", "csv" or "json"; in front `about` and the protocol.

    >>> print(report([{"method": "lime", "PSNR": 14.2}], "Means over two pairs.", "csv").splitlines()[-1])
    lime,14.2
    """
    images = "image" in rows[0]
    if form == "json":
        content = {"images": rows, "mean": means(rows)} if images else {"methods": rows}
        return json.dumps({"about": about, "protocol": PROTOCOL, **content}, indent=1)
    if images:
        rows = [*rows, {"image": "mean", "size": "", **means(rows)}]
    if form == "csv":
        lines = io.StringIO()
        lines.write(f"# {about}\n# {PROTOCOL}\n")
        writer = csv.DictWriter(lines, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        return lines.getvalue().rstrip()
    texts = [
        {c: v if isinstance(v, str) else f"{v:.{2 if c.startswith('PSNR') else 3}f}" for c, v in row.items()} for row in rows
    ]
    widths = {c: max(len(c), *(len(text[c]) for text in texts)) for c in rows[0]}
    table = ["  ".join(text[c].rjust(widths[c]) for c in widths) for text in ({c: c for c in widths}, *texts)]
    return "\n".join([about, PROTOCOL, *table])
