"""A recipe becomes a flat list of steps, whose names can be looked up."""

import random

import pytest
import yaml

from pipelines.recipe import placeholders
from pipelines.recipe.read import read_recipe, with_settings
from pipelines.recipe.unroll import RawStep, Reference, unroll
from schemas.errors import UsageError


@pytest.fixture
def read(tmp_path, monkeypatch):
    """Unroll a recipe from the text of `r.yaml`, with what is typed; return it and its problems as texts."""
    monkeypatch.chdir(tmp_path)

    def unrolled(text: str, *typed: dict):
        (tmp_path / "r.yaml").write_text(text if "name: " in text.partition("\n")[0] else f"name: r\n{text}")
        problems = []
        recipe = read_recipe("r.yaml", problems)
        for settings in typed:
            recipe = with_settings(recipe, settings, "--set", problems)
        return unroll(recipe, problems), list(map(str, problems))

    return unrolled


@pytest.fixture
def steps_of(read):
    def steps(text: str, *typed: dict):
        recipe, problems = read(text, *typed)
        assert problems == []
        return recipe

    return steps


@pytest.fixture
def problems_of(read):
    return lambda text, *typed: read(text, *typed)[1]


GROUP = """\
models: {writer: {model: big}}
steps:
  held: {stage: import, corpus: q}
  all:
    each: {topic: [tea, jam]}
    steps:
      ask: {stage: questions, model: writer, pack: "packs/{topic}.yaml", count: 3, seed: 5, after: [held]}
      fix: {stage: triples, questions: ask, model: writer}
"""


def test_a_plain_step_is_as_it_is_written(steps_of):
    recipe = steps_of(
        "seed: 3\ntoy: true\nmodels: {m: {model: x}}\nsteps: {a: {stage: ask, model: m, n: [1, {b: null}]}}"
    )
    assert (recipe.name, recipe.seed, recipe.toy, recipe.models) == ("r", 3, True, {"m": {"model": "x"}})
    assert recipe.steps == {"a": RawStep("a", "ask", {"model": "m", "n": [1, {"b": None}]})}


def test_the_steps_of_a_group_are_done_for_each_item(steps_of):
    recipe = steps_of(GROUP)
    assert list(recipe.steps) == ["held", "tea/ask", "tea/fix", "jam/ask", "jam/fix"]
    settings = {"model": "writer", "pack": "packs/jam.yaml", "count": 3, "seed": 5, "after": ["held"]}
    assert recipe.steps["jam/ask"] == RawStep("jam/ask", "questions", settings, "jam", "all", "tea")
    assert recipe.steps["tea/fix"].before == ""


def test_labels_name_items_and_values_keep_their_types(steps_of):
    text = """
steps:
  shares:
    each: {share: {tenth: 0.1, none: [], "1": {a: true}}}
    steps: {cut: {stage: derive, sample: "{share}", note: "x{share}"}}
  seeds: {each: {seed: [7, 8]}, steps: {train: {stage: train_sft, seed: "{seed}", out: "s{seed}"}}}
"""
    recipe = steps_of(text.replace(', note: "x{share}"', ""))
    assert {name: step.settings for name, step in recipe.steps.items()} == {
        "tenth/cut": {"sample": 0.1},
        "none/cut": {"sample": []},
        "1/cut": {"sample": {"a": True}},
        "7/train": {"seed": 7, "out": "s7"},
        "8/train": {"seed": 8, "out": "s8"},
    }


def test_several_placeholders_are_a_product_whose_last_one_goes_on(steps_of):
    text = """
steps:
  g:
    each: {who: [a, b], round: ["1", "2", "3"]}
    first: {tune: "{who}"}
    steps: {tune: {stage: train_sft, base: previous/tune, note: "{who}{round}"}}
models: {a: {model: x}, b: {model: y}}
"""
    recipe = steps_of(text)
    assert {step.item: (step.before, step.settings["note"]) for step in recipe.steps.values()} == {
        "a-1": ("", "a1"),
        "a-2": ("a-1", "a2"),
        "a-3": ("a-2", "a3"),
        "b-1": ("", "b1"),
        "b-2": ("b-1", "b2"),
        "b-3": ("b-2", "b3"),
    }
    before = [recipe.look_up("previous/tune", step).name for step in recipe.steps.values()]
    assert before == ["a", "a-1/tune", "a-2/tune", "b", "b-1/tune", "b-2/tune"]


