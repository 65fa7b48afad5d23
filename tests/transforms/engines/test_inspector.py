"""The inspector's inference with tiny models, and sentence embeddings with MiniLM."""

import json
import shutil
import threading

import numpy as np
import pytest
import tiny_models
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.errors import UsageError
from transforms.engines import inspector as inspectors
from transforms.engines.embedder import Embedder
from transforms.engines.encoder import token_batches
from transforms.engines.inspector import Inspector, encode_pairs, inspector_digest, open_inspector, score_all

QUESTIONS = ["how do i learn", "how do i treat a neighbour", "what is the best way", ""]
ANSWERS = ["ask for help every day", "shout at them until they stop", "never give up " * 9, "be kind"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny_models.classifier(tmp_path_factory.mktemp("inspector"))


@pytest.fixture(scope="module")
def inspector(folder):
    return Inspector(folder, device="cpu")


def test_a_score_is_the_softmax_of_label_1_of_the_pair(inspector):
    import torch

    scores = inspector.score(QUESTIONS, ANSWERS)
    assert scores.dtype == np.float64
    for question, answer, score in zip(QUESTIONS, ANSWERS, scores, strict=True):
        inputs = inspector.tokenizer(question, answer, return_tensors="pt", truncation="longest_first")
        with torch.no_grad():
            expected = inspector.model(**inputs).logits.softmax(-1)[0, 1].item()
        assert score == pytest.approx(expected, abs=1e-5)
    assert np.ptp(scores) > 0.01  # the tiny model tells the pairs apart, or the test shows nothing


def test_no_rows_give_no_scores_and_unequal_columns_are_refused(inspector):
    assert inspector.score([], []).shape == (0,)
    with pytest.raises(ValueError, match="2 questions and 1 answers"):
        inspector.score(["a", "b"], ["c"])


@settings(deadline=None, max_examples=25)
@given(
    rows=st.lists(st.tuples(st.sampled_from(QUESTIONS), st.sampled_from(ANSWERS)), min_size=1, max_size=12),
    cut=st.integers(0, 12),
)
def test_cutting_a_batch_anywhere_or_reversing_it_never_changes_a_score(inspector, rows, cut):
    whole = inspector.score(*zip(*rows, strict=True))
    for part, expected in ((rows[:cut], whole[:cut]), (rows[cut:], whole[cut:]), (rows[::-1], whole[::-1])):
        scores = inspector.score([question for question, _ in part], [answer for _, answer in part])
        np.testing.assert_allclose(scores, expected, atol=1e-6)


def test_the_longer_text_is_the_one_that_is_cut(inspector):
    long, short = "good " * 100, "be kind"
    assert [len(ids) for ids in encode_pairs(inspector.tokenizer, [long], [short], 20)["input_ids"]] == [20]
    for question, answer in ((long, short), (short, long)):
        ids = encode_pairs(inspector.tokenizer, [question], [answer], 20)["input_ids"][0]
        assert "be kind" in inspector.tokenizer.decode(ids)
    assert 0 <= inspector.score([long], [long])[0] <= 1


def test_batches_depend_on_content_only_and_keep_to_their_size():
    rows = [[5] * 3, [1], [2], [4] * 4, [3] * 3]
    assert list(token_batches(rows, 6)) == [[1, 2], [4, 0], [3]]
    assert list(token_batches([[7] * 9], 6)) == [[0]]
    assert [[rows[::-1][i] for i in batch] for batch in token_batches(rows[::-1], 6)] == [
        [rows[i] for i in batch] for batch in token_batches(rows, 6)
    ]


def test_bfloat16_moves_a_score_by_little(folder, inspector):
    scores = Inspector(folder, device="cpu", bf16=True).score(QUESTIONS, ANSWERS)
    np.testing.assert_allclose(scores, inspector.score(QUESTIONS, ANSWERS), atol=0.1)
    assert (scores != inspector.score(QUESTIONS, ANSWERS)).any()
    half = open_inspector(folder, bf16=True)
    assert half is open_inspector(folder, bf16=True)
    assert half is not open_inspector(folder)
    np.testing.assert_array_equal(half.score(QUESTIONS, ANSWERS), scores)


def test_threads_share_one_inspector_per_folder(folder):
    scores, opened = {}, []

    def work(number):
        opened.append(open_inspector(folder))
        scores[number] = opened[-1].score(QUESTIONS[number:], ANSWERS[number:])

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(map(id, opened))) == 1
    for number in range(4):
        np.testing.assert_allclose(scores[number], scores[0][number:], atol=1e-6)


