"""Squad files: what a file may say, what its silence means, and which rules contradict each other."""

import pytest
import yaml

from schemas.errors import UsageError
from schemas.squads import Squad, SquadMember, SquadRules, load_squad, squad_of, squad_yaml

KIND = {"criterion": "kind", "inspector": "i", "aligner": "a"}


@pytest.fixture
def load(tmp_path):
    """Loads a squad file of one member, `kind`, with these rules, and with these settings of the member."""

    def load_file(member=(), **rules):
        path = tmp_path / "squad.yaml"
        path.write_text(yaml.safe_dump({**rules, "members": [{**KIND, **dict(member)}]}))
        return load_squad(str(path))

    return load_file


@pytest.mark.parametrize(
    ("rules", "has_guard"),
    [
        ({}, True),
        ({"guard": True}, True),
        ({"guard": False}, False),
        ({"routing": "corpus-mean"}, True),
        ({"routing": "paper-002"}, False),
        ({"routing": "paper-002", "guard": False}, False),
    ],
)
def test_where_a_file_says_nothing_only_paper_002_has_no_guard(load, rules, has_guard):
    assert load(**rules).has_guard == has_guard


@pytest.mark.parametrize(
    ("rules", "member", "message"),
    [
        ({"guard": True}, {}, "guard: routing paper-002 has none; leave guard out, or choose another routing"),
        ({}, {"threshold": 0.6}, "threshold: routing paper-002 has 0.5 for all, not 0.6 .kind.; leave threshold out"),
    ],
)
def test_what_contradicts_paper_002_is_refused(load, rules, member, message):
    with pytest.raises(UsageError, match=message):
        load(member, routing="paper-002", **rules)
    assert load(member, **rules)
    assert load({"threshold": 0.5}, routing="paper-002")


def test_a_file_that_is_written_says_the_same_when_it_is_read(tmp_path):
    squad = Squad(
        routing="paper-002",
        every_row=True,
        guard_margin=0.25,
        guard_max_loss=0.125,
        members=(SquadMember(criterion="kind", inspector="i", aligner="a"),),
    )
    free = squad_of(SquadRules(rounds=2), [SquadMember(criterion="kind", inspector="i", aligner="a", threshold=0.0)])
    for number, written in enumerate((squad, free)):
        path = tmp_path / f"{number}.yaml"
        path.write_text(squad_yaml(written))
        read = load_squad(str(path))
        assert read.has_guard == written.has_guard
        assert {**vars(read), "guard": None} == {**vars(written), "guard": None}


@pytest.mark.parametrize("name", ["guard_margin", "guard_max_loss"])
def test_what_a_score_gains_or_loses_is_a_share(load, name):
    with pytest.raises(UsageError, match=f"{name}: must be between 0 and 1, not 1.5"):
        load(**{name: 1.5})
