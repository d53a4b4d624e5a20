"""API keys in a real server (bad input B15, B16)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

import pytest

from taskq_core.access import KeyStore, Scope, allows, check_scopes, make_key, parse_token, require
from taskq_core.broker.keys import KEY_PREFIX
from taskq_core.broker.redis import make_redis
from taskq_core.errors import Forbidden, InvalidOption, NotFound, Unauthenticated
from tests.support.servers import ServerHandle, start_redis

SUBMIT = frozenset({Scope.SUBMIT})


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerHandle]:
    handle = start_redis(tmp_path_factory.mktemp("redis"))
    yield handle
    handle.stop()


type Test = Callable[[Any, KeyStore], Coroutine[Any, Any, None]]
type Run = Callable[[Test], None]


@pytest.fixture
def run(server: ServerHandle) -> Run:
    def run_test(test: Test) -> None:
        async def story() -> None:
            async with make_redis(server.url) as redis:
                await redis.flushall()
                await test(redis, KeyStore(redis, KEY_PREFIX))

        asyncio.run(story())

    return run_test


def test_a_key_from_birth_to_revocation(run: Run) -> None:
    async def test(redis: Any, store: KeyStore) -> None:
        new = await store.create(SUBMIT, label="ci", now_ms=5)
        assert (await store.verify(new.token, 6)) == new.key
        assert (await store.verify(new.token, 6)) == new.key  # remembered
        assert await store.list() == [new.key]
        await store.revoke(new.key.id)
        assert await store.list() == []
        with pytest.raises(Unauthenticated):
            await store.verify(new.token, 6)
        with pytest.raises(NotFound):
            await store.revoke(new.key.id)

    run(test)


def test_the_secret_is_stored_nowhere(run: Run) -> None:
    async def test(redis: Any, store: KeyStore) -> None:
        new = await store.create(SUBMIT)
        secret = new.token.rpartition(new.key.id + "_")[2]
        stored = await redis.hgetall(KEY_PREFIX + new.key.id)
        assert secret.encode() not in b"".join(stored.values())
        assert secret not in repr(new)
        assert len(secret) == 43  # 256 bits

    run(test)


def test_whatever_is_wrong_the_answer_is_the_same(run: Run) -> None:
    async def test(redis: Any, store: KeyStore) -> None:
        new = await store.create(SUBMIT)
        other = make_key(SUBMIT)
        swapped = f"tq_{new.key.id}_{other.token.rpartition('_')[2]}"
        answers: set[str] = set()
        for token in [
            "",
            "x",
            "tq_",
            new.token + "x",
            new.token[:-1],
            other.token,
            swapped,
            "tq_index_" + "A" * 43,
            "\ud800",
        ]:
            with pytest.raises(Unauthenticated) as caught:
                await store.verify(token, 0)
            answers.add(str(caught.value))
        assert len(answers) == 1

    run(test)


def test_expiry(run: Run) -> None:
    async def test(redis: Any, store: KeyStore) -> None:
        new = await store.create(SUBMIT, now_ms=0, expires_at=1000)
        assert (await store.verify(new.token, 999)).expires_at == 1000
        with pytest.raises(Unauthenticated):
            await store.verify(new.token, 1000)

    run(test)


def test_a_token_from_elsewhere_is_adopted(run: Run) -> None:
    async def test(redis: Any, store: KeyStore) -> None:
        made = make_key(frozenset({Scope.ADMIN}))
        for _ in range(2):
            await store.adopt(made.token, frozenset({Scope.ADMIN}), label="up")
        assert (await store.verify(made.token, 0)).scopes == {Scope.ADMIN}
        with pytest.raises(InvalidOption):
            await store.adopt("secret", SUBMIT)

    run(test)


def test_scopes_of_a_later_release_grant_nothing(run: Run) -> None:
    async def test(redis: Any, store: KeyStore) -> None:
        new = await store.create(SUBMIT)
        await redis.hset(KEY_PREFIX + new.key.id, "scopes", "submit root")
        assert (await store.verify(new.token, 0)).scopes == SUBMIT

    run(test)


def test_labels(run: Run) -> None:
    async def test(redis: Any, store: KeyStore) -> None:
        for label in ["x" * 101, "a\nb", "\x1b[31m"]:
            with pytest.raises(InvalidOption, match="label"):
                await store.create(SUBMIT, label=label)

    run(test)


@pytest.mark.parametrize("scope", list(Scope))
def test_only_admin_implies_others(scope: Scope) -> None:
    for needed in Scope:
        assert allows({scope}, needed) == (scope in {needed, Scope.ADMIN})
    with pytest.raises(Forbidden, match="operate"):
        require({Scope.READ, Scope.SUBMIT}, Scope.OPERATE)


def test_scope_names() -> None:
    assert check_scopes(["read", "submit"]) == {Scope.READ, Scope.SUBMIT}
    with pytest.raises(InvalidOption, match="did you mean 'operate'"):
        check_scopes(["operat"])
    with pytest.raises(InvalidOption, match="one scope at least"):
        check_scopes([])


def test_token_form() -> None:
    new = make_key(SUBMIT)
    assert parse_token(new.token) == (new.key.id, new.token[len("tq_") + 13 :])
    assert parse_token(new.token + "\n") is None
