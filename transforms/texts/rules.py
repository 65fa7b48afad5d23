"""Patterns that no good text matches, each with its reason, for whoever writes data and whoever curates it.

A rule is (drop reason, columns, RE2 pattern that no text there may match); a rule for questions has no columns.
Rules called English make sense for plain English text alone and are asked only where somebody wants them.
"""

import re
from collections.abc import Collection, Sequence

import pyarrow as pa
import pyarrow.compute as pc

ANSWERS = ("response", "correction")
WORD_START, WORD_END = r"(?:^|[^\pL\pN_])", r"(?:$|[^\pL\pN_])"  # not \b, which knows ASCII letters alone
VAGUE_WORDS = 6  # a shorter critique that cites no principle says nothing specific

QUESTION_RULES = (
    ("too_few_words", r"^\s*(?:\S+\s*){0,3}$"),  # a topic rather than a question
    ("too_many_words", r"^\s*(?:\S+\s+){150}\S"),  # several questions in one, or a story
    ("leading_punctuation", r"^[!-/:-@\[-`{-~]"),  # what is left of a list or a quotation
)
# Self-Instruct's rules for English questions that text alone can answer.
ENGLISH_QUESTION_RULES = (
    ("non_ascii_start", r"^[^\x00-\x7f]"),  # another language, or an emoji
    (  # what asks for more than text
        "rejected_word",
        r"(?i)\b(?:images?|graphs?|pictures?|files?|maps?|draw|plot|go to|video|audio|music|flowchart|diagram)\b",
    ),
    ("asks_for_program", r"^Write a program\b"),  # its answer is code, not plain text
)

TRIPLE_RULES = (
    (  # control characters and U+FFFD: what remains of broken bytes
        "unreadable_character",
        ("response", "critique", "correction"),
        r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\x{FFFD}]",
    ),
    ("none_text", ANSWERS, r"(?i)^\W*none\W*$"),  # a model's word for an answer that it did not write
)
# The rest of paper 000's cleaning.
ENGLISH_TRIPLE_RULES = (
    ("nothing_in_correction", ("correction",), r"Nothing"),  # "Nothing to correct" is a critique, not a correction
    ("leaked_keyword", ("question",), r"(?i)\b(?:topic|type|question):"),  # headings of the prompt for questions,
    ("leaked_keyword", ANSWERS, r"(?i)\b(?:input|response|critique|corrector|correction):"),  # and for triples
    ("markup", ANSWERS, r"<"),  # HTML, or another template's markers
    ("code_question", ("question",), r"(?i)\b(?:codes?|programs?|computes?|formulas?)\b"),  # as asks_for_program
    ("non_ascii", ANSWERS, r"[^\x00-\x7f]"),  # another language, or characters that broke
)
# An identity triple (nothing was wrong, so nothing changes) is right to do what these forbid.
IDENTITY_PASSES = {"nothing_in_correction", "unchanged_correction", "copied_question", "vague_critique"}

# What chat templates put around a prompt.
LEAKED_MARKER = (
    r"<\|[a-z_]{2,30}\|>|\[/?INST\]|<</?SYS>>|</?s>"
    r"|(?:^|\n)#{2,3} ?(?:Instruction|Input|Response|Human|Assistant):"
)
REFUSAL = (  # not "as an AI …", after which two answers in five go on to answer
    r"(?i)^.{0,40}\b(?:I(?:'m| am) sorry,? but|I (?:cannot|can't|can not|am unable to|'m unable to) "
    r"(?:help|assist|answer|provide|comply|fulfil|do that))"
)
# A form that was to be filled in.
PLACEHOLDER = r"(?i)lorem ipsum|\[(?:insert|your) [^\]\n]{1,40}\]|<(?:insert|your)[ _][^>\n]{1,40}>|\{\{ ?\w+ ?\}\}"
# Lists, titles, verses and code end without a full stop too: only what surely goes on counts.
UNFINISHED = r"(?:[,:(]|\b(?:an?|and|are|as|at|by|for|from|in|is|of|on|or|that|the|to|with))\s*$"
# Asked only where they are named, because in some data these texts are what is wanted.
OPTIONAL_RULES = (
    ("refusal", ANSWERS, REFUSAL),
    ("placeholder", ANSWERS, PLACEHOLDER),
    ("unfinished", ANSWERS, UNFINISHED),
)

# A critique's ways to say that it finds no fault.
NOTHING_WRONG = (
    rf"(?i){WORD_START}(?:nothing (?:[\pL\pN_]+ ){{0,3}}?(?:wrong|amiss|to (?:correct|change|fix|improve|mend))"
    r"|nothing needs to|no (?:problems?|faults?|issues?|errors?|corrections?|changes?)"
    rf"|(?:good|fine|right|correct) as (?:it )?is){WORD_END}"
)
# "principle 2", or "2 (polite)" in any script: a critique that names what is broken finds fault, however short it is.
CITES = rf"{WORD_START}principles?[\s\pZ]+\p{{Nd}}|\p{{Nd}}[\s\pZ]*\([\pL\pN_]"
# White space of any kind, but for a single space.
UNEVEN_SPACE = r"[\t-\r\x1c-\x20\x{85}\pZ]{2,}|[\t-\r\x1c-\x1f\x{85}]|[^\PZ ]"


def has_banned_word(texts: pa.Array, words: Sequence[str]) -> pa.BooleanArray:
    """Return where a text holds one of the words, whole and in any case."""
    if not words:
        return pa.array([False] * len(texts), pa.bool_())
    return pc.match_substring_regex(texts, banned_pattern(words))


def banned_pattern(words: Sequence[str]) -> str:
    """Return an RE2 pattern that finds any of the words, whole and in any case."""
    any_word = "|".join(re.escape(word) for word in words)
    return rf"(?i){WORD_START}(?:{any_word}){WORD_END}"


def says_nothing_wrong(critiques: pa.Array, phrases: Collection[str] = ()) -> pa.BooleanArray:
    """Return where a critique finds no fault.

    It is one of `phrases`, or says so in English and cites no principle. White space does not tell phrases apart;
    English words are looked for with one space between them.
    """
    is_phrase = pc.is_in(even_spaces(critiques), even_spaces(pa.array(phrases, critiques.type)))
    says_so = pc.match_substring_regex(critiques, NOTHING_WRONG)
    return pc.or_(is_phrase, pc.and_not(says_so, pc.match_substring_regex(critiques, CITES)))


def is_vague(critiques: pa.Array, phrases: Collection[str] = ()) -> pa.BooleanArray:
    """Return where an English critique says nothing specific (paper 000's cleaning); null where there is none.

    That is one that finds no fault, or has under six words and cites no principle. `phrases` are those by which a
    criterion's own demonstrations find no fault.
    """
    critiques = even_spaces(critiques)
    is_short = pc.less(pc.count_substring(critiques, " "), VAGUE_WORDS - 1)
    is_unfounded = pc.and_not(is_short, pc.match_substring_regex(critiques, CITES))
    return pc.or_(says_nothing_wrong(critiques, phrases), is_unfounded)


def even_spaces(texts: pa.Array) -> pa.Array:
    """Return texts with one space wherever there was white space, and none at the ends."""
    return pc.utf8_trim(pc.replace_substring_regex(texts, UNEVEN_SPACE, " "), " ")
