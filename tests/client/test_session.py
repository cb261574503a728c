"""What a session remembers: contexts that cover all it has seen of a key, of so many keys."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from kvstore.client.session import CONTEXTS_MAX, Session
from kvstore.testing.fake import FakeClient


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 9)), min_size=4, max_size=30), st.integers(1, 3))
def test_it_is_bounded_and_forgets_what_was_used_longest_ago(puts: list[tuple[int, int]], most: int) -> None:
    session, model = Session(most), dict[bytes, str]()
    for key, context in puts:
        raw = b"%d" % key
        session.remember(raw, str(context), session.seen(raw))
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


@given(st.data())
def test_what_no_later_answer_covers_is_still_sent(data: st.DataObject) -> None:
    """Operations overlap: each carries what was known when it began, and its answer covers only that.

    Model: what each context covers, as the set of all answers behind it. `sent` may also be an older context.
    """
    session, covers = Session(), dict[str, frozenset[str]]()
    seen: set[str] = set()
    flying: list[str] = []
    for number in range(data.draw(st.integers(1, CONTEXTS_MAX))):
        if data.draw(st.booleans()) or not flying:
            older = data.draw(st.sampled_from(["", *sorted(seen)]))
            flying.append(data.draw(st.sampled_from([session.seen(b"k"), older])))
        sent = flying.pop(data.draw(st.integers(0, len(flying) - 1)))
        answer = f"c{number}"
        covers[answer] = frozenset({answer}.union(*(covers[one] for one in sent.split(",") if one)))
        session.remember(b"k", answer, sent)
        seen.add(answer)
        assert frozenset[str]().union(*(covers[one] for one in session.seen(b"k").split(","))) == seen


def test_contexts_of_one_key_are_bounded() -> None:
    session = Session()
    for number in range(CONTEXTS_MAX + 3):
        session.remember(b"k", f"c{number}")
    assert session.seen(b"k").split(",") == [f"c{number}" for number in range(3, CONTEXTS_MAX + 3)]


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