def test_placeholders_are_replaced_where_there_is_a_value_and_each_wins(steps_of):
    text = """
values: {dir: data, n: 5, sure: true, x: of_all, names: [p, q]}
models: {m: {model: "{dir}/m"}}
steps:
  a: {stage: import, corpus: "{dir}/{n}-{sure}.jsonl", text: "{{x}} {y} {} {dir", n: "{n}", "{n}": 1, list: ["{sure}"]}
  g:
    each: {x: {one: "{dir}/1", two: "{n}"}, y: "{names}"}
    steps: {s: {stage: import, corpus: "{x}", y: "{y}"}}
"""
    recipe = steps_of(text)
    assert recipe.models == {"m": {"model": "data/m"}}
    expected = {"corpus": "data/5-true.jsonl", "text": "{of_all} {y} {} {dir", "n": 5, "{n}": 1, "list": [True]}
    assert recipe.steps["a"].settings == expected
    assert recipe.steps["one-p/s"].settings == {"corpus": "data/1", "y": "p"}
    assert recipe.steps["two-q/s"].settings == {"corpus": 5, "y": "q"}


def test_the_text_of_a_value_is_not_filled_again(steps_of):
    assert steps_of('values: {a: "{b}", b: x}\nsteps: {s: {stage: i, c: "{a}", d: "{b}"}}').steps["s"].settings == {
        "c": "{b}",
        "d": "x",
    }


def test_one_items_step_may_differ(steps_of):
    text = f'{GROUP}  jam/ask: {{count: 9, pack: "own/{{topic}}", seed: null, sampling: {{top_p: 1}}}}\n'
    recipe = steps_of(text)
    settings = {"model": "writer", "pack": "own/jam", "count": 9, "after": ["held"], "sampling": {"top_p": 1}}
    assert recipe.steps["jam/ask"].settings == settings
    assert recipe.steps["tea/ask"].settings["count"] == 3
    assert str(recipe.places["steps", "jam/ask", "count"]) == "r.yaml:10"
    assert str(recipe.places["steps", "jam/ask", "model"]) == "r.yaml:8"


def test_what_is_typed_for_one_item_wins(steps_of):
    typed = {"steps": {"jam/ask": {"count": 50}}}
    recipe = steps_of(f"{GROUP}  jam/ask: {{count: 9}}\n", typed, {"steps": {"tea/ask": {"count": 40}}})
    assert [recipe.steps[f"{item}/ask"].settings["count"] for item in ("tea", "jam")] == [40, 50]
    assert str(recipe.places["steps", "tea/ask", "count"]) == "--set"


def test_the_order_of_steps_in_a_file_changes_nothing_else(tmp_path, monkeypatch, steps_of):
    text = f"{GROUP}  jam/ask: {{count: 9}}\n  last: {{stage: x, of: tea/ask}}\n"
    expected = steps_of(text)
    recipe = yaml.safe_load(text) | {"name": "r"}
    for seed in range(20):
        entries = list(recipe["steps"].items())
        random.Random(seed).shuffle(entries)
        problems = []
        shuffled = unroll(read_recipe(recipe | {"steps": dict(entries)}, problems), problems)
        assert (shuffled.steps, shuffled.models, problems) == (expected.steps, expected.models, [])


def test_names_are_looked_for_in_the_same_item_first(steps_of):
    recipe = steps_of(f"{GROUP}  ask: {{stage: import, corpus: q}}\n")
    inside, outside = recipe.steps["jam/fix"], recipe.steps["held"]
    assert recipe.look_up("ask", inside) == Reference("jam/ask")
    assert recipe.look_up("ask", outside) == recipe.look_up("ask") == Reference("ask")
    assert recipe.look_up("tea/ask", inside) == Reference("tea/ask")
    assert recipe.look_up("ask.topics", inside) == Reference("jam/ask", "topics")
    assert recipe.look_up("writer", inside) == Reference("writer", is_model=True)


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        ("fixe", "no step or model 'fixe'; did you mean 'fix'?"),
        ("tea/asks", "no step or model 'tea/asks'; did you mean 'tea/ask'?"),
        ("writter", "no step or model 'writter'; did you mean 'writer'?"),
        ("asks.topics", "no step or model 'asks'; did you mean 'ask'?"),
        ("all", "no step or model 'all'; there are ask, fix, held, tea/ask, tea/fix, jam/ask, jam/fix, writer"),
        ("writer.topics", "'writer.topics': a model has no tables"),
        ("ask.", "'ask.': a table has a name"),
        ("previous/asks", "previous/asks: no step 'asks' in all; did you mean 'ask'?"),
        ("previous/ask", "previous/ask: nothing is before 'tea'; say it in steps.all.first"),
    ],
)
def test_a_name_that_is_not_there_has_a_hint(steps_of, reference, message):
    recipe = steps_of(GROUP)
    with pytest.raises(LookupError) as error:
        recipe.look_up(reference, recipe.steps["tea/fix"])
    assert str(error.value) == message


