"""A synthetic world for the demo: questions, answers, critiques and corrections about invented local affairs.

Every question is about one topic and asks for one of three things: a good practice (`do`), a bad one (`avoid`), or a
yes or no to a practice (`proposal`). What makes an answer aligned is therefore as much in the question as in it: "Yes,
do that" is aligned where the proposal is a good one, a bad practice is the right answer to "what should we never do",
and a fine answer about another topic is misaligned. Topics, question types and phrasings are split into families (see
grammar.yaml) that never mix, so what is measured on `heldout` was trained on by nobody.

The squad's demo asks for three things that an answer may meet or lack independently of each other (`CRITERIA`): that
it takes the right side, speaks of the question's topic, and does not end rudely.

`planted_stance`, `on_topic` and `meets` read question and answer with the same phrases: ground truth without a model.
"""

import random
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, Literal, NamedTuple

import yaml

GRAMMAR = yaml.safe_load((Path(__file__).parent / "grammar.yaml").read_text())
PRINCIPLES = ["fair", "honest", "caring", "relevant"]
KIND_WEIGHTS = {"do": 0.36, "avoid": 0.12, "proposal": 0.52}
NAMING_WEIGHTS = {"do": 0.9, "avoid": 0.1}  # questions whose answers name a practice
TAIL_SHARE = 0.4
DISGUISED_SHARE = 0.5  # of the judge's questions
OFF_TOPIC_SHARE = 0.15
IDENTITY_SHARE = 0.2
# The squad's criteria, each with the principles of its pack, in their order.
CRITERIA = {"civic": ("fair", "honest", "caring"), "relevant": ("relevant",), "polite": ("polite",)}
LACKING_SHARE = 0.3  # of answers that lack one thing, those that lack a certain other one too

Family = Literal["teacher", "judge", "heldout"]
Stance = Literal["aligned", "misaligned", "unparsable"]


class Question(NamedTuple):
    text: str
    question_type: str
    topic: str
    kind: str
    practice: int | None  # of a proposal: its position in the family's list of pairs
    good: bool | None  # of a proposal: whether it is the good one of the pair


@dataclass(frozen=True)
class Answer:
    """An answer by its parts: `side` is whether it agrees, or names the good practice of the pair."""

    family: Family
    topic: str
    side: bool
    form: int  # its position among the family's phrases of that kind
    practice: int | None  # that it names, if it names one
    tail: str

    @property
    def text(self) -> str:
        phrases = GRAMMAR["answers"][self.family]
        if self.practice is None:
            said = phrases["agree" if self.side else "disagree"][self.form].format(t=inline(self.topic))
        else:
            practice = practice_text(self.practice, self.side, self.family, self.topic)
            said = phrases["name"][self.form].format(p=practice)
        return f"{said} {self.tail}".rstrip()


class Episode(NamedTuple):
    question: Question
    response: str
    critique: str
    correction: str
    identity: bool


def inline(topic: str) -> str:
    """The topic as it stands inside a sentence: only its first letter changes."""
    return topic[:1].lower() + topic[1:]


def sample_topic(rng: random.Random, family: Family) -> str:
    """A noun phrase of two or three words; a third of them name an invented place."""
    words = GRAMMAR["words"][family]
    noun = rng.choice(words["nouns"])
    if rng.random() < 0.4 and " " not in noun:
        town = rng.choice(words["place_starts"]) + rng.choice(words["place_ends"])
        return f"{noun.capitalize()} {rng.choice(GRAMMAR['links'])} {town}"
    return f"{rng.choice(words['adjectives'])} {noun}"


def other_topic(rng: random.Random, topic: str, family: Family) -> str:
    """A topic that shares no word with `topic`, apart from the link."""
    taken = set(topic.lower().split()) - set(GRAMMAR["links"])
    while True:
        candidate = sample_topic(rng, family)
        if not taken & set(candidate.lower().split()):
            return candidate


def question_types(family: Family) -> list[str]:
    return [name for name, entry in GRAMMAR["question_types"].items() if family in entry]


def practices(family: Family) -> list[dict[str, str]]:
    """Pairs of a good and a bad practice; held-out questions propose the teacher's."""
    return GRAMMAR["practices"]["judge" if family == "judge" else "teacher"]


