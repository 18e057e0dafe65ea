"""Tell whether a PyTorch module computes what a Keras model does."""

from portproof.check import CheckError, PortError, Verdict, check

__all__ = ["CheckError", "PortError", "Verdict", "check"]
