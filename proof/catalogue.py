"""The planted faults: porting mistakes, where the ladder must catch each, and by what name.

What plants them are the leaf programs in `proof/faults`, by the same names.
"""

from dataclasses import dataclass

from ladder.rungs import RUNGS
from pipeline.engines import ENGINES
from pipeline.recipe import VARIANTS

RUNG_NAMES = tuple(rung.name for rung in RUNGS)
UNKNOWN = "unknown"
"""The cause of a mistake that the ladder must place, and for which it must name no cause."""


@dataclass(frozen=True)
class Fault:
    """One mistake, planted in one engine's process.

    Raises:
        ValueError: an unknown engine, variant or rung, or expectations that do not go together.
    """

    name: str
    """What the engine's leaf program calls it."""
    engine: str
    rung: str = ""
    """Where the ladder must catch it first; empty for a harmless one."""
    where: str = ""
    """Start of the path of the first finding: a setting, a layer, a parameter; empty for any."""
    cause: str = ""
    """The cause that the first failing rung must name first, or `UNKNOWN`: it must name none."""
    mistake: str = ""
    """What was done wrong, in a few words."""
    variant: str = "base"
    difference: str = ""
    """The difference between the frameworks that invites it; empty where none does."""
    quick: bool = True
    """Whether `prove.py --short` may plant it."""
    is_harmless: bool = False
    """It must change nothing: the ladder must pass."""
    is_explained: bool = False
    """Its gap must vanish without the cause: the ladder must explain it."""

    def __post_init__(self) -> None:
        """Check the fields against each other."""
        for field, choices in (("engine", tuple(ENGINES)), ("variant", VARIANTS)):
            if getattr(self, field) not in choices:
                raise ValueError(
                    f"`{field}` must be one of {', '.join(choices)}; "
                    f"received {field}={getattr(self, field)!r}"
                )
        if self.is_harmless and (self.rung or self.cause or self.is_explained):
            raise ValueError(f"`{self.name}` is harmless: it has no rung, cause or explanation")
        if not self.is_harmless and not (self.rung in RUNG_NAMES and self.cause):
            raise ValueError(
                f"`{self.name}` must have a cause and one of the rungs {', '.join(RUNG_NAMES)}; "
                f"received rung={self.rung!r}, cause={self.cause!r}"
            )


FLOAT64_ONLY = frozenset(
    {
        "double-slope",
        "double-beta",
        "float32-promotion",
        "float32-layer",
        "float32-loss",
        "float32-gradient",
        "rescaled-in-float32",
        "no-x64",
    }
)
"""Faults that are none in float32."""

EPSILON = "Adam's ε: 1e-7 outside the bias correction in Keras, 1e-8 inside it in torch"
BETAS = "Keras on TensorFlow casts Adam's betas to float32"
SLOPE = "LeakyReLU's default slope: 0.3 in Keras, 0.01 in torch"
FLOAT32_SLOPE = "TensorFlow stores LeakyReLU's slope as float32"
FUNCTIONAL_SLOPE = "Keras's functional leaky_relu has the default slope 0.2, its layer 0.3"
INITIALISERS = "Keras draws Glorot uniform kernels and zero biases, torch U(±1/√fan_in) for both"
SAME_POOL = "Keras's same padding of an odd size is at the end; torch's `padding` is on both sides"
PADDING = "convolutions have no padding by default"
FLATTEN = "Keras flattens H, W, C, torch C, H, W"
KERNELS = "kernels are (H, W, in, out) in Keras, (out, in, H, W) in torch"
CROSS_ENTROPY = "Keras's cross-entropy takes probabilities unless told, torch's takes logits"
WEIGHT_DECAY = "weight decay is decoupled in Keras, L2 inside the gradient in torch's Adam"
CLIPPING = "`clipnorm` clips each variable's gradient, torch the norm of all"
SCHEDULES = "Keras schedules each step, Lightning each epoch unless told"
METRICS = "Keras weights batches by size; Lightning guesses the size unless told"
SPLIT = "`validation_split` takes the last part unshuffled, `random_split` shuffles"
FIT_SHUFFLE = "`fit` shuffles a PyDataset's batches by default"
DROPOUT_MASKS = "dropout's masks cannot match by seed"
TIES = "which of a max pool's equal values takes the gradient is open"
AT_ZERO = "the gradient of LeakyReLU at exactly zero is 1 in JAX, the slope in TensorFlow and torch"
PROMOTION = "but for TensorFlow, Keras makes float32 of float64 products"
KERAS_JSON = "`keras.json` sets Keras up behind one's back"
MODES = "Keras hands `training` down the call, torch keeps a mode in each module"
FROZEN = "`trainable` in Keras, `requires_grad` or the optimizer's parameters in torch"
SCALING = "ToTensor divides by 255 in float32"

