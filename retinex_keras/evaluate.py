"""Scores of a folder of pairs, one row an image."""

import time

import numpy as np
from tqdm import tqdm

from retinex_keras import metrics
from retinex_keras.data import find_pairs, load_scene
from retinex_keras.images import to_float
from retinex_keras.inference import enhance
from retinex_keras.losses import grayscale

PROTOCOL = (
    "Scored is the 8-bit picture that would be saved. PSNR: RGB, one value an image, then the mean. SSIM: Gaussian window 11, "
    "sigma 1.5, K1 0.01, K2 0.03; RGB is the mean over channels, grey is ITU-R 601 luma. PSNR GT mean: the picture scaled to "
    "the reference's mean luma, which leaks the reference into the result. Seconds: the network alone, without files."
)


def score(picture, reference):
    """The scores of one picture, {column: value}; both (H, W, 3), uint8."""
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
        model: a `RetinexNet`.

    Returns:
        A list of dicts, one an image: `image` (its stem), the columns of `score`, and `seconds`.

    Raises:
        FileNotFoundError, ValueError: naming the files that are missing, unreadable or of different sizes; none is skipped.
    """
    pairs = find_pairs(low, high)
    enhance(load_scene(pairs[0])[0], model)  # a warm-up, which is not timed
    rows = []
    for paths in tqdm(pairs, "scoring", unit="image", leave=False, disable=None):
        dark, reference = load_scene(paths)
        start = time.perf_counter()
        picture = enhance(dark, model)
        seconds = time.perf_counter() - start
        rows.append({"image": paths[0].stem, **score(picture, reference), "seconds": seconds})
    return rows


def table(rows):
    """The rows as text, the protocol in front and the means at the end (of the seconds the median)."""
    columns = [column for column in rows[0] if column != "image"]
    means = {column: np.mean([row[column] for row in rows]) for column in columns}
    means["seconds"] = np.median([row["seconds"] for row in rows])
    width = max(len(row["image"]) for row in rows + [{"image": "image"}])
    lines = [PROTOCOL, "  ".join(["image".ljust(width), *columns])]
    for row in (*rows, {"image": "mean", **means}):
        values = (f"{row[column]:.{3 if column.startswith(('SSIM', 'sec')) else 2}f}".rjust(len(column)) for column in columns)
        lines.append("  ".join([row["image"].ljust(width), *values]))
    return "\n".join(lines)
