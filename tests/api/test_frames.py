"""Answers as pandas DataFrames."""

import siamese_search as sss


def test_results_have_a_row_each_and_several_answers_go_together(tmp_path, demo):
    sss.ingest(demo / "gallery", store=tmp_path / "s")
    answers = sss.search(demo / "queries", k=3, store=tmp_path / "s")
    frame = answers[0].to_frame()
    assert list(frame["rank"]) == [1, 2, 3]
    assert list(frame["score"]) == [round(hit.score, 6) for hit in answers[0].results]
    assert list(frame["identity"]) == [hit.identity for hit in answers[0].results]
    together = answers.to_frame()
    assert list(together.index) == list(range(3 * len(answers)))
    assert together["query"].nunique() == len(answers)
    assert list(together.columns) == list(frame.columns)
    assert len(answers[:0].to_frame()) == 0


def test_metadata_are_columns_and_no_results_are_no_rows(tmp_path):
    hit = sss.SearchResult(1, 0.5, "ann", None, tmp_path / "a.jpg", "a.jpg", {"frame": 3})
    assert sss.QueryResult("q.jpg", (hit,)).to_frame()["metadata.frame"].tolist() == [3]
    assert len(sss.QueryResult("q.jpg").to_frame()) == 0


def test_an_evaluation_is_a_row(demo):
    report = sss.evaluate(demo)
    frame = report.to_frame()
    assert len(frame) == 1
    assert (frame["mAP"].item(), frame["verification.auc"].item()) == (report.mAP, report.verification.auc)


def test_proposed_identities_have_a_row_per_image(tmp_path, demo):
    sss.ingest(demo / "gallery", store=tmp_path / "s")
    found = sss.propose_identities(store=tmp_path / "s", labelled=True)
    frame = found.to_frame()
    assert list(frame["key"]) == [one.key for one in found.images]
    assert set(frame["status"]) == {one.status for one in found.images}
