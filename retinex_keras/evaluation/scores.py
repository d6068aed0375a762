"""Scores of pictures against their references, or against the dark photos alone: a row for each image, or for each method."""

import csv
import functools
import io
import json
import math
import sys
import textwrap
import time

import numpy as np
from tqdm import tqdm

from retinex_keras.data.pairs import find_images, find_pairs, load_scene
from retinex_keras.imaging import PathLike, metrics
from retinex_keras.imaging.lpips import lpips as lpips_distance
from retinex_keras.imaging.pixels import TENSORFLOW_LUMA, to_float, to_uint8
from retinex_keras.imaging.read import read_image
from retinex_keras.inference import enhance

PROTOCOL = {  # what a report says of each of its columns, after a sentence about all
    "": "Scored is the 8-bit picture that would be saved; means are over the images.",
    "PSNR": "PSNR: RGB, one value an image.",
    "SSIM RGB": "SSIM: Gaussian window 11, sigma 1.5, K1 0.01, K2 0.03; RGB is the mean over channels, grey is ITU-R 601 luma.",
    "PSNR GT mean": "GT mean: the picture scaled to the reference's mean luma, which leaks the reference into the result.",
    "LPIPS": "LPIPS: AlexNet, version 0.1.",
    "CIEDE2000": "CIEDE2000: the mean over the pixels.",
    "chroma": "Chroma: mean sqrt(a*^2 + b*^2) in CIELAB, D65, divided by the reference's; of several images the median.",
    "luma before": "Luma: the mean, ITU-R 601, 0 to 1.",
    "newly clipped": "Newly clipped: share of pixels whose brightest channel is 254 or more of 255 and was below 230 in the "
    "input.",
    "grain": "Grain: mean difference of luma, 0 to 1, to itself under a Gaussian of sigma 2, where a 15x15 window of the "
    "input has a mean below 25 and a deviation below 3 of 255; none where that is at most 5 % of the pixels.",
    "seconds": "Seconds: the method alone, without files; of several images the median.",
}
MEDIANS = "chroma", "seconds"
DECIMALS = {"PSNR": 2, "PSNR GT mean": 2, "CIEDE2000": 2, "newly clipped": 4, "grain": 4}  # of others 3
LEFT_OUT = ("CIEDE2000 GT mean",)  # of the table as text, which is wide enough


def score(
    picture: np.ndarray, reference: np.ndarray | None = None, dark: np.ndarray | None = None, lpips: bool = False
) -> dict[str, float]:
    """The scores of one picture, by the protocol (`PROTOCOL`): against its reference, against its input, or both.

    Args:
        picture, reference, dark: the result, what it should be, and its input: (H, W, 3), uint8. With a reference H and W are
            at least 11, and with LPIPS 31.
        lpips: adds LPIPS, where there is a reference.

    Returns:
        A dict. With a reference: `PSNR` and `PSNR GT mean` in dB, `SSIM RGB` and `SSIM grey` up to 1, `LPIPS`, `CIEDE2000` and
        `CIEDE2000 GT mean`, and `chroma`, which is `nan` if the reference is grey. With the input: `newly clipped` and `grain`,
        which is `nan` without flat dark areas. With the input alone, first `luma before` and `luma after`.

    Raises:
        ModuleNotFoundError: if the weights of LPIPS are not installed.
        ValueError: if the picture is too small, or an image has another type or size.

    >>> list(score(*load_scene(["dark.png", "pairs/high/scene.0.png"])))
    ['PSNR', 'SSIM RGB', 'SSIM grey', 'PSNR GT mean', 'CIEDE2000', 'CIEDE2000 GT mean', 'chroma']
    >>> list(score(read_image("pairs/high/scene.0.png"), dark=read_image("dark.png")))
    ['luma before', 'luma after', 'newly clipped', 'grain']
    """
    for name, given in (("picture", picture), ("reference", reference), ("dark image", dark)):
        if given is not None and (given.dtype != np.uint8 or given.shape != (*picture.shape[:2], 3)):
            wanted = f"Expected uint8 images (H, W, 3) of one size, as the picture's {picture.shape}"
            raise ValueError(f"{wanted}. Received the {name} as {given.dtype} {given.shape}: convert it.")
    image = to_float(picture)[None]
    scores = {}
    if reference is not None:
        truth = to_float(reference)[None]
        grey, grey_truth = (side @ np.float32(TENSORFLOW_LUMA)[:, None] for side in (image, truth))
        matched = metrics.to_8_bit(image * (np.mean(grey_truth) / max(float(np.mean(grey)), 1e-6)))
        colour = metrics.chroma(truth)
        scores = {
            "PSNR": metrics.psnr(image, truth),
            "SSIM RGB": metrics.ssim(image, truth),
            "SSIM grey": metrics.ssim(grey, grey_truth),
            "PSNR GT mean": metrics.psnr(matched, truth),
            **({"LPIPS": lpips_distance(image, truth)} if lpips else {}),
            "CIEDE2000": metrics.ciede2000(image, truth),
            "CIEDE2000 GT mean": metrics.ciede2000(matched, truth),
            "chroma": metrics.chroma(image) / np.where(colour > 0.01, colour, np.nan),
        }
    if dark is not None:
        before = to_float(dark)[None]
        if reference is None:
            scores = {"luma before": metrics.luma(before).mean((1, 2)), "luma after": metrics.luma(image).mean((1, 2))}
        scores |= {"newly clipped": metrics.newly_clipped(image, before), "grain": metrics.grain(image, before)}
    return {name: float(value[0]) for name, value in scores.items()}


