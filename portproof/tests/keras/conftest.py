"""What Keras reads when it is first imported."""

import os

os.environ.update({"KERAS_BACKEND": "tensorflow", "KERAS_HOME": os.devnull})
