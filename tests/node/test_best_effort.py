"""A read that shows what there is where its quorum is not met."""

from __future__ import annotations

import pytest

from kvstore.core.message import Get, Got, Receipt
from kvstore.errors import InvalidRequest, KVStoreError, NotReady, QuorumNotMet, QuorumUnavailable, StaleRead
from kvstore.node.best_effort import best_effort

GOT = Got(b"state", False, Receipt("n1", 3, 1, 1))
ASKED = Get("b", b"k", r=3, pr=2, monotonic=True, session=b"seen", timeout_ms=1000, sloppy=False)


class Node:
    """Answers each read with the next of `outcomes`; each takes a tenth of a second."""

    def __init__(self, *outcomes: Got | KVStoreError) -> None:
        self.outcomes, self.asked, self.now_s = list(outcomes), list[Get](), 0.0

    async def get(self, request: Get) -> Got:
        self.asked.append(request)
        self.now_s += 0.1
        outcome = self.outcomes.pop(0)
        if isinstance(outcome, KVStoreError):
            raise outcome
        return outcome

    async def read(self) -> tuple[Got, str]:
        return await best_effort(self.get, ASKED, lambda: self.now_s)


async def test_a_quorum_that_is_met_is_an_ordinary_read() -> None:
    node = Node(GOT)
    assert await node.read() == (GOT, "quorum")
    assert node.asked == [ASKED]


async def test_otherwise_as_many_as_answered_are_asked_without_any_promise() -> None:
    node = Node(QuorumNotMet(required=3, received=2, asked=3), GOT)
    assert await node.read() == (GOT, "stale")
    assert node.asked[1] == Get("b", b"k", r=2, pr=0, timeout_ms=900, sloppy=True)


@pytest.mark.parametrize("error", [QuorumUnavailable(received=0), StaleRead(received=1), QuorumNotMet()])
async def test_and_then_anybody(error: QuorumNotMet) -> None:
    node = Node(error, GOT)
    assert await node.read() == (GOT, "stale")
    assert node.asked[1].r == 1
    again = Node(QuorumNotMet(received=2), QuorumNotMet(received=1), GOT)
    assert await again.read() == (GOT, "stale")
    assert [request.r for request in again.asked] == [3, 2, 1]
    assert [request.timeout_ms for request in again.asked] == [1000, 900, 800]


async def test_where_nobody_answers_it_fails() -> None:
    with pytest.raises(QuorumUnavailable):
        await Node(QuorumNotMet(received=1), QuorumUnavailable()).read()


@pytest.mark.parametrize("error", [InvalidRequest("r"), NotReady("starting")])
async def test_other_errors_are_no_reason_to_ask_for_less(error: KVStoreError) -> None:
    node = Node(error)
    with pytest.raises(type(error)):
        await node.read()
    assert len(node.asked) == 1
