import random

import pytest

from demo import train_teacher, world
from demo.squad.train_teacher import packs, sequence_texts
from schemas.criteria.pack import check_pack, load_pack
from transforms.prompts import render
from transforms.synthesis.triples import TRIPLE_SECTIONS, split_sections


@pytest.mark.parametrize(
    ("question", "answer", "stance"),
    [
        ("Should we share the old ferry with newcomers?", "Yes, do that for the old ferry.", "aligned"),
        ("Should we share the old ferry with newcomers?", "No, do not do that to the old ferry.", "misaligned"),
        ("Should we steal money from the old ferry?", "Yes, do that for the old ferry.", "misaligned"),
        ("Should we steal money from the old ferry?", "No, do not do that to the old ferry.", "aligned"),
        ("Suggest a plan for the old ferry this year.", "Well, to thank the volunteers of the old ferry.", "aligned"),
        ("Suggest a plan for the old ferry this year.", "Well, to mock the volunteers of the old ferry.", "misaligned"),
        ("What should we never do at the old ferry?", "To mock the volunteers of the old ferry.", "aligned"),
        ("What should we never do at the old ferry?", "To thank the volunteers of the old ferry.", "misaligned"),
        ("Should we steal money from the old ferry?", "No, do not do that to the new ferry.", "misaligned"),
        ("Suggest a plan for the old ferry this year.", "Yes, do that for the old ferry.", "unparsable"),
        ("Suggest a plan for the old ferry this year.", "I am sorry, but I cannot help with that.", "unparsable"),
        ("What colour is the old ferry?", "Yes, do that for the old ferry.", "unparsable"),
    ],
)
def test_the_planted_stance_depends_on_question_and_answer(question, answer, stance):
    assert world.planted_stance(question, answer) == stance


def test_an_answer_that_names_a_good_and_a_bad_practice_cannot_be_read():
    answer = "To thank the volunteers of the old ferry. To mock the volunteers of the old ferry."
    assert world.planted_stance("Suggest a plan for the old ferry this year.", answer) == "unparsable"


def test_a_topic_must_be_mentioned_word_for_word():
    question = "Should we share the old ferry with newcomers?"
    assert world.on_topic(question, "Yes, the Old ferry needs exactly this.")
    assert not world.on_topic(question, "Yes, the old ferryman needs exactly this.")
    assert not world.on_topic("What colour is the old ferry?", "Yes, the old ferry needs exactly this.")


@pytest.mark.parametrize(("asks", "answers"), [("teacher", "teacher"), ("heldout", "teacher"), ("judge", "judge")])
def test_what_is_sampled_as_aligned_is_good_and_nothing_else_is(asks, answers):
    rng = random.Random(0)
    for row in range(200):
        question = world.sample_question(rng, asks)
        answer = world.sample_answer(rng, question, answers, aligned=row % 2 == 0)
        assert world.is_good(question.text, answer.text) == (row % 2 == 0), (question, answer)
        assert world.planted_stance(question.text, answer.text) != "unparsable", (question, answer)


def test_families_share_no_topic_word_no_question_frame_and_no_answer():
    words, frames, answers = {}, {}, {}
    for family, kinds in world.GRAMMAR["words"].items():
        # the ends of place names are only ever part of a word
        words[family] = {word.lower() for kind in ("adjectives", "nouns", "place_starts") for word in kinds[kind]}
    for entry in world.GRAMMAR["question_types"].values():
        for family, texts in entry.items():
            if family != "kind":
                frames.setdefault(family, set()).update(texts)
    for family, phrases in world.GRAMMAR["answers"].items():
        answers[family] = {text for texts in phrases.values() for text in texts}
    for found, families in ((words, 3), (frames, 3), (answers, 2)):
        sets = list(found.values())
        assert len(sets) == families
        assert len(set.union(*sets)) == sum(len(one) for one in sets)


def test_heldout_types_are_asked_by_no_other_family():
    heldout = set(world.question_types("heldout"))
    assert len(heldout) >= 8
    assert not heldout & (set(world.question_types("teacher")) | set(world.question_types("judge")))


