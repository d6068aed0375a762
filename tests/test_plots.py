import sys

import keras
import numpy as np
import pytest
from matplotlib.image import imread

from retinex_keras.evaluation.plots import before_after, decomposition, histograms, history, illumination, sheet
from retinex_keras.imaging.read import read_image
from retinex_keras.training.state import LiveHistory


def test_a_sheet_shows_every_picture_under_its_title(tmp_path):
    wide = np.full((20, 40, 3), 0.2)
    tall = np.full((40, 20, 1), 128, "uint8")
    figure = sheet([[wide, wide], [tall, tall * 2.0]], ["left", "right"], tmp_path / "sheet.png", labels=["wide", "tall"])
    assert [axis.get_title() for axis in figure.axes] == ["left", "right", "", ""]
    assert [axis.get_ylabel() for axis in figure.axes] == ["wide", "", "tall", ""]
    assert [axis.images[0].get_array().mean() for axis in figure.axes] == [51, 51, 128, 255]
    height, width = imread(tmp_path / "sheet.png").shape[:2]
    assert height / width == pytest.approx((0.5 + 2) / 2, rel=0.1)


def test_pictures_in_rows_have_titles_of_their_own_and_a_last_row_may_be_short():
    picture = np.full((8, 12, 3), 0.4)
    figure = sheet([[picture, picture], [picture]], ["input", "lime", "reference"])
    assert [axis.get_title() for axis in figure.axes] == ["input", "lime", "reference", ""]
    assert [len(axis.images) for axis in figure.axes] == [1, 1, 1, 0]
    assert not any(axis.get_frame_on() or len(axis.get_xticks()) for axis in figure.axes)


def test_letters_are_legible_where_a_wide_sheet_is_made_as_narrow_as_a_page():
    picture = np.full((8, 12, 3), 0.4)
    for columns in (2, 4, 12):
        figure = sheet([[picture] * columns], ["title"] * columns)
        shrunk = min(1.0, 9.5 / figure.get_size_inches()[0])
        assert figure.axes[0].title.get_fontsize() * shrunk == pytest.approx(10)


def test_a_strip_tells_the_brightness():
    dark = np.full((8, 12, 3), 51, "uint8")
    figure = before_after(dark, dark * 2, np.full((8, 12, 3), 1.0))
    titles = ["before (mean brightness 0.20)", "after (mean brightness 0.40)", "reference (mean brightness 1.00)"]
    assert [axis.get_title() for axis in figure.axes] == titles
    assert len(before_after(dark, dark).axes) == 2
    green = np.full((8, 12, 3), (0.0, 1.0, 0.0))  # brightness is that of the dial, luma
    assert before_after(green, green).axes[0].get_title() == "before (mean brightness 0.59)"


def test_figures_have_the_formats_of_pictures_and_those_of_matplotlib(tmp_path):
    picture = np.full((8, 12, 3), 0.4)
    sheets = [tmp_path / f"sheet{suffix}" for suffix in (".png", ".bmp", ".tif", ".pdf")]
    for path in sheets:
        sheet([[picture]], [""], path)
    assert [path.read_bytes()[:2] for path in sheets] == [b"\x89P", b"BM", b"II", b"%P"]
    np.testing.assert_array_equal(read_image(sheets[0]), read_image(sheets[1]))


def test_illumination_is_heat_on_one_scale_with_a_bar():
    assert illumination({"dark": np.full((8, 12, 1), 0.1)}).axes[0].images[0].get_clim() == (0.0, 1.0)
    assert len(sheet([[np.zeros((8, 12, 3))]], ["no heat"], heat=True).axes) == 2
    low, high = np.full((8, 12, 1), 0.1), np.full((8, 12, 1), 1.6)
    figure = illumination({"before": low, "after": high})
    *panels, bar = figure.axes
    assert [panel.get_title() for panel in panels] == ["before", "after"]
    assert [panel.images[0].get_array().max() for panel in panels] == [0.1, 1.6]  # not clipped
    assert {panel.images[0].get_clim() for panel in panels} == {(0.0, 1.6)}
    assert bar.get_ylabel() == "illumination"
    assert bar.get_ylim() == (0.0, 1.6)


def test_a_decomposition_has_a_row_an_image():
    image, gray = np.full((8, 12, 3), 0.4), np.full((8, 12, 1), 0.8)
    figure = decomposition({"low": (image, image * 0.5, gray), "high": (image, image, gray)})
    assert [axis.get_ylabel() for axis in figure.axes[:6]] == ["low", "", "", "high", "", ""]
    assert [axis.images[0].get_array().max() for axis in figure.axes[:6]] == [102, 51, 0.8, 102, 102, 0.8]


def test_histograms_are_shares_of_the_pixels():
    dark = np.zeros((8, 12, 3), "uint8")
    dark[:2] = 255  # a quarter
    axis = histograms({"low": [dark, dark[:, :4]], "high": [np.full((4, 4, 3), 0.5)]}).axes[0]
    assert [text.get_text() for text in axis.get_legend().get_texts()] == ["low (median 0.00)", "high (median 0.50)"]
    shares = [patch.get_data().values for patch in axis.patches]
    assert [share.sum() for share in shares] == pytest.approx([100, 100])
    assert shares[0][[0, -1]] == pytest.approx([75, 25])


def test_a_history_draws_a_log_with_gaps(tmp_path):
    (tmp_path / "log.csv").write_text("epoch,seconds,loss,val_loss,psnr\n0,1.0,3,,\n1,2.0,2,5,\n2,3.0,1,,7\n")
    figure = history(tmp_path / "log.csv", tmp_path / "history.png")
    assert [axis.get_title() for axis in figure.axes] == ["loss", "psnr"]
    assert [(axis.get_xlabel(), axis.get_ylabel()) for axis in figure.axes] == [("epoch", ""), ("epoch", "dB")]
    (legend,) = figure.legends
    figure.canvas.draw()
    for axis in figure.axes:  # nothing covers a curve
        assert not legend.get_window_extent().overlaps(axis.get_window_extent())
        assert not axis.get_legend()
    loss, psnr = ([line.get_xydata().tolist() for line in axis.lines] for axis in figure.axes)
    assert loss == [[[1, 3], [2, 2], [3, 1]], [[2, 5]]]
    assert psnr == [[[3, 7]]]
    assert imread(tmp_path / "history.png").shape[0] > 50
    with pytest.raises(ValueError, match="val_loss has 1 values of 2 epochs"):
        history({"loss": [2, 1], "val_loss": [3]})


def test_a_live_history_goes_on_when_training_is_resumed(tmp_path, random):
    model = keras.Sequential([keras.layers.Input((1,)), keras.layers.Dense(1)])
    model.compile(loss="mse")
    live = LiveHistory(tmp_path / "live.png")
    x = random.random((4, 1))
    for first, last in ((0, 2), (2, 3)):
        model.fit(
            x, x, initial_epoch=first, epochs=last, validation_data=(x, x), validation_freq=[2], verbose=0, callbacks=[live]
        )
    assert live.log["epoch"] == [0, 1, 2]
    assert np.isfinite(live.log["val_loss"]).tolist() == [False, True, False]
    assert (tmp_path / "live.png").exists()
    assert "IPython" not in sys.modules or live.shown is None
