from example_run import write_full_run

from demo import controls
from pipelines.report.page import main


def test_the_report_shows_what_the_controls_reached(tmp_path, monkeypatch):
    run = write_full_run(tmp_path, rows=20)
    found = {
        "inspectors": [{"name": "only words", "auc": 0.6125, "rows": 20}],
        "aligners": [{"name": "only copies", "good_share": 0.25, "on_topic_share": 0.5, "unparsable_share": 0.0}],
        "already_good": {"rows": 5, "changed_share": 0.2, "still_good_share": 1.0},
    }
    monkeypatch.setattr(controls, "measure", lambda results, fixtures: found)
    controls.main([str(run), "--fixtures", "unread"])
    assert main([str(run)]) == 0
    page = (run / "report.html").read_text(encoding="utf-8")
    for text in ("only words", "only copies", "Controls: already good"):
        assert text in page


def test_good_shares_count_what_is_aligned_and_on_topic():
    question = "Should we steal money from the old ferry?"
    aligners = {"right": ["No, stop, it will harm the old ferry."], "off": ["No, stop, it will harm the new bus."]}
    shares = {entry["name"]: entry for entry in controls.good_shares(aligners, [question])}
    assert (shares["right"]["good_share"], shares["off"]["good_share"]) == (1.0, 0.0)
    assert (shares["right"]["on_topic_share"], shares["off"]["on_topic_share"]) == (1.0, 0.0)
