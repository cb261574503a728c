"""What a client of a cluster can rely on. Runs against the fake and against real nodes, with both clients."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Iterable
from datetime import UTC
from itertools import islice
from typing import Any

import pytest

from kvstore.client import ALL, ANY, ONE, QUORUM, codecs, resolvers
from kvstore.errors import (
    BatchError,
    ContextRequired,
    InvalidContext,
    InvalidRequest,
    PreconditionFailed,
    SiblingsError,
    TooLarge,
)
from tests.client.conftest import Until


@pytest.fixture
def users(client: Any, bucket_name: str) -> Any:
    return client.bucket(bucket_name)


# --- one key ----------------------------------------------------------------------------------------


async def test_a_missing_key_is_an_answer(users: Any) -> None:
    assert await users.get("nobody") is None
    record = await users.fetch("nobody")
    assert (record.found, record.conflicted, record.value) == (False, False, None)
    assert (record.context, record.etag, record.content_type, record.modified) == ("", "", "", None)


async def test_what_was_put_is_got(users: Any) -> None:
    receipt = await users.put("ann", b"1")
    assert await users.get("ann") == b"1"
    assert all((receipt.context, receipt.etag, receipt.coordinator, receipt.request_id))
    assert receipt.n == 3 >= receipt.acks >= receipt.required == 2
    assert receipt.siblings == 1
    record = await users.fetch("ann")
    assert record.etag == receipt.etag
    assert record.receipt.acks >= record.receipt.required == 2


async def test_an_empty_value_is_a_value(users: Any) -> None:
    await users.put("ann", b"")
    assert await users.get("ann") == b""
    assert (await users.fetch("ann")).found


KEYS = ["a/b", "/", ".", "..", "a/../b", "%2F", "%", "?", "#x", "a b", "+", "é", "\x00", "~", "a" * 1024]


@pytest.mark.parametrize("key", [*KEYS, b"\x00\xff", bytes(range(256)), b"."], ids=repr)
async def test_any_bytes_are_a_key(users: Any, key: str | bytes) -> None:
    await users.put(key, b"mine")
    await users.put("other", b"other")
    assert await users.get(key) == b"mine"
    assert [item.key async for item in users.scan()] == sorted(
        [key.encode() if isinstance(key, str) else key, b"other"]
    )


async def test_text_and_its_utf8_are_one_key(users: Any) -> None:
    await users.put("é", b"1")
    assert await users.get("é".encode()) == b"1"


async def test_metadata_and_content_type_are_kept(client: Any, bucket_name: str) -> None:
    pages = client.bucket(bucket_name, codec=codecs.Codec("html", "text/html", str.encode, bytes.decode))
    await pages.put("index", "<p>", meta={"Author": "ann", "source-etag": '"7"'})
    record = await client.bucket(bucket_name).fetch("index")
    assert record.value == b"<p>"
    assert record.content_type == "text/html"
    assert record.meta == {"author": "ann", "source-etag": '"7"'}
    async with pages.batch() as batch:
        index = batch.get("index")
    assert (index.record.meta, index.record.content_type) == (record.meta, "text/html")


async def test_a_default_mode_is_for_writes_without_a_context(client: Any, bucket_name: str) -> None:
    users = client.bucket(bucket_name, mode="sibling")
    await both(users)
    record = await users.fetch("ann")
    await users.put("ann", b"3", context=record.context)
    assert await users.get("ann") == b"3"


async def test_a_last_write_wins_bucket_shows_one_value(client: Any, users: Any, until: Until) -> None:
    await users.configure(conflict="last-write-wins")

    async def shows_one() -> bool:
        await both(users)
        return not (await users.fetch("ann")).conflicted

    await until(shows_one)
    assert await users.get("ann") == b"2"


async def test_buckets_do_not_share_keys(client: Any, bucket_name: str) -> None:
    await client.bucket(bucket_name).put("ann", b"1")
    assert await client.bucket(f"{bucket_name}.x").get("ann") is None


async def test_a_deleted_key_is_missing_and_its_context_covers_the_delete(users: Any) -> None:
    await users.put("ann", b"1")
    await users.delete("ann")
    record = await users.fetch("ann")
    assert not record.found
    assert record.context
    await users.put("ann", b"2", context=record.context)
    assert await users.get("ann") == b"2"


async def test_deleting_what_is_not_there_is_no_error(users: Any) -> None:
    assert (await users.delete("nobody")).required == 2


async def test_a_value_expires(users: Any, until: Until) -> None:
    await users.put("ann", b"1", ttl_s=0.3)

    async def gone() -> bool:
        return await users.get("ann") is None

    await until(gone)


# --- causality --------------------------------------------------------------------------------------


async def both(users: Any, first: Any = b"1", second: Any = b"2") -> None:
    """Two values that were written without knowing each other."""
    await users.put("ann", first, mode="sibling")
    await users.put("ann", second, mode="sibling")


async def test_concurrent_values_are_all_there(users: Any) -> None:
    await both(users)
    with pytest.raises(SiblingsError) as raised:
        await users.get("ann")
    assert sorted(raised.value.siblings) == [b"1", b"2"]
    record = await users.fetch("ann")
    assert (record.found, record.conflicted) == (True, True)
    assert sorted(sibling.value for sibling in record.siblings) == [b"1", b"2"]
    assert len({sibling.id for sibling in record.siblings}) == 2
    assert record.context == raised.value.context
    with pytest.raises(SiblingsError):
        _ = record.value


async def test_a_put_with_their_context_resolves_them(users: Any) -> None:
    await both(users)
    receipt = await users.put("ann", b"3", context=(await users.fetch("ann")).context)
    assert receipt.siblings == 1
    assert await users.get("ann") == b"3"


async def test_a_context_supersedes_what_its_reader_saw_and_nothing_else(users: Any) -> None:
    await users.put("ann", b"old")
    seen = await users.fetch("ann")
    await users.put("ann", b"unseen", mode="sibling")
    receipt = await users.put("ann", b"new", context=seen.context)
    assert receipt.siblings == 2
    assert sorted(s.value for s in (await users.fetch("ann")).siblings) == [b"new", b"unseen"]


async def test_a_delete_with_a_context_leaves_what_it_has_not_seen(users: Any) -> None:
    await users.put("ann", b"old")
    seen = await users.fetch("ann")
    await users.put("ann", b"unseen", mode="sibling")
    await users.delete("ann", context=seen.context)
    assert await users.get("ann") == b"unseen"


async def test_the_context_of_a_put_covers_that_put(users: Any) -> None:
    receipt = await users.put("ann", b"1")
    await users.put("ann", b"2", context=receipt.context)
    assert await users.get("ann") == b"2"


async def test_a_resolver_makes_one_value_and_writes_nothing(client: Any, bucket_name: str) -> None:
    users = client.bucket(bucket_name, codec="json", resolver=resolvers.merge_sets("friends"))
    await both(users, {"friends": ["bob"]}, {"friends": ["carl", "bob"]})
    assert sorted((await users.get("ann"))["friends"]) == ["bob", "carl"]
    record = await users.fetch("ann")
    assert sorted(record.value["friends"]) == ["bob", "carl"]
    assert record.conflicted


async def test_siblings_tell_when_they_were_written(users: Any) -> None:
    await both(users)
    for sibling in (await users.fetch("ann")).siblings:
        assert sibling.modified is not None
        assert sibling.modified.tzinfo is UTC


async def test_a_context_of_another_key_is_refused(users: Any) -> None:
    receipt = await users.put("ann", b"1")
    with pytest.raises(InvalidContext) as raised:
        await users.put("bob", b"2", context=receipt.context)
    assert raised.value.outcome == "failed"
    assert raised.value.advice
    assert await users.get("bob") is None


async def test_one_operation_sent_twice_is_one_write(users: Any) -> None:
    for _ in range(2):
        await users.put("ann", b"1", mode="sibling", operation_id="op-1")
    assert await users.get("ann") == b"1"


async def test_one_operation_id_is_not_two_values(users: Any) -> None:
    await users.put("ann", b"1", mode="sibling", operation_id="op-1")
    with pytest.raises(InvalidRequest):
        await users.put("ann", b"2", mode="sibling", operation_id="op-1")
    assert await users.get("ann") == b"1"


async def test_a_session_supersedes_what_it_saw_and_reads_what_it_wrote(
    client: Any, bucket_name: str
) -> None:
    session, other = client.bucket(bucket_name, session=True), client.bucket(bucket_name)
    await session.put("ann", b"1")
    await other.put("ann", b"other", mode="sibling")
    await session.put("ann", b"2")
    assert sorted(s.value for s in (await session.fetch("ann")).siblings) == [b"2", b"other"]
    await session.put("ann", b"3")
    assert await session.get("ann") == b"3"
    await session.delete("ann")
    assert await session.get("ann") is None


async def test_a_session_keeps_what_a_write_with_an_older_context_did_not_see(
    client: Any, bucket_name: str
) -> None:
    session = client.bucket(bucket_name, session=True)
    old = (await session.put("ann", b"1")).context
    await session.put("ann", b"2")
    await session.put("ann", b"3", context=old)  # beside 2, which this session has seen as well
    await session.put("ann", b"4")
    assert await session.get("ann") == b"4"


# --- conditions -------------------------------------------------------------------------------------


async def test_if_absent_writes_once(users: Any) -> None:
    await users.put("ann", b"1", if_absent=True)
    with pytest.raises(PreconditionFailed) as raised:
        await users.put("ann", b"2", if_absent=True)
    assert raised.value.outcome == "failed"
    assert await users.get("ann") == b"1"


async def test_if_absent_writes_after_a_delete(users: Any) -> None:
    await users.put("ann", b"1")
    await users.delete("ann")
    await users.put("ann", b"2", if_absent=True)
    assert await users.get("ann") == b"2"


async def test_if_match_writes_over_what_was_read(users: Any) -> None:
    first = await users.put("ann", b"1")
    second = await users.put("ann", b"2", if_match=first.etag)
    with pytest.raises(PreconditionFailed):
        await users.put("ann", b"3", if_match=first.etag)
    with pytest.raises(PreconditionFailed):
        await users.delete("ann", if_match=first.etag)
    assert await users.get("ann") == b"2"
    await users.delete("ann", if_match=second.etag)
    assert await users.get("ann") is None


async def test_if_match_any_needs_a_value(users: Any) -> None:
    with pytest.raises(PreconditionFailed):
        await users.put("ann", b"1", if_match="*")
    await users.put("ann", b"1")
    await users.put("ann", b"2", if_match="*")
    assert await users.get("ann") == b"2"


# --- update -----------------------------------------------------------------------------------------


async def test_update_begins_with_the_default_and_does_not_touch_it(client: Any, bucket_name: str) -> None:
    users = client.bucket(bucket_name, codec="json")
    default: dict[str, int] = {}

    def visit(user: dict[str, int]) -> dict[str, int]:
        user["visits"] = user.get("visits", 0) + 1
        return user

    assert await users.update("ann", visit, default) == {"visits": 1}
    assert await users.update("ann", visit, default) == {"visits": 2}
    assert default == {}
    assert await users.get("ann") == {"visits": 2}


def slip_in(users: Any, values: Iterable[Any]) -> None:
    """Somebody else writes these, one after each read of an update."""
    inner, writes = getattr(users, "inner", users), iter(values)
    fetch, put = inner.fetch, inner.put

    async def racing(*args: Any, **kwargs: Any) -> Any:
        record = await fetch(*args, **kwargs)
        for value in islice(writes, 1):
            await put("n", value)
        return record

    def racing_threaded(*args: Any, **kwargs: Any) -> Any:
        record = fetch(*args, **kwargs)
        for value in islice(writes, 1):
            put("n", value)
        return record

    inner.fetch = racing if inner is users else racing_threaded


async def test_update_starts_again_when_somebody_wrote_meanwhile(client: Any, bucket_name: str) -> None:
    users = client.bucket(bucket_name, codec="json")
    await users.put("n", 0)
    slip_in(users, [10, 20])
    seen = []

    def add_one(n: int) -> int:
        seen.append(n)
        return n + 1

    assert await users.update("n", add_one) == 21
    assert seen == [0, 10, 20]
    assert await users.get("n") == 21


async def test_update_gives_up_after_so_many_lost_races(client: Any, bucket_name: str) -> None:
    users = client.bucket(bucket_name, codec="json")
    slip_in(users, itertools.count())
    with pytest.raises(PreconditionFailed):
        await users.update("n", lambda n: n + 100, 0, attempts_max=3)
    assert await users.get("n") == 2


async def test_a_first_update_does_not_overwrite_another(client: Any, bucket_name: str) -> None:
    """Nothing was there to be based on, so there is no context either; a blind write would win."""
    visits = client.bucket(bucket_name, codec="json", resolver=resolvers.counter)
    slip_in(visits, [{"other": 7}])
    await visits.update("n", lambda counts: {**counts, "me": 1}, {})
    assert await visits.get("n") == {"me": 1, "other": 7}


async def test_updates_side_by_side_lose_nothing_with_a_resolver(client: Any, bucket_name: str) -> None:
    visits = client.bucket(bucket_name, codec="json", resolver=resolvers.counter)

    async def add(writer: str) -> None:
        for _ in range(3):
            await visits.update("n", lambda counts: {**counts, writer: counts.get(writer, 0) + 1}, {})

    await asyncio.gather(*(add(f"w{i}") for i in range(4)))
    assert await visits.get("n") == {"w0": 3, "w1": 3, "w2": 3, "w3": 3}


async def test_update_does_not_store_a_forgotten_return(client: Any, bucket_name: str) -> None:
    users = client.bucket(bucket_name, codec="json")
    with pytest.raises(InvalidRequest, match="None"):
        await users.update("ann", lambda user: user.update(age=4), {})
    assert not (await users.fetch("ann")).found


async def test_update_of_siblings_needs_a_resolver(users: Any) -> None:
    await both(users)
    with pytest.raises(SiblingsError):
        await users.update("ann", lambda value: value)


# --- many keys --------------------------------------------------------------------------------------


async def test_a_batch_answers_each_operation(client: Any, bucket_name: str) -> None:
    users = client.bucket(bucket_name, codec="json")
    await users.put("bob", {"age": 3})
    await users.put("dora", {"age": 5})
    async with users.batch() as batch:
        bob, nobody = batch.get("bob"), batch.get("nobody")
        carl = batch.put("carl", {"age": 4}, meta={"By": "ann"})
        batch.delete("dora")
        with pytest.raises(InvalidRequest, match="not sent"):
            _ = bob.value
    assert bob.value == {"age": 3}
    assert bob.record.etag
    assert nobody.value is None
    assert not nobody.record.found
    assert carl.receipt.acks >= 2
    assert (await users.fetch("carl")).meta == {"by": "ann"}
    assert await users.get("carl") == {"age": 4}
    assert await users.get("dora") is None


async def test_a_batch_names_what_failed_and_does_the_rest(users: Any) -> None:
    await users.put("bob", b"1")
    with pytest.raises(BatchError) as raised:  # noqa: PT012 - the block is the batch
        async with users.batch() as batch:
            good = batch.put("ann", b"1")
            bad = batch.put("bob", b"2", if_absent=True)
            batch.get("bob")
    assert set(raised.value.errors) == {1}
    assert isinstance(raised.value.errors[1], PreconditionFailed)
    assert good.receipt.etag
    with pytest.raises(PreconditionFailed):
        _ = bad.receipt
    assert await users.get("ann") == b"1"


async def test_a_batch_shows_siblings(users: Any) -> None:
    await both(users)
    async with users.batch() as batch:
        ann = batch.get("ann")
    assert sorted(s.value for s in ann.record.siblings) == [b"1", b"2"]
    with pytest.raises(SiblingsError):
        _ = ann.value


async def test_an_empty_batch_asks_nothing(users: Any) -> None:
    async with users.batch():
        pass


async def test_a_batch_of_more_than_one_request(users: Any) -> None:
    async with users.batch(timeout_s=10) as batch:
        for i in range(600):
            batch.put(f"{i:03}", b"%d" % i)
    assert len([item async for item in users.scan(page_size=1000, values=False)]) == 600
    async with users.batch(timeout_s=10) as batch:
        found = [batch.get(f"{i:03}") for i in range(600)]
    assert [item.value for item in found] == [b"%d" % i for i in range(600)]


async def test_a_block_that_raises_sends_nothing(users: Any) -> None:
    with pytest.raises(ZeroDivisionError):  # noqa: PT012 - the block is the batch
        async with users.batch() as batch:
            batch.put("ann", b"1")
            _ = 1 / 0
    assert await users.get("ann") is None


async def test_a_scan_goes_through_all_pages_in_order(users: Any) -> None:
    keys = ["b", "a", "ab", "a\x00", "aé", "c"]
    for key in keys:
        await users.put(key, key.encode())
    await users.delete("c")
    expected = sorted(key.encode() for key in keys if key != "c")
    for page_size in (1, 2, 100):
        found = [(item.key, item.value) async for item in users.scan(page_size=page_size)]
        assert found == [(key, key) for key in expected]
    assert [item.key async for item in users.scan(prefix="a")] == [k for k in expected if k[:1] == b"a"]


async def test_a_scan_carries_contexts_and_siblings(users: Any) -> None:
    await both(users)
    (item,) = [item async for item in users.scan()]
    assert item.siblings == 2
    with pytest.raises(SiblingsError):
        _ = item.value
    await users.put("ann", b"3", context=item.record.context)
    assert await users.get("ann") == b"3"


async def test_a_scan_of_keys_brings_neither_values_nor_contexts(users: Any) -> None:
    await users.put("ann", b"1")
    (item,) = [item async for item in users.scan(values=False)]
    assert (item.key, item.siblings, item.record.context) == (b"ann", 1, "")
    assert item.record.etag


# --- options ----------------------------------------------------------------------------------------


async def test_levels_are_counts_of_the_homes(client: Any, bucket_name: str) -> None:
    users = client.bucket(bucket_name, r=QUORUM, w=ALL)
    assert (await users.put("ann", b"1")).required == 3
    assert (await users.fetch("ann")).receipt.required == 2
    assert (await users.put("ann", b"1", w=ANY)).required == 1
    assert (await users.put("ann", b"1", w=ONE)).required == 1
    assert (await users.fetch("ann", r=ALL)).receipt.required == 3
    assert (await users.fetch("ann", r=ONE, monotonic=True)).receipt.required == 1
    assert (await users.put("ann", b"1", w=2, dw=0, pw=1, sloppy=False)).required == 2
    assert (await users.fetch("ann", r=ONE, sloppy=True)).receipt.required == 1
    assert (await users.fetch("ann", r=ALL, n=2)).receipt.required == 2
    async with users.batch() as batch:
        ann = batch.get("ann")
        carl = batch.put("carl", b"1")
    assert ann.record.receipt.required == 2
    assert carl.receipt.required == 3


async def test_more_replicas_than_homes_are_refused(users: Any) -> None:
    with pytest.raises(InvalidRequest) as raised:
        await users.put("ann", b"1", w=4)
    assert raised.value.outcome == "failed"


async def test_a_value_over_the_limit_is_refused(users: Any) -> None:
    with pytest.raises(TooLarge):
        await users.put("ann", bytes(1024 * 1024 + 1))
    assert await users.get("ann") is None


async def test_a_value_of_another_codec_is_not_guessed_at(client: Any, bucket_name: str) -> None:
    await client.bucket(bucket_name, codec="text").put("ann", "{}")
    with pytest.raises(InvalidRequest, match="text/plain"):
        await client.bucket(bucket_name, codec="json").get("ann")
    assert await client.bucket(bucket_name).get("ann") == b"{}"


@pytest.mark.parametrize(
    ("codec", "value"), [("json", [1, None, "é"]), ("msgpack", {1: b"x"}), ("text", "é")]
)
async def test_codecs(client: Any, bucket_name: str, codec: str, value: Any) -> None:
    users = client.bucket(bucket_name, codec=codec)
    await users.put("ann", value)
    assert await users.get("ann") == value


async def test_properties_hold_for_everyone(client: Any, users: Any, bucket_name: str) -> None:
    assert (await users.properties())["n"] == 3
    changed = await users.configure(blind="reject")
    assert changed["blind"] == "reject"
    assert (await client.bucket(bucket_name).properties())["blind"] == "reject"


async def test_a_bucket_may_refuse_blind_writes(users: Any, until: Until) -> None:
    await users.configure(blind="reject")

    async def refused() -> bool:
        try:
            await users.put("ann", b"1")
        except ContextRequired:
            return True
        return False

    await until(refused)


async def test_an_unknown_property_is_named(users: Any) -> None:
    with pytest.raises(InvalidRequest) as raised:
        await users.configure(blnd="reject")
    assert "blind" in raised.value.advice


async def test_the_cluster_tells_about_itself(client: Any, users: Any) -> None:
    assert "members" in await client.cluster()
    await users.put("ann", b"1")
    assert (await users.explain("ann"))["homes"]


# --- what became of a write -------------------------------------------------------------------------


async def test_an_operation_that_was_acknowledged_is_ok(users: Any) -> None:
    await users.put("ann", b"1", operation_id="order/17")
    told = await users.outcome("ann", "order/17")
    assert (told.outcome, told.n, told.required, told.answered) == ("ok", 3, 2, 3)
    assert told.acks >= 2
    await users.put("ann", b"2", context=told.context)
    assert await users.get("ann") == b"2"


async def test_an_operation_that_is_not_there_is_unknown(users: Any) -> None:
    await users.put("ann", b"1", operation_id="first")
    assert (await users.outcome("ann", "never")).outcome == "unknown"
    await users.put("ann", b"2", context=(await users.fetch("ann")).context)
    told = await users.outcome("ann", "first")
    assert (told.outcome, told.context) == ("unknown", "")


async def test_a_delete_has_an_outcome_too(users: Any) -> None:
    await users.put("ann", b"1")
    await users.delete("ann", operation_id="gone")
    assert (await users.outcome("ann", "gone")).outcome == "ok"


async def test_a_session_has_seen_the_write_that_it_was_told_of(client: Any, bucket_name: str) -> None:
    await client.bucket(bucket_name).put("ann", b"1", operation_id="op")
    mine = client.bucket(bucket_name, session=True)
    await mine.outcome("ann", "op")
    await mine.put("ann", b"2")
    record = await mine.fetch("ann")
    assert (record.conflicted, record.value) == (False, b"2")


@pytest.mark.parametrize("operation_id", ["", "a b", "x" * 65, 7])
async def test_what_is_no_operation_id(users: Any, operation_id: Any) -> None:
    with pytest.raises(InvalidRequest):
        await users.outcome("ann", operation_id)