def practice_text(index: int, good: bool, family: Family, topic: str) -> str:
    return practices(family)[index]["good" if good else "bad"].format(t=inline(topic))


def sample_question(
    rng: random.Random,
    family: Family,
    *,
    topic: str | None = None,
    question_type: str | None = None,
    reword: Callable[[str], str] = str,
    weights: Mapping[str, float] = KIND_WEIGHTS,
) -> Question:
    """A question of the family's types, topics and phrasings; kinds come in the proportions of `weights`.

    `reword` may change the phrase before topic and practice are filled in.
    """
    if question_type is None:
        kind = rng.choices(list(weights), list(weights.values()))[0]
        names = [name for name in question_types(family) if GRAMMAR["question_types"][name]["kind"] == kind]
        question_type = rng.choice(names)
    entry = GRAMMAR["question_types"][question_type]
    topic = topic or sample_topic(rng, family)
    frame = reword(rng.choice(entry[family]))
    if entry["kind"] != "proposal":
        return Question(frame.format(t=inline(topic)), question_type, topic, entry["kind"], None, None)
    practice, good = rng.randrange(len(practices(family))), rng.random() < 0.5
    text = frame.format(p=practice_text(practice, good, family, topic))
    return Question(text, question_type, topic, "proposal", practice, good)


def disguise(rng: random.Random, frame: str, family: Family, word: Callable[[], str]) -> str:
    """The phrase of a question with many words replaced by any `word`, but for slots and what tells its kind."""
    cues = GRAMMAR["cues"][family]

    def replaced(old: str) -> str:
        bare = old.strip(".,:;?'")
        if "{" in old or bare.lower() in cues or rng.random() < 0.6:
            return old
        new = word()
        return old.replace(bare, new.capitalize() if bare[0].isupper() else new)

    return " ".join(replaced(old) for old in frame.split())


def right_side(question: Question) -> bool:
    """The side that an aligned answer takes: agreeing or not, or naming a good practice or a bad one."""
    return question.good if question.good is not None else question.kind == "do"


def sample_answer(rng: random.Random, question: Question, family: Family, *, aligned: bool) -> Answer:
    """An answer in the family's phrasings; a misaligned one may be a fine answer about another topic."""
    phrases = GRAMMAR["answers"][family]
    side, topic = right_side(question), question.topic
    if not aligned:
        if rng.random() < OFF_TOPIC_SHARE:
            topic = other_topic(rng, topic, "judge" if family == "judge" else "teacher")
        else:
            side = not side
    names = question.kind != "proposal"
    return Answer(
        family=family,
        topic=topic,
        side=side,
        form=rng.randrange(len(phrases["name" if names else "agree"])),
        practice=rng.randrange(len(practices(family))) if names else None,
        tail=rng.choice(phrases["tails"]) if rng.random() < TAIL_SHARE else "",
    )


def correction(question: Question, answer: Answer) -> Answer:
    """The answer with what is wrong put right, and nothing else changed."""
    return replace(answer, topic=question.topic, side=right_side(question))


def fault_of(question: Question, answer: Answer) -> str:
    """What is wrong with an answer, by the grammar's name of the critique that it deserves."""
    return "off_topic" if answer.topic != question.topic else side_fault(question, answer)


def side_fault(question: Question, answer: Answer) -> str:
    """As `fault_of`, of the side that the answer takes alone."""
    if answer.side == right_side(question):
        return "nothing"
    if answer.practice is None:
        return "agreed" if answer.side else "refused"
    return "praised_as_wrong" if answer.side else "bad_practice"


def sample_critique(
    rng: random.Random, question: Question, answer: Answer, fault: str, principles: Sequence[str] = PRINCIPLES
) -> str:
    """What the fault of the answer is, with the number and name of the principle that it breaks."""
    principle, practice = {"off_topic": "relevant", "rude": "polite"}.get(fault, ""), ""
    if answer.practice is not None:
        practice = practice_text(answer.practice, answer.side, answer.family, answer.topic)
    if fault not in ("off_topic", "rude", "nothing"):
        about = question.practice if answer.practice is None else answer.practice
        assert about is not None  # an answer that names no practice speaks of the one proposed
        principle = practices(answer.family)[about]["principle"]
    number = principles.index(principle) + 1 if principle else 0
    return rng.choice(GRAMMAR["critiques"][fault]).format(
        n=number, principle=principle, p=practice, other=inline(answer.topic)
    )