LIGHTNING, TENSORFLOW, JAX, TORCH = "lightning", "keras-tensorflow", "keras-jax", "keras-torch"

# fmt: off

CONTRACT_FAULTS = (
    Fault("torch-slope", LIGHTNING, "contract", "layers.act1.negative_slope", "leaky-slope",
          mistake="LeakyReLU is left with torch's default slope, 0.01", difference=SLOPE),
    Fault("keras-slope", TENSORFLOW, "contract", "layers.act1.negative_slope", "leaky-slope",
          mistake="LeakyReLU is left with Keras's default slope, 0.3", difference=SLOPE),
    Fault("double-slope", LIGHTNING, "contract", "layers.act1.negative_slope", "leaky-slope",
          mistake="LeakyReLU's slope is 0.1 as a double", difference=FLOAT32_SLOPE),
    Fault("pool-padding", LIGHTNING, "contract", "layers.pool3.padding", "pool-padding",
          mistake="the last pool has padding=1 to get Keras's 4×4", difference=SAME_POOL),
    Fault("average-pool", LIGHTNING, "contract", "layers.pool1", "pool-average",
          mistake="average pooling where Keras has max pooling"),
    Fault("valid-pool", TENSORFLOW, "contract", "layers.pool1.padding", "pool-valid",
          mistake="the pools have Keras's default padding, none", difference=SAME_POOL),
    Fault("conv-without-padding", LIGHTNING, "contract", "layers.conv1.padding", "conv-padding",
          mistake="the first convolution has torch's default padding, none", difference=PADDING),
    Fault("valid-convolution", TENSORFLOW, "contract", "layers.conv1.padding", "conv-padding",
          mistake="the convolutions have Keras's default padding, none", difference=PADDING,
          quick=False),
    Fault("no-bias", LIGHTNING, "contract", "layers.conv2.use_bias", "missing-bias",
          mistake="the second convolution has no bias"),
    Fault("hidden-relu", TENSORFLOW, "contract", "layers.hidden.activation", "activation-added",
          mistake="the hidden layer has a ReLU of its own before the LeakyReLU"),
    Fault("softmax-output", TENSORFLOW, "contract", "layers.logits.activation", "softmax-output",
          mistake="the model ends in a softmax, which the loss takes for logits",
          difference=CROSS_ENTROPY),
    Fault("clipped-probabilities", JAX, "contract", "layers.logits.activation", "softmax-output",
          mistake="the loss takes the logarithm of a softmax that is clipped to 1e-7",
          difference=CROSS_ENTROPY, quick=False),
    Fault("probabilities-of-logits", TENSORFLOW, "contract", "loss.takes", "softmax-before-loss",
          mistake="`from_logits=True` is left out", difference=CROSS_ENTROPY),
    Fault("softmax-before-loss", LIGHTNING, "contract", "loss.takes", "softmax-before-loss",
          mistake="a softmax stands before cross_entropy, which has one of its own",
          difference=CROSS_ENTROPY),
    Fault("loss-sum", LIGHTNING, "contract", "loss.reduction", "loss-sum",
          mistake="the loss is summed over the batch"),
    Fault("loss-sum", TENSORFLOW, "contract", "loss.reduction", "loss-sum",
          mistake="the loss is summed over the batch", quick=False),
    Fault("label-smoothing", LIGHTNING, "contract", "loss.label_smoothing", "label-smoothing",
          mistake="labels are smoothed by 0.1"),
    Fault("label-smoothing", TENSORFLOW, "contract", "loss.label_smoothing", "label-smoothing",
          mistake="labels are smoothed by 0.1", quick=False),
    Fault("swapped-rates", LIGHTNING, "contract", "layers.drop3.rate", "dropout-rate",
          mistake="the rates of the third and the last dropout are exchanged", variant="dropout"),
    Fault("torch-adam", LIGHTNING, "contract", "optimizer.epsilon_placement",
          "adam-epsilon-placement",
          mistake="torch's Adam is given Keras's ε", difference=EPSILON),
    Fault("torch-epsilon", LIGHTNING, "contract", "optimizer.epsilon", "adam-epsilon-value",
          mistake="ε is 1e-8, torch's default", difference=EPSILON),
    Fault("torch-epsilon", TENSORFLOW, "contract", "optimizer.epsilon", "adam-epsilon-value",
          mistake="ε is 1e-8, torch's default", difference=EPSILON, quick=False),
    Fault("beta-1", TENSORFLOW, "contract", "optimizer.beta_1", "adam-beta-1",
          mistake="β₁ is 0.5"),
    Fault("beta-2", LIGHTNING, "contract", "optimizer.beta_2", "adam-beta-2",
          mistake="β₂ is 0.99"),
    Fault("double-beta", LIGHTNING, "contract", "optimizer.beta_2", "adam-beta-2",
          mistake="β₂ is 0.999 as a double", difference=BETAS),
    Fault("learning-rate", TENSORFLOW, "contract", "optimizer.learning_rate", "learning-rate",
          mistake="the learning rate is 3e-4"),
    Fault("amsgrad", LIGHTNING, "contract", "optimizer.amsgrad", "adamax-or-amsgrad",
          mistake="Adam is AMSGrad"),
    Fault("sgd", LIGHTNING, "contract", "optimizer", "sgd-instead",
          mistake="SGD where Keras has Adam"),
    Fault("coupled-weight-decay", LIGHTNING, "contract", "optimizer.", "coupled-weight-decay",
          mistake="Adam has L2 inside the gradient", difference=WEIGHT_DECAY),
    Fault("decoupled-weight-decay", LIGHTNING, "contract", "optimizer.", "decoupled-weight-decay",
          mistake="AdamW with torch's default decay where Keras has Adam", difference=WEIGHT_DECAY),
    Fault("weight-decay", TENSORFLOW, "contract", "optimizer.", "decoupled-weight-decay",
          mistake="Adam has Keras's weight decay", difference=WEIGHT_DECAY, quick=False),
    Fault("clipped-gradients", LIGHTNING, "contract", "optimizer.clipping", "clipped-gradients",
          mistake="the Trainer clips gradients by their global norm", difference=CLIPPING),
    Fault("clipped-norms", TENSORFLOW, "contract", "optimizer.clipping", "clipped-gradients",
          mistake="`clipnorm` clips the norm of each gradient", difference=CLIPPING),
    Fault("accumulated-gradients", LIGHTNING, "contract", "optimizer.gradient_accumulation",
          "gradient-accumulation",
          mistake="the Trainer takes a step every second batch"),
    Fault("scheduler", LIGHTNING, "contract", "optimizer.schedule", "schedule-per-epoch",
          mistake="a scheduler halves the learning rate each epoch", difference=SCHEDULES),
    Fault("cosine-schedule", TENSORFLOW, "contract", "optimizer.schedule", "learning-rate",
          mistake="a schedule lowers the learning rate each step", difference=SCHEDULES,
          quick=False),
    Fault("frozen-bias", LIGHTNING, "contract", "frozen", "frozen-bias",
          mistake="the optimizer is given kernels only", difference=FROZEN),
    Fault("frozen-layer", LIGHTNING, "contract", "frozen", "frozen-layer",
          mistake="the first convolution is frozen", difference=FROZEN),
    Fault("frozen-layer", TENSORFLOW, "contract", "frozen", "frozen-layer",
          mistake="the first convolution is frozen", difference=FROZEN),
    Fault("float32-promotion", TORCH, "layers", "forced.hidden", "float32-inside-float64",
          mistake="Keras's type promotion computes the dense layers of a float64 model in float32",
          difference=PROMOTION),
    Fault("no-x64", JAX, "contract", "dtypes", "float32-inside-float64",
          mistake="JAX's switch for float64 is off", difference=PROMOTION, quick=False),
)