def test_outside_of_groups_nothing_is_before(steps_of):
    recipe = steps_of(GROUP)
    for step in (None, recipe.steps["held"]):
        with pytest.raises(LookupError, match="previous/ask: only steps of a group have an item before"):
            recipe.look_up("previous/ask", step)


ROUNDS = """\
models: {m: {model: x}}
steps:
  start: {stage: import, corpus: q}
  rounds:
    each: {round: ["1", "2"]}
    first: {tune: m, ask: start.topics}
    steps:
      ask: {stage: questions, old: [previous/ask.topics, previous/ask]}
      tune: {stage: train_sft, base: {x: previous/tune}, text: see previous/tune}
"""


def test_what_is_before_the_first_item_is_what_first_says(steps_of):
    recipe = steps_of(ROUNDS)
    first, second = recipe.steps["1/ask"], recipe.steps["2/ask"]
    assert recipe.look_up("previous/tune", first) == Reference("m", is_model=True)
    assert recipe.look_up("previous/tune", second) == Reference("1/tune")
    assert recipe.look_up("previous/ask", first) == Reference("start", "topics")
    assert recipe.look_up("previous/ask.drops", first) == Reference("start", "drops")
    assert recipe.look_up("previous/ask.drops", second) == Reference("1/ask", "drops")


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        (
            "tune: m, ",
            "",
            "10: steps.1/tune.base.x: previous/tune: nothing is before '1'; say it in steps.rounds.first",
        ),
        (
            "tune: m,",
            "tune: n,",
            "10: steps.1/tune.base.x: no step or model 'n'; there are ask, tune, start, 1/ask, 1/tune, 2/ask, 2/tune, "
            "m",
        ),
        ("tune: m,", "tume: m,", "7: steps.rounds.first.tume: no step of the group; did you mean 'tune'?"),
        (
            "base: {x: previous/tune}",
            "base: m",
            "7: steps.rounds.first.tune: no step of the group takes previous/tune; remove it",
        ),
        (
            "tune: m,",
            "tune: previous/ask,",
            "7: steps.rounds.first.tune: expected the name of a step or model, not 'previous/ask'",
        ),
        ("tune: m,", "tune: [m],", "7: steps.rounds.first.tune: expected the name of a step or model, not ['m']"),
        (
            "x: previous/tune",
            "x: previous/tunes",
            "10: steps.1/tune.base.x: previous/tunes: no step 'tunes' in rounds; did you mean 'tune'?",
        ),
    ],
)
def test_first_says_what_is_used_and_no_more(problems_of, old, new, problem):
    assert old in ROUNDS
    assert f"r.yaml:{problem}" in problems_of(ROUNDS.replace(old, new))


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("steps: {a b: {stage: x}}", "2: steps.a b: is no name; take letters, digits, - and _, at most 80"),
        ("steps: {-a: {stage: x}}", "2: steps.-a: is no name; take letters, digits, - and _, at most 80"),
        ("models: {a.b: {}}", "2: models.a.b: is no name; take letters, digits, - and _, at most 80"),
        (
            f"steps: {{{'a' * 81}: {{stage: x}}}}",
            f"2: steps.{'a' * 81}: is no name; take letters, digits, - and _, at most 80",
        ),
        (
            f"steps: {{g: {{each: {{a: [{'a' * 40}], b: [{'b' * 40}]}}, steps: {{c: {{stage: x}}}}}}}}",
            f"2: steps.g.each: item '{'a' * 40}-{'b' * 40}' has more than 80 characters; shorten its labels",
        ),
        ("seed: -1", "2: seed: expected a whole number from 0 to 4,294,967,295, not -1"),
        ("seed: 4294967296", "2: seed: expected a whole number from 0 to 4,294,967,295, not 4294967296"),
        ("models: {a: x}", "2: models.a: expected settings by name"),
        ("models: {a: {}}\nsteps: {a: {stage: x}}", "2: models.a: steps.a is called so too; rename one of the two"),
        ("models: [a]", "2: models: expected settings by name"),
        ("steps: {a: null}", "2: steps.a: expected the settings of a step or a group"),
        ("steps: {a: {stage: [x]}}", "2: steps.a.stage: expected the name of a kind of stage"),
        (
            "steps: {ask: {stage: x}, asc: {n: 1}}",
            "2: steps.asc: no step to change, and no `stage` to make one; did you mean 'ask'?",
        ),
        (
            "steps: {a: {stage: x, each: {b: [c]}}}",
            "2: steps.a: is either a step with a `stage` or a group with `each`, not both",
        ),
        ("steps: {g: {steps: {}}}", "2: steps.g.each: expected placeholders with their items, at most 10,000 in all"),
        (
            "steps: {g: {each: {}, steps: {}}}",
            "2: steps.g.each: expected placeholders with their items, at most 10,000 in all",
        ),
        (
            "steps: {g: {each: [a], steps: {}}}",
            "2: steps.g.each: expected placeholders with their items, at most 10,000 in all",
        ),
        ("steps: {g: {each: {a: []}, steps: {}}}", "2: steps.g.each.a: expected a list of items, or values by label"),
        ("steps: {g: {each: {a: b}, steps: {}}}", "2: steps.g.each.a: expected a list of items, or values by label"),
        (
            "steps: {g: {each: {a: [0.1]}, steps: {}}}",
            "2: steps.g.each.a: 0.1 is no name; take letters, digits, - and _, at most 80, or write {LABEL: VALUE}",
        ),
        (
            "steps: {g: {each: {a: [true]}, steps: {}}}",
            "2: steps.g.each.a: True is no name; take letters, digits, - and _, at most 80, or write {LABEL: VALUE}",
        ),
        (
            "steps: {g: {each: {a: [b/c]}, steps: {}}}",
            "2: steps.g.each.a: 'b/c' is no name; take letters, digits, - and _, at most 80, or write {LABEL: VALUE}",
        ),
        ("steps: {g: {each: {a: [b, b]}, steps: {}}}", "2: steps.g.each.a: 'b' is an item already"),
        (
            "steps: {g: {each: {a: [previous]}, steps: {}}}",
            "2: steps.g.each: item 'previous' is what the item before is called; rename it",
        ),
        (
            "steps: {g: {each: {a: [x, x-y], b: [y-z, z]}, steps: {}}}",
            "2: steps.g.each: item 'x-y-z' is an item of g too; rename it",
        ),
        (
            "steps: {g: {each: {a: [x]}, steps: {}}, h: {each: {a: [x]}, steps: {}}}",
            "2: steps.h.each: item 'x' is an item of g too; rename it",
        ),
        (
            "steps: {g: {each: {a: [x]}, step: {}, steps: {}}}",
            "2: steps.g.step: a group has none; did you mean 'steps'?",
        ),
        (
            "steps: {g: {each: {a: [x]}, steps: {b/c: {stage: d}}}}",
            "2: steps.g.steps.b/c: is no name; take letters, digits, - and _, at most 80",
        ),
        ("steps: {g: {each: {a: [x]}, steps: {b: {n: 1}}}}", "2: steps.g.steps.b: has no `stage`"),
        (
            "steps: {g: {each: {a: [x]}, steps: {b: {each: {c: [d]}, steps: {}}}}}",
            "2: steps.g.steps.b: groups do not nest; name all placeholders in one `each`",
        ),
        (
            f"{GROUP}  jam/asks: {{count: 1}}",
            "10: steps.jam/asks: no step to change, and no `stage` to make one; did you mean 'jam/ask'?",
        ),
        (f"{GROUP}  jam/ask: {{stage: questions}}", "10: steps.jam/ask.stage: is the group's to say; remove it here"),
        (f"{GROUP}  jam/ask: null", "10: steps.jam/ask: expected settings by name"),
        (
            "values: {a: [1], b: 2}\nsteps: {s: {stage: x, y: ['{b}{a}']}}",
            "3: steps.s.y.0: {a} is a list; it must stand alone",
        ),
        ("values: {a: 1}", "2: values.a: no text says {a}; remove it (null) or use it"),
        ("seed: 1.5", "2: seed: expected a whole number"),
        ("seed: true", "2: seed: expected a whole number"),
        ("toy: 1", "2: toy: expected true or false"),
        ("name: 1", "1: name: expected a text"),
    ],
)
def test_what_is_wrong_is_said_with_its_place(problems_of, text, problem):
    assert problems_of(text) == [f"r.yaml:{problem}"]


