"""Tiny models with random weights and vocabularies of their own, written as Hugging Face model folders."""

from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    BertModel,
    DebertaV2Config,
    DebertaV2Model,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)

WORDS = (
    "how do i treat a neighbour who plays loud music be kind and talk calmly shout at them until they stop "
    "what is the best way to learn ask for help every day steal answers from others never give up good bad"
)
CORPUS = ["How do I learn? Ask for help every day.", "Be kind, and talk calmly.", "Steal the answers; never give up!"]


def word_tokenizer(max_tokens: int = 64) -> PreTrainedTokenizerFast:
    """Lower-cased words and single letters, [CLS] a [SEP] b [SEP], as BERT has them."""
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *dict.fromkeys(WORDS.split())]
    letters = [chr(code) for code in range(ord("a"), ord("z") + 1)]
    pieces += [piece for letter in letters for piece in (letter, f"##{letter}") if piece not in pieces]
    vocabulary = {piece: place for place, piece in enumerate(dict.fromkeys(pieces))}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        model_max_length=max_tokens,
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
    )


def byte_tokenizer(max_tokens: int = 256) -> PreTrainedTokenizerFast:
    """Byte-level BPE with one end-of-text token and no beginning of sequence, as GPT-2 has it."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=320, special_tokens=["<|end|>"], initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|end|>", model_max_length=max_tokens)


def bos_tokenizer(max_tokens: int = 256) -> PreTrainedTokenizerFast:
    """BPE over words marked with a lower line, which puts <s> before every text, as Llama has it."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=False))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    tokenizer.decoder = decoders.Metaspace(prepend_scheme="always")
    trainer = trainers.BpeTrainer(vocab_size=200, special_tokens=["<unk>", "<s>", "</s>"])
    tokenizer.train_from_iterator(CORPUS, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        model_max_length=max_tokens,
    )


def _bert_config(tokenizer: PreTrainedTokenizerFast, labels: int) -> BertConfig:
    return BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=tokenizer.model_max_length,
        num_labels=labels,
    )


def _save(folder: Path, model: torch.nn.Module, tokenizer: PreTrainedTokenizerFast) -> Path:
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def encoder(folder: Path) -> Path:
    """A BERT without a head."""
    torch.manual_seed(0)
    tokenizer = word_tokenizer()
    return _save(folder, BertModel(_bert_config(tokenizer, 2)), tokenizer)


def classifier(folder: Path, labels: int = 2) -> Path:
    """A BERT sequence classifier, as a trained inspector is one."""
    torch.manual_seed(0)
    tokenizer = word_tokenizer()
    config = _bert_config(tokenizer, labels)
    config.initializer_range = 0.5  # spreads the scores over [0, 1]
    return _save(folder, BertForSequenceClassification(config), tokenizer)


def gpt2(folder: Path) -> Path:
    """A GPT-2: tied embeddings, no beginning of sequence."""
    torch.manual_seed(0)
    tokenizer = byte_tokenizer()
    end = tokenizer.eos_token_id
    config = GPT2Config(
        vocab_size=len(tokenizer), n_embd=64, n_layer=2, n_head=2, n_positions=256, bos_token_id=end, eos_token_id=end
    )
    return _save(folder, GPT2LMHeadModel(config), tokenizer)


def llama(folder: Path) -> Path:
    """A Llama: separate output embeddings, <s> before every text."""
    torch.manual_seed(0)
    tokenizer = bos_tokenizer()
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=64,  # heads of 32, the smallest that vLLM computes
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=256,
        bos_token_id=1,
        eos_token_id=2,
        tie_word_embeddings=False,
    )
    return _save(folder, LlamaForCausalLM(config), tokenizer)


def deberta_backbone(folder: Path) -> DebertaV2Model:
    """A DeBERTa-v2 encoder, written to `folder` with a tokenizer, and the model itself."""
    torch.manual_seed(0)
    tokenizer = word_tokenizer(max_tokens=512)
    config = DebertaV2Config(
        vocab_size=len(tokenizer),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=512,
        relative_attention=True,
        position_buckets=16,
        pos_att_type=["p2c", "c2p"],
        share_att_key=True,
        position_biased_input=False,
        norm_rel_ebd="layer_norm",
        type_vocab_size=0,
        max_relative_positions=-1,
        initializer_range=0.2,
    )
    model = DebertaV2Model(config)
    _save(folder, model, tokenizer)
    return model
