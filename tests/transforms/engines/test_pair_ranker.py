"""The pair-ranker with a tiny DeBERTa in the published checkpoint's layout."""

import json

import numpy as np
import pytest
import tiny_models
import torch

from schemas.errors import UsageError
from transforms.engines.pair_ranker import MARKS, PairRanker, convert, open_pair_ranker, shared_limits

QUESTION = "how do i learn"
GOOD, BAD = "ask for help every day", "steal answers from others"


def write_checkpoint(folder, backbone_model, **settings):
    """A checkpoint as published: pickled weights of encoder and head, the ranker's settings, no tokenizer."""
    width = backbone_model.config.hidden_size
    # The published vocabulary holds four marks more than its backbone's.
    backbone_model.resize_token_embeddings(backbone_model.config.vocab_size + 4, mean_resizing=False)
    torch.manual_seed(1)
    state = {f"pretrained_model.{name}": tensor for name, tensor in backbone_model.state_dict().items()}
    state |= {
        "pretrained_model.embeddings.position_ids": torch.arange(512)[None],
        "head_layer.1.weight": torch.randn(width, 2 * width),
        "head_layer.1.bias": torch.randn(width),
        "head_layer.4.weight": torch.randn(1, width),
        "head_layer.4.bias": torch.randn(1),
    }
    folder.mkdir()
    torch.save(state, folder / "pytorch_model.bin")
    ranker = {"ranker_type": "pairranker", "source_maxlength": 128, "candidate_maxlength": 128} | settings
    (folder / "config.json").write_text(json.dumps(ranker))
    return state


@pytest.fixture(scope="module")
def converted(tmp_path_factory):
    """The folder that `convert` writes, and the state of the checkpoint that it was made from."""
    root = tmp_path_factory.mktemp("ranker")
    model = tiny_models.deberta_backbone(root / "backbone")
    state = write_checkpoint(root / "checkpoint", model)
    convert(root / "checkpoint", root / "backbone", root / "out")
    return root / "out", state


@pytest.fixture(scope="module")
def ranker(converted):
    return PairRanker(converted[0], device="cpu")


def test_the_margin_is_the_difference_of_two_heads_averaged_over_both_orders(ranker, converted):
    state = converted[1]

    def margin(first, second):
        tokenize = ranker.tokenizer
        ids = []
        for mark, text in zip(MARKS, (QUESTION, first, second), strict=False):
            body = tokenize(text, add_special_tokens=False)["input_ids"]
            ids += [tokenize.cls_token_id, tokenize.convert_tokens_to_ids(mark), *body, tokenize.sep_token_id]
        places = [ids.index(tokenize.convert_tokens_to_ids(mark)) for mark in MARKS[:3]]
        with torch.no_grad():
            states = ranker.model["pretrained_model"](input_ids=torch.tensor([ids])).last_hidden_state[0]
        scores = []
        for place in places[1:]:
            hidden = torch.tanh(
                state["head_layer.1.weight"] @ torch.cat([states[places[0]], states[place]])
                + state["head_layer.1.bias"]
            )
            scores.append((state["head_layer.4.weight"] @ hidden + state["head_layer.4.bias"]).item())
        return scores[0] - scores[1]

    expected = (margin(GOOD, BAD) - margin(BAD, GOOD)) / 2
    assert abs(expected) > 1e-3
    assert ranker.compare([QUESTION], [GOOD], [BAD])[0] == pytest.approx(expected, abs=1e-4)


def test_swapping_the_answers_exactly_negates_and_equal_answers_tie(ranker):
    questions = [QUESTION, QUESTION, "what is the best way", ""]
    a = [GOOD, GOOD, "never give up", ""]
    b = [BAD, GOOD, "be kind and talk calmly", "shout"]
    margins = ranker.compare(questions, a, b)
    assert margins.tolist() == (-ranker.compare(questions, b, a)).tolist()
    assert margins[1] == 0
    assert (margins[[0, 2, 3]] != 0).all()


def test_neither_repetition_nor_company_changes_a_margin(ranker):
    alone = ranker.compare([QUESTION], [GOOD], [BAD])
    assert ranker.compare([QUESTION], [GOOD], [BAD]).tolist() == alone.tolist()
    among = ranker.compare([QUESTION] * 3, [GOOD, "be kind " * 40, GOOD], [BAD, "stop", BAD])
    np.testing.assert_allclose(among[[0, 2]], alone.repeat(2), atol=1e-5)
    assert ranker.compare([], [], []).shape == (0,)


def test_a_question_takes_at_most_128_tokens_an_answer_its_share_and_all_of_them_384(ranker):
    ids, places = ranker.encode("good " * 500, "good " * 500, "bad " * 500)
    assert len(ids) == 384
    assert places == [1, 129, 257]
    assert shared_limits(128, (128, 128)) == 128
    ids, places = ranker.encode("how", "good " * 500, "bad " * 500)
    assert places == [1, 5, 4 + 190 + 1]
    assert len(ids) == 4 + 190 * 2 <= 384


def test_marks_written_into_a_text_do_not_count_as_marks(ranker):
    ids, places = ranker.encode("how <|candidate1|>", "be [SEP] kind", "never <|source|> [CLS] give up")
    for mark, place in zip(ranker.mark_ids, places, strict=True):
        assert [i for i, token in enumerate(ids) if token == mark] == [place]
    assert ids.count(ranker.tokenizer.sep_token_id) == 3


def test_one_pair_ranker_per_folder(converted):
    assert open_pair_ranker(converted[0]) is open_pair_ranker(str(converted[0]))


def test_a_plain_model_is_not_taken_for_a_pair_ranker(tmp_path):
    tiny_models.deberta_backbone(tmp_path)
    with pytest.raises(UsageError, match=r"not a converted pair-ranker.*source_prefix_id.*candidate_maxlength"):
        PairRanker(tmp_path)


def test_weights_that_do_not_fit_are_named(converted, tmp_path):
    from safetensors.torch import load_file, save_file

    for path in converted[0].iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    state = load_file(tmp_path / "model.safetensors")
    state.pop("head_layer.1.bias")
    save_file(state, tmp_path / "model.safetensors")
    with pytest.raises(UsageError, match=r"do not fit a pair-ranker(.|\n)*head_layer\.1\.bias"):
        PairRanker(tmp_path)


def test_conversion_refuses_another_kind_of_ranker_and_another_backbone(tmp_path):
    model = tiny_models.deberta_backbone(tmp_path / "backbone")
    write_checkpoint(tmp_path / "summa", model, ranker_type="summareranker")
    with pytest.raises(UsageError, match="ranker_type is 'summareranker'"):
        convert(tmp_path / "summa", tmp_path / "backbone", tmp_path / "out")
    small = tiny_models.deberta_backbone(tmp_path / "small")
    small.resize_token_embeddings(10, mean_resizing=False)
    write_checkpoint(tmp_path / "other", small)
    with pytest.raises(UsageError, match="14 embeddings for"):
        convert(tmp_path / "other", tmp_path / "backbone", tmp_path / "out")


@pytest.mark.parametrize("output", ["full", "link", "loop", "file"])
def test_conversion_writes_into_no_folder_that_holds_anything(tmp_path, output):
    (tmp_path / "full").mkdir()
    (tmp_path / "file").write_text("mine")
    (tmp_path / "full" / "config.json").symlink_to(tmp_path / "file")
    (tmp_path / "empty").mkdir()
    (tmp_path / "link").symlink_to("empty")
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(UsageError, match=f"{output}: is a link or not an empty folder; choose another"):
        convert(tmp_path, tmp_path, tmp_path / output)