DATA_FAULTS = (
    Fault("drop-last", LIGHTNING, "data", "batches", "last-batch-dropped",
          mistake="the partial last batch is dropped"),
    Fault("dropped-batch", TENSORFLOW, "data", "batches", "last-batch-dropped",
          mistake="the number of batches is rounded down", quick=False),
    Fault("padded-last-batch", LIGHTNING, "data", "batches", "batches-repeated",
          mistake="the last batch is filled up with the epoch's first images"),
    Fault("same-order", LIGHTNING, "data", "batches", "order-same-each-epoch",
          mistake="each epoch has the order of the first"),
    Fault("unshuffled", LIGHTNING, "data", "batches", "order-not-shuffled",
          mistake="`shuffle=True` is left out"),
    Fault("epochs-from-one", LIGHTNING, "data", "batches", "order-differs",
          mistake="epochs count from 1 where their order is drawn"),
    Fault("own-order", TENSORFLOW, "data", "batches", "order-differs",
          mistake="the order is drawn by a generator of its own", quick=False),
    Fault("shuffled-batches", TORCH, "data", "batches", "order-differs",
          mistake="`fit` shuffles the batches once more", difference=FIT_SHUFFLE),
    Fault("train-on-validation", LIGHTNING, "data", "batches", "validation-trained-on",
          mistake="the validation images are trained on"),
    Fault("trained-on-everything", TENSORFLOW, "data", "batches", "validation-trained-on",
          mistake="all images are trained on, the validation images among them"),
    Fault("validate-on-training", LIGHTNING, "data", "batches", "training-images-validated",
          mistake="the training images validate"),
    Fault("other-split", LIGHTNING, "data", "batches", "other-split",
          mistake="the split has another random_state", difference=SPLIT),
    Fault("validation-split", TENSORFLOW, "data", "batches", "other-split",
          mistake="the split is that of `validation_split`: the last part, unshuffled",
          difference=SPLIT),
    Fault("unscaled", LIGHTNING, "data", "batches", "images-unscaled",
          mistake="pixels are fed from 0 to 255"),
    Fault("standardised", LIGHTNING, "data", "batches", "images-standardised",
          mistake="images are standardised, as torchvision's examples do"),
    Fault("rescaled-in-float32", LIGHTNING, "data", "batches", "float32-inside-float64",
          mistake="pixels are divided by 255 in float32 and cast to float64 then",
          difference=SCALING),
    Fault("inverted", TENSORFLOW, "data", "batches", "images-inverted",
          mistake="images are inverted"),
    Fault("transposed-images", LIGHTNING, "data", "batches", "images-transposed",
          mistake="height is read for width"),
    Fault("flipped-images", TENSORFLOW, "data", "batches", "images-flipped",
          mistake="an augmentation mirrors every image"),
    Fault("shifted-labels", LIGHTNING, "data", "batches", "labels-shifted",
          mistake="classes count from 1"),
    Fault("alphabetical-labels", TENSORFLOW, "data", "batches", "labels-permuted",
          mistake="classes are numbered in the alphabetical order of their names", quick=False),
)