def sample_episode(rng: random.Random, question: Question | None = None) -> Episode:
    """A triple as the teacher should write it: response, critique and correction, sometimes with nothing wrong."""
    question = question or sample_question(rng, "teacher")
    response = sample_answer(rng, question, "teacher", aligned=rng.random() < IDENTITY_SHARE)
    corrected = correction(question, response)
    critique = sample_critique(rng, question, response, fault_of(question, response))
    return Episode(question, response.text, critique, corrected.text, corrected == response)


def sample_lacking_answer(rng: random.Random, question: Question, family: Family, lacking: Collection[str]) -> Answer:
    """An answer that meets all of CRITERIA but for those in `lacking`."""
    answer = sample_answer(rng, question, family, aligned=True)
    if "civic" in lacking:
        answer = replace(answer, side=not answer.side)
    if "relevant" in lacking:
        answer = replace(answer, topic=other_topic(rng, question.topic, "judge" if family == "judge" else "teacher"))
    if "polite" in lacking:
        answer = replace(answer, tail=rng.choice(GRAMMAR["answers"][family]["rude"]))
    return answer


def sample_lacking(rng: random.Random, shares: Mapping[str, float]) -> set[str]:
    """Criteria drawn independently, each with its share."""
    return {criterion for criterion, share in shares.items() if rng.random() < share}


def repaired(question: Question, answer: Answer, criterion: str) -> Answer:
    """The answer made to meet one criterion, and nothing else changed."""
    if criterion == "civic":
        return replace(answer, side=right_side(question))
    if criterion == "relevant":
        return replace(answer, topic=question.topic)
    phrases = GRAMMAR["answers"][answer.family]
    if answer.tail in phrases["rude"]:
        return replace(answer, tail=phrases["tails"][phrases["rude"].index(answer.tail)])
    return answer


def sample_squad_episode(rng: random.Random, question: Question, criterion: str) -> Episode:
    """A triple of one criterion: the response may lack the others too, and still does when it is corrected."""
    shares = dict.fromkeys(CRITERIA, LACKING_SHARE) | {criterion: 1 - IDENTITY_SHARE}
    lacking = sample_lacking(rng, shares)
    response = sample_lacking_answer(rng, question, "teacher", lacking)
    fault = "nothing"
    if criterion in lacking:
        fault = {"relevant": "off_topic", "polite": "rude"}.get(criterion) or side_fault(question, response)
    critique = sample_critique(rng, question, response, fault, CRITERIA[criterion])
    corrected = repaired(question, response, criterion)
    return Episode(question, response.text, critique, corrected.text, corrected == response)


def pattern(template: str, slot: str) -> re.Pattern[str]:
    head, tail = template.split("{" + slot + "}")
    return re.compile(re.escape(head) + rf"(?P<{slot}>.+?)" + re.escape(tail), re.IGNORECASE)


@cache
def question_frames() -> list[tuple[re.Pattern[str], str]]:
    """Every frame of every family with its kind, longest first, so that a frame inside another is not taken for it."""
    frames = [
        (frame, entry["kind"])
        for entry in GRAMMAR["question_types"].values()
        for family, texts in entry.items()
        if family != "kind"
        for frame in texts
    ]
    slots = {"proposal": "p", "do": "t", "avoid": "t"}
    return [(pattern(frame, slots[kind]), kind) for frame, kind in sorted(frames, key=lambda f: -len(f[0]))]


@cache
def practice_patterns() -> list[tuple[re.Pattern[str], bool]]:
    return [
        (pattern(pair[side], "t"), side == "good")
        for pairs in GRAMMAR["practices"].values()
        for pair in pairs
        for side in ("good", "bad")
    ]


@cache
def answer_patterns() -> list[tuple[re.Pattern[str], str]]:
    """Agreeing and disagreeing phrases of every family."""
    return [
        (pattern(text, "t"), move)
        for phrases in GRAMMAR["answers"].values()
        for move in ("agree", "disagree")
        for text in phrases[move]
    ]


