"""Dials: how a user steers what a model makes that splits an image into reflectance and illumination."""

import functools
import numbers
from typing import NamedTuple

from retinex_keras.imaging.metrics import ops_of
from retinex_keras.imaging.pixels import CONTEXT, LUMA

# What a model must give for it, and how many channels that has.
STEERED = {"reflectance": 3, "illumination": 1, "restored_reflectance": 3, "adjusted_illumination": 1}
RANGES = {"exposure": (-3, 3), "strength": (0, 1), "colour": (0, 2), "brightness": (0, 1)}
FURTHEST = 8.0  # stops, up or down, to which a wanted brightness may move the exposure
HALVINGS = 14  # of this range


class Dials(NamedTuple):
    """Settings of the dials; at these values nothing is changed.

    Attributes:
        exposure: stops around the automatic choice, -3 to 3. The curve leaves black black and white white.
        strength: 0 returns the input, 1 the full result; between them lies a mixture.
        colour: 0 is grey, 1 as it is, up to 2.
        brightness: the mean luma that the picture is to have, between 0 and 1, instead of an exposure.

    >>> Dials(colour=1.2)
    Dials(exposure=0.0, strength=1.0, colour=1.2, brightness=None)
    """

    exposure: float = 0.0
    strength: float = 1.0
    colour: float = 1.0
    brightness: float | None = None

    def check(self) -> "Dials":
        """Returns the dials; a ValueError says which one is out of range.

        >>> Dials(exposure=5).check()
        Traceback (most recent call last):
        ValueError: The dial exposure goes from -3 to 3. Received 5.
        """
        for name, (low, high) in RANGES.items():
            value = getattr(self, name)
            if not (value is None and name == "brightness" or isinstance(value, numbers.Real) and low <= value <= high):
                raise ValueError(f"The dial {name} goes from {low} to {high}. Received {value!r}.")
        if self.brightness == 0:  # which means none to a server
            raise ValueError("A picture of brightness 0 is black. Received brightness=0: name more, or leave it out.")
        if self.brightness is not None and self.exposure:
            raise ValueError("Brightness finds the exposure itself. Received both: leave one out.")
        return self


DEFAULTS = Dials()


def check_dials(model, **dials: float | None) -> Dials:
    """The dials for a model; a ValueError says that one is out of range, or that the model does not decompose.

    >>> from retinex_keras import load_pretrained
    >>> check_dials(load_pretrained(), exposure=1)
    Dials(exposure=1, strength=1.0, colour=1.0, brightness=None)
    """
    dials = Dials(**dials).check()
    if dials != DEFAULTS and not model.decomposes:
        raise ValueError("These weights do not split an image into reflectance and illumination: they have no dials.")
    return dials


def _luma(image):
    """(..., 3) -> (..., 1)."""
    return sum(weight * image[..., i : i + 1] for i, weight in enumerate(LUMA.tolist()))