BUILD_FAULTS = (
    Fault("activation-after-pool", TENSORFLOW, "architecture", "layers", "activation-order",
          mistake="each pool stands before its activation"),
    Fault("dropout-before-pool", LIGHTNING, "architecture", "layers", "layer-order",
          mistake="each dropout stands before its pool", variant="dropout"),
    Fault("dropout-before-pool", TENSORFLOW, "architecture", "layers", "layer-order",
          mistake="each dropout stands before its pool", variant="dropout", quick=False),
    Fault("torch-init", LIGHTNING, "initialisation", "", "init-distribution",
          mistake="torch's own first weights are kept", difference=INITIALISERS),
    Fault("torch-bias-init", LIGHTNING, "initialisation", "", "bias-not-zero",
          mistake="kernels are drawn as in Keras, biases as in torch", difference=INITIALISERS),
    Fault("kaiming-init", LIGHTNING, "initialisation", "", "init-distribution",
          mistake="kernels are drawn from He's normal distribution", difference=INITIALISERS,
          quick=False),
    Fault("gained-init", LIGHTNING, "initialisation", "", "init-distribution",
          mistake="kernels are drawn with the gain of a leaky ReLU", difference=INITIALISERS,
          quick=False),
    Fault("he-init", TENSORFLOW, "initialisation", "hidden.kernel", "init-distribution",
          mistake="the dense kernels are drawn from He's uniform distribution",
          difference=INITIALISERS, quick=False),
    Fault("normal-init", TENSORFLOW, "initialisation", "conv", "init-distribution",
          mistake="the convolution kernels are drawn from Glorot's normal distribution",
          difference=INITIALISERS, quick=False),
    Fault("constant-bias", TENSORFLOW, "initialisation", "", "bias-not-zero",
          mistake="biases begin with 0.1"),
)

