import numpy as np
import pytest

from retinex_keras.networks import losses
from retinex_keras.recipes import paper

TERMS = {
    "recon_low": "recon_loss_low",
    "recon_high": "recon_loss_high",
    "recon_mutual_low": "recon_loss_mutal_low",
    "recon_mutual_high": "recon_loss_mutal_high",
    "equal_r": "equal_R_loss",
    "smooth_low": "Ismooth_loss_low",
    "smooth_high": "Ismooth_loss_high",
}


@pytest.mark.parametrize("size", ["even", "odd"])
def test_all_terms_are_the_originals(seeded, original, size):
    low, high = original[f"{size}_low"], original[f"{size}_high"]
    low_parts, high_parts = seeded.decom_net(low), seeded.decom_net(high)
    decomposition = paper.decomposition_terms(low, high, low_parts, high_parts)
    adjustment = paper.adjustment_terms(high, low_parts[0], seeded.enhance_net(*low_parts))
    computed = {theirs: decomposition[ours] for ours, theirs in TERMS.items()}
    computed |= {"relight_loss": adjustment["relight"], "Ismooth_loss_delta": adjustment["smooth_adjusted"]}
    computed["loss_Decom"] = sum(weight * decomposition[name] for name, weight in paper.DECOMPOSITION_WEIGHTS.items())
    computed["loss_Relight"] = sum(weight * adjustment[name] for name, weight in paper.ADJUSTMENT_WEIGHTS.items())
    assert len(computed) == 11
    for name, value in computed.items():
        np.testing.assert_allclose(value, original[f"{size}/loss/{name}"], rtol=1e-5, err_msg=name)


def test_gradients_read_the_row_below_and_the_border_as_zero():
    image = np.array([[1.0, 2.0], [4.0, 8.0]], "float32")[None, ..., None]
    along_x, along_y = losses.gradients(image)
    np.testing.assert_array_equal(along_x[0, ..., 0], [[4, 8], [0, 0]])
    np.testing.assert_array_equal(along_y[0, ..., 0], [[6, 0], [8, 0]])


def test_losses_are_float32_for_half_precision_images(random):
    low, high = (random.random((1, 8, 8, 3)).astype("float16") for _ in range(2))
    parts = random.random((1, 8, 8, 3), dtype="float32"), random.random((1, 8, 8, 1), dtype="float32")
    terms = paper.decomposition_terms(low, high, parts, parts) | paper.adjustment_terms(high, *parts)
    assert {str(value.dtype) for value in map(np.asarray, terms.values())} == {"float32"}
