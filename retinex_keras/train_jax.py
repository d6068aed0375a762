"""What training needs where Keras runs on JAX: steps that change no state, and batches without tf.data and strategies.

All else is shared with TensorFlow: `KERAS_BACKEND=jax retinex train ...` needs no TensorFlow.
"""

import contextlib
import os

import jax
import keras


def stateless(step):
    """Makes Keras's `train_step` or `test_step` on JAX, `(state, data) -> (logs, state)`, from a model's own `step(data)`."""

    def stateless_step(model, state, data):
        groups = [model.trainable_variables, model.non_trainable_variables, model.metrics_variables]
        if len(state) == 4:  # of training
            groups.insert(2, model.optimizer.variables)
        mapping = [pair for variables, values in zip(groups, state) for pair in zip(variables, values)]
        with keras.StatelessScope(state_mapping=mapping) as scope:
            logs = step(model, data)

        def current(variable):
            value = scope.get_current_value(variable)
            return variable.value if value is None else value

        return logs, tuple([current(variable) for variable in variables] for variables in groups)

    return stateless_step


def gradients(model, low, high):
    """The gradients of the "loss" of `model.compute_losses`, one a trainable variable, and all of its terms."""
    variables = model.trainable_variables

    def scaled_loss(values):
        with keras.StatelessScope(state_mapping=zip(variables, values)):
            terms, _ = model.compute_losses(low, high, training=True)
        return model.optimizer.scale_loss(terms["loss"]), terms

    (_, terms), result = jax.value_and_grad(scaled_loss, has_aux=True)([variable.value for variable in variables])
    return result, terms


class Batches(keras.utils.PyDataset):
    """Batches by their number, made by threads.

    Args:
        batch: called with 0, 1, ...; returns a batch of NumPy arrays.
        count: how many there are; by default without end.
    """

    def __init__(self, batch, count=None):
        super().__init__(workers=os.cpu_count())
        self.batch, self.count = batch, count

    @property
    def num_batches(self):
        return self.count

    def __getitem__(self, index):
        return self.batch(index)


class OneProcess:
    """What is used of tf.distribute's default strategy."""

    num_replicas_in_sync = 1
    scope = contextlib.nullcontext

    def distribute_datasets_from_function(self, dataset):
        return dataset(None)