LAYER_FAULTS = (
    Fault("unpermuted-flatten", LIGHTNING, "layers", "forced.hidden", "flatten-order",
          mistake="the first dense kernel is carried over without permuting its rows",
          difference=FLATTEN),
    Fault("flatten-channels-first", TENSORFLOW, "layers", "forced.flatten", "flatten-order",
          mistake="Flatten is told channels_first, which permutes a channels-last map",
          difference=FLATTEN),
    Fault("transposed-kernel", LIGHTNING, "layers", "forced.", "kernel-transposed",
          mistake="height and width of the square kernels are exchanged", difference=KERNELS),
    Fault("flipped-kernel", LIGHTNING, "layers", "forced.", "kernel-flipped",
          mistake="the kernels are flipped, as for a convolution in the strict sense",
          difference=KERNELS),
    Fault("swapped-biases", LIGHTNING, "layers", "forced.", "weights-swapped",
          mistake="the biases of two layers of the same size are exchanged"),
    Fault("unloaded-layer", LIGHTNING, "layers", "forced.hidden", "weights-not-loaded",
          mistake="one layer is missed when weights are loaded, as with strict=False"),
    Fault("weights-not-loaded", TENSORFLOW, "layers", "forced.", "weights-not-loaded",
          mistake="Keras's own first weights are kept"),
    Fault("averaging-pool", LIGHTNING, "layers", "forced.pool2", "pool-average",
          mistake="one pool averages, whatever its settings say"),
    Fault("pool-from-the-start", TENSORFLOW, "layers", "forced.pool3", "pool-padding",
          mistake="the last pool is padded at the top and left", difference=SAME_POOL),
    Fault("hidden-activation-missing", LIGHTNING, "layers", "forced.hidden_act",
          "activation-missing",
          mistake="the hidden layer's activation is never called"),
    Fault("one-slope", LIGHTNING, "layers", "forced.pool2", "leaky-slope",
          mistake="one activation is functional, with torch's default slope",
          difference=SLOPE),
    Fault("one-slope", TENSORFLOW, "layers", "forced.hidden_act", "leaky-slope",
          mistake="one activation is functional, with Keras's default slope",
          difference=FUNCTIONAL_SLOPE, quick=False),
    Fault("reflected-border", LIGHTNING, "contract", "layers.conv3.padding", "conv-padding",
          mistake="one convolution pads by reflection", difference=PADDING),
    Fault("ignored-bias", TENSORFLOW, "layers", "forced.hidden", "missing-bias",
          mistake="the hidden layer's bias is there and never added"),
    Fault("float32-layer", LIGHTNING, "layers", "forced.conv3", "float32-inside-float64",
          mistake="one layer computes in float32", difference=PROMOTION),
    Fault("half-precision-layer", TENSORFLOW, "layers", "forced.hidden", "half-precision",
          mistake="one layer computes in bfloat16"),
    Fault("dropout-at-evaluation", LIGHTNING, "layers", "forced.hidden_drop",
          "dropout-at-evaluation",
          mistake="dropout is functional, without its mode: it drops at evaluation too",
          variant="dropout", difference=MODES),
    Fault("dropout-at-evaluation", TENSORFLOW, "layers", "forced.drop3", "dropout-at-evaluation",
          mistake="a dropout layer is called with training=True", variant="dropout",
          difference=MODES, quick=False),
)

