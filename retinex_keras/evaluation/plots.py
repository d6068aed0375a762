"""Figures: pictures side by side, illumination as heat, histograms of brightness, curves of a training."""

import csv
import os

import keras
import numpy as np
from matplotlib import colormaps
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from retinex_keras.imaging.atomic import atomic_path
from retinex_keras.imaging.pixels import LUMA, to_uint8


def sheet(rows, titles, path=None, width=3.0, labels=(), heat=False):
    """A grid of pictures, one row an image, one column a kind of picture.

    Args:
        rows: a list of lists of images, (H, W, 3) or (H, W, 1), uint8 or float in [0, 1] (clipped).
        titles: one for each column.
        path: where to write the figure; by default it is not written.
        width: of a column, in inches.
        labels: one for each row; by default none.
        heat: if True, floats (H, W, 1) are shown as heat, all on one scale from 0 to their maximum, with a bar beside them.

    Returns:
        The matplotlib `Figure`, which a notebook shows.

    >>> figure = sheet([[np.zeros((8, 8, 3)), np.ones((8, 8, 3))]], ["before", "after"], "sheet.png")
    >>> [axis.get_title() for axis in figure.axes]
    ['before', 'after']
    """
    heights = [width * row[0].shape[0] / row[0].shape[1] for row in rows]
    size = (width * len(titles) + 0.6 * heat, sum(heights) + 0.05 * len(rows) + 0.25)
    figure = Figure(figsize=size, dpi=100, layout="constrained")
    grid = figure.subplots(len(rows), len(titles), squeeze=False, height_ratios=heights)
    scale = Normalize(0.0, max((float(np.max(i)) for row in rows for i in row if i.shape[-1] == 1), default=1.0))
    for row, axes in zip(rows, grid):
        for image, axis in zip(row, axes):
            image = np.asarray(image)[:: -(-len(image) // 4096), :: -(-len(image[0]) // 4096)]  # more is not seen
            if heat and image.shape[-1] == 1:
                axis.imshow(image[..., 0], cmap="inferno", norm=scale)
            else:
                pixels = to_uint8(image)
                axis.imshow(pixels[..., 0] if pixels.shape[-1] == 1 else pixels, cmap="gray", vmin=0, vmax=255)
            axis.set(xticks=[], yticks=[], frame_on=False)
    for title, axis in zip(titles, grid[0]):
        axis.set_title(title, fontsize=10)
    for label, axes in zip(labels, grid):
        axes[0].set_ylabel(label, fontsize=10)
    if heat:
        bar = ScalarMappable(scale, colormaps["inferno"])
        figure.colorbar(bar, ax=grid, label="illumination", fraction=0.03, pad=0.01, aspect=12 * len(rows))
    return _written(figure, path)


def before_after(before, after, reference=None, path=None):
    """A strip of a dark photo, the result, and the reference if there is one; titles tell the mean brightness, 0 to 1.

    >>> before_after(np.zeros((8, 8, 3)), np.full((8, 8, 3), 0.4)).axes[1].get_title()
    'after (mean brightness 0.40)'
    """
    pictures = {"before": before, "after": after} | ({} if reference is None else {"reference": reference})
    brightness = [to_uint8(np.asarray(picture)).mean() / 255 for picture in pictures.values()]
    titles = [f"{name} (mean brightness {mean:.2f})" for name, mean in zip(pictures, brightness)]
    return sheet([list(pictures.values())], titles, path, width=4.0)


def decomposition(parts, path=None):
    """A row an image: the image, its reflectance, and its illumination as heat on the scale of all.

    Args:
        parts: {label: (image, reflectance, illumination)}, (H, W, 3), (H, W, 3) and (H, W, 1), floats in [0, 1].
        path: as in `sheet`.

    >>> figure = decomposition({"low": (np.zeros((8, 8, 3)), np.zeros((8, 8, 3)), np.ones((8, 8, 1)))})
    >>> [axis.get_title() for axis in figure.axes[:3]]
    ['image', 'reflectance', 'illumination']
    """
    return sheet(list(parts.values()), ["image", "reflectance", "illumination"], path, labels=list(parts), heat=True)


def illumination(maps, path=None):
    """Illuminations as heat on one scale: {title: (H, W, 1), float, not bounded}.

    >>> illumination({"before": np.full((8, 8, 1), 0.2), "after": np.full((8, 8, 1), 1.5)}).axes[0].images[0].get_clim()
    (0.0, 1.5)
    """
    return sheet([list(maps.values())], list(maps), path, heat=True)


def histograms(groups, path=None):
    """How many of the pixels are how bright, a curve a group: {label: images}, each (H, W, 3), uint8 or float in [0, 1].

    >>> histograms({"low": [np.full((8, 8, 3), 0.1)]}).axes[0].get_legend().get_texts()[0].get_text()
    'low (median 0.10)'
    """
    figure = Figure(figsize=(6.5, 2.6), dpi=100, layout="constrained")
    axis = figure.subplots()
    for label, images in groups.items():
        luma = np.concatenate([(to_uint8(np.asarray(i)) @ LUMA / 255).ravel() for i in images])
        share, edges = np.histogram(luma, 64, (0.0, 1.0), weights=np.full(luma.size, 100 / luma.size))
        axis.stairs(share, edges, fill=True, alpha=0.5, label=f"{label} (median {np.median(luma):.2f})")
    axis.set(xlabel="brightness (luma, 0 black, 1 white)", ylabel="share of the pixels (%)", xlim=(0, 1))
    axis.legend()
    return _written(figure, path)


def history(log, path=None):
    """Curves of a training, a panel a value, that of the validation pairs in the same.

    Args:
        log: {name: one value an epoch, NaN where there is none}, like Keras's `History.history`; or a run's CSV log.
        path: as in `sheet`.

    Raises:
        ValueError: if the values are not as many as the epochs.

    >>> [axis.get_title() for axis in history({"loss": [3, 2], "val_loss": [4, 3], "psnr": [14, 15]}).axes]
    ['loss', 'psnr']
    """
    if isinstance(log, (str, os.PathLike)):
        with open(log, newline="") as file:
            rows = list(csv.DictReader(file))
        log = {name: [float(row[name] or "nan") for row in rows] for name in rows[0] if name != "seconds"}
    epochs = np.arange(1, 1 + max(map(len, log.values()))) if "epoch" not in log else np.add(log["epoch"], 1)
    short = [name for name, values in log.items() if len(values) < len(epochs)]
    if short:
        raise ValueError(f"{short[0]} has {len(log[short[0]])} values of {len(epochs)} epochs: pass the CSV log, or NaN.")
    names = list(dict.fromkeys(name.removeprefix("val_") for name in log if name != "epoch"))
    names.sort(key=lambda name: name != "loss")  # it comes first
    rows = -(-len(names) // 4)
    figure = Figure(figsize=(10.0, 2.1 * rows), dpi=80, layout="constrained")
    axes = figure.subplots(rows, min(len(names), 4), squeeze=False).ravel()
    for name, axis in zip(names, axes):
        for key, label, colour in ((name, "training", "C0"), (f"val_{name}", "validation", "C1")):
            if key in log:
                seen = np.isfinite(log[key])
                axis.plot(epochs[seen], np.asarray(log[key])[seen], color=colour, marker=".", label=label)
        axis.set_title(name.replace("_", " "), fontsize=10)
        axis.xaxis.get_major_locator().set_params(integer=True)
    axes[0].legend()
    axes[0].set_xlabel("epoch")
    for axis in axes[len(names) :]:
        axis.set_axis_off()
    return _written(figure, path)


class LiveHistory(keras.callbacks.Callback):
    """Draws `history` anew after every epoch, in a notebook or into a file; given to a resumed `fit`, it goes on.

    Args:
        path: of the file; by default the figure is shown in the notebook's cell.

    >>> live = LiveHistory("curves.png")
    >>> live.on_epoch_end(0, {"loss": 0.5})
    >>> live.log
    {'epoch': [0], 'loss': [0.5]}
    """

    def __init__(self, path=None):
        super().__init__()
        self.path, self.log = path, {"epoch": []}

    def on_train_begin(self, logs=None):
        self.shown = None

    def on_epoch_end(self, epoch, logs=None):
        for name in ("epoch", *logs):  # what a validation adds is NaN in the epochs without one
            self.log.setdefault(name, [np.nan] * len(self.log["epoch"]))
        for name, values in self.log.items():
            values.append(epoch if name == "epoch" else logs.get(name, np.nan))
        figure = history(self.log, self.path)
        if self.path is None:
            from IPython.display import display

            if self.shown:
                self.shown.update(figure)
            else:
                self.shown = display(figure, display_id=True)


def _written(figure, path):
    if path:
        with atomic_path(path) as temporary:
            figure.savefig(temporary, bbox_inches="tight", pad_inches=0.03)
    return figure