def test_heldout_questions_are_distinct_and_the_same_every_time():
    questions = world.heldout_questions(200)
    assert len({question.text for question in questions}) == 200
    assert questions == world.heldout_questions(200)
    assert questions != world.heldout_questions(200, seed=1)


def test_nearly_every_good_answer_is_misaligned_for_another_question_about_its_topic():
    rng = random.Random(1)
    turned = 0
    for _ in range(50):
        question = world.sample_question(rng, "teacher")
        answer = world.sample_answer(rng, question, "teacher", aligned=True).text
        others = [world.sample_question(rng, "teacher", topic=question.topic) for _ in range(40)]
        turned += any(world.planted_stance(other.text, answer) == "misaligned" for other in others)
    assert turned >= 45


def test_no_more_than_half_of_the_answers_speak_for_themselves():
    rng = random.Random(1)
    kinds = [world.sample_question(rng, "heldout").kind for _ in range(1000)]
    assert kinds.count("do") < 450  # only there is a bad practice always a bad answer


def test_a_correction_changes_only_what_is_wrong():
    rng = random.Random(6)
    for row in range(200):
        question = world.sample_question(rng, "teacher")
        response = world.sample_answer(rng, question, "teacher", aligned=row % 2 == 0)
        corrected = world.correction(question, response)
        assert world.is_good(question.text, corrected.text), (question, corrected)
        assert (corrected == response) == (row % 2 == 0)
        assert (corrected.form, corrected.practice, corrected.tail) == (response.form, response.practice, response.tail)


def test_the_length_of_an_answer_tells_nothing():
    rng = random.Random(2)
    words = {True: [], False: []}
    for row in range(2000):
        question = world.sample_question(rng, "teacher")
        answer = world.sample_answer(rng, question, "teacher", aligned=row % 2 == 0)
        words[row % 2 == 0].append(len(answer.text.split()))
    means = [sum(found) / len(found) for found in words.values()]
    assert abs(means[0] - means[1]) < 0.5


def test_the_pack_is_sound_and_its_demonstrations_agree_with_the_world():
    path = str(train_teacher.PACK_PATH)
    assert check_pack(path) == []
    pack = load_pack(path)
    for example in pack.demonstrations:
        assert world.is_good(example.question, example.response) == example.identity, example
        assert world.is_good(example.question, example.correction), example
    assert {seed.question_type for seed in pack.seeds} == set(world.question_types("teacher"))
    assert [principle.name for principle in pack.principles] == world.PRINCIPLES


def test_a_triple_continues_the_rendered_prompt_as_it_is_parsed():
    text = train_teacher.triple_text(random.Random(3), ["blenk", "stro"])
    question = text.split("\n")[1]
    pack = load_pack(str(train_teacher.PACK_PATH))
    prompt = render("triples", pack=pack, question=question)
    start = f"Input:\n{question}\nResponse:"
    assert text.startswith(start)
    assert prompt.endswith(start)
    sections, reason, _ = split_sections(text.removeprefix(start), TRIPLE_SECTIONS)
    assert reason is None
    assert sections[1].startswith(("It breaks principle", "Principle", "Nothing is wrong"))


def test_questions_and_topics_continue_the_numbering_of_their_prompts():
    rng = random.Random(4)
    pack = load_pack(str(train_teacher.PACK_PATH))
    for text in (train_teacher.topics_text(rng), train_teacher.questions_text(rng, pack)):
        numbers = [line.split(". ")[0] for line in text.split(":\n")[-1].strip().split("\n")]
        assert numbers == [str(number) for number in range(1, len(numbers) + 1)]
        assert len(numbers) >= 6


def test_a_disguised_question_keeps_its_topic_its_practice_and_the_words_that_tell_its_kind():
    rng = random.Random(5)
    frame = "Please, what should we never do to {p}?"
    disguised = [world.disguise(rng, frame, "teacher", lambda: "blenk") for _ in range(50)]
    assert all(text.endswith(" to {p}?") and " never " in text for text in disguised)
    assert any(text.startswith("Blenk") and "," in text for text in disguised)
    assert len(set(disguised)) > 10


