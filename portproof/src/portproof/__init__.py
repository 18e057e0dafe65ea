"""Tell whether a PyTorch module computes what a Keras model does."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from portproof.checking import CheckError, Difference, PortError, Verdict, check

__all__ = ["CheckError", "Difference", "PortError", "Verdict", "check"]


def __getattr__(name: str) -> Any:
    """Import what is asked for: who only wants `ladder.files` shall not wait for NumPy."""
    if name not in __all__:
        raise AttributeError(f"module 'portproof' has no attribute {name!r}")
    from portproof import checking

    return getattr(checking, name)