def test_the_digest_follows_the_weights(folder, tmp_path):
    other = tiny_models.classifier(tmp_path / "other")
    assert inspector_digest(other) == inspector_digest(folder)
    weights = other / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(bytes(content))
    assert inspector_digest(other) != inspector_digest(folder)


def _without(folder, pattern):
    for path in folder.glob(pattern):
        path.unlink()
    return folder


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda folder: folder / "absent", "no such model folder"),
        (lambda folder: _without(tiny_models.classifier(folder), "config.json"), "has no config.json"),
        (lambda folder: _without(tiny_models.classifier(folder), "*.safetensors"), "has no .*safetensors"),
        (lambda folder: _without(tiny_models.classifier(folder), "tok*"), "has no tokenizer"),
        (lambda folder: tiny_models.classifier(folder, labels=3), "it has 3 labels, not 2"),
        (lambda folder: tiny_models.encoder(folder), "names BertModel, not a sequence classifier"),
        (lambda folder: tiny_models.gpt2(folder), "names GPT2LMHeadModel"),
    ],
)
def test_a_folder_that_is_no_inspector_is_refused_by_name(tmp_path, spoil, message):
    folder = spoil(tmp_path / "model")
    with pytest.raises(UsageError, match=message) as refusal:
        Inspector(folder)
    assert str(folder) in str(refusal.value)


def test_a_broken_config_is_named(folder, tmp_path):
    (tmp_path / "config.json").write_text("{")
    (tmp_path / "model.safetensors").write_bytes(b"")
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(UsageError, match=r"config\.json: cannot be read as JSON"):
        Inspector(tmp_path)


def test_minilm_puts_alike_sentences_closer(minilm):
    embedder = Embedder(minilm, device="cpu")
    vectors = embedder.embed(["A cat sits on the mat.", "The kitten rests on a rug.", "Interest rates rose again."])
    assert vectors.shape == (3, 384)
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    cosine = vectors @ vectors.T
    assert cosine[0, 1] > 0.5 > cosine[0, 2] + 0.2
    assert embedder.max_tokens == 256
    np.testing.assert_allclose(embedder.embed(["Interest rates rose again."])[0], vectors[2], atol=1e-5)
    assert embedder.embed([]).shape == (0, 384)


def test_minilm_agrees_with_sentence_transformers(minilm):
    library = pytest.importorskip("sentence_transformers")
    texts = ["A cat sits on the mat.", "word " * 400, ""]
    expected = library.SentenceTransformer(str(minilm), device="cpu").encode(texts, normalize_embeddings=True)
    np.testing.assert_allclose(Embedder(minilm, device="cpu").embed(texts), expected, atol=1e-5)


def test_an_embedder_with_other_pooling_is_refused(tmp_path):
    folder = tiny_models.encoder(tmp_path)
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text(json.dumps({"pooling_mode_cls_token": True}))
    with pytest.raises(UsageError, match="not mean pooling"):
        Embedder(folder)


def test_inspectors_of_one_tokenizer_share_what_is_encoded(folder, tmp_path, monkeypatch):
    shutil.copytree(folder, tmp_path / "other")
    one, other = Inspector(folder, device="cpu"), Inspector(tmp_path / "other", device="cpu")
    alone = one.score(QUESTIONS, ANSWERS)
    encoded = []
    monkeypatch.setattr(inspectors, "encode_pairs", lambda *given: encoded.append(given) or encode_pairs(*given))
    found = score_all({"one": one, "other": other}, QUESTIONS, ANSWERS)
    assert len(encoded) == 1
    assert found["one"].tolist() == found["other"].tolist() == alone.tolist()
    assert [scores.tolist() for scores in score_all({"one": one, "other": other}, [], []).values()] == [[], []]


def test_a_function_stands_for_an_inspector_in_tests():
    scores = open_inspector("scripted:tests.scripted_models:lengths").score(["q", "q"], ["x" * 50, ""])
    assert scores.tolist() == [0.5, 0.0]