def test_a_recipe_has_a_name(tmp_path):
    problems = []
    unroll(read_recipe({"steps": {}}, problems), problems)
    assert list(map(str, problems)) == ["recipe: name: expected a text"]


def test_all_mistakes_are_said_at_once(problems_of):
    assert problems_of("seed: x\nstep: {}\nmodels: {a: 1}\nsteps:\n  b: 2\n  b: {stage: c}\n") == [
        "r.yaml:7: steps.b: is in line 6 already; rename or remove one of the two",
        "r.yaml:3: step: unknown; did you mean 'steps'?",
        "r.yaml:4: models.a: expected settings by name",
        "r.yaml:6: steps.b: expected the settings of a step or a group",
        "r.yaml:2: seed: expected a whole number",
    ]


def test_a_mistake_of_a_group_is_said_once_for_all_its_items(problems_of):
    text = "steps:\n  g: {each: {a: [x, y]}, first: {s: [m]}, steps: {s: {stage: z, b: previous/s}}}"
    assert problems_of(text) == [
        "r.yaml:3: steps.g.first.s: expected the name of a step or model, not ['m']",
        "r.yaml:3: steps.x/s.b: previous/s: nothing is before 'x'; say it in steps.g.first",
    ]


def test_what_only_later_items_take_needs_no_first(problems_of):
    text = """\
steps:
  g: {each: {a: [x, y]}, steps: {s: {stage: z, b: [c]}}}
  y/s: {b: previous/s}
models: {m: {model: x}}
"""
    assert problems_of(text) == []
    message = "r.yaml:3: steps.g.first.s: no step of the group takes previous/s; remove it"
    assert problems_of(text.replace("steps: {s:", "first: {s: m}, steps: {s:")) == [message]