LOSS_FAULTS = (
    Fault("log-softmax-output", LIGHTNING, "logits", "logits.", "softmax-output",
          mistake="the module returns log-probabilities, which cross_entropy leaves as they are",
          difference=CROSS_ENTROPY),
    Fault("squeezed-logits", LIGHTNING, "logits", "", "batch-axis-squeezed",
          mistake="`squeeze()` takes the batch axis of a single image away"),
    Fault("clipped-probabilities", LIGHTNING, "logits", "loss.saturated", "clipped-probabilities",
          mistake="the loss takes the logarithm of probabilities that are clipped to 1e-7",
          difference=CROSS_ENTROPY),
    Fault("float32-loss", TENSORFLOW, "logits", "loss.", "float32-inside-float64",
          mistake="the loss is computed in float32"),
    Fault("loss-over-classes", TENSORFLOW, "logits", "loss.", "mean-over-classes",
          mistake="the loss is divided by the number of classes too"),
    Fault("detached-block", LIGHTNING, "gradients", "gradient.", "zero-gradient",
          mistake="`detach()` cuts the first block off"),
    Fault("stopped-gradient", TENSORFLOW, "gradients", "gradient.", "zero-gradient",
          mistake="`stop_gradient` cuts the first block off", quick=False),
    Fault("float32-gradient", LIGHTNING, "gradients", "gradient.", "float32-inside-float64",
          mistake="the gradient passes through float32 on its way back"),
    Fault("gradient-at-zero", LIGHTNING, "gradients", "gradient.", "gradient-at-zero",
          mistake="an activation is written by hand with `>=`: its gradient at zero is 1",
          difference=AT_ZERO, is_explained=True),
)

