"""The two ways in which alignbeam says no; every other exception is a bug."""

from schemas.urls import redact_urls


class UsageError(ValueError):
    """A wrong flag, setting, pack, model folder or input, found before any work starts (exit code 2)."""

    def __init__(self, message: object = "") -> None:
        super().__init__(redact_urls(message))


class StageError(RuntimeError):
    """A stage that started and could not finish; what it had done is kept (exit code 1)."""

    def __init__(self, message: object = "") -> None:
        super().__init__(redact_urls(message))
