import keras
import numpy as np
import pytest
import scipy.optimize

from retinex_keras.evaluation import baselines
from retinex_keras.evaluation.baselines import METHODS, clahe, dehaze, equalize, lime, srie
from retinex_keras.inference import decompose, load_pretrained
from retinex_keras.recipes.simple import SimpleCNN


@pytest.fixture
def dark(random):
    return (random.random((24, 20, 3)) * 0.2).astype("float32")


def differences(height, width):
    """The matrix of all differences to the next row and column, made pixel by pixel."""
    index = np.arange(height * width).reshape(height, width)
    pairs = [*zip(index[:-1].ravel(), index[1:].ravel()), *zip(index[:, :-1].ravel(), index[:, 1:].ravel())]
    matrix = np.zeros((len(pairs), height * width))
    for row, (here, there) in zip(matrix, pairs):
        row[here], row[there] = -1.0, 1.0
    return matrix


@pytest.mark.parametrize("name", METHODS)
def test_every_method_gives_images_and_brightens(dark, name):
    parts = METHODS[name](dark)
    assert parts["enhanced"].mean() > 1.2 * dark.mean()
    for part, values in parts.items():
        assert values.shape == (24, 20, 1 if part == "illumination" else 3)
        assert values.dtype == np.float32
        assert 0.0 <= values.min() <= values.max() <= 1.0
    for shape in ((1, 1, 3), (7, 1, 3), (2, 5, 3)):
        assert METHODS[name](np.zeros(shape, "uint8"))["enhanced"].shape == shape


@pytest.mark.parametrize("name", METHODS)
def test_bad_input_is_refused_as_for_the_networks(name, tmp_path):
    with pytest.raises(ValueError, match="Expected an image"):
        METHODS[name](np.zeros((4, 4, 5)))
    with pytest.raises(ValueError, match="floats in"):
        METHODS[name](np.full((4, 4, 3), np.nan))
    with pytest.raises(FileNotFoundError, match="not a file"):
        METHODS[name](tmp_path / "missing.png")


def test_equalisation_makes_the_histogram_flat(random):
    """Of distinct values, each tenth of the range receives a tenth of the pixels."""
    image = (random.permutation(40 * 50).reshape(40, 50, 1) / 2000.0) ** 3 * np.array([0.3, 0.1, 0.2])
    value = equalize(image)["enhanced"].max(-1)
    shares = np.histogram(value, 10, (0, 1))[0] / value.size
    np.testing.assert_allclose(shares[3:], 0.1, atol=0.02)
    assert shares[:3].sum() == pytest.approx(0.3, abs=0.02)


def test_the_clip_limit_bounds_the_contrast(random):
    """Zuiderveld: at the lowest limit the histogram counts as flat, and the mapping of brightness is a straight line."""
    value = (0.02 + 0.2 * random.random((128, 128))) ** 1.5
    stretched = (value - value.min()) / (value.max() - value.min())
    least, more = (clahe(np.stack([value] * 3, -1), limit)["enhanced"][..., 0] for limit in (1e-9, 0.05))
    np.testing.assert_allclose(least, stretched, atol=0.01)
    assert np.abs(more - stretched).max() > 0.1


@pytest.mark.parametrize("method", [equalize, clahe, srie])
def test_hue_and_saturation_stay(dark, method):
    enhanced = method(dark)["enhanced"]
    ratio = dark / dark.max(-1, keepdims=True)
    np.testing.assert_allclose(enhanced, ratio * enhanced.max(-1, keepdims=True), atol=1e-6)


def test_dehazing_of_two_greys():
    """Grey d turns to haze of colour A = 1 - d, which stays. Far from it grey b has the transmission
    t = 1 - 0.8 (1 - b) / (1 - d), and (1 - b - A) / t + A is what is left of it; below 0.5, t counts as 2 t^2."""
    for d, b, t in ((0.1, 0.7, 1 - 0.8 * 0.3 / 0.9), (0.1, 0.2, 2 * (1 - 0.8 * 0.8 / 0.9) ** 2)):
        image = np.full((20, 20, 3), d)
        image[:, 10:] = b
        enhanced = dehaze(image)["enhanced"]
        np.testing.assert_allclose(enhanced[:, :10], d, atol=1e-6)
        np.testing.assert_allclose(enhanced[:, 11:], min(d + (b - d) / t, 1.0), atol=1e-6)


def test_lime_of_a_constant_image_has_its_closed_form():
    """Its illumination is its brightest channel m, its reflectance c / m, its result c / m^0.8."""
    colour = np.array([0.04, 0.1, 0.07])
    parts = lime(np.broadcast_to(colour, (12, 12, 3)))
    np.testing.assert_allclose(parts["illumination"], 0.1, rtol=1e-5)
    np.testing.assert_allclose(parts["reflectance"][3, 4], colour / 0.1, rtol=1e-5)
    np.testing.assert_allclose(parts["enhanced"][3, 4], colour / 0.1**0.8, rtol=1e-5)