STEP_FAULTS = (
    Fault("inside-epsilon", LIGHTNING, "optimizer", "step.1.weight.", "adam-epsilon-placement",
          mistake="ε is inside the bias correction, whatever the optimizer is called",
          difference=EPSILON),
    Fault("torch-formula", TENSORFLOW, "optimizer", "step.1.weight.", "adam-epsilon-placement",
          mistake="ε is inside the bias correction, whatever the optimizer is called",
          difference=EPSILON, quick=False),
    Fault("no-bias-correction", LIGHTNING, "optimizer", "step.1.weight.", "no-bias-correction",
          mistake="Adam does not correct its means for their start at zero"),
    Fault("kept-count", TENSORFLOW, "optimizer", "step.1.weight.", "no-bias-correction",
          mistake="slots are empty but the step count is an earlier training's"),
    Fault("stale-slots", LIGHTNING, "optimizer", "step.1.", "stale-optimizer-state",
          mistake="weights are loaded, slots and step count are an earlier training's"),
    Fault("stale-slots", TENSORFLOW, "optimizer", "step.1.", "stale-optimizer-state",
          mistake="weights are loaded, slots and step count are an earlier training's",
          quick=False),
    Fault("gradients-kept", LIGHTNING, "optimizer", "step.2.", "gradient-accumulation",
          mistake="gradients are never set to zero"),
    Fault("skipped-step", LIGHTNING, "optimizer", "step.2.", "optimizer-step-skipped",
          mistake="every second step is skipped, as by a loss scaler"),
    Fault("skipped-bias", TENSORFLOW, "optimizer", "step.1.", "frozen-bias",
          mistake="the optimizer takes no step for biases", difference=FROZEN, quick=False),
    Fault("warm-up", LIGHTNING, "optimizer", "step.1.weight.", "learning-rate",
          mistake="the learning rate rises over the first 100 steps", difference=SCHEDULES),
    Fault("clipping-by-hand", LIGHTNING, "optimizer", "step.1.", "clipped-gradients",
          mistake="a hook clips gradients by their global norm", difference=CLIPPING),
    Fault("unscaled-dropout", LIGHTNING, "dropout", "drop_own.drop1", "dropout-not-scaled",
          mistake="what dropout keeps is not scaled up", variant="dropout",
          difference=DROPOUT_MASKS),
    Fault("unscaled-dropout", TENSORFLOW, "dropout", "drop_own.hidden_drop", "dropout-not-scaled",
          mistake="what dropout keeps is not scaled up", variant="dropout",
          difference=DROPOUT_MASKS, quick=False),
    Fault("dropped-channels", LIGHTNING, "dropout", "drop_own.drop2", "spatial-dropout",
          mistake="whole channels are dropped", variant="dropout", difference=DROPOUT_MASKS),
    Fault("spatial-dropout", TENSORFLOW, "dropout", "drop_own.drop2", "spatial-dropout",
          mistake="whole channels are dropped", variant="dropout", difference=DROPOUT_MASKS,
          quick=False),
    Fault("keep-probability", TENSORFLOW, "dropout", "drop_own.drop1", "dropout-rate",
          mistake="the rate is taken for the share that is kept", variant="dropout",
          difference=DROPOUT_MASKS),
    Fault("dropout-never", TENSORFLOW, "dropout", "drop_own.drop3", "dropout-rate",
          mistake="a dropout layer is called with training=False in training", variant="dropout",
          difference=MODES),
)

EPOCH_FAULTS = (
    Fault("epoch-schedule", LIGHTNING, "optimizer", "step.6.weight.", "schedule-per-epoch",
          mistake="the learning rate is halved by hand after each epoch", difference=SCHEDULES),
    Fault("epoch-schedule", TENSORFLOW, "optimizer", "step.6.weight.", "schedule-per-epoch",
          mistake="the learning rate is halved by hand after each epoch", difference=SCHEDULES,
          quick=False),
    Fault("slots-lost", LIGHTNING, "optimizer", "step.6.", "optimizer-state-lost",
          mistake="each epoch begins with a new optimizer state"),
    Fault("first-weights-restored", TENSORFLOW, "training", "trained.", "evaluated-other-weights",
          mistake="the first epoch's weights are restored, as by a monitor of the wrong sign",
          quick=False),
    Fault("first-weights-predict", LIGHTNING, "training", "trained_logits",
          "evaluated-other-weights",
          mistake="predictions come from the first epoch's checkpoint"),
    Fault("permuted-predictions", LIGHTNING, "training", "trained_logits", "predictions-permuted",
          mistake="predictions are returned in another order"),
    Fault("shuffled-predictions", TENSORFLOW, "training", "trained_logits", "predictions-permuted",
          mistake="predictions are returned in another order", quick=False),
    Fault("predicted-probabilities", TENSORFLOW, "training", "trained_logits", "softmax-output",
          mistake="predictions are probabilities", difference=CROSS_ENTROPY, quick=False),
    Fault("unweighted-metrics", LIGHTNING, "evaluation", "history.", "metric-unweighted-mean",
          mistake="an epoch's loss is the mean of its batches' means", difference=METRICS),
    Fault("unweighted-accuracy", TENSORFLOW, "evaluation", "history.", "metric-unweighted-mean",
          mistake="an epoch's accuracy is the mean of its batches' means", difference=METRICS,
          quick=False),
    Fault("last-batch-accuracy", LIGHTNING, "evaluation", "history.val_accuracy",
          "metric-of-last-batch",
          mistake="the validation accuracy is the last batch's", difference=METRICS),
    Fault("validation-in-training-mode", LIGHTNING, "evaluation", "history.val_",
          "dropout-in-metrics",
          mistake="`eval()` is forgotten before validation", variant="dropout", difference=MODES),
)

