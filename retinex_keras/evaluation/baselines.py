"""The approaches that came before: equalisation, dehazing, SRIE and LIME, each written from its paper.

Each function takes an image in sRGB: a path, or an array (H, W, 3), uint8, uint16 or float in [0, 1]. It returns a dict of
float32 arrays in [0, 1], as `inference.decompose` does: `enhanced` (H, W, 3), and those that split the image also `reflectance`
(H, W, 3) and `illumination` (H, W, 1). It raises FileNotFoundError if there is no such file, ValueError if it is no image, and
without scikit-image and SciPy an ImportError that names the extra to install. `METHODS` names the functions.
"""

import numpy as np

try:
    import scipy
    import skimage
except ImportError:  # the functions say so
    scipy = skimage = None

from retinex_keras.imaging import PathLike
from retinex_keras.imaging.pixels import LUMA, to_float
from retinex_keras.inference import as_pixels

Image = PathLike | np.ndarray
DARKEST = 1 / 255  # replaces black where a logarithm or a division would not be finite


def equalize(image: Image) -> dict[str, np.ndarray]:
    """Histogram equalisation of the brightest channel (the value of HSV). Hue and saturation stay.

    The brightness of a pixel becomes about the share of pixels that are not brighter: Gonzalez and Woods, "Digital Image
    Processing", section 3.3, as scikit-image computes it.

    Image and result: see the module. Raises FileNotFoundError, ValueError, ImportError.

    >>> equalize("dark.png")["enhanced"].shape
    (20, 24, 3)
    """
    image = _floats(image)
    return _result(enhanced=_colour(image) * skimage.exposure.equalize_hist(image.max(-1))[..., None])


def clahe(image: Image, clip_limit: float = 0.01) -> dict[str, np.ndarray]:
    """Contrast-limited adaptive equalisation of the brightest channel, in 8 x 8 regions.

    Zuiderveld, "Contrast Limited Adaptive Histogram Equalization", Graphics Gems IV, 1994.

    Args:
        clip_limit: the largest share of a region's pixels in one level of its histogram, above 0. More gives more contrast.

    Image and result: see the module. Raises FileNotFoundError, ValueError, ImportError.

    >>> clahe("dark.png", clip_limit=0.02)["enhanced"].shape
    (20, 24, 3)
    """
    image = _floats(image)
    brightness = skimage.exposure.equalize_adapthist(image.max(-1), clip_limit=clip_limit)
    return _result(enhanced=_colour(image) * brightness[..., None])


def dehaze(image: Image, omega: float = 0.8, block: int = 3) -> dict[str, np.ndarray]:
    """Inverts the image, removes what then looks like haze, and inverts it again.

    Dong et al., "Fast efficient algorithm for enhancement of low lighting video", ICME 2011. The colour of the haze is the
    brightest of the 100 pixels whose darkest channel is brightest. A transmission t below 0.5 becomes 2 t^2.

    Args:
        omega: the share of the haze to remove, 0 to 1.
        block: side of the blocks of the dark channel, in pixels. The paper's 9 is read as 3x3 pixels; larger blocks give halos.

    Image and result: see the module. Raises FileNotFoundError, ValueError, ImportError.

    >>> float(dehaze(np.full((8, 8, 3), 0.25))["enhanced"].max())
    0.25
    """
    haze = 1.0 - _floats(image)
    brightest = np.argsort(haze.min(-1), axis=None)[-100:]
    candidates = haze.reshape(-1, 3)[brightest]
    light = np.maximum(candidates[candidates.sum(-1).argmax()], DARKEST)
    transmission = 1.0 - omega * scipy.ndimage.minimum_filter((haze / light).min(-1), block)
    transmission = np.where(transmission < 0.5, 2.0 * transmission**2, transmission)[..., None]
    return _result(enhanced=1.0 - ((haze - light) / transmission + light))


