"""Figures: pictures side by side, illumination as heat, histograms of brightness, curves of a training.

Each function returns a matplotlib `Figure`, which a notebook shows. If it receives a `path`, it also writes the figure there,
in the format of the suffix: that of a picture, as `write_image` writes it, or one that matplotlib knows, such as .pdf.
"""

import csv
import io
import os
import sys
from collections.abc import Sequence

import numpy as np
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from retinex_keras.imaging import PathLike
from retinex_keras.imaging.atomic import atomic_path
from retinex_keras.imaging.metrics import luma
from retinex_keras.imaging.pixels import to_uint8
from retinex_keras.imaging.read import read_image
from retinex_keras.imaging.write import WRITTEN, write_image

Path = PathLike | None
PAGE = 9.5  # inches: a wider figure is shown smaller on a page, so its letters are larger
UNITS = {"psnr": "dB"}
MARGINS = {"bbox_inches": "tight", "pad_inches": 0.03}


def sheet(
    rows: list, titles: Sequence[str], path: Path = None, width: float = 3.0, labels: Sequence[str] = (), heat: bool = False
) -> Figure:
    """A grid of pictures: a row for each image, a column for each kind of picture.

    Args:
        rows: lists of images, (H, W, 3) or (H, W, 1), uint8 or float in [0, 1]; other floats are clipped.
        titles: one for each column, or one for each picture, row by row.
        width: of a column, in inches.
        labels: one for each row, or none.
        heat: if True, images (H, W, 1) become heat on one scale, from 0 to 1, or to their maximum if that is larger, with a bar
            beside them.

    >>> figure = sheet([[np.zeros((8, 8, 3)), np.ones((8, 8, 3))]], ["before", "after"], "sheet.png")
    >>> [axis.get_title() for axis in figure.axes]
    ['before', 'after']
    """
    heights = [width * row[0].shape[0] / row[0].shape[1] for row in rows]
    columns = len(rows[0])
    across = width * columns + 0.6 * heat
    fontsize = 10 * max(1.0, across / PAGE)
    down = sum(heights) + 0.05 * len(rows) + fontsize / 40 * -(-len(titles) // columns)
    figure = Figure(figsize=(across, down), dpi=100, layout="constrained")
    grid = figure.subplots(len(rows), columns, squeeze=False, height_ratios=heights)
    scale = Normalize(0.0, max([1.0, *(float(np.max(i)) for row in rows for i in row if i.shape[-1] == 1)]))
    for row, axes in zip(rows, grid):
        for image, axis in zip(row, axes):
            image = np.asarray(image)[:: -(-len(image) // 4096), :: -(-len(image[0]) // 4096)]  # more is not seen
            if heat and image.shape[-1] == 1:
                axis.imshow(image, cmap="inferno", norm=scale)
            else:
                axis.imshow(to_uint8(image), cmap="gray", vmin=0, vmax=255)
    for axis in grid.flat:
        axis.set(xticks=[], yticks=[], frame_on=False)
    for title, axis in zip(titles, grid.flat):
        axis.set_title(title, fontsize=fontsize)
    for label, axes in zip(labels, grid):
        axes[0].set_ylabel(label, fontsize=fontsize)
    if heat:
        bar = ScalarMappable(scale, "inferno")
        bar = figure.colorbar(bar, ax=grid, fraction=0.03, pad=0.01, aspect=12 * len(rows))
        bar.set_label("illumination", fontsize=fontsize)
        bar.ax.tick_params(labelsize=fontsize)
    return _written(figure, path)


def before_after(before: np.ndarray, after: np.ndarray, reference: np.ndarray | None = None, path: Path = None) -> Figure:
    """A dark photo, its result and, if there is one, the reference, side by side, with the mean luma of each, 0 to 1.

    The images are (H, W, 3), uint8 or float in [0, 1].

    >>> before_after(np.zeros((8, 8, 3)), np.full((8, 8, 3), 0.4)).axes[1].get_title()
    'after (mean brightness 0.40)'
    """
    pictures = {"before": before, "after": after} | ({} if reference is None else {"reference": reference})
    titles = [f"{name} (mean brightness {luma(to_uint8(picture)).mean() / 255:.2f})" for name, picture in pictures.items()]
    return sheet([list(pictures.values())], titles, path, width=4.0)


def decomposition(parts: dict[str, tuple[np.ndarray, ...]], path: Path = None) -> Figure:
    """A row for each image: the image, its reflectance, and its illumination as heat, all on the scale from 0 to 1.

    Args:
        parts: {label: (image, reflectance, illumination)}, (H, W, 3), (H, W, 3) and (H, W, 1), floats in [0, 1].

    >>> figure = decomposition({"low": (np.zeros((8, 8, 3)), np.zeros((8, 8, 3)), np.ones((8, 8, 1)))})
    >>> [axis.get_title() for axis in figure.axes[:3]]
    ['image', 'reflectance', 'illumination']
    """
    return sheet(list(parts.values()), ["image", "reflectance", "illumination"], path, labels=list(parts), heat=True)


def illumination(maps: dict[str, np.ndarray], path: Path = None) -> Figure:
    """Illuminations as heat on one scale, {title: (H, W, 1)}, floats from 0 without an upper bound; see `sheet`.

    >>> illumination({"before": np.full((8, 8, 1), 0.2), "after": np.full((8, 8, 1), 1.5)}).axes[0].images[0].get_clim()
    (0.0, 1.5)
    """
    return sheet([list(maps.values())], list(maps), path, heat=True)


def histograms(groups: dict[str, list[np.ndarray]], path: Path = None) -> Figure:
    """The share of the pixels at each brightness, a curve for each group of images.

    Args:
        groups: {label: images}, (H, W, 3), uint8 or float in [0, 1].

    >>> histograms({"low": [np.full((8, 8, 3), 0.1)]}).axes[0].get_legend().get_texts()[0].get_text()
    'low (median 0.10)'
    """
    figure = Figure(figsize=(6.5, 2.6), dpi=100, layout="constrained")
    axis = figure.subplots()
    for label, images in groups.items():
        levels = np.concatenate([luma(to_uint8(image)).ravel() / 255 for image in images])
        share, edges = np.histogram(levels, 64, (0.0, 1.0), weights=np.full(levels.size, 100 / levels.size))
        axis.stairs(share, edges, fill=True, alpha=0.5, label=f"{label} (median {np.median(levels):.2f})")
    axis.set(xlabel="brightness (luma, 0 black, 1 white)", ylabel="share of the pixels (%)", xlim=(0, 1))
    axis.legend()
    return _written(figure, path)


def history(log: dict[str, list] | PathLike, path: Path = None) -> Figure:
    """Curves of a training over its epochs: a panel for each value, with that of the validation pairs in the same panel.

    Args:
        log: {name: a value for each epoch, NaN where there is none}, like Keras's `History.history`; or the CSV log of a run.

    Raises:
        FileNotFoundError: if there is no such log.
        ValueError: if a name has fewer values than there are epochs.

    >>> [axis.get_title() for axis in history({"loss": [3, 2], "val_loss": [4, 3], "psnr": [14, 15]}).axes]
    ['loss', 'psnr']
    """
    if isinstance(log, PathLike):
        with open(log, newline="") as file:
            rows = list(csv.DictReader(file))
        log = {name: [float(row[name] or "nan") for row in rows] for name in rows[0] if name != "seconds"}
    epochs = np.arange(1, 1 + max(map(len, log.values()))) if "epoch" not in log else np.add(log["epoch"], 1)
    for name, values in log.items():
        if len(values) < len(epochs):
            raise ValueError(f"{name} has {len(values)} values of {len(epochs)} epochs: pass the CSV log, or NaN.")
    names = list(dict.fromkeys(name.removeprefix("val_") for name in log if name != "epoch"))
    names.sort(key=lambda name: name != "loss")  # the loss comes first
    columns, rows = min(len(names), 4), -(-len(names) // 4)
    figure = Figure(figsize=(10.0, 0.5 + 2.0 * rows), dpi=80, layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    lines = {}
    for name, axis in zip(names, axes):
        for key, label, colour in ((name, "training", "C0"), (f"val_{name}", "validation", "C1")):
            if key in log:
                seen = np.isfinite(log[key])
                (lines[label],) = axis.plot(epochs[seen], np.asarray(log[key])[seen], color=colour, marker=".", label=label)
        axis.set_title(name.replace("_", " "), fontsize=10)
        axis.set_ylabel(UNITS.get(name))
        axis.xaxis.get_major_locator().set_params(integer=True)
    for axis in axes[: len(names)][-columns:]:  # the lowest of each column
        axis.set_xlabel("epoch")
    for axis in axes[len(names) :]:
        axis.set_axis_off()
    figure.legend(handles=list(lines.values()), loc="outside upper center", ncols=len(lines), frameon=False)
    return _written(figure, path)


def _written(figure, path):
    if path and os.path.splitext(path)[1].lower() in WRITTEN:  # more formats than matplotlib writes
        file = io.BytesIO()
        figure.savefig(file, **MARGINS)
        write_image(path, read_image(file, sys.maxsize))
    elif path:
        with atomic_path(path) as temporary:
            figure.savefig(temporary, **MARGINS)
    return figure
