"""Two recorded models as graphs of calls: alignment, comparison, verdict. NumPy only."""
