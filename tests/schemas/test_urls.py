import pickle

import pytest

from schemas.errors import StageError, UsageError
from schemas.urls import redact_urls, redacted, without_query


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("https://host/a.csv?id=5&sig=x&X-Amz-Credential=a/b", "https://host/a.csv?id=5&sig=***&X-Amz-Credential=***"),
        ("https://host/a.csv?naked", "https://host/a.csv?***"),
        ("https://me:wo/rd@host/a", "https://***@host/a"),
        ("https://token@host/a", "https://***@host/a"),
        ("https://host/a?id=5#token=x", "https://host/a?id=5#***"),
        ("https://host:8000/a@b", "https://host:8000/a@b"),
        ("s3://key:se/cret+x@bucket/a", "s3://***@bucket/a"),
        ("ftp://me:it's@host/a", "ftp://***@host/a"),
        ("abfs://container@account.net/a?sig=x", "abfs://container@account.net/a?sig=***"),
        ("hdfs://name:8020/user@site/a", "hdfs://name:8020/user@site/a"),
        ("s3://bucket/part-?.parquet", "s3://bucket/part-?.parquet"),
        ("s3://bucket/?/year=5/a.parquet", "s3://bucket/?/year=5/a.parquet"),
        ("hf://datasets/a/b@main/c", "hf://datasets/a/b@main/c"),
        ("/a/b?c=d@e", "/a/b?c=d@e"),
        ("http://me:p'word@host/a", "http://***@host/a"),
        ("http://host/a?sig=a'word", "http://host/a?sig=***"),
        ("http://host/no pe.jsonl?sig=word", "http://host/no pe.jsonl?sig=***"),
        ("http:/me:word@host/a?sig=x", "http:/***@host/a?sig=***"),
        ("s3:/key:word@bucket/a", "s3:/***@bucket/a"),
        ("C:/me:word@host", "C:/me:word@host"),
    ],
)
def test_a_url_is_shown_without_its_secrets(url, shown):
    assert redact_urls(url) == shown
    assert redact_urls(shown) == shown
    assert redacted({"a": [url, 1], url: None}) == {"a": [shown, 1], shown: None}


def test_urls_in_a_sentence_and_in_errors():
    text = "https://h/a?sig=x: no such file; is it 's3://k:secret@b/c', (https://h/b?sig=y)?"
    shown = "https://h/a?sig=***: no such file; is it 's3://***@b/c', (https://h/b?sig=***)?"
    assert redact_urls(text) == shown
    for kind in (UsageError, StageError):
        assert str(kind(text)) == str(pickle.loads(pickle.dumps(kind(text)))) == shown


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("http://me:p'word@h/a: no", "http://***@h/a: no"),
        ("http://me:p',word@h/a: no", "http://***@h/a: no"),
        ('"http://h/a?sig=a\'word": no', '"http://h/a?sig=***": no'),
        ("'http://h/a?sig=a\\'wo\"rd', b", "'http://h/a?sig=***', b"),
        ("no 'http://h/no pe.jsonl?id=5&sig=word&key=word'.", "no 'http://h/no pe.jsonl?id=5&sig=***&key=***'."),
        ("['http://h/a','http://h/b'] and <https://h/c>.", "['http://h/a','http://h/b'] and <https://h/c>."),
        ("http:/me:word@host: no such folder", "http:/***@host: no such folder"),
        ("is a?b=c, d&e=f", "is a?b=c, d&e=f"),
    ],
)
def test_quotes_spaces_and_single_slashes_hide_no_secret(text, shown):
    assert redact_urls(text) == shown
    assert redact_urls(shown) == shown


def test_a_query_is_no_part_of_a_name():
    assert without_query("https://h/a.csv?x=/b.gz#c") == "https://h/a.csv"
    assert without_query("s3://b/part-?.csv") == "s3://b/part-?.csv"