def test_limes_illumination_minimises_its_energy(random):
    """The least squares of the stacked, weighted differences, solved as a dense problem: equation 19 of the paper."""
    initial = 0.2 + 0.6 * random.random((6, 7))
    gradient = baselines._gradient(initial)
    windowed = [scipy.ndimage.gaussian_filter(part, 2.0, mode="nearest", truncate=2.0) for part in gradient]
    down, across = (0.15 / ((np.abs(w) + 1e-3) * (np.abs(g) + 1e-3)) for w, g in zip(windowed, gradient))
    weights = np.concatenate([down[:-1].ravel(), across[:, :-1].ravel()])
    stacked = np.concatenate([np.eye(42), np.sqrt(weights)[:, None] * differences(6, 7)])
    expected = np.linalg.lstsq(stacked, np.concatenate([initial.ravel(), np.zeros(len(weights))]))[0]
    np.testing.assert_allclose(baselines._refined(initial).ravel(), expected, rtol=1e-6)


def test_limes_denoising_works_where_it_is_dark(random):
    flat = np.full((32, 32, 3), 0.05)
    flat[:, 16:] = 0.9
    noisy = np.clip(flat + 0.01 * random.standard_normal((32, 32, 1)), 0, 1)
    rough, smooth = (lime(noisy, denoise=denoise)["enhanced"] for denoise in (0.0, 0.05))
    assert smooth[:, :13].std() < 0.5 * rough[:, :13].std()
    assert smooth[:, 19:].std() > 0.8 * rough[:, 19:].std()


def test_srie_of_a_constant_image_keeps_its_illumination():
    parts = srie(np.full((8, 8, 3), 0.1))
    np.testing.assert_allclose(parts["reflectance"], 1.0, atol=1e-5)
    np.testing.assert_allclose(parts["illumination"], 0.1, rtol=1e-5)
    np.testing.assert_allclose(parts["enhanced"], 0.1 ** (1 / 2.2), rtol=1e-5)


def test_srie_minimises_its_energy(random):
    """With the weights e^r and e^l of its result, no other minimiser finds less of the paper's equation 3."""
    s = np.log(20.0 + 20.0 * random.random((6, 6)))
    log_r, log_i = baselines._srie(s, c1=0.2, tolerance=1e-8, most=3000)
    matrix = differences(6, 6)

    def along(weight):
        return np.concatenate([weight[:-1].ravel(), weight[:, :-1].ravel()])

    r_weight, l_weight = along(np.exp(log_r)), along(np.exp(log_i))

    def energy(x, smooth=1e-5):
        x_r, x_l = np.split(x, 2)
        edges, slopes, rest = matrix @ x_r, l_weight * (matrix @ x_l), x_r + x_l - s.ravel()
        size = np.sqrt(edges**2 + smooth**2)
        to_r = 2 * rest + 0.2 * matrix.T @ (r_weight * edges / size)
        to_l = 2 * rest + 2 * 0.1 * matrix.T @ (l_weight * slopes)
        value = rest @ rest + 0.2 * r_weight @ size + 0.1 * slopes @ slopes
        return value, np.concatenate([to_r, to_l])

    bounds = [(None, 0.0)] * 36 + [(value, None) for value in s.ravel()]
    start = np.concatenate([np.full(36, -0.3), s.ravel() + 0.3])
    options = {"maxiter": 20000, "maxfun": 100000, "ftol": 1e-13, "gtol": 1e-9}
    best = scipy.optimize.minimize(energy, start, jac=True, method="L-BFGS-B", bounds=bounds, options=options)
    found = energy(np.concatenate([log_r.ravel(), log_i.ravel()]))[0]
    assert found == pytest.approx(best.fun, rel=1e-3)


def test_the_simple_cnn_is_the_same_in_tiles_and_from_its_file(tmp_path, random):
    keras.utils.set_random_seed(0)
    model = SimpleCNN(8, 3)
    model.build((None, None, None, 3))
    assert [layer.filters for layer in model.layers] == [8, 8, 3]
    model.save(tmp_path / "simple.keras")
    image = random.random((41, 23, 3), dtype="float32")
    bare = model(image[None])["enhanced"][0]
    for tile in (64, 16, 5):
        np.testing.assert_allclose(decompose(image, tmp_path / "simple.keras", tile)["enhanced"], bare, rtol=0, atol=1e-6)
    with pytest.raises(ValueError, match="take no strength of denoising. Received denoise=2"):
        load_pretrained(tmp_path / "simple.keras", denoise=2)
