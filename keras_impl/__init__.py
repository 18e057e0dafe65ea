"""The Keras implementation."""

import os
import sys

NOT_NEEDED = ("IPython", "jax", "matplotlib", "pandas", "sklearn")
"""What `import keras` loads on any backend, where it is installed, for parts not used here."""


def _import_keras() -> None:
    """Import Keras without what it does not need, which takes a quarter of the time."""
    # Unset, the backend is what `keras.json` says, which may be JAX.
    needed = {os.environ.get("KERAS_BACKEND", "jax"), *sys.modules}
    hidden = [name for name in NOT_NEEDED if name not in needed]
    sys.modules |= dict.fromkeys(hidden)  # type: ignore[arg-type]  # None: there is no such module
    try:
        import keras  # noqa: F401
    finally:
        for name in hidden:
            del sys.modules[name]


_import_keras()
