import numpy as np
import pytest
from matplotlib.image import imread

from retinex_keras.plots import sheet


def test_a_sheet_shows_every_picture_under_its_title(tmp_path):
    wide = np.full((20, 40, 3), 0.2)
    tall = np.full((40, 20, 1), 128, "uint8")
    figure = sheet([[wide, wide], [tall, tall * 2.0]], ["left", "right"], tmp_path / "sheet.png")
    assert [axis.get_title() for axis in figure.axes] == ["left", "right", "", ""]
    assert [axis.images[0].get_array().mean() for axis in figure.axes] == [51, 51, 128, 255]
    height, width = imread(tmp_path / "sheet.png").shape[:2]
    assert height / width == pytest.approx((0.5 + 2) / 2, rel=0.1)
