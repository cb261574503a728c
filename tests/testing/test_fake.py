"""What FakeClient adds to the contract that it shares with the real clients: time, failures, sharing."""

from __future__ import annotations

import pytest

from kvstore.errors import InvalidRequest, Overloaded, PreconditionFailed, QuorumNotMet, QuorumUnavailable
from kvstore.testing.fake import FakeClient


async def test_time_stands_still_until_it_is_moved() -> None:
    async with FakeClient() as kv:
        users = kv.bucket("users")
        await users.put("ann", b"1", ttl_s=60)
        kv.advance(59.9)
        assert await users.get("ann") == b"1"
        kv.advance(0.1)
        assert await users.get("ann") is None


async def test_one_failure_is_survived() -> None:
    async with FakeClient() as kv:
        kv.fail_next("overloaded")
        await kv.bucket("users").put("ann", b"1")
        assert await kv.bucket("users").get("ann") == b"1"


async def test_a_lasting_failure_reaches_the_caller_and_takes_no_real_time() -> None:
    async with FakeClient() as kv:
        kv.fail_next("quorum-unavailable", times=100)
        with pytest.raises(QuorumUnavailable) as raised:
            await kv.bucket("users").put("ann", b"1")
        assert raised.value.outcome == "failed"


async def test_a_write_that_was_applied_although_it_timed_out() -> None:
    async with FakeClient() as kv:
        users = kv.bucket("users")
        kv.fail_next("write-timeout", applied=True)
        with pytest.raises(QuorumNotMet) as raised:
            await users.put("ann", b"1", if_absent=True)
        assert raised.value.outcome == "unknown"
        assert await users.get("ann") == b"1"
        with pytest.raises(PreconditionFailed):
            await users.put("ann", b"1", if_absent=True)


async def test_what_became_of_a_write_is_asked_by_the_name_that_the_error_has() -> None:
    async with FakeClient() as kv:
        users = kv.bucket("users")
        for applied, outcome in ((True, "ok"), (False, "unknown")):
            kv.fail_next("write-timeout", times=100, applied=applied)
            with pytest.raises(QuorumNotMet) as raised:
                await users.put(outcome, b"1")
            kv.node._failures.clear()
            assert (await users.outcome(outcome, raised.value.operation_id)).outcome == outcome


async def test_a_retried_write_is_one_write() -> None:
    async with FakeClient() as kv:
        users = kv.bucket("users")
        kv.fail_next("write-timeout", times=2, applied=True)
        await users.put("ann", b"1", mode="sibling")
        assert await users.get("ann") == b"1"
        assert len(kv.node.attempts) == 4


async def test_two_clients_of_one_store() -> None:
    async with FakeClient() as one, FakeClient(share=one) as other:
        await one.bucket("users").put("ann", b"1", mode="sibling")
        await other.bucket("users").put("ann", b"1", mode="sibling")
        assert (await one.bucket("users").fetch("ann")).conflicted


async def test_homes_are_what_the_test_says() -> None:
    async with FakeClient(nodes=1) as kv:
        users = kv.bucket("users")
        assert (await users.put("ann", b"1")).required == 1
        with pytest.raises(InvalidRequest):
            await users.put("ann", b"1", w=2)


async def test_a_problem_that_no_node_has() -> None:
    with pytest.raises(InvalidRequest) as raised:
        FakeClient().fail_next("overlooded")
    assert "overloaded" in raised.value.advice


async def test_a_pause_that_is_asked_for_is_taken_in_the_time_of_the_fake() -> None:
    async with FakeClient(timeout_s=0.5) as kv:
        kv.fail_next("overloaded", times=9)
        with pytest.raises(Overloaded):
            await kv.bucket("users").get("ann")
        assert len(kv.node.attempts) == 1
