"""Removes noise from the reflectance, more of it where the illumination is low: the third part of the paper's adjustment step.

It thresholds the DCT of overlapping blocks. Of the methods that were compared on the validation pairs of LOL, it had
the best scores; the gains are small. checkpoints/HISTORY.md has the table.
"""

import keras
import numpy as np
from keras import ops

from retinex_keras.imaging.pixels import LUMA

STRENGTH = 4.0  # the best of 3, 4 and 5 for the shipped weights
BLOCK, STRIDE = 8, 2  # pixels; the stride divides the grid on which tiles lie
# Rows: luma, blue less luma, red less luma. As floats, 1 - 0.299 is not 0.701.
COLOURS = np.array([LUMA, [*-LUMA[:2], 0.886], [0.701, *-LUMA[1:]]])


def _tables():
    """Kernels of the convolutions from pixels to coefficients and back; and the share of the noise in each coefficient.

    The way back weighs a block by the window sin^2, whose values add up to one over all blocks that see a pixel, and gives
    stride x stride pixels at once, from the blocks that see them. It is no transposed convolution: the sums of those are
    rounded in an order that depends on the size of the image, and tiles would not be exact.
    """
    k = np.arange(BLOCK)
    dct = np.cos(np.pi * np.outer(k, k + 0.5) / BLOCK) * np.sqrt(np.where(k, 2, 1) / BLOCK)[:, None]  # orthonormal DCT-II
    window = np.sin(np.pi * (k + 0.5) / BLOCK) ** 2 * 2 * STRIDE / BLOCK
    forth = np.einsum("ui,vj,kc->ijckuv", dct, dct, COLOURS)
    back = np.einsum("ui,vj,ck,i,j->ijckuv", dct, dct, np.linalg.inv(COLOURS), window, window)
    back = back.reshape(BLOCK // STRIDE, STRIDE, BLOCK // STRIDE, STRIDE, 3, -1)[::-1, :, ::-1]
    back = back.transpose(0, 2, 5, 1, 3, 4).reshape(BLOCK // STRIDE, BLOCK // STRIDE, 3 * BLOCK**2, -1)
    share = 1 / (1 + (k[:, None] ** 2 + k**2) / 9) * np.array([1, 4, 4])[:, None, None]
    share[:, 0, 0] = 0  # the mean of a block stays
    return forth.reshape(BLOCK, BLOCK, 3, -1).astype("float32"), back.astype("float32"), share.ravel().astype("float32")


@keras.saving.register_keras_serializable("retinex_keras")
class Denoise(keras.layers.Layer):
    """Takes noise off the reflectance by thresholding the DCT of overlapping blocks.

    After Yu and Sapiro, "DCT image denoising", IPOL 2011: coefficients below `strength` deviations of the noise become
    zero, and the blocks are averaged. As S = R * I, noise in S of deviation s has s / I in R; in flat areas of the validation
    pairs it is about 0.0014 / (I + 0.05), since R is bounded, and less at high frequencies, since Decom-Net smooths. Noise
    of another spectrum, from other weights or cameras, may want another strength.

    Args:
        strength: threshold in deviations of the noise; 0 returns the reflectance as it is, to the bit.

    Input: reflectance and illumination, (B, H, W, 3) and (B, H, W, 1) in [0, 1]. Output: reflectance, float32, (B, H, W, 3).

    >>> tuple(Denoise()(np.ones((1, 16, 12, 3)), np.ones((1, 16, 12, 1))).shape)
    (1, 16, 12, 3)
    """

    def __init__(self, strength=STRENGTH, **kwargs):
        super().__init__(**{"dtype": "float32", **kwargs})
        if not 0 <= strength < float("inf"):
            raise ValueError(f"The strength of denoising is 0 (none) or a larger number. Received {strength!r}.")
        self.strength = float(strength)
        self.forth, self.back, self.share = _tables()

    def call(self, reflectance, illumination):
        if not self.strength:
            return reflectance
        height, width = ops.shape(reflectance)[1:3]
        x = ops.concatenate([reflectance, illumination], axis=-1)
        for axis, size in ((1, height), (2, width)):  # the border repeated, until the blocks cover each pixel equally often
            seen = ops.arange(STRIDE - BLOCK, (size - 1) // STRIDE * STRIDE + BLOCK)
            x = ops.take(x, ops.clip(seen, 0, size - 1), axis=axis)
        noise = 0.0014 / (ops.average_pool(x[..., 3:], BLOCK, STRIDE, "valid") + 0.05)  # (B, blocks, blocks, 1)
        x = ops.conv(x[..., :3], self.forth, STRIDE, "valid")  # (B, blocks, blocks, 192)
        x = ops.where(ops.abs(x) > self.strength * self.share * noise, x, 0.0)
        x = ops.conv(x, self.back, 1, "valid")  # (B, rows, columns, stride * stride * 3)
        rows, columns = ops.shape(x)[1:3]
        x = ops.transpose(ops.reshape(x, (-1, rows, columns, STRIDE, STRIDE, 3)), (0, 1, 3, 2, 4, 5))
        return ops.reshape(x, (-1, rows * STRIDE, columns * STRIDE, 3))[:, :height, :width]

    def get_config(self):
        return {**super().get_config(), "strength": self.strength}