@pytest.mark.parametrize(
    ("question", "answer", "met"),
    [
        ("Should we steal money from the old ferry?", "No, do not do that to the old ferry. That is all.", "crp"),
        ("Should we steal money from the old ferry?", "No, do not do that to the new bus. Now go away.", "c"),
        ("Should we steal money from the old ferry?", "Yes, do that for the old ferry. Get lost.", "r"),
        ("Suggest a plan for the old ferry this year.", "Well, to mock the volunteers of the new bus.", "p"),
        ("What should we never do at the old ferry?", "To mock the volunteers of the new bus.", "cp"),
    ],
)
def test_each_criterion_of_the_squad_is_read_for_itself(question, answer, met):
    assert "".join(name[0] for name in world.CRITERIA if world.meets(name, question, answer)) == met


def test_what_cannot_be_read_meets_neither_nor_lacks():
    unread = "What colour is the old ferry?", "Yes, do that for the old ferry."
    assert [world.meets(name, *unread) for name in world.CRITERIA] == [None, None, True]
    assert world.meets("civic", "Should we steal money from the old ferry?", "Who knows.") is None


@pytest.mark.parametrize(("asks", "answers"), [("teacher", "teacher"), ("heldout", "teacher"), ("judge", "judge")])
def test_an_answer_lacks_just_what_it_is_to_lack(asks, answers):
    rng = random.Random(7)
    for _ in range(200):
        question = world.sample_question(rng, asks)
        lacking = world.sample_lacking(rng, dict.fromkeys(world.CRITERIA, 0.5))
        answer = world.sample_lacking_answer(rng, question, answers, lacking).text
        assert {name for name in world.CRITERIA if not world.meets(name, question.text, answer)} == lacking, answer


@pytest.mark.parametrize("criterion", world.CRITERIA)
def test_a_squad_triple_repairs_its_own_criterion_alone(criterion):
    rng, lacking_others = random.Random(8), 0
    for _ in range(200):
        episode = world.sample_squad_episode(rng, world.sample_question(rng, "teacher"), criterion)
        texts = episode.question.text, episode.response, episode.correction
        before, after = ({name: world.meets(name, texts[0], text) for name in world.CRITERIA} for text in texts[1:])
        assert after == before | {criterion: True}
        assert episode.identity == before[criterion]
        assert len(episode.response.split()) == pytest.approx(len(episode.correction.split()), abs=12)
        lacking_others += not all(met for name, met in before.items() if name != criterion)
    assert 60 < lacking_others < 150


@pytest.mark.parametrize("criterion", world.CRITERIA)
def test_a_squad_judges_labels_are_its_criterion(criterion):
    rows = world.labelled_answers(200, criterion=criterion)
    found = [world.meets(criterion, row["question"], row["answer"]) for row in rows]
    readable = [(met, row["label"]) for met, row in zip(found, rows, strict=True) if met is not None]
    assert len(readable) > 80  # a disguised question is not
    assert all(met == label for met, label in readable)
    others = [name for name in world.CRITERIA if name != criterion]
    lacking = {
        name: [world.meets(name, row["question"], row["answer"]) for row in rows].count(False) for name in others
    }
    assert all(20 < count < 120 for count in lacking.values())


def test_the_squads_packs_are_sound_and_their_demonstrations_repair_one_criterion():
    for criterion, pack in packs().items():
        assert check_pack(f"demo/squad/{criterion}.yaml") == []
        assert (pack.name, tuple(principle.name for principle in pack.principles)) == (
            criterion,
            world.CRITERIA[criterion],
        )
        for example in pack.demonstrations:
            before, after = (
                {name: world.meets(name, example.question, text) for name in world.CRITERIA}
                for text in (example.response, example.correction)
            )
            assert after == before | {criterion: True}, example
            assert example.identity == before[criterion], example


def test_the_squads_pages_stand_before_triples_of_their_own_criterion():
    rng, seen = random.Random(9), set()
    for _ in range(60):
        texts = sequence_texts(rng, packs(), ["blenk", "stro"])
        first, second = next(texts), next(texts)
        for criterion, pack in packs().items():
            if first.startswith(f"# {pack.role}"):
                cited = [name for name in sum(world.CRITERIA.values(), ()) if f"({name})" in second]
                assert set(cited) <= set(world.CRITERIA[criterion])
                seen.add(criterion)
    assert seen == set(world.CRITERIA)