def srie(image: Image, c1: float = 0.01, c2: float = 0.1, gamma: float = 2.2) -> dict[str, np.ndarray]:
    """Estimates reflectance and illumination together, and brightens the illumination by a gamma curve.

    Fu et al., "A weighted variational model for simultaneous reflectance and illumination estimation", CVPR 2016. Of the
    brightest channel, s = log S (S from 0 to 255), it finds r = log R <= 0 and l = log I >= s with the least
    |r + l - s|^2 + c1 |e^r grad r|_1 + c2 |e^l grad l|^2; the weights e^r and e^l come from the step before. The paper divides
    by these weights in the Fourier domain, as if they were constant. Here each step is solved with the weights as they are.

    Args:
        c1, c2: weights of the gradients of reflectance and illumination.
        gamma: the illumination becomes I^(1 / gamma).

    Image and results, with `reflectance` and `illumination`: see the module. Raises FileNotFoundError, ValueError, ImportError.

    >>> sorted(srie("dark.png"))
    ['enhanced', 'illumination', 'reflectance']
    """
    image = _floats(image)
    s = np.log(255.0 * np.maximum(image.max(-1), DARKEST))
    log_reflectance, log_illumination = _srie(s, c1, c2)
    reflectance = _colour(image) * np.exp(log_reflectance)[..., None]
    illumination = np.exp(log_illumination)[..., None] / 255.0
    enhanced = reflectance * illumination ** (1.0 / gamma)
    return _result(enhanced=enhanced, reflectance=reflectance, illumination=illumination)


def _srie(s, c1=0.01, c2=0.1, penalty=1.0, tolerance=1e-3, most=20):
    """The logarithms of R and I by alternating minimisation, until R and I change by less than `tolerance`."""
    height, width = s.shape
    cosines = np.cos(np.pi * np.arange(height) / height)[:, None] + np.cos(np.pi * np.arange(width) / width)
    laplacian = 4.0 - 2.0 * cosines  # of the cosine transform, which is the Fourier transform of the mirrored image
    log_r, log_i = np.zeros_like(s), np.maximum(scipy.ndimage.gaussian_filter(s, 2.0, truncate=1.0), s)
    gradient = error = np.zeros((2, height, width))
    for _ in range(most):
        reflectance, illumination = np.exp(log_r), np.exp(log_i)
        target = gradient + error
        split = np.sign(target) * np.maximum(np.abs(target) - reflectance / (2.0 * penalty), 0.0)
        right = scipy.fft.dctn(s - log_i + c1 * penalty * _adjoint(split - error))
        log_r = np.minimum(scipy.fft.idctn(right / (1.0 + c1 * penalty * laplacian)), 0.0)
        gradient = _gradient(log_r)
        error = error + gradient - split
        system = _system(c2 * np.stack([illumination**2] * 2))
        jacobi = scipy.sparse.diags_array(1.0 / system.diagonal())
        options = {"rtol": 0.1 * tolerance, "maxiter": 30, "M": jacobi}  # the next step goes on where this one ends
        log_i, _ = scipy.sparse.linalg.cg(system, (s - log_r).ravel(), x0=log_i.ravel(), **options)
        log_i = np.maximum(log_i.reshape(s.shape), s)
        steps = (np.exp(log_r) - reflectance, reflectance), (np.exp(log_i) - illumination, illumination)
        if all(np.linalg.norm(step) < tolerance * np.linalg.norm(before) for step, before in steps):
            break
    return log_r, log_i


