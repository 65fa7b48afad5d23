"""Growth of topics and questions over rounds, and prompts like theirs, before any is asked for."""

from dataclasses import replace
from functools import partial

from schemas.criteria.pack import load_pack
from transforms.synthesis.growth import (
    likely_lines,
    likely_question_prompts,
    likely_topic_prompts,
    question_growth,
    topic_growth,
)

rounds_of = partial(topic_growth, load_pack("ethical"), examples=5, per_prompt=10)  # 20 seeds of as many types


def test_topics_grow_by_what_a_prompt_asks_for_beyond_what_it_shows():
    growth = [rounds_of(rounds=rounds, per_type=None) for rounds in range(4)]
    assert growth == [(0, 20), (20, 200), (220, 1200), (1420, 7200)]
    assert rounds_of(rounds=3, per_type=50) == (1420, 1000)


def test_topics_of_longer_lists_are_counted_up():
    # 1 topic brings 9 x 1.1 = 9.9, so 10: 11 topics of a type; these bring 11 x 1.1 x 5 = 60.5, so 61
    assert rounds_of(rounds=2, per_type=None, longer=1.1) == (20 + 220, 20 * (11 + 61))


def test_a_round_of_questions_asks_for_half_as_many_again_as_are_missing():
    grow = partial(question_growth, kept=20, count=100, topics=1000, rounds=20, hints=8, surplus=1.5)
    assert grow(survival=1.0) == (15, 100)
    # 80 missing: 15 prompts bring 60; 20 missing: 4 bring 16; 4 missing: 1 brings 4
    assert grow(survival=0.5) == (15 + 4 + 1, 100)
    assert grow(survival=0.5, rounds=1) == (15, 80)


def test_no_topic_is_asked_for_twice_in_a_round():
    grow = partial(question_growth, kept=20, count=100, topics=50, rounds=20, hints=8, surplus=1.5)
    assert grow(survival=1.0) == (4, 50)
    assert grow(survival=1.0, topics=20) == (0, 20)


def test_likely_prompts_are_whole_and_like_the_rounds_own():
    pack = load_pack("ethical")
    prompts = likely_question_prompts(pack, examples=3, hints=8)
    assert len(prompts) == 20 * 19 // 8  # each seed's topic with the types of all others
    assert all("11 hints:\n1. " in prompt and prompt.endswith("\n4.") for prompt in prompts)
    topics = likely_topic_prompts(pack, examples=5, per_prompt=10)
    assert [sum(prompt.endswith(end) for prompt in topics) for end in ("\n2.", "\n6.")] == [20, 20 * 19]


def test_a_single_type_still_has_topics_to_ask_about():
    pack = load_pack("ethical")
    pack = replace(pack, seeds=tuple(replace(seed, question_type="advice") for seed in pack.seeds))
    assert len(likely_question_prompts(pack, examples=3, hints=8)) > 20
    first = pack.seeds[0]
    assert likely_lines(pack, first=4)[0] == f"4. {first.topic} | advice: {first.question}\n"
