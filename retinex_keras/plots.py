"""Figures: pictures side by side."""

import numpy as np
from matplotlib.figure import Figure

from retinex_keras.images import to_uint8, whole_file


def sheet(rows, titles, path=None, width=3.0):
    """A grid of pictures, one row an image, one column a kind of picture.

    Args:
        rows: a list of lists of images, (H, W, 3) or (H, W, 1), uint8 or float in [0, 1] (clipped).
        titles: one for each column.
        path: where to write the figure; by default it is not written.
        width: of a column, in inches.

    Returns:
        The matplotlib `Figure`, which a notebook shows.

    >>> figure = sheet([[np.zeros((8, 8, 3)), np.ones((8, 8, 3))]], ["before", "after"], "sheet.png")
    >>> [axis.get_title() for axis in figure.axes]
    ['before', 'after']
    """
    heights = [width * row[0].shape[0] / row[0].shape[1] for row in rows]
    figure = Figure(figsize=(width * len(titles), sum(heights) + 0.05 * len(rows) + 0.25), dpi=100, layout="constrained")
    grid = figure.subplots(len(rows), len(titles), squeeze=False, height_ratios=heights)
    for row, axes in zip(rows, grid):
        for image, axis in zip(row, axes):
            pixels = to_uint8(np.asarray(image))
            axis.imshow(pixels[..., 0] if pixels.shape[-1] == 1 else pixels, cmap="gray", vmin=0, vmax=255)
            axis.set_axis_off()
    for title, axis in zip(titles, figure.axes):
        axis.set_title(title, fontsize=10)
    if path:
        with whole_file(path) as temporary:
            figure.savefig(temporary, bbox_inches="tight", pad_inches=0.03)
    return figure