def lime(image: Image, alpha: float = 0.15, gamma: float = 0.8, denoise: float = 0.0) -> dict[str, np.ndarray]:
    """Makes the brightest channel a smooth illumination with sharp edges, and divides the image by it.

    Guo et al., "LIME: Low-Light Image Enhancement via Illumination Map Estimation", IEEE TIP 2017: weights by strategy III
    and the sped-up solver, one sparse system of about 1 GB a megapixel. The paper denoises by BM3D, this by non-local means.

    Args:
        alpha: weight of the illumination's gradients.
        gamma: the image is divided by I^gamma.
        denoise: standard deviation of the noise to remove from the result's luma, in [0, 1]; 0 removes none. Dark places are
            denoised most. The authors' example takes 0.04.

    Image and results, with `reflectance` and `illumination`: see the module. Raises FileNotFoundError, ValueError, ImportError.

    >>> lime(np.full((8, 8, 3), 0.25))["illumination"][0, 0]
    array([0.25], dtype=float32)
    """
    image = _floats(image)
    illumination = _refined(image.max(-1), alpha)[..., None]
    enhanced = np.clip(image / illumination**gamma, 0.0, 1.0)
    if denoise:
        luma = enhanced @ LUMA
        options = {"patch_size": 5, "patch_distance": 6, "h": 0.8 * denoise, "sigma": denoise}
        smooth = skimage.restoration.denoise_nl_means(luma, **options)
        denoised = np.clip(enhanced + (smooth - luma)[..., None], 0.0, 1.0)
        enhanced = enhanced * illumination + denoised * (1.0 - illumination)
    return _result(enhanced=enhanced, reflectance=image / illumination, illumination=illumination)


def _refined(initial, alpha=0.15, sigma=2.0, epsilon=1e-3):
    """LIME's illumination T of an initial one, with the least |T - initial|^2 + alpha sum W |grad T|^2 / |grad initial|."""
    gradient = _gradient(initial)
    windowed = np.stack([scipy.ndimage.gaussian_filter(part, sigma, mode="nearest", truncate=2.0) for part in gradient])
    weights = alpha / ((np.abs(windowed) + epsilon) * (np.abs(gradient) + epsilon))
    # Weights from 1 to 1e5 take conjugate gradients thousands of steps: the factorisation is faster.
    order = {"permc_spec": "MMD_AT_PLUS_A", "diag_pivot_thresh": 0.0, "options": {"SymmetricMode": True}}
    solution = scipy.sparse.linalg.splu(_system(weights).tocsc(), **order).solve(initial.ravel())
    return np.clip(solution.reshape(initial.shape), DARKEST, 1.0)


def _gradient(x):
    """Differences to the next row and column, 0 at the last: (H, W) -> (2, H, W)."""
    return np.stack([np.diff(x, axis=axis, append=x.take([-1], axis)) for axis in (0, 1)])


def _adjoint(gradient):
    """The transpose of `_gradient`: (2, H, W) -> (H, W); `gradient` is 0 at the last row and column."""
    return -np.diff(gradient[0], axis=0, prepend=0.0) - np.diff(gradient[1], axis=1, prepend=0.0)


def _system(weights):
    """The matrix 1 + sum of D^T W D over both directions, D the differences of `_gradient`, W (2, H, W)."""
    width = weights.shape[-1]
    rows, columns = weights.copy()
    rows[-1], columns[:, -1] = 0.0, 0.0
    rows, columns = rows.ravel(), columns.ravel()
    diagonal = 1.0 + rows + columns
    diagonal[width:] += rows[:-width]
    diagonal[1:] += columns[:-1]
    shape = len(diagonal), len(diagonal)
    down = scipy.sparse.diags_array([-rows[:-width]] * 2, offsets=[-width, width], shape=shape)
    across = scipy.sparse.diags_array([diagonal, -columns[:-1], -columns[:-1]], offsets=[0, -1, 1], shape=shape)
    return (down + across).todia()  # which multiplies faster than compressed rows


def _floats(image):
    """The image as float64 in [0, 1], read if it is a path. It refuses what `inference` refuses."""
    if skimage is None:
        raise ImportError("This method needs scikit-image and SciPy: pip install '.[baselines]' in retinex_keras's folder.")
    image = as_pixels(image)[0]
    return (image if image.dtype.kind == "f" else to_float(image)).astype("float64")


def _colour(image):
    """Hue and saturation at full brightness: the image divided by its brightest channel, white where it is black."""
    brightest = image.max(-1, keepdims=True)
    return np.divide(image, brightest, out=np.ones_like(image), where=brightest > 0.0)


def _result(**images):
    return {name: np.clip(image, 0.0, 1.0).astype("float32") for name, image in images.items()}


METHODS = {"equalize": equalize, "clahe": clahe, "dehaze": dehaze, "srie": srie, "lime": lime}