def test_sections_may_be_empty_and_unused_values_are_told_last(problems_of):
    assert problems_of("values:\nmodels:\nsteps:\n") == []
    assert problems_of("values: {a: 1}\nseed: x") == ["r.yaml:3: seed: expected a whole number"]


@pytest.mark.parametrize(
    "text",
    [
        "values: {a: [" + "x, " * 400 + "]}\nsteps: {s: {stage: x, y: [" + "'{a}', " * 600 + "]}}",
        "values: {a: " + "x" * 20_000 + "}\nsteps: {s: {stage: x, y: '" + "{a}" * 1200 + "'}}",
        "steps: {g: {each: {a: " + str(list(range(2000))) + "}, steps: {s: {stage: x, y: [" + "z, " * 100 + "]}}}}",
    ],
)
def test_what_placeholders_and_groups_make_has_an_end(read, text):
    with pytest.raises(UsageError, match=r"\d: placeholders and groups make too much of this recipe"):
        read(text)
    assert placeholders.MAX_SIZE == 20_000_000


def test_the_items_of_a_product_have_an_end(problems_of):
    hundred = "[" + ", ".join(map(str, range(100))) + "]"
    axes = f"{{a: {hundred}, b: {hundred}, c: [x, y]}}"
    assert problems_of(f"steps: {{g: {{each: {axes}, steps: {{s: {{stage: x}}}}}}}}") == [
        "r.yaml:2: steps.g.each: expected placeholders with their items, at most 10,000 in all"
    ]


def test_relative_paths_belong_to_the_file_or_flag_where_they_begin(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "flow.yaml").write_text(
        "name: flow\nvalues: {pack: a.yaml, dir: d, set: {own: b}, flag: c}\nsteps:\n"
        "  s: {stage: x, pack: '{pack}', in: '{dir}/x', tail: 'x/{dir}', set: '{set}', flag: '{flag}', plain: p}\n"
        "  g: {each: {p: {one: '{pack}', two: q}}, steps: {t: {stage: x, pack: '{p}'}}}\n"
    )
    (tmp_path / "mine.yaml").write_text("extends: flow.yaml\nname: mine\nvalues: {pack: mine.yaml, set: {mine: c}}\n")
    problems = []
    recipe = with_settings(
        read_recipe("mine.yaml", problems), {"values": {"flag": "f"}}, "--set values.flag=f", problems
    )
    recipe = unroll(recipe, problems)
    assert problems == []
    origins = {
        path[2:]: recipe.origin_of(path) for path in recipe.places if path[:2] == ("steps", "s") and len(path) > 2
    }
    assert origins == {
        ("stage",): "flow.yaml",
        ("pack",): "mine.yaml",
        ("in",): "flow.yaml",
        ("tail",): "flow.yaml",
        ("set",): "flow.yaml",
        ("set", "own"): "flow.yaml",
        ("set", "mine"): "mine.yaml",
        ("flag",): "",
        ("plain",): "flow.yaml",
    }
    assert recipe.origin_of(("steps", "one/t", "pack")) == "mine.yaml"
    assert recipe.origin_of(("steps", "two/t", "pack")) == "flow.yaml"
    assert str(recipe.places["steps", "s", "pack"]) == "flow.yaml:4"  # where the text stands that asks for the value


