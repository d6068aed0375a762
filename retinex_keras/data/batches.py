"""Batches for `fit` where Keras runs on JAX."""

import os

import keras


class Batches(keras.utils.PyDataset):
    """Batches by their number, made by threads; what feeds `fit` where Keras runs on JAX.

    Args:
        batch: called with 0, 1, ...; returns a batch of NumPy arrays.
        count: how many there are; by default without end.

    >>> Batches(lambda number: (np.zeros(2), np.ones(2)), count=3).num_batches
    3
    """

    def __init__(self, batch, count=None):
        super().__init__(workers=os.cpu_count())
        self.batch, self.count = batch, count

    @property
    def num_batches(self):
        return self.count

    def __getitem__(self, index):
        return self.batch(index)
