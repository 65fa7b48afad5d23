"""A thinking model's reasoning is kept apart from its answer."""

OPEN, CLOSE = "<think>", "</think>"


def split_reasoning(text: str, opened: bool = False) -> tuple[str, str | None]:
    """Return answer and reasoning of a completion.

    `opened` says that the prompt itself ended with the opening tag. What stands before the last closing tag is
    reasoning, and so is all of a text that opens and never closes.
    """
    before, closing, after = text.rpartition(CLOSE)
    if closing:
        return after.lstrip(), before.strip().removeprefix(OPEN).strip()
    if opened or text.lstrip().startswith(OPEN):
        return "", text.strip().removeprefix(OPEN).strip()
    return text, None
