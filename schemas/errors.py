"""The two ways in which alignbeam says no; every other exception is a bug."""


class UsageError(ValueError):
    """A wrong flag, setting, pack, model folder or input, found before any work starts (exit code 2)."""


class StageError(RuntimeError):
    """A stage that started and could not finish; what it had done is kept (exit code 1)."""
