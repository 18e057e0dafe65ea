"""One self-contained HTML page of runs, verdicts and measurements."""
