"""Training on several devices, which share each batch; on JAX also of several processes.

Every device is handed the whole batch and takes its share of it inside the step, so that a share
may be of any size, also empty: nothing is padded, dropped or counted twice, and the device knows of
how many images the whole batch is. Keras's own ways deal only batches that the number of devices
divides (JAX), or weight unequal shares alike (TensorFlow).
"""

import threading
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import keras

from pipeline.errors import UsageError


def require_devices(asked: int, found: int, platform: str) -> None:
    """Refuse a call that asks for more devices than there are.

    Raises:
        UsageError: it does.
    """
    if asked > found:
        raise UsageError(
            f"`--devices {asked}`: the {keras.backend.backend()} backend sees {found} "
            f"{platform} device{'s' if found > 1 else ''} here; use fewer, or --device cpu"
        )


def model_scope(num_devices: int) -> AbstractContextManager[Any]:
    """Return the context in which a model is built, compiled and filled.

    JAX's distribution holds for the whole process and is set before a run.
    """
    if keras.backend.backend() == "jax":
        return nullcontext()
    import tensorflow as tf

    names = [device.name for device in tf.config.list_logical_devices("GPU")]
    if names:
        return tf.distribute.MirroredStrategy(names[:num_devices]).scope()
    names = [device.name for device in tf.config.list_logical_devices("CPU")]
    # The default on CPUs, collective operations, fails in a call of several steps: TensorFlow
    # 2.21 loses what a replica captures in the loop's body.
    reduction = tf.distribute.ReductionToOneDevice()
    return tf.distribute.MirroredStrategy(names[:num_devices], cross_device_ops=reduction).scope()


def share_steps(model: keras.Model) -> None:
    """Let each step of a compiled model take its device's share of the batch it is handed."""
    if keras.backend.backend() == "jax":
        _partition_steps(model)
    else:
        _Replicas(model)


def distribute(num_devices: int) -> None:
    """Tell Keras on JAX to compute on the first `num_devices` of the devices that JAX sees."""
    from keras import distribution

    class WholeBatches(distribution.DataParallel):
        """Keras puts a batch only on devices whose number divides it: each gets all of it."""

        def get_data_layout(self, data_shape: Any) -> Any:
            return distribution.TensorLayout([None] * len(data_shape), self.device_mesh)

        def get_share_layout(self, data_shape: Any) -> Any:
            """Return the layout of a batch that is dealt to the devices."""
            return super().get_data_layout(data_shape)

    devices = distribution.list_devices()[:num_devices]
    distribution.set_distribution(WholeBatches(devices=devices, auto_shard_dataset=False))


def _partition_steps(model: keras.Model) -> None:
    """Let XLA partition each step by images; what the step computes stays what it was.

    A partition inside a computation need not be even: XLA pads it and masks what it has padded.
    Dropout draws each mask by the place in the whole batch, so it is that of one device.
    """
    from keras import distribution

    layouts: Any = distribution.distribution()

    def partitioned(step: Callable[..., Any]) -> Callable[..., Any]:
        def shared(state: Any, batch: Any) -> Any:
            parts = [
                distribution.distribute_tensor(part, layouts.get_share_layout(part.shape))
                for part in batch
            ]
            return step(state, tuple(parts))

        return shared

    predict = model.predict_step

    def predict_whole(state: Any, batch: Any) -> Any:
        logits, state = predict(state, batch)
        # Each process reads them all; left to XLA, they lie where their images do.
        return distribution.distribute_tensor(logits, layouts.get_data_layout(logits.shape)), state

    model.predict_step = predict_whole
    for name in ("train_step", "test_step", "predict_step"):
        setattr(model, name, partitioned(getattr(model, name)))


class _Replicas:
    """The steps of TensorFlow's replicas, each of which calls them with the whole batch.

    Keras's own steps average the replicas' means, in which an image of a smaller share counts
    more. Here a replica's loss is the sum over its share by the images of the whole batch, and the
    optimizer adds up the replicas' gradients. Within an epoch Keras shows the mean of the replicas'
    own metrics; an epoch's are of all images.
    """

    def __init__(self, model: keras.Model) -> None:
        self.model = model
        self.losses = keras.losses.CategoricalCrossentropy(from_logits=True, reduction="none")
        self.predict = model.predict_step
        self.of_thread = threading.local()  # TensorFlow traces each replica in one of its own
        for layer in model.layers:
            if isinstance(layer, keras.layers.Dropout):
                layer.call = self._drawn_whole(layer.call)
        model.train_step, model.test_step = self.train_step, self.test_step
        model.predict_step = lambda batch: self.predict(tuple(map(self.share, batch)))

    def share(self, whole: Any) -> Any:
        """Return this replica's rows of what holds a row for each image of the batch."""
        import tensorflow as tf

        context = tf.distribute.get_replica_context()
        rank, size = context.replica_id_in_sync_group, tf.shape(whole)[0]
        self.of_thread.size = size
        num_replicas = context.num_replicas_in_sync
        return whole[size * rank // num_replicas : size * (rank + 1) // num_replicas]

    def train_step(self, batch: Any) -> dict[str, Any]:
        """Take a step on the share of `batch`; the optimizer adds up over the replicas."""
        import tensorflow as tf

        images, one_hot = map(self.share, batch)
        with tf.GradientTape() as tape:
            logits = self.model(images, training=True)
            losses = self.losses(one_hot, logits)
            loss = tf.reduce_sum(losses) / tf.cast(tf.shape(batch[0])[0], losses.dtype)
        weights = self.model.trainable_weights
        self.model.optimizer.apply_gradients(
            zip(tape.gradient(loss, weights), weights, strict=True)
        )
        return self._counted(images, one_hot, logits, losses)

    def test_step(self, batch: Any) -> dict[str, Any]:
        """Count the share of `batch` in the metrics."""
        images, one_hot = map(self.share, batch)
        logits = self.model(images, training=False)
        return self._counted(images, one_hot, logits, self.losses(one_hot, logits))

    def _counted(self, images: Any, one_hot: Any, logits: Any, losses: Any) -> dict[str, Any]:
        loss, *_ = self.model.metrics
        loss.update_state(losses)  # one for each image of the share
        return dict(self.model.compute_metrics(images, one_hot, logits))

    def _drawn_whole(self, draw: Callable[..., Any]) -> Callable[..., Any]:
        """Let a dropout layer draw the mask of the whole batch, as one device does.

        Each replica's generator is the same: of their shares alone, all would drop the same places.
        """

        def call(inputs: Any, training: bool = False) -> Any:
            if not training:
                return inputs
            shape = (self.of_thread.size, *inputs.shape[1:])
            return inputs * self.share(draw(keras.ops.ones(shape, inputs.dtype), training=True))

        return call


def for_each_device(dataset: Any) -> Any:
    """Return a distributed tf.data.Dataset for `fit`, of which each replica gets whole batches.

    Keras would have TensorFlow deal its batches.
    """
    import tensorflow as tf
    from keras.src.trainers.data_adapters.tf_dataset_adapter import TFDatasetAdapter

    class WholeBatches(tf.distribute.DistributedDataset):
        element_spec = dataset.element_spec

        def __iter__(self) -> Any:
            return iter(dataset)

        def cardinality(self) -> Any:
            return dataset.cardinality()

        def reduce(self, initial_state: Any, reduce_func: Any) -> Any:
            return dataset.reduce(initial_state, reduce_func)

    return TFDatasetAdapter(WholeBatches())