SEAM_FAULTS = (
    Fault("last-step-left-out", LIGHTNING, "training", "seam.25.", UNKNOWN,
          mistake="no step is taken at the last of each 25 that come in one call"),
    Fault("last-step-left-out", TENSORFLOW, "training", "seam.25.", UNKNOWN,
          mistake="no step is taken at the last of each 25 that come in one call", quick=False),
    Fault("last-step-taken-twice", LIGHTNING, "training", "seam.25.", UNKNOWN,
          mistake="the last of each 25 steps that come in one call is taken twice", quick=False),
    Fault("last-step-taken-twice", TENSORFLOW, "training", "seam.25.", UNKNOWN,
          mistake="the last of each 25 steps that come in one call is taken twice", quick=False),
    Fault("partial-call-dropped", LIGHTNING, "training", "seam.52.", "steps-left-out",
          mistake="an epoch's last steps, fewer than 25, are left out"),
    Fault("partial-call-dropped", TENSORFLOW, "training", "seam.52.", UNKNOWN,
          mistake="an epoch's last steps, fewer than 25, are left out", quick=False),
    Fault("slots-reset-in-calls", LIGHTNING, "training", "seam.50.", UNKNOWN,
          mistake="each call of 25 steps begins with a new optimizer state", quick=False),
    Fault("slots-reset-in-calls", TENSORFLOW, "training", "seam.50.", UNKNOWN,
          mistake="each call of 25 steps begins with empty slots", quick=False),
    Fault("order-restarted-in-calls", LIGHTNING, "training", "seam.50.", UNKNOWN,
          mistake="each call of 25 steps begins with the epoch's first images", quick=False),
    Fault("order-restarted-in-calls", TENSORFLOW, "training", "seam.50.", UNKNOWN,
          mistake="each call of 25 steps begins with the epoch's first images", quick=False),
    Fault("masks-repeated-in-calls", LIGHTNING, "dropout", "drop_steps.", "dropout-masks-repeated",
          mistake="dropout is seeded at the start of each call of 25 steps", variant="dropout"),
    Fault("masks-repeated-in-calls", TENSORFLOW, "dropout", "drop_steps.",
          "dropout-masks-repeated",
          mistake="dropout is seeded at the start of each call of 25 steps", variant="dropout",
          quick=False),
    Fault("partial-validation-dropped", LIGHTNING, "evaluation", "history.val_", UNKNOWN,
          mistake="validation's last batches, fewer than 25, are left out"),
    Fault("partial-validation-dropped", TENSORFLOW, "evaluation", "history.val_", UNKNOWN,
          mistake="validation's last batches, fewer than 25, are left out", quick=False),
)

HARMLESS_FAULTS = (
    Fault("shared-ties", LIGHTNING,
          mistake="a pool by amax shares the gradient among equals, which all saw one patch",
          difference=TIES, is_harmless=True),
    Fault("xla", TENSORFLOW,
          mistake="TensorFlow compiles the step with XLA", quick=False, is_harmless=True),
    Fault("keras-json", TENSORFLOW,
          mistake="`keras.json` sets channels_first, float16, another ε and mixed precision",
          difference=KERAS_JSON, is_harmless=True),
    Fault("environment-limits", TENSORFLOW,
          mistake="the environment limits epochs and steps", difference=KERAS_JSON, quick=False,
          is_harmless=True),
    Fault("global-seeds", LIGHTNING,
          mistake="the global random generators are seeded otherwise", is_harmless=True),
)

# fmt: on

FAULTS: tuple[Fault, ...] = (
    *CONTRACT_FAULTS,
    *DATA_FAULTS,
    *BUILD_FAULTS,
    *LAYER_FAULTS,
    *LOSS_FAULTS,
    *STEP_FAULTS,
    *EPOCH_FAULTS,
    *SEAM_FAULTS,
    *HARMLESS_FAULTS,
)
"""All that are planted, in the ladder's order."""
