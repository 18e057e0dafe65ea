"""Causes: what would explain that two traces part, where a known cause fits.

One module a subject; each cause is a small function from evidence to diagnoses, registered under
the rungs where it can be seen. A cause is named only where it gives the suspect's values and not
the reference's. Of the network, its loss and its optimizer portproof names the cause
(`parity_tests/pair_checks.py`).
"""

from importlib import import_module

from ladder.causes.registry import KNOWN_CAUSES, Diagnosis, Evidence, UnexaminableError, diagnose

__all__ = ["KNOWN_CAUSES", "Diagnosis", "Evidence", "UnexaminableError", "diagnose"]

# Importing a subject registers its causes; of two that fit equally well the earlier comes first.
SUBJECTS = ("data", "evaluation", "initialisation", "precision")
for _subject in SUBJECTS:
    import_module(f"ladder.causes.{_subject}")
