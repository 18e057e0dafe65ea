"""Causes: what would explain that two traces part, where a known cause fits.

One module a subject; each cause is a small function from evidence to diagnoses, registered under
the rungs where it can be seen. A cause is named only where its formula, computed with NumPy from
the traces' own arrays, gives the suspect's values to rounding and the reference's do not.
"""

from ladder.causes import (
    contract,
    data,
    evaluation,
    gradients,
    initialisation,
    layers,
    loss,
    optimizer,
    slots,
)
from ladder.causes.registry import (
    KNOWN_CAUSES,
    Diagnosis,
    Evidence,
    UnexaminableError,
    diagnose,
)

__all__ = ["KNOWN_CAUSES", "Diagnosis", "Evidence", "UnexaminableError", "diagnose"]

# Importing a subject registers its causes.
SUBJECTS = (
    contract,
    data,
    evaluation,
    gradients,
    initialisation,
    layers,
    loss,
    optimizer,
    slots,
)
