"""Scores as columns: by whom, in which order, and null where a criterion has no inspector."""

from dataclasses import replace

import numpy as np
import pyarrow as pa

from transforms.alignment.members import Member
from transforms.alignment.scoring import _ScoreFn, arrange_scores, score_matrix
from transforms.engines.engine import EngineConfig, Sampling
from transforms.generation.generate import Model
from transforms.tables.chunks import Chunk

SCRIPTED = EngineConfig(engine="scripted", args={"function": "m:f"})
KIND = Member(
    criterion="kind",
    inspector="scripted:tests.scripted_models:lengths",
    model=Model(engine=SCRIPTED, sampling=Sampling()),
)
MEMBERS = [KIND, replace(KIND, criterion="any", inspector="")]


def test_a_criterion_without_an_inspector_has_null_for_a_score():
    rows = {"id": ["1", "2"], "question": ["q", "q"], "response": ["a" * 50, None]}
    batch = pa.RecordBatch.from_pydict({name: pa.array(values, pa.string()) for name, values in rows.items()})
    inspectors = {member.criterion: member.inspector for member in MEMBERS}
    function = _ScoreFn(inspectors, "response", "scores", "score", False)
    function.setup()
    [chunk] = function.process(Chunk(0, 0, 2, batch))
    assert chunk.batch.column("scores").to_pylist() == [{"kind": 0.5, "any": None}, {"kind": None, "any": None}]
    np.testing.assert_array_equal(score_matrix(chunk.batch, "scores", MEMBERS), [(0.5, np.nan), (np.nan, np.nan)])


def test_scores_of_an_earlier_step_are_put_in_the_order_of_the_members():
    scores = pa.array([{"other": 0.1, "kind": 0.2}], pa.struct({"other": pa.float64(), "kind": pa.float64()}))
    batch = pa.RecordBatch.from_arrays([scores], names=["scores"])
    assert arrange_scores(batch, MEMBERS).to_pylist() == [{"scores": {"kind": 0.2, "any": None}}]
    other = [replace(KIND, criterion="other"), KIND]
    assert list(arrange_scores(batch, other).to_pylist()[0]["scores"].items()) == [("other", 0.1), ("kind", 0.2)]
