"""The map from Keras to Lightning: what its page says, and the lines and tests it links."""

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ladder.causes.contract import SETTINGS
from proof import catalogue
from proof.catalogue import FAULTS
from proof.ladder_report import table

ROOT = Path(__file__).resolve().parent.parent
KERAS_DEFAULTS = ("tests/keras/test_defaults.py", "test_a_default_is_what_the_map_says")
LIGHTNING_DEFAULTS = ("tests/lightning/test_defaults.py", "test_a_default_is_what_the_map_says")
CLIMB = ("parity_tests/test_ladder_climbs.py", "test_two_engines_are_the_same_computation")

Place = tuple[str, str]
"""A file and a snippet that stands in one of its lines and no other."""
Test = tuple[str, str]
"""A file and the name of a test function in it."""


@dataclass(frozen=True)
class Row:
    """One thing to mind in a port."""

    stage: str
    topic: str
    keras: str
    lightning: str
    differs: str
    """What differs where neither side is told anything."""
    write: str
    """What to write so that it does not."""
    places: tuple[Place, ...]
    """The line in each half."""
    tests: tuple[Test, ...]
    difference: str = ""
    """The catalogue's own words, whose planted faults the row lists."""


ROWS = (
    Row(
        "set-up",
        "seed",
        "`keras.utils.set_random_seed(seed)`",
        "`L.seed_everything(seed)` or `torch.manual_seed(seed)`",
        "equal seeds give other numbers: the generators are not the same",
        "carry first weights and sample order over as arrays, from one NumPy generator",
        (
            ("keras_impl/settings.py", "keras.utils.set_random_seed(recipe.seed)"),
            ("lightning_impl/settings.py", "torch.manual_seed(recipe.seed)"),
        ),
        (
            ("tests/test_network.py", "test_shared_first_weights_are_a_function_of_the_seed_alone"),
            ("tests/test_batches.py", "test_the_order_is_a_function_of_seed_and_epoch"),
        ),
    ),
    Row(
        "set-up",
        "settings from a file",
        "`~/.keras/keras.json` sets backend, floatx, ε and image format",
        "no such file",
        "the same program computes something else on another person's machine",
        "set each of them in the program",
        (
            ("keras_impl/settings.py", 'keras.config.set_image_data_format("channels_last")'),
            ("lightning_impl/settings.py", "def configure"),
        ),
        (("tests/keras/test_training.py", "test_no_keras_json_changes_a_bit"),),
        catalogue.KERAS_JSON,
    ),
    Row(
        "data",
        "image layout",
        "(N, H, W, C)",
        "(N, C, H, W)",
        "the axes",
        "permute where the batch is made; `permute` copies nothing and leaves torch's channels_last memory format",
        (
            ("keras_impl/data.py", "image_shape = batches.data.images.shape[1:]"),
            ("lightning_impl/data.py", "return torch.from_numpy(images_nhwc).permute(0, 3, 1, 2)"),
        ),
        (
            (
                "parity_tests/test_data.py",
                "test_each_half_feeds_the_batches_that_the_files_and_the_split_give",
            ),
        ),
    ),
    Row(
        "data",
        "batches and order",
        "`fit`: batches of 32, shuffled; a PyDataset's batches are shuffled as wholes",
        "`DataLoader`: batches of 1, not shuffled",
        "size and order; the last, smaller batch is kept on both sides",
        "one source of order for both; `shuffle=False` in `fit`, a sampler in the `DataLoader`",
        (
            ("keras_impl/train.py", "shuffle=False,  # the order"),
            ("lightning_impl/data.py", "sampler=EpochSampler(batches)"),
        ),
        (
            KERAS_DEFAULTS,
            LIGHTNING_DEFAULTS,
            (
                "parity_tests/test_data.py",
                "test_every_engine_feeds_them_in_both_epochs_on_both_paths",
            ),
        ),
        catalogue.FIT_SHUFFLE,
    ),
    Row(
        "data",
        "validation split",
        "`validation_split` takes the last part, unshuffled",
        "`random_split` draws",
        "which images validate",
        "split once, outside both frameworks, and hand the parts over",
        (
            ("keras_impl/train.py", "validation = evaluation_batches(data.validation, recipe)"),
            (
                "lightning_impl/data.py",
                "batches = evaluation_batches(self.data.validation, self.recipe)",
            ),
        ),
        (("tests/test_batches.py", "test_the_split_is_scikit_learns"),),
        catalogue.SPLIT,
    ),
    Row(
        "data",
        "scaling",
        "division in the run's own dtype, where you write it",
        "`ToTensor` divides by 255 in float32",
        "nothing in float32; rounding in float64",
        "divide in the dtype of the run, after the cast",
        (
            ("keras_impl/data.py", "return self.batches[index]"),
            ("lightning_impl/data.py", "images_nhwc, one_hot = self.batches[index]"),
        ),
        (("tests/test_batches.py", "test_pixels_are_divided_by_255_in_their_dtype"),),
        catalogue.SCALING,
    ),
    Row(
        "model",
        "padding of convolutions",
        '`padding="valid"`',
        "`padding=0`",
        "nothing: neither pads",
        '`padding="same"` on both sides; with stride 1 and an odd kernel it is the same',
        (
            ("keras_impl/model.py", "keras.layers.Conv2D("),
            ("lightning_impl/model.py", "nn.Conv2d(channels"),
        ),
        (
            KERAS_DEFAULTS,
            LIGHTNING_DEFAULTS,
            ("parity_tests/test_architecture.py", "test_the_layer_tables_match"),
        ),
        catalogue.PADDING,
    ),
    Row(
        "model",
        "pools of odd size",
        '`padding="same"` pads right and bottom: 7×7 becomes 4×4',
        "`padding=1` pads on both sides",
        "nothing, as neither pads; where both are told to, 4×4 on both sides with other values in it",
        "`nn.MaxPool2d(2, ceil_mode=True)`",
        (
            ("keras_impl/model.py", "keras.layers.MaxPooling2D("),
            ("lightning_impl/model.py", "nn.MaxPool2d(recipe.pool_size, ceil_mode=True)"),
        ),
        (
            LIGHTNING_DEFAULTS,
            ("parity_tests/test_logits.py", "test_weights_carried_over_give_the_same_logits"),
        ),
        catalogue.SAME_POOL,
    ),
    Row(
        "model",
        "LeakyReLU",
        "slope 0.3",
        "slope 0.01",
        "the slope",
        "name it on both sides",
        (
            ("keras_impl/model.py", 'name=f"act{block}"'),
            ("lightning_impl/model.py", 'layers[f"act{block}"]'),
        ),
        (KERAS_DEFAULTS, LIGHTNING_DEFAULTS),
        catalogue.SLOPE,
    ),
    Row(
        "model",
        "flatten",
        "rows in H, W, C order",
        "rows in C, H, W order",
        "the rows of the first dense kernel",
        "permute the rows of that kernel when weights are carried over; nothing while training from scratch",
        (
            ("keras_impl/model.py", "keras.layers.Flatten("),
            ("lightning_impl/weights.py", 'if layer == "hidden":  # torch flattens'),
        ),
        (("parity_tests/test_logits.py", "test_a_planted_fault_is_caught"),),
        catalogue.FLATTEN,
    ),
    Row(
        "model",
        "kernels",
        "(H, W, in, out) and (in, out)",
        "(out, in, H, W) and (out, in)",
        "the axes",
        "transpose by meaning, never because a shape then fits",
        (
            ("keras_impl/weights.py", "variable.assign(weights[name])"),
            ("lightning_impl/weights.py", "array = array.transpose(3, 2, 0, 1)"),
        ),
        (
            (
                "parity_tests/test_logits.py",
                "test_weights_survive_the_way_in_and_out_to_the_last_bit",
            ),
        ),
        catalogue.KERNELS,
    ),
    Row(
        "model",
        "first weights",
        "Glorot uniform kernels, zero biases",
        "U(±1/√fan_in) for both",
        "width and biases",
        "`nn.init.xavier_uniform_` and `nn.init.zeros_`",
        (
            ("keras_impl/model.py", "keras.layers.Dense(recipe.hidden_units"),
            ("lightning_impl/model.py", "nn.init.xavier_uniform_(module.weight)"),
        ),
        (
            KERAS_DEFAULTS,
            (
                "tests/lightning/test_defaults.py",
                "test_first_weights_are_of_one_width_and_biases_are_not_zero",
            ),
            (
                "parity_tests/test_initialisation.py",
                "test_both_frameworks_draw_from_one_distribution",
            ),
        ),
        catalogue.INITIALISERS,
    ),
    Row(
        "model",
        "batch normalisation",
        "`momentum=0.99` is what is kept, ε 1e-3; the moving variance is that of the batch",
        "`momentum=0.1` is what is taken in, ε 1e-5; the running variance divides by N − 1",
        "how fast the averages move, ε, and the variance of small batches",
        "torch's momentum is 1 minus Keras's; name ε. The variance's factor stays. This network has none",
        (
            ("keras_impl/model.py", "def build_model("),
            ("lightning_impl/model.py", "def build_model("),
        ),
        (
            ("tests/keras/test_defaults.py", "test_batch_normalisation_keeps_99_parts_of_100"),
            ("tests/lightning/test_defaults.py", "test_batch_normalisation_takes_in_a_tenth"),
        ),
    ),
    Row(
        "compile",
        "loss",
        "`CategoricalCrossentropy` takes probabilities",
        "`cross_entropy` takes logits",
        "what the model must end in",
        "logits on both sides: `from_logits=True`, and no softmax",
        (
            ("keras_impl/train.py", "CategoricalCrossentropy(from_logits=True)"),
            ("lightning_impl/model.py", "functional.cross_entropy(logits, one_hot)"),
        ),
        (KERAS_DEFAULTS, CLIMB),
        catalogue.CROSS_ENTROPY,
    ),
    Row(
        "compile",
        "Adam's ε",
        "1e-7, outside the bias correction",
        "1e-8, inside it",
        "value and formula: the first steps are the most unlike",
        "torch's ε at step t is Keras's divided by √(1 − β₂ᵗ)",
        (
            ("keras_impl/train.py", "epsilon=recipe.epsilon"),
            ("lightning_impl/optimizer.py", 'group["eps"] = group["epsilon"]'),
        ),
        (
            KERAS_DEFAULTS,
            LIGHTNING_DEFAULTS,
            ("tests/keras/test_optimizer.py", "test_kerass_adam_is_its_formula"),
            ("tests/lightning/test_optimizer.py", "test_torchs_adam_takes_others"),
        ),
        catalogue.EPSILON,
    ),
    Row(
        "compile",
        "learning-rate schedules",
        "a schedule object counts steps; `LearningRateScheduler` counts epochs",
        '`configure_optimizers` returns a scheduler, stepped once an epoch (`interval="epoch"`)',
        "a schedule that is carried over as it is runs through in as many epochs as it should take steps",
        '`{"scheduler": …, "interval": "step"}`, and lengths in steps. This project\'s rate is constant',
        (
            ("keras_impl/train.py", "learning_rate=recipe.learning_rate,"),
            ("lightning_impl/model.py", "learning_rate=recipe.learning_rate,"),
        ),
        (
            ("tests/keras/test_defaults.py", "test_a_schedule_counts_steps"),
            ("tests/lightning/test_defaults.py", "test_a_scheduler_is_stepped_by_epoch"),
        ),
    ),
    Row(
        "compile",
        "gradient clipping",
        "`clipnorm` of the optimizer: each variable's gradient by its own norm; `global_clipnorm`: all by one",
        "`gradient_clip_val` of the Trainer: all by one norm",
        "nothing is clipped by default; equal-sounding arguments clip other gradients",
        "`global_clipnorm` in Keras. With manual optimization call `self.clip_gradients`. This project clips none",
        (
            ("keras_impl/train.py", "epsilon=recipe.epsilon,"),
            ("lightning_impl/model.py", "epsilon=recipe.epsilon,"),
        ),
        (
            ("tests/keras/test_defaults.py", "test_clipnorm_is_of_each_variable_by_itself"),
            ("tests/lightning/test_defaults.py", "test_gradients_are_clipped_by_one_norm"),
        ),
    ),
    Row(
        "fit",
        "epochs",
        "`fit`: 1",
        "`Trainer`: 1,000, with a warning",
        "the length",
        "name it",
        (
            ("keras_impl/train.py", "epochs=recipe.num_epochs"),
            ("lightning_impl/train.py", "max_epochs=recipe.num_epochs"),
        ),
        (KERAS_DEFAULTS, LIGHTNING_DEFAULTS),
    ),
    Row(
        "fit",
        "validation before training",
        "none",
        "two sanity batches",
        "hooks and metrics that run before epoch 0",
        "`num_sanity_val_steps=0`",
        (
            ("keras_impl/train.py", "validation_data="),
            ("lightning_impl/train.py", "num_sanity_val_steps=0"),
        ),
        (("tests/lightning/test_defaults.py", "test_a_trainer_fills_in_what_is_none"),),
    ),
    Row(
        "fit",
        "training mode",
        "`training` is handed down the call; `model(x)` does not drop",
        "a mode in each module; `module(x)` drops until `eval()`",
        "dropout outside the loops",
        "`validate` and `predict` set it; `fit` keeps what it finds, so `module.train()` before it, and `module.eval()` by hand",
        (
            ("keras_impl/train.py", "logits = model.predict(batches, verbose=0)"),
            ("lightning_impl/train.py", "batches = trainer.predict("),
        ),
        (
            ("tests/keras/test_defaults.py", "test_called_outside_fit_a_model_does_not_drop"),
            ("tests/lightning/test_defaults.py", "test_a_module_drops_until_eval_is_called"),
            ("tests/lightning/test_defaults.py", "test_fit_keeps_the_mode_that_it_finds"),
        ),
        catalogue.MODES,
    ),
    Row(
        "callbacks",
        "EarlyStopping",
        "watches `val_loss`, patience 0, keeps the last weights",
        "`monitor` must be named, patience 3, never restores weights",
        "when it stops; only Keras can restore the best weights (`restore_best_weights=True`)",
        "name monitor and patience; restore from a checkpoint. This project stops by epochs alone",
        (
            ("keras_impl/train.py", "def _checkpoints_and_logs"),
            ("lightning_impl/train.py", "def _checkpoints(run_dir"),
        ),
        (KERAS_DEFAULTS, LIGHTNING_DEFAULTS),
    ),
    Row(
        "logging",
        "an epoch's values",
        "running means weighted by batch size",
        "`self.log(on_epoch=True)` weights by a batch size that it guesses from the batch",
        "the last, smaller batch",
        "`batch_size=` in `self.log`, or a metric object that counts",
        (
            ("keras_impl/train.py", 'keras.metrics.CategoricalAccuracy(name="accuracy")'),
            ("lightning_impl/model.py", "mean_loss.update(loss, len(images))"),
        ),
        (("tests/test_ladder.py", "test_reported_metrics_are_worked_out_again"),),
        catalogue.METRICS,
    ),
    Row(
        "logging",
        "trackers",
        "callbacks: `CSVLogger`, `TensorBoard`; epochs count from 0",
        "loggers: `CSVLogger` or, where it is installed, `TensorBoardLogger` by default; the axis counts steps",
        "curves of the two do not lie over each other; `keras.callbacks.TensorBoard` loads TensorFlow on every backend",
        "one writer for both, handed an epoch's metrics by a callback here and a logger there",
        (
            ("keras_impl/tracking.py", "class TrackingCallback(keras.callbacks.Callback)"),
            ("lightning_impl/tracking.py", "class TrackingLogger(Logger)"),
        ),
        (
            ("tests/test_tracking.py", "test_a_run_that_goes_on_doubles_no_step_and_lacks_none"),
            ("tests/keras/test_training.py", "test_a_resumed_run_is_followed_as_one"),
            ("tests/lightning/test_training.py", "test_a_resumed_run_is_followed_as_one"),
        ),
    ),
    Row(
        "checkpoints",
        "what is kept",
        "nothing without a callback; `ModelCheckpoint` saves after each epoch, `save_best_only=False`",
        "one `ModelCheckpoint` by itself, which keeps the last epoch",
        "files appear in Lightning that nobody asked for",
        "`ModelCheckpoint` on both sides with monitor and mode, or `enable_checkpointing=False`",
        (
            ("keras_impl/train.py", 'WholeCheckpoint(folder / "last.keras")'),
            ("lightning_impl/train.py", 'ModelCheckpoint(folder, "best", monitor="val_loss"'),
        ),
        (
            KERAS_DEFAULTS,
            LIGHTNING_DEFAULTS,
            ("tests/lightning/test_defaults.py", "test_a_trainer_fills_in_what_is_none"),
        ),
    ),
    Row(
        "checkpoints",
        "going on",
        "`initial_epoch` and a state that you restore",
        "`trainer.fit(ckpt_path=…)`",
        "order and dropout after the break",
        "derive both from (seed, epoch)",
        (
            ("keras_impl/train.py", "initial_epoch=first_epoch"),
            ("lightning_impl/train.py", "ckpt_path=_restore(journal)"),
        ),
        (
            ("tests/keras/test_training.py", "test_a_resumed_run_ends_with_the_same_bits"),
            ("tests/lightning/test_training.py", "test_a_resumed_run_ends_with_the_same_bits"),
        ),
    ),
    Row(
        "evaluate",
        "test result",
        "`model.evaluate`",
        "`trainer.test`",
        "two implementations of loss and accuracy",
        "take the logits of both and compute one result from them, in float64",
        (
            ("keras_impl/train.py", "def predict_logits("),
            ("lightning_impl/train.py", "def predict_logits("),
        ),
        (("tests/test_evaluation.py", "test_loss_and_accuracy_are_those_of_scikit_learn"),),
    ),
    Row(
        "predict",
        "what comes back",
        "one NumPy array",
        "a list of what `predict_step` returned, a batch each",
        "the form",
        "`torch.cat` over the list; the order is the loader's",
        (
            ("keras_impl/train.py", "return np.asarray(logits"),
            ("lightning_impl/train.py", "logits = torch.cat("),
        ),
        (("parity_tests/test_logits.py", "test_weights_carried_over_give_the_same_logits"),),
    ),
    Row(
        "export",
        "a file that runs elsewhere",
        "`model.export(path, format=...)` traces a call: a SavedModel on TensorFlow, ONNX on torch; "
        "`model.save(path)` keeps the model itself",
        "`torch.export.export` of the network, saved as `.pt2`; `torch.onnx.export` of that program",
        "Keras's file takes (N, H, W, C), torch's (N, C, H, W); in torch the batch's size is fixed "
        "to the example's, and dropout exported as it stands, unless told otherwise",
        '`Dim("batch")` and `.eval()` in torch; say which layout a file takes, and run it '
        "against the logits before it is called exported",
        (
            ("keras_impl/deploy.py", "model.export(path, format="),
            ("lightning_impl/deploy.py", "program = torch.export.export("),
        ),
        (("tests/test_export.py", "test_each_form_gives_the_runs_logits"),),
    ),
    Row(
        "precision",
        "float64",
        "`set_floatx`; outside TensorFlow, type promotion makes float32 of float64 products",
        '`precision="64-true"`, all in double',
        "dense layers of a float64 model, on JAX and torch",
        "put the promotion's table right, as here",
        (
            ("keras_impl/settings.py", 'dtypes.BIT64_TO_BIT32_DTYPE["float64"] = "float64"'),
            ("lightning_impl/train.py", "module.double()"),
        ),
        (
            (
                "parity_tests/test_ladder_climbs.py",
                "test_the_keras_backends_are_the_same_computation",
            ),
        ),
        catalogue.PROMOTION,
    ),
    Row(
        "precision",
        "TensorFloat-32 on GPUs",
        "TensorFlow: on",
        "on in cuDNN's convolutions, off in matrix products",
        "how many bits of a factor count: 10 or 23",
        "set it on both sides",
        (
            ("keras_impl/settings.py", "enable_tensor_float_32_execution(execution.tf32)"),
            (
                "lightning_impl/settings.py",
                "torch.backends.cuda.matmul.allow_tf32 = execution.tf32",
            ),
        ),
        (
            ("tests/keras/test_defaults.py", "test_tensor_float_32_is_on_in_tensorflow"),
            ("tests/lightning/test_defaults.py", "test_tensor_float_32_is_on_in_cudnn_alone"),
        ),
    ),
    Row(
        "multi-device",
        "how many",
        "one, unless a distribution is set",
        '`devices="auto"`: every GPU it sees',
        "the batch: each of Lightning's devices takes one of its own",
        "`devices=1`. This project trains on one device and has tried no more",
        (
            ("keras_impl/settings.py", "def _configure_tensorflow"),
            ("lightning_impl/train.py", '"devices": 1'),
        ),
        (LIGHTNING_DEFAULTS,),
    ),
    Row(
        "determinism",
        "same bits twice",
        "`tf.config.experimental.enable_op_determinism()`, by backend",
        "`Trainer(deterministic=True)`",
        "off on both sides",
        "`--deterministic`",
        (
            ("keras_impl/settings.py", "tf.config.experimental.enable_op_determinism()"),
            ("lightning_impl/train.py", "deterministic=execution.deterministic"),
        ),
        (
            LIGHTNING_DEFAULTS,
            (
                "tests/keras/test_training.py",
                "test_a_script_trains_to_the_same_bits_and_says_little",
            ),
            (
                "tests/lightning/test_training.py",
                "test_a_script_trains_to_the_same_bits_and_says_little",
            ),
        ),
    ),
    Row(
        "determinism",
        "dropout",
        "a generator in each layer",
        "torch's global generator",
        "masks, whatever the seed",
        "for proofs, masks from NumPy in both; for training, seed anew each epoch",
        (
            ("keras_impl/train.py", "layer.seed_generator.state.assign([seed, 0])"),
            ("lightning_impl/model.py", "torch.manual_seed(dropout_seed("),
        ),
        (("tests/test_following.py", "test_masks_follow_from_seed_epoch_step_and_layer"),),
        catalogue.DROPOUT_MASKS,
    ),
)


