"""The ways in which a command ends badly without a bug."""


class UsageError(ValueError):
    """The call was wrong: a flag, a value or a file that the caller named. Exit code 2."""


class RunError(RuntimeError):
    """The call was right and the work could not be done or did not hold. Exit code 1."""


class Terminated(KeyboardInterrupt):
    """The process was told to end, by SIGTERM, as `timeout`, Docker and Slurm do. Exit code 143."""
