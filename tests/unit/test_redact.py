"""Secrets do not reach what the history shows."""

from __future__ import annotations

import json

import pytest

from taskq_core.audit.redact import REDACTED, redact_json, redact_text


@pytest.mark.parametrize(
    "key",
    ["password", "PASSWORD", "db_password", "client-secret", "apiKey", "api_key", "X-Api-Key", "token",
     "authorization", "refresh_token", "private_key", "userPassword"],
)  # fmt: skip
def test_by_key(key: str) -> None:
    clean = json.loads(redact_json(json.dumps({"a": [{key: "s3cret", "other": 1}]})))
    assert clean == {"a": [{key: REDACTED, "other": 1}]}


def test_by_key_spelled_with_escapes() -> None:
    assert "s3cret" not in redact_json('{"p\\u0061ssword": "s3cret"}')


def test_whole_values_go() -> None:
    assert json.loads(redact_json('{"token": {"a": [1, 2]}, "password": null}')) == {
        "token": REDACTED,
        "password": None,
    }


@pytest.mark.parametrize("url", ["https://ann:pw@host/x", "redis://:pw@host:1/0", "https:\\/\\/ann:pw@host"])
def test_userinfo_of_urls(url: str) -> None:
    assert "pw" not in redact_json(f'{{"url": "{url}"}}')
    assert "host" in redact_json(f'{{"url": "{url}"}}')


@pytest.mark.parametrize(
    "text",
    ['{"b": 1, "a": 1e5}', '{"max_tokens": 5, "mail": "ann@example.org"}', "[]", "not json password", '"@"'],
)
def test_the_rest_stays_as_it_is(text: str) -> None:
    clean = redact_json(text)
    assert clean == text or json.loads(clean) == json.loads(text)


def test_plain_text() -> None:
    assert redact_text("cannot reach ftp://a:b@h/f") == f"cannot reach ftp://{REDACTED}@h/f"
