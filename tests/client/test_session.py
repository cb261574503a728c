"""What a session remembers: the last context of each key, of so many keys."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from kvstore.client.session import Session
from kvstore.testing.fake import FakeClient


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 9)), min_size=4, max_size=30), st.integers(1, 3))
def test_it_is_bounded_and_forgets_what_was_used_longest_ago(puts: list[tuple[int, int]], most: int) -> None:
    session, model = Session(most), dict[bytes, str]()
    for key, context in puts:
        raw = b"%d" % key
        session.remember(raw, str(context))
        model.pop(raw, None)
        model[raw] = str(context)
        assert len(session) <= most
    kept = list(model)[-most:]
    assert all(session.seen(key) == (model[key] if key in kept else "") for key in model)


def test_an_answer_without_a_context_is_nothing_to_remember() -> None:
    session = Session()
    session.remember(b"k", "c")
    session.remember(b"k", "")
    assert session.seen(b"k") == "c"


async def test_reads_of_a_session_carry_what_it_saw() -> None:
    async with FakeClient() as kv:
        users = kv.bucket("users", session=True)
        await users.get("ann")
        receipt = await users.put("ann", b"1")
        await users.get("ann")
        async with users.batch() as batch:
            batch.get("ann")
            batch.put("bob", b"2")
        assert await users.get("bob") == b"2"
        sent = [attempt.headers.get("KV-Session") for attempt in kv.node.attempts]
        assert sent[:3] == [None, None, receipt.context]
        assert sent[4] is not None


async def test_other_buckets_carry_nothing() -> None:
    async with FakeClient() as kv:
        users = kv.bucket("users")
        await users.put("ann", b"1")
        await users.put("ann", b"2")
        await users.get("ann")
        assert not any("KV-Session" in a.headers or "KV-Context" in a.headers for a in kv.node.attempts)