REFUSED = "no file may set it so, because vLLM can load code or read files by such arguments"


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("models: {m: {args: {worker_cls: x}}}", "2: models.m.args.worker_cls"),
        ('values: {a: {worker_cls: x}}\nmodels: {m: {args: "{a}"}}', "2: models.m.args.worker_cls"),
        ('values: {a: {args: {worker_cls: x}}}\nmodels: {m: {more: "{a}"}}', "2: models.m.more.args.worker_cls"),
        ('values: {a: x}\nmodels: {m: {args: {worker_cls: "{a}"}}}', "3: models.m.args.worker_cls"),
        ('values: {a: x/y}\nmodels: {m: {args: {dtype: "{a}"}}}', "3: models.m.args.dtype"),
        ('values: {a: "{b"}\nmodels: {m: {args: {dtype: "{a}}"}}}', "3: models.m.args.dtype"),
        (
            'values: {a: {logits_processors: [x]}}\nsteps: {s: {stage: x, sampling: {extra: "{a}"}}}',
            "2: steps.s.sampling.extra.logits_processors",
        ),
        ('values: {a: {t: "{{ x }}"}}\nmodels: {m: {chat_template_kwargs: "{a}"}}', "3: models.m.chat_template_kwargs"),
        (
            'steps: {g: {each: {a: {i: {worker_cls: x}}}, steps: {s: {stage: x, engine: {args: "{a}"}}}}}',
            "2: steps.i/s.engine.args.worker_cls",
        ),
        (
            "steps: {g: {each: {a: [i]}, steps: {s: {stage: x}}}, i/s: {args: {worker_cls: x}}}",
            "2: steps.i/s.args.worker_cls",
        ),
        ("steps: {args: {stage: x, args: {worker_cls: x}}}", "2: steps.args.args.worker_cls"),
    ],
)
def test_no_placeholder_lets_a_file_say_what_files_may_not(problems_of, text, key):
    (problem,) = problems_of(text)
    assert problem.startswith(f"r.yaml:{key}: {REFUSED}")


def test_no_extended_file_says_it_either(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "flow.yaml").write_text('name: f\nvalues: {a: {}}\nmodels: {m: {args: "{a}"}}\n')
    (tmp_path / "mine.yaml").write_text("extends: flow.yaml\nvalues:\n  a: {worker_cls: x}\n")
    problems = []
    unroll(read_recipe("mine.yaml", problems), problems)
    assert [str(problem).partition(", because")[0] for problem in problems] == [
        "mine.yaml:3: models.m.args.worker_cls: no file may set it so"
    ]


def test_what_is_typed_may_say_it(steps_of):
    typed = {"models": {"m": {"args": {"worker_cls": "x", "hf_overrides": {"a": 1}}}}}
    recipe = steps_of("models: {m: {args: {dtype: float32}}}", typed)
    assert recipe.models["m"]["args"] == {"dtype": "float32", "worker_cls": "x", "hf_overrides": {"a": 1}}
    assert steps_of("models: {m: {}}", {"models": {"m": {"args": {"hf_overrides": {}}}}}).models["m"]["args"]
    steps_of(GROUP, {"steps": {"jam/ask": {"sampling": {"extra": {"logits_processors": ["x"]}}}}})


@pytest.mark.parametrize(
    ("text", "typed", "key"),
    [
        (
            "models: {m: {args: {hf_overrides: {a: 1}}}}",
            {"models": {"m": {"args": {"hf_overrides": {"b": 2}}}}},
            "hf_overrides",
        ),
        ("models: {m: {args: {worker_cls: '{a}'}}}", {"values": {"a": "x"}}, "worker_cls"),
        ("models: {m: {args: '{a}'}}", {"values": {"a": {"worker_cls": "x"}}}, "worker_cls"),
        ("values: {a: {worker_cls: x}}\nmodels: {m: {}}", {"models": {"m": {"args": "{a}"}}}, "worker_cls"),
        ("values: {a: x}\nmodels: {m: {}}", {"models": {"m": {"args": {"worker_cls": "{a}"}}}}, "worker_cls"),
        ("models: {m: {args: {worker_cls: x}}}", {"models": {"m": {"args": {"dtype": "float32"}}}}, "worker_cls"),
    ],
)
def test_what_is_typed_opens_nothing_for_a_file(problems_of, text, typed, key):
    (problem,) = problems_of(text, typed)
    assert f"models.m.args.{key}: {REFUSED}" in problem