def map_page() -> Iterator[str]:
    """Yield the lines of the page."""
    yield "# From Keras to Lightning: the map"
    yield ""
    yield (
        "Stage by stage: how each framework does it, what differs where neither is told anything, "
        "and what to write so that it does not. Each row links the lines in both halves of this "
        "project and a test that shows it; planted faults that belong to a row are in "
        "[the catalogue](faults.md). The page is made by `make readme` from "
        "[`proof/porting_map.py`](../proof/porting_map.py); line numbers are computed, and a test "
        "fails when a line or test that is linked is gone."
    )
    for stage in dict.fromkeys(row.stage for row in ROWS):
        yield ""
        yield f"## {stage.capitalize()}"
        for row in ROWS:
            if row.stage == stage:
                yield ""
                yield from _row_lines(row)
    yield ""
    yield "## Settings that the ladder compares by name"
    yield ""
    yield (
        "`make prove` reads these off the built objects of both sides. Where one differs, the "
        "finding has the name beside it ([`contract.py`](../ladder/causes/contract.py))."
    )
    yield ""
    shown = ((_setting(pattern), f"`{cause}`") for pattern, cause in SETTINGS.items())
    yield from table(("setting", "named"), [[*row] for row in shown])


def _row_lines(row: Row) -> Iterator[str]:
    yield f"### {row.topic[0].upper()}{row.topic[1:]}"
    yield ""
    lines = [link_to_line(*place) for place in row.places]
    yield from table(("Keras", "Lightning"), [[row.keras, row.lightning], lines])
    yield ""
    yield f"- Differs by default: {row.differs}."
    yield f"- Write: {row.write}."
    yield f"- Shown by: {', '.join(link_to_test(*test) for test in row.tests)}."
    names = sorted(
        {
            fault.name
            for fault in FAULTS
            if row.difference == fault.difference and not fault.is_harmless
        }
    )
    if row.difference and names:
        yield f"- Planted mistakes: {', '.join(f'`{name}`' for name in names)}."


def _setting(pattern: str) -> str:
    plain = pattern.replace(r"[^.]+", "*").replace("(moving_)?", "").replace("\\.", ".")
    return f"`{plain}`"


def link_to_line(path: str, snippet: str) -> str:
    """Return a link to the one line of a file that holds the snippet.

    Raises:
        ValueError: no line holds it, or several do.
    """
    lines = (ROOT / path).read_text().splitlines()
    found = [number for number, line in enumerate(lines, 1) if snippet in line]
    if len(found) != 1:
        raise ValueError(f"`{snippet}` must stand in one line of {path}; it stands in {found}")
    return f"[{path}:{found[0]}](../{path}#L{found[0]})"


def link_to_test(path: str, name: str) -> str:
    """Return a link to a test.

    Raises:
        ValueError: the file has no such test.
    """
    for node in ast.parse((ROOT / path).read_text()).body:
        if isinstance(node, ast.FunctionDef) and node.name == name:
            return f"[{name.removeprefix('test_').replace('_', ' ')}](../{path}#L{node.lineno})"
    raise ValueError(f"{path} has no test {name}")
