"""Several machines that train together, by TensorFlow's collective operations."""

import os
import zlib

import tensorflow as tf


class Workers(tf.distribute.MultiWorkerMirroredStrategy):
    """MultiWorkerMirroredStrategy under which Keras 3's `fit` works, which reduces tuples and scalars as if they were batches
    (keras issue 20585). Make it first of all: TensorFlow wants to know of the other workers before it computes anything."""

    def reduce(self, reduce_op, value, axis):
        def reduced(part):
            scalar = self.experimental_local_results(part)[0].shape.rank == 0
            return super(Workers, self).reduce(reduce_op, part, None if scalar else axis)

        return tf.nest.map_structure(reduced, value)

    @property
    def share(self):
        """The files of a list that are this process's, each n-th for n workers: a slice."""
        resolver = self.cluster_resolver
        jobs = resolver.cluster_spec().as_dict()
        if resolver.task_type not in (None, "chief", "worker"):
            raise ValueError(f"TF_CONFIG makes this process a {resolver.task_type!r}; those who train are chief or worker.")
        chiefs, workers = (len(jobs.get(job, [])) for job in ("chief", "worker"))
        start = (resolver.task_id or 0) + (chiefs if resolver.task_type == "worker" else 0)
        return slice(start, None, max(1, chiefs + workers))

    @property
    def chief(self):
        """Whether this process is the one that writes, the cluster's "chief" or its first worker."""
        return self.share.start == 0

    def agree(self, settings):
        """Raises ValueError if other workers have other settings."""
        number = float(zlib.crc32(repr(settings).encode()))
        numbers = self.experimental_distribute_values_from_function(lambda _: tf.constant(number, tf.float64))
        if float(self.reduce("MEAN", numbers, axis=None)) != number:
            raise ValueError(
                f"The workers differ in one of {', '.join(settings)}: give all the same command and images, and a folder for "
                "the run that all of them see."
            )


def find_strategy():
    """The strategy for this machine: `Workers` where TF_CONFIG names some, one for several GPUs, or None."""
    if os.environ.get("TF_CONFIG"):
        return Workers()
    return tf.distribute.MirroredStrategy() if len(tf.config.list_physical_devices("GPU")) > 1 else None