def test_a_group_that_what_is_typed_makes_whole_is_looked_at_then(problems_of):
    text = 'values: {a: {worker_cls: x}}\nsteps: {g: {each: {}, steps: {s: {stage: x, engine: {args: "{a}"}}}}}'
    (problem,) = problems_of(text, {"steps": {"g": {"each": {"i": ["one"]}}}})
    assert f"steps.one/s.engine.args.worker_cls: {REFUSED}" in problem


@pytest.mark.parametrize("typed", [False, True])
def test_what_nobody_may_say_is_refused_once(problems_of, monkeypatch, typed):
    monkeypatch.delenv("ALIGNBEAM_SCRIPTED")
    values = {"models": {"m": {"engine": "scripted", "api_key_env": "K"}}}
    problems = problems_of("models: {m: {}}", values) if typed else problems_of(yaml.safe_dump(values))
    assert [problem.partition(", ")[0] for problem in problems] == [
        f"{'--set' if typed else 'r.yaml:5'}: models.m.engine: 'scripted': a scripted model calls a Python function",
        f"{'--set' if typed else 'r.yaml:4'}: models.m.api_key_env: is no setting any more",
    ][:: 1 if typed else -1]


def test_plain_data_from_python_is_looked_at_like_a_file():
    problems = []
    unroll(
        read_recipe({"name": "r", "models": {"m": {"args": {"worker_cls": "x"}, "when": {1, 2}}}}, problems), problems
    )
    assert [str(problem).partition(", because")[0].partition(";")[0] for problem in problems] == [
        "recipe: models.m.args.worker_cls: no file may set it so",
        "recipe: models.m.when: set is no plain value",
    ]


# Whole recipes, of the kinds for which recipes were made. INPUTS are the settings that name steps and models.
INPUTS = {
    "model",
    "questions",
    "table",
    "tables",
    "heldout",
    "data",
    "base",
    "responses",
    "passages",
    "encoder",
    "judge",
}
INPUTS |= {"systems", "references", "aligned", "inspectors", "members"}

ONE_CRITERION = """\
name: tidy
values: {pack: tidy.yaml, made: made/here}
models:
  small: {model: tiny/writer, args: {dtype: float32}}
  reader: {model: "{made}/reader"}
  critic: {model: "{made}/critic"}
  fixer: {step: aligner, args: {dtype: float32}}
steps:
  evaluation: {stage: evaluate, aligned: aligned, inspectors: [inspector, critic]}
  asked: {stage: import, corpus: "{made}/asked.jsonl", kind: questions}
  written: {stage: questions, model: small, pack: "{pack}", count: 40}
  triples: {stage: triples, questions: written, model: small, pack: "{pack}"}
  curated: {stage: curate, table: triples, heldout: [asked]}
  inspector: {stage: train_inspector, data: curated, base: reader}
  aligner: {stage: train_aligner, data: curated, base: small}
  answers: {stage: respond, questions: asked, model: small, sampling: {stop: ["\\nQ {n}:"]}}
  aligned: {stage: align, responses: answers, members: [{criterion: tidy, inspector: inspector, aligner: fixer}]}
"""

SQUAD = """\
name: squad
models:
  small: {model: tiny/writer}
  reader: {model: tiny/reader}
steps:
  asked: {stage: import, corpus: asked.jsonl}
  traits:
    each: {trait: [brief, warm]}
    steps:
      written: {stage: questions, model: small, pack: "traits/{trait}.yaml", count: 30}
      triples: {stage: triples, questions: written, model: small}
      curated: {stage: curate, table: triples, heldout: [asked]}
      inspector: {stage: train_inspector, data: curated, base: reader}
      aligner: {stage: train_aligner, data: curated, base: small, adapter: true}
  warm/written: {count: 90}
  answers: {stage: respond, questions: asked, model: small}
  free: &free
    stage: align
    responses: answers
    members: &members
      - {criterion: brief, inspector: brief/inspector, aligner: brief/aligner}
      - {criterion: warm, inspector: warm/inspector, aligner: warm/aligner}
    guard: false
  guarded: {<<: *free, guard: true}
  harm: {stage: conflicts, responses: answers, members: *members}
  judged: {stage: evaluate, aligned: {without: free, with: guarded}, inspectors: [brief/inspector, warm/inspector]}
"""

