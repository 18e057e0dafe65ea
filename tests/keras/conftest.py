"""Keras reads its environment when it is first imported, so it is set before any test is."""

import os

os.environ.update({"KERAS_BACKEND": "tensorflow", "KERAS_HOME": os.devnull})