def steer(parts: dict, image, exposure, strength, colour) -> dict:
    """Turns the dials on what a model made of an image, by arithmetic on each pixel.

    A brightness is first turned into an exposure, by `find_exposure`. The exposure bends the adjusted illumination x, so
    that the darkest parts change by so many stops, and black and white stay where they are. Upwards, to 1 - (1 -
    x)^(2^exposure), nothing reaches white that was below it. Downwards, to x * (g + (1 - g) * x^4) with g = 2^exposure,
    whose slope at white is at most 5, so that lamps get no hard outlines; below -3 stops, where only a brightness leads,
    all is dimmed, white too. The colour scales how far the restored reflectance is from grey. The strength mixes: the mean
    of the two reflectances, and the geometric mean of the two illuminations.

    Args:
        parts: what a model that decomposes returns, NumPy's arrays or Keras's tensors, (..., H, W, C).
        image: that it was made of, (..., H, W, 3) in [0, 1].
        exposure, strength, colour: numbers or scalars, as in `Dials`.

    Returns:
        The parts, of which `enhanced`, `restored_reflectance` and `adjusted_illumination` are changed.

    >>> from retinex_keras import decompose
    >>> parts = decompose("dark.png")
    >>> image = read_image("dark.png") / np.float32(255)
    >>> bool(np.all(steer(parts, image, 0.0, 1.0, 1.0)["enhanced"] == parts["enhanced"]))
    True
    >>> bool(steer(parts, image, 1.0, 1.0, 1.0)["enhanced"].mean() > parts["enhanced"].mean())
    True
    """
    ops = ops_of(image)
    first, light, restored, adjusted = (parts[name] for name in STEERED)
    restored = colour * restored + (1.0 - colour) * _luma(restored)
    # Where the reflectance is above 1, the curve must bend the brightest channel, not the illumination.
    above = functools.reduce(ops.maximum, (restored[..., i : i + 1] for i in range(3)), 1.0)  # faster than ops.max
    whole = adjusted * above
    gain_up, gain_down = (2.0 ** ((exposure + sign * abs(exposure)) / 2.0) for sign in (1, -1))  # one of them is 1
    bent = 1.0 - ops.power(ops.maximum(1.0 - whole, 0.0), gain_up)
    bent = bent * (gain_down + (1.0 - gain_down) * ops.square(ops.square(bent)))
    dimmed = 2.0 ** ((exposure + 3.0 - abs(exposure + 3.0)) / 2.0)  # 1 from -3 stops on
    bent = ops.where(whole < 1.0, bent, whole) * dimmed / above
    adjusted = ops.where(exposure == 0.0, adjusted, bent)
    restored = (1.0 - strength) * first + strength * restored
    mixed = ops.power(light, 1.0 - strength) * ops.power(ops.maximum(adjusted, 0.0), strength)
    adjusted = ops.where(strength == 1.0, adjusted, mixed)
    enhanced = ops.where(strength == 0.0, image, ops.clip(restored * adjusted, 0.0, 1.0))
    return parts | {"enhanced": enhanced, "restored_reflectance": restored, "adjusted_illumination": adjusted}


def find_exposure(sample: dict, image, strength, colour, brightness):
    """The exposure by which a picture gets a mean luma, from the pixels of the image's context (`context_indices`).

    Whole numbers are summed, in float64, so that the result depends on no order of summation and on no library.

    Args:
        sample: the parts at those pixels, (128, 128, C), float64.
        image: the same of the image, (128, 128, 3) in [0, 1], float64.
        strength, colour, brightness: numbers or scalars, float64, as in `Dials`.

    Returns:
        Stops, -8 to 8: the nearest where none gives the brightness.

    >>> grey = np.full((128, 128, 3), 0.5)
    >>> sample = {"reflectance": grey, "restored_reflectance": grey}
    >>> sample |= dict.fromkeys(("illumination", "adjusted_illumination"), np.full((128, 128, 1), 0.5))
    >>> float(np.round(find_exposure(sample, grey, strength=1.0, colour=1.0, brightness=0.375), 3))  # 1 - 0.5^2 is 0.75
    1.0
    """
    ops = ops_of(image)
    wanted = brightness * 65535.0 * CONTEXT**2

    def halve(_, span):
        low, high = span
        middle = (low + high) / 2.0
        picture = steer(sample, image, middle, strength, colour)["enhanced"]
        too_dark = ops.sum(ops.round(_luma(picture) * 65535.0)) < wanted
        return ops.where(too_dark, middle, low), ops.where(too_dark, high, middle)

    span = 0.0 * wanted - FURTHEST, 0.0 * wanted + FURTHEST
    if hasattr(ops, "fori_loop"):  # of Keras: a graph holds it once
        span = ops.fori_loop(0, HALVINGS, halve, span)
    else:
        span = functools.reduce(lambda span, step: halve(step, span), range(HALVINGS), span)
    return (span[0] + span[1]) / 2.0
