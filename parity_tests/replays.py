"""Public threads in which Keras and PyTorch, or two backends, disagree, reduced to the two pairs.

Each row says what to plant where, so that the same disagreement arises and the ladder, or portproof
for the second pair, can be asked for its cause.
"""

from dataclasses import dataclass
from typing import Literal

Pair = Literal["tutorial", "strided"]


@dataclass(frozen=True)
class Replay:
    """One thread and its reduction."""

    name: str
    thread_title: str
    thread_url: str
    reported: str
    """What the reporter saw."""
    pair: Pair
    engine: str
    """Where the mutant is planted; it is compared with the other framework."""
    mutant: str
    """Name in the pair's and framework's catalogue; empty where the engine itself is at fault."""
    cause: str
    """The ladder's name of it, or a part of `portproof`'s sentence."""
    rung: str
    """The first rung where the numbers part; of the second pair, in what."""
    variant: str = ""
    """What both sides of the strided pair are changed by first, to where the trouble is."""


GITHUB = "https://github.com"

REPLAYS: tuple[Replay, ...] = (
    Replay(
        name="strided-padding",
        thread_title="Conv2D Layer in PyTorch and Keras. Issue with padding elements.",
        thread_url=f"{GITHUB}/keras-team/keras/issues/19291",
        reported="3×3, stride 2, padding 1 in torch and 'same' in Keras: one shape, other values",
        pair="strided",
        engine="lightning",
        mutant="symmetric-padding",
        cause="padding [0, 1] | [1, 1]",
        rung="padding",
    ),
    Replay(
        name="running-variance",
        thread_title=(
            "RF BatchNorm running var small diff between TF-layers, pure RF and direct PyTorch, "
            "biased vs unbiased"
        ),
        thread_url=f"{GITHUB}/rwth-i6/returnn/issues/1539",
        reported="torch's running variance is larger than TensorFlow's by n / (n - 1)",
        pair="strided",
        engine="lightning",
        mutant="torch-batchnorm",
        cause="a biased variance in the reference",
        rung="statistics",
    ),
    Replay(
        name="norm-momentum",
        thread_title="About BatchNorm",
        thread_url=f"{GITHUB}/r9y9/tacotron_pytorch/issues/19",
        reported="a port kept TensorFlow's momentum of 0.99, which torch reads the other way round",
        pair="strided",
        engine="lightning",
        mutant="keras-momentum",
        cause="momentum 0.99 | 0.01",
        rung="statistics",
    ),
    Replay(
        name="norm-momentum-back",
        thread_title="momentum in batchnorm function is wrong. It should be 0.9",
        thread_url=f"{GITHUB}/affinelayer/pix2pix-tensorflow/issues/126",
        reported="a port to TensorFlow kept torch's momentum of 0.1, read the other way round",
        pair="strided",
        engine="keras-tensorflow",
        mutant="torch-momentum",
        cause="momentum 0.01 | 0.99",
        rung="statistics",
    ),
    Replay(
        name="norm-epsilon",
        thread_title="Fix Batch Normalization",
        thread_url=f"{GITHUB}/gzuidhof/nn-transfer/pull/3",
        reported="with ε 1e-3 in Keras and 1e-5 in torch, large networks' outputs part",
        pair="strided",
        engine="lightning",
        mutant="torch-epsilon",
        cause="epsilon 0.001 | 1e-05",
        rung="epsilon",
    ),
    Replay(
        name="norm-mode",
        thread_title="Why does Keras BatchNorm produce different output than PyTorch?",
        thread_url="https://coderapp.vercel.app/answer/69294892",
        reported="the same ones through a fresh BatchNorm: about 1 in Keras, 0 in torch",
        pair="strided",
        engine="lightning",
        mutant="always-training",
        cause="normalised by moving statistics | the batch",
        rung="normalised by",
    ),
    Replay(
        name="counted-padding",
        thread_title="averagePooling2d SAME padding issue",
        thread_url=f"{GITHUB}/tf-encrypted/tf-encrypted/issues/75",
        reported="average pooling with padding: torch's default counts the zeros, TensorFlow not",
        pair="strided",
        engine="lightning",
        mutant="counted-padding",
        cause="An average that leaves padding out of the count in the reference",
        rung="between",
    ),
    Replay(
        name="uneven-pool",
        thread_title='Torch backend does not support "same" padding in average pooling',
        thread_url=f"{GITHUB}/keras-team/keras/issues/18452",
        reported="average pooling padded unevenly differs between Keras's torch backend and others",
        pair="strided",
        engine="keras-torch",
        mutant="",
        cause="pads behind alone by its outermost values again",
        rung="between",
        variant="uneven-pool",
    ),
    Replay(
        name="adam-decay",
        thread_title="Weight_decay in torch.Adam",
        thread_url=f"{GITHUB}/pytorch/pytorch/issues/48793",
        reported="Adam's weight_decay was documented as decoupled and is L2 in the gradient",
        pair="strided",
        engine="lightning",
        mutant="coupled-decay",
        cause="weight decay is part of the gradient in the suspect",
        rung="update",
    ),
    Replay(
        name="decay-exceptions",
        thread_title="LayerNorm not excluded from weight decay in TF",
        thread_url=f"{GITHUB}/huggingface/transformers/issues/4360",
        reported="TensorFlow's version decays normalisation parameters that torch's spares",
        pair="strided",
        engine="keras-tensorflow",
        mutant="decayed-biases",
        cause="weight decay is of all weights in the reference",
        rung="update",
    ),
    Replay(
        name="clipped-apart",
        thread_title=(
            "Gradient clipping by norm has different semantics in tf.keras.optimizers against "
            "keras.optimizers"
        ),
        thread_url=f"{GITHUB}/tensorflow/tensorflow/issues/29108",
        reported="`clipnorm` clips each variable in one Keras and by the global norm in the other",
        pair="strided",
        engine="keras-tensorflow",
        mutant="clipped-apart",
        cause="clipped by each gradient's norm, at most 1 | a hook of its own",
        rung="update",
    ),
    Replay(
        name="schedule-interval",
        thread_title="lr_scheduler step() called after every epoch instead of after every batch",
        thread_url=f"{GITHUB}/Lightning-AI/pytorch-lightning/issues/5631",
        reported="a schedule meant for steps leaves the learning rate constant within an epoch",
        pair="strided",
        engine="lightning",
        mutant="schedule-per-epoch",
        cause="learning rate 0.00193149 | 0.002: each weight moves",
        rung="update",
    ),
    Replay(
        name="momentum-schedule",
        thread_title="Align momentum optimizer with conventional parameterization and add Nesterov",
        thread_url=f"{GITHUB}/jax-ml/jax/pull/1528",
        reported="Keras's and torch's momentum agree until the learning rate changes",
        pair="strided",
        engine="lightning",
        mutant="torch-momentum-sgd",
        cause="the learning rate is part of SGD's velocity in Keras",
        rung="update",
        variant="momentum-sgd",
    ),
    Replay(
        name="adam-epsilon",
        thread_title="Adam (and other adaptive algorithms) use epsilon the wrong way",
        thread_url=f"{GITHUB}/keras-team/keras/issues/17391",
        reported="Keras's ε is divided by √(1-β₂ᵗ) against the paper's and torch's",
        pair="tutorial",
        engine="lightning",
        mutant="torch-adam",
        cause="ε beside √v in Keras's Adam",
        rung="optimizer",
    ),
    Replay(
        name="float64-dense",
        thread_title=(
            "torch: float64 `Dense` returns float32 since #23225, and float64 handling on torch "
            "is inconsistent"
        ),
        thread_url=f"{GITHUB}/keras-team/keras/issues/23704",
        reported="a float64 Dense on Keras's torch backend computes in float32, without a warning",
        pair="tutorial",
        engine="keras-torch",
        mutant="float32-promotion",
        cause="float32-inside-float64",
        rung="layers",
    ),
    Replay(
        name="flatten-order",
        thread_title="Transfer Conv2D layers from Keras to Pytorch Give a Wrong Result",
        thread_url=(
            "https://discuss.pytorch.org/t/"
            "transfer-conv2d-layers-from-keras-to-pytorch-give-a-wrong-result/184306"
        ),
        reported="weights carried over from Keras give other outputs once a convolution is there",
        pair="tutorial",
        engine="lightning",
        mutant="unpermuted-flatten",
        cause="the same rows in another order",
        rung="layers",
    ),
    Replay(
        name="flipped-kernels",
        thread_title="No need to convert kernel between TF and CNTK in weight loading",
        thread_url=f"{GITHUB}/keras-team/keras/pull/7910",
        reported="kernels flipped on loading, as for Theano, spoil predictions elsewhere",
        pair="tutorial",
        engine="lightning",
        mutant="flipped-kernel",
        cause="kernels read backwards on each axis",
        rung="layers",
    ),
    Replay(
        name="first-weights",
        thread_title="Replicate initialization from tensorflow",
        thread_url=f"{GITHUB}/yenchenlin/nerf-pytorch/pull/21",
        reported="a port starts from torch's own first weights where the original has Glorot's",
        pair="tutorial",
        engine="lightning",
        mutant="torch-init",
        cause="init-distribution",
        rung="initialisation",
    ),
    Replay(
        name="leaky-slope",
        thread_title='Leaky ReLU - "negative slope" naming issue',
        thread_url=f"{GITHUB}/pytorch/pytorch/issues/83821",
        reported="the slope's default is 0.3 in Keras and 0.01 in torch",
        pair="tutorial",
        engine="lightning",
        mutant="torch-slope",
        cause="Leaky ReLU with slope 0.1",
        rung="layers",
    ),
    Replay(
        name="pooled-shapes",
        thread_title="I think it should be ceil_mode=True",
        thread_url=f"{GITHUB}/hassony2/kinetics_i3d_pytorch/issues/4",
        reported="odd maps come out one pixel smaller than with TensorFlow's 'same' pooling",
        pair="tutorial",
        engine="keras-tensorflow",
        mutant="valid-pool",
        cause="unmatched kernel (1152, 128)",
        rung="architecture",
    ),
    Replay(
        name="softmax-twice",
        thread_title="Understanding the softmax output layer of RNN",
        thread_url=(
            "https://whosebug.com/question/3988429/Understanding-the-softmax-output-layer-of-RNN"
        ),
        reported="98.6 % in Keras, 71 % in torch, until the softmax before the loss is removed",
        pair="tutorial",
        engine="lightning",
        mutant="softmax-before-loss",
        cause="what goes into cross_entropy are probabilities already",
        rung="logits",
    ),
    Replay(
        name="clipped-probabilities",
        thread_title="Inconsistent calculations in CategoricalCrossentropy using logits",
        thread_url=f"{GITHUB}/keras-team/keras/issues/17634",
        reported="on large logits the loss of their softmax is not the loss of the logits",
        pair="tutorial",
        engine="lightning",
        mutant="clipped-probabilities",
        cause="clipped-probabilities",
        rung="logits",
    ),
    Replay(
        name="epoch-mean",
        thread_title="Smaller last batch skews Train/EvalResult",
        thread_url=f"{GITHUB}/Lightning-AI/pytorch-lightning/issues/2924",
        reported="an epoch's value counts a last batch of 10 as much as one of 256",
        pair="tutorial",
        engine="lightning",
        mutant="unweighted-metrics",
        cause="metric-unweighted-mean",
        rung="evaluation",
    ),
)