def score_pairs(low: PathLike, high: PathLike, model, lpips: bool = False, oracle_brightness: bool = False) -> list[dict]:
    """Enhances every image of a folder and scores the results, by the protocol (`PROTOCOL`).

    Args:
        low, high: folders of dark images and of their references, matched by file stem.
        model: a model, the name of shipped weights, or the path of a `.keras` or `.onnx` file.
        lpips: adds LPIPS.
        oracle_brightness: whether the dial `brightness` is given the mean luma of each reference. This shows what the dial is
            worth; like the GT mean, it leaks the reference into the result.

    Returns:
        A list of dicts, one for each image: `image` (its stem), `size`, the scores of `score`, and `seconds`.

    Raises:
        FileNotFoundError: if a folder or the weights are missing.
        ValueError: if an image has no partner, is unreadable or below 11x11, or the sizes of a pair differ; it names the files.

    >>> [row["size"] for row in score_pairs("pairs/low", "pairs/high", "paper")][:2]
    ['24x20', '25x21']
    """
    scenes = [{"dark": dark, "reference": reference} for dark, reference in find_pairs(low, high)]
    return _score_model(scenes, model, lpips=lpips, oracle=oracle_brightness)


def score_photos(photos: PathLike, model) -> list[dict]:
    """Enhances every photo of a folder and scores the results without references, by the protocol (`PROTOCOL`).

    Args:
        photos: a folder of dark photos, of any size.
        model: a model, the name of shipped weights, or the path of a `.keras` or `.onnx` file.

    Returns:
        A list of dicts, one for each photo: `image` (its stem), `size`, the scores of `score` against the photo, and `seconds`.

    Raises:
        FileNotFoundError: if the folder or the weights are missing.
        ValueError: if a photo is unreadable; it names the file.

    >>> [row["image"] for row in score_photos("pairs/low", "paper")][:2]
    ['scene.0', 'scene.1']
    """
    return _score_model([{"dark": path} for path in find_images(photos).values()], model)


def _score_model(scenes, model, **options):
    dials = {"brightness": 0.5} if options.get("oracle") else {}
    enhance(scenes[0]["dark"], model, **dials)  # a warm-up, which is not timed
    return _score_scenes(scenes, functools.partial(enhance, model=model), **options)


def score_results(
    results: PathLike, high: PathLike | None = None, low: PathLike | None = None, lpips: bool = False
) -> list[dict]:
    """Scores the pictures that another program made, by the protocol (`PROTOCOL`).

    Args:
        results, high, low: folders of pictures, of their references and of their dark inputs, matched by file stem. One of the
            latter two may be left out.
        lpips: adds LPIPS, where there are references.

    Returns:
        A list of dicts, one for each image: `image` (its stem), `size`, and the scores of `score`.

    Raises:
        FileNotFoundError: if a folder is missing.
        ValueError: if an image has no partner, is unreadable or below 11x11, or the sizes of a pair differ; it names the files.

    >>> len(score_results("pairs/low", "pairs/high"))
    5
    """
    scenes = [{"picture": path} for path in find_images(results).values()]
    for name, folder in (("reference", high), ("dark", low)):
        for scene, (_, partner) in zip(scenes, find_pairs(results, folder) if folder else ()):
            scene[name] = partner
    return _score_scenes(scenes, lpips=lpips)


