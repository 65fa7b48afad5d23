"""The text an aligner is trained on and prompted with: `question [INIT] response [ALIGNED] correction [DONE]`.

The trainer and the generation stage both render it here: what a model is asked is token for token what it was taught
(paper 000, section 2; FACTS A). The three separators are special tokens of the aligner's tokenizer, and `[DONE]` is its
end of sequence. A prompt ends with `[ALIGNED]`, a token of its own, so its ids never depend on what follows.

An adapter that is kept apart shares its base's tokenizer with others: there the separators are plain text, and the
base's own end of sequence stands for `[DONE]`.
"""

INIT = "[INIT]"
ALIGNED = "[ALIGNED]"
END = "[DONE]"
SEPARATORS = (INIT, ALIGNED, END)


def _without_separators(text: str) -> str:
    """Return `text` stripped, each separator in it broken by a space.

    Content must not end its own field.
    """
    for separator in SEPARATORS:
        text = text.replace(separator, f"[ {separator[1:]}")
    return text.strip()


def aligner_prompt(question: str, response: str) -> str:
    """Return what the aligner reads; it continues with the correction."""
    return f"{_without_separators(question)} {INIT} {_without_separators(response)} {ALIGNED}"


def aligner_completion(correction: str, end: str = f" {END}") -> str:
    """Return what the aligner is taught to write after a prompt, its end mark included."""
    return f" {_without_separators(correction)}{end}"


def read_correction(completion: str) -> str:
    """Return the correction in a completion, stripped: all before `[DONE]`, or all where there is none."""
    return completion.partition(END)[0].strip()
