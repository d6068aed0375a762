"""The geometry of tiles, by integer arithmetic alone: of Python's numbers, NumPy's arrays and TensorFlow's tensors alike."""

from typing import Any, NamedTuple


def _larger(a, b):
    return (a + b + abs(a - b)) // 2


def _smaller(a, b):
    return (a + b - abs(a - b)) // 2


class Tiles(NamedTuple):
    """How one axis of an image is cut into tiles; see `cut`.

    A tile is computed from a window, which is the tile and a margin around it that the networks must see. All windows are of
    one size, since memory grows with each size that a network meets: the first and the last tile are larger by the margin that
    they do not need at the image's border. The fields are numbers or tensors.
    """

    size: Any  # of the image along the axis, in pixels
    padded: Any  # `size`, and what is repeated of the border up to a multiple
    step: Any  # from one window to the next
    window: Any  # its size
    margin: Any  # pixels around a tile
    count: Any  # of tiles

    def first(self, index):
        """Where the window of a tile begins in the padded image."""
        return _smaller(index * self.step, self.padded - self.window)

    def position(self, pixel):
        """Where a pixel is in the windows, laid one after the other: in that of the tile to which it belongs."""
        index = _smaller(_larger((pixel - self.margin) // self.step, 0), self.count - 1)
        return index * self.window + pixel - self.first(index)

    def slices(self):
        """Yields the pixels of each tile, and those of its window in the padded image, as slices. For numbers alone."""
        for index in range(self.count):
            start = index * self.step + self.margin if index else 0
            stop = (index + 1) * self.step + self.margin if index + 1 < self.count else self.size
            first = self.first(index)
            yield slice(start, stop), slice(first, first + self.window)


def cut(size, largest, margin, multiple):
    """Cuts one axis of an image, `size` pixels, a number or a scalar integer tensor, into `Tiles`.

    Tiles that are not at the border have at most `largest` pixels, and the networks see `margin` pixels around each. The sides
    of windows are multiples of `multiple`, as `largest` and `margin` must be.

    >>> tiles = cut(size=100, largest=32, margin=8, multiple=8)
    >>> [(own.start, own.stop) for own, window in tiles.slices()]
    [(0, 40), (40, 72), (72, 100)]
    """
    padded = size + -size % multiple
    inner = _larger(padded - 2 * margin, 1)
    step = -(-inner // (-(-inner // largest) * multiple)) * multiple
    return Tiles(size, padded, step, _smaller(step + 2 * margin, padded), margin, -(-inner // step))