def compare(
    low: PathLike, high: PathLike, methods: dict, path: PathLike | None = None, most: int = 6, lpips: bool = False
) -> list[dict]:
    """Scores several methods on the same pairs, and shows their pictures side by side.

    Args:
        low, high: folders of dark images and of their references, matched by file stem.
        methods: {name: function}. A function takes a dark image, (H, W, 3), uint8, or uint16 where the file has 16 bits, and
            returns a bright one, uint8 or uint16.
        path: the file of a sheet: a row for each scene; input, methods and reference in the columns. Without it, no sheet.
        most: the largest number of scenes on the sheet. They are taken at equal distances.
        lpips: adds LPIPS.

    Returns:
        A list of dicts, one for each method, the input first: `method`, the means of the scores of `score`, and the medians of
        `chroma` and `seconds`.

    Raises:
        FileNotFoundError: if a folder is missing.
        ValueError: if an image has no partner, is unreadable or below 11x11, or the sizes of a pair differ; it names the files.

    >>> [row["method"] for row in compare("pairs/low", "pairs/high", {"threefold": lambda image: 3 * image})]
    ['input', 'threefold']
    """
    scenes = [{"dark": dark, "reference": reference} for dark, reference in find_pairs(low, high)]
    pictures = {scene["dark"]: [] for scene in scenes[:: -(-len(scenes) // most)]} if path else {}
    methods = {"input": np.copy, **methods}
    for method in methods.values():
        method(read_image(scenes[0]["dark"]))  # a warm-up, which is not timed; it also shows at once what a method lacks
    rows = [{"method": name, **_means(_score_scenes(scenes, method, pictures, lpips))} for name, method in methods.items()]
    if path:
        from retinex_keras.evaluation.plots import sheet  # here, since matplotlib may be missing

        shown = [scene for scene in scenes if scene["dark"] in pictures]
        sheet([[*pictures[scene["dark"]], load_scene(scene.values())[1]] for scene in shown], [*methods, "reference"], path)
    return rows


def _score_scenes(scenes, method=None, pictures=(), lpips=False, oracle=False):
    """The rows of scenes. A scene is a dict of paths: `dark`, `reference`, and `picture` unless `method` makes it of the first.

    `pictures` is a dict of lists. The list of a dark image receives its picture; images that are not in it are only scored.
    With `oracle`, the method is told the mean luma of the reference, as its argument `brightness`.
    """
    rows = []
    for scene in tqdm(scenes, "scoring", unit="image", leave=False, disable=None if sys.stderr else True):
        first = next(iter(scene.values()))
        images = dict(zip(scene, load_scene(scene.values())))
        told = {"brightness": float(metrics.luma(to_float(images["reference"])).mean())} if oracle else {}
        try:
            timing = {}
            if method:
                given = read_image(scene["dark"])  # of 16 bits, if the file has them
                start = time.perf_counter()
                made = method(given, **told)
                timing = {"seconds": time.perf_counter() - start}
                images["picture"] = to_uint8(made) if made.dtype == np.uint16 else made
            height, width = images["picture"].shape[:2]
            rows.append({"image": first.stem, "size": f"{width}x{height}", **score(**images, lpips=lpips), **timing})
        except ValueError as error:
            raise ValueError(f"{first}: {error}") from None
        if first in pictures:
            pictures[first].append(images["picture"])
    return rows


def _means(rows):
    """The mean of every column of numbers, or its median (`MEDIANS`); without what is `nan`."""
    means = {}
    for name in (name for name, value in rows[0].items() if not isinstance(value, str)):
        column = [row[name] for row in rows if not math.isnan(row[name])] or [math.nan]
        means[name] = float(np.median(column) if name in MEDIANS else np.mean(column))
    return means


def report(rows: list[dict], about: str, form: str = "text") -> str:
    """Writes rows as a table, after a line about them and the protocol of its columns.

    Args:
        rows: rows of images (`score_pairs`, `score_photos`, `score_results`), whose means are added, or of methods (`compare`).
        about: what was scored, in one line.
        form: "text", "csv" or "json". The text leaves out `CIEDE2000 GT mean`. For `nan` it has "-", CSV nothing, JSON null;
            the PSNR of equal images is `inf`, in JSON a string.

    Returns:
        The table, without a newline at its end.

    >>> print(report([{"method": "lime", "PSNR": 14.2}], "Means over two pairs.", "csv").splitlines()[-1])
    lime,14.2
    """

    def known(row):
        finite = {name: None if value != value else value for name, value in row.items()}  # only nan is not itself
        return {name: "inf" if form == "json" and value == math.inf else value for name, value in finite.items()}

    images = "image" in rows[0]
    rows, mean = [known(row) for row in rows], known(_means(rows))
    protocol = " ".join(text for column, text in PROTOCOL.items() if not column or column in rows[0])
    if form == "json":
        content = {"images": rows, "mean": mean} if images else {"methods": rows}
        return json.dumps({"about": about, "protocol": protocol, **content}, indent=1, allow_nan=False)
    if images:
        rows = [*rows, {"image": "mean", "size": "", **mean}]
    if form == "csv":
        lines = io.StringIO()
        csv.writer(lines, lineterminator="\n").writerows([rows[0], *(row.values() for row in rows)])
        return f"# {about}\n# {protocol}\n{lines.getvalue()}".rstrip()

    def text(name, value):
        return value if isinstance(value, str) else "-" if value is None else f"{value:.{DECIMALS.get(name, 3)}f}"

    names = [name for name in rows[0] if name not in LEFT_OUT]
    heads = [name.split(" ", 1) if " " in name else ("", name) for name in names]  # in two lines
    table = [*zip(*heads), *([text(name, row[name]) for name in names] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*table)]
    lines = ("  ".join(map(str.rjust, line, widths)).rstrip() for line in table)
    return "\n".join([about, textwrap.fill(protocol, 100), *lines])