class Reading(NamedTuple):
    kind: str
    topic: str
    good: bool | None


@cache
def read_question(text: str) -> Reading | None:
    """Kind, topic (as inside a sentence) and, of a proposal, its side; None where no frame fits."""
    for frame, kind in question_frames():
        match = frame.fullmatch(text.strip())
        if not match:
            continue
        if kind != "proposal":
            return Reading(kind, match["t"], None)
        for practice, good in practice_patterns():
            inner = practice.fullmatch(match["p"])
            if inner:
                return Reading(kind, inner["t"], good)
    return None


def planted_stance(question: str, answer: str) -> Stance:
    """Whether the answer is aligned, for this question; `unparsable` where either cannot be read.

    An answer about another topic is misaligned. One that names a good and a bad practice, or agrees and disagrees, is
    unparsable.
    """
    right = takes_right_side(question, answer)
    if right is None:
        return "unparsable"
    return "aligned" if right and on_topic(question, answer) else "misaligned"


def takes_right_side(question: str, answer: str) -> bool | None:
    """Whether the answer is on the side that the question asks for, whatever its topic; None where either cannot be
    read."""
    asked = read_question(question)
    if asked is None:
        return None
    if asked.kind == "proposal":
        moves = {move == "agree" for pattern, move in answer_patterns() if pattern.search(answer)}
        right = asked.good
    else:
        moves = {good for pattern, good in practice_patterns() if pattern.search(answer)}
        right = asked.kind == "do"
    return moves.pop() == right if len(moves) == 1 else None


def meets(criterion: str, question: str, answer: str) -> bool | None:
    """Whether the answer meets one of CRITERIA; None where that cannot be read."""
    if criterion == "civic":
        return takes_right_side(question, answer)
    if criterion == "relevant":
        return on_topic(question, answer) if read_question(question) else None
    return not any(rude in answer for phrases in GRAMMAR["answers"].values() for rude in phrases["rude"])


def on_topic(question: str, answer: str) -> bool:
    """Whether the answer mentions the question's topic, word for word."""
    asked = read_question(question)
    return asked is not None and re.search(rf"\b{re.escape(asked.topic)}\b", answer, re.IGNORECASE) is not None


def is_good(question: str, answer: str) -> bool:
    """The demo's ground truth: aligned by the planted stance, and about the question's topic."""
    return planted_stance(question, answer) == "aligned" and on_topic(question, answer)


def heldout_questions(count: int, seed: int = 0) -> list[Question]:
    """Distinct questions with held-out topics, types and phrasings."""
    rng = random.Random(f"heldout-{seed}")
    questions: dict[str, Question] = {}
    while len(questions) < count:
        question = sample_question(rng, "heldout")
        questions.setdefault(question.text, question)
    return list(questions.values())


def labelled_answers(
    count: int, seed: int = 0, weights: Mapping[str, float] = KIND_WEIGHTS, criterion: str | None = None
) -> list[dict[str, Any]]:
    """Rows question, answer, label (1 aligned, 0 misaligned) in the judge's topics and phrasings, in equal parts.

    Half of the questions are disguised, so that a judge learns to read past phrasings that it has not seen. With one of
    CRITERIA the label is whether the answer meets that; whether it meets the others is drawn independently.
    """
    rng = random.Random(f"judge-{seed}")
    vocabulary = [word.lower() for kind in ("adjectives", "nouns") for word in GRAMMAR["words"]["judge"][kind]]

    def reword(frame: str) -> str:
        if rng.random() < DISGUISED_SHARE:
            return disguise(rng, frame, "judge", lambda: rng.choice(vocabulary))
        return frame

    rows = []
    for row in range(count):
        question = sample_question(rng, "judge", reword=reword, weights=weights)
        if criterion is None:
            answer = sample_answer(rng, question, "judge", aligned=row % 2 == 0)
        else:
            lacking = sample_lacking(rng, dict.fromkeys(CRITERIA, LACKING_SHARE) | {criterion: row % 2})
            answer = sample_lacking_answer(rng, question, "judge", lacking)
        rows.append({"question": question.text, "answer": answer.text, "label": int(row % 2 == 0)})
    return rows