DOCUMENT = """\
name: handbook
values: {document: handbook.pdf}
models:
  start: {model: open/start, style: chat}
  judge: {model: open/judge}
  encoder: {model: open/encoder}
steps:
  passages: {stage: passages, documents: "{document}"}
  asked: {stage: instructions, passages: passages, model: judge, count: 100}
  data: {stage: curate, table: asked}
  tests: {stage: derive, tables: [data], where: {split: [test]}}
  sft: {stage: train_sft, data: data, base: start}
  dpo: {stage: train_preference, data: data, base: sft, loss: dpo}
  near: {stage: retrieve, questions: tests, passages: passages, encoder: encoder}
  systems:
    each: {system: [start, sft, dpo]}
    steps:
      plain: {stage: respond, questions: tests, model: "{system}"}
      rag: {stage: respond, questions: near, model: "{system}"}
  table: {stage: compare, systems: {SFT + RAG: sft/rag, DPO: dpo/plain}, references: tests, judge: judge}
"""

MANY_ROUNDS = """\
name: rounds
values: {data: data}
models: {base: {model: open/base}, small: {model: open/small}}
steps:
  prompts: {stage: import, corpus: "{data}/prompts.jsonl"}
  rounds:
    each: {round: ["1", "2"]}
    first: {policy: base}
    steps:
      triples: {stage: import, corpus: "{data}/{round}.jsonl"}
      curated: {stage: curate, table: triples}
      aligner: {stage: train_aligner, data: curated, base: small}
      answers: {stage: respond, questions: prompts, model: previous/policy}
      better: {stage: align, responses: answers, members: [{criterion: any, aligner: aligner}]}
      policy: {stage: train_preference, data: better, base: previous/policy}
  table: {stage: compare, systems: {one: 1/better, two: 2/better}}
"""


def names_in(value):
    if isinstance(value, str):
        yield value
    else:
        pairs = value.items() if isinstance(value, dict) else enumerate(value)
        for key, item in pairs:
            yield from () if key == "criterion" else names_in(item)


@pytest.mark.parametrize(
    ("text", "names"),
    [
        (ONE_CRITERION, "evaluation asked written triples curated inspector aligner answers aligned"),
        (
            SQUAD,
            "asked brief/written brief/triples brief/curated brief/inspector brief/aligner "
            "warm/written warm/triples warm/curated warm/inspector warm/aligner answers free guarded harm judged",
        ),
        (
            DOCUMENT,
            "passages asked data tests sft dpo near start/plain start/rag sft/plain sft/rag dpo/plain dpo/rag table",
        ),
        (
            MANY_ROUNDS,
            "prompts 1/triples 1/curated 1/aligner 1/answers 1/better 1/policy "
            "2/triples 2/curated 2/aligner 2/answers 2/better 2/policy table",
        ),
    ],
)
def test_whole_recipes_unroll_and_all_their_names_are_there(steps_of, text, names):
    recipe = steps_of(text)
    assert list(recipe.steps) == names.split()
    for step in recipe.steps.values():
        for name in names_in({key: value for key, value in step.settings.items() if key in INPUTS}):
            recipe.look_up(name, step)


def test_whole_recipes_say_what_they_mean(steps_of):
    assert steps_of(SQUAD).steps["guarded"].settings["guard"] is True
    assert steps_of(SQUAD).steps["warm/written"].settings["count"] == 90
    assert steps_of(SQUAD).steps["brief/written"].settings["pack"] == "traits/brief.yaml"
    assert steps_of(ONE_CRITERION).steps["answers"].settings["sampling"] == {"stop": ["\nQ {n}:"]}
    rounds = steps_of(MANY_ROUNDS)
    assert rounds.steps["2/triples"].settings["corpus"] == "data/2.jsonl"
    policies = [rounds.look_up("previous/policy", rounds.steps[f"{number}/answers"]) for number in (1, 2)]
    assert policies == [Reference("base", is_model=True), Reference("1/policy")]
    document = steps_of(DOCUMENT)
    models = [document.look_up(document.steps[f"{item}/rag"].settings["model"]) for item in ("start", "dpo")]
    assert models == [Reference("start", is_model=True), Reference("dpo")]
