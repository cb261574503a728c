"""One operation against scripted nodes in virtual time, whatever goes wrong in whatever order."""

from __future__ import annotations

import asyncio
from itertools import count
from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvstore.client import AsyncClient, AsyncPorts, Policy
from kvstore.client.call import Attempt, NoAnswer
from kvstore.client.protocol import Reply, Request
from kvstore.errors import KVStoreError

RECEIPT = {"kv-acks": "2/3", "kv-request-id": "r", "kv-node": "n", "kv-context": "Y3R4"}


def refusal(status: int, kind: str, outcome: str) -> Reply:
    document = f'{{"type": "{kind}", "outcome": "{outcome}"}}'
    headers = {"content-type": "application/problem+json", "kv-request-id": "r", "retry-after": "1"}
    return Reply(status, headers, document.encode())


class Event(NamedTuple):
    """What becomes of one attempt, how much of its time it takes, and whether the write is in then."""

    name: str
    answer: Reply | NoAnswer
    applied: bool
    part: float = 0.1


EVENTS = [
    Event("done", Reply(204, RECEIPT, b""), True),
    Event("not sent", NoAnswer("refused", sent=False), False),
    Event("lost before", NoAnswer("reset", sent=True), False),
    Event("lost after", NoAnswer("reset", sent=True), True),
    Event("hangs", NoAnswer("", sent=True, timed_out=True), True, 1.0),
    Event("shed", refusal(503, "overloaded", "failed"), False),
    Event("no quorum", refusal(503, "quorum-unavailable", "failed"), False),
    Event("half", refusal(504, "write-timeout", "unknown"), True),
    Event("half, not even", refusal(504, "write-timeout", "unknown"), False),
    Event("proxy", Reply(502, {}, b"<h1>"), True),
    Event("broken", Reply(500, {}, b""), False),
    Event("stranger", Reply(200, {}, b"hello"), True),
    Event("bad", refusal(400, "invalid-request", "failed"), False),
    Event("taken", refusal(412, "precondition-failed", "failed"), False),
]


class Script:
    """A transport that plays events, one per attempt, and the last one for ever."""

    def __init__(self, events: list[Event]) -> None:
        self.events = events
        self.now_s = 0.0
        self.sent: list[tuple[Request, Attempt, Event]] = []

    async def send(self, request: Request, attempt: Attempt) -> Reply:
        event = self.events[min(len(self.sent), len(self.events) - 1)]
        self.sent.append((request, attempt, event))
        self.now_s += attempt.timeout_s * event.part
        if isinstance(event.answer, NoAnswer):
            raise event.answer
        return event.answer

    async def close(self) -> None: ...

    async def sleep(self, delay_s: float) -> None:
        self.now_s += delay_s


POLICY = Policy()
scripts = st.lists(st.sampled_from(EVENTS), min_size=1, max_size=8)
nodes = st.integers(1, 5).map(lambda n: [f"http://n{i}" for i in range(n)])
KINDS = ["put", "delete", "if_absent", "if_match"]


def run(script: Script, origins: list[str], kind: str, timeout_s: float) -> KVStoreError | None:
    ids = count(1)
    ports = AsyncPorts(lambda: script.now_s, script.sleep, lambda: 0.99, lambda: f"id-{next(ids)}")

    async def operate() -> None:
        client = AsyncClient(origins, transport=script, ports=ports, timeout_s=timeout_s, policy=POLICY)
        users = client.bucket("users")
        match kind:
            case "put":
                await users.put("ann", b"1")
            case "delete":
                await users.delete("ann")
            case "if_absent":
                await users.put("ann", b"1", if_absent=True)
            case _:
                await users.put("ann", b"1", if_match="0123")
        await client.close()

    try:
        asyncio.run(operate())
    except KVStoreError as error:
        return error
    return None


def check(events: list[Event], origins: list[str], kind: str, timeout_s: float) -> None:
    script = Script(events)
    error = run(script, origins, kind, timeout_s)
    played = [event for _, _, event in script.sent]

    # A condition is never tested twice once the first test may have passed.
    if kind.startswith("if_"):
        for event in played[:-1]:
            assert not event.applied, f"sent again after {event.name}"

    # It is one write, however often it was sent.
    names = {(request.headers["Idempotency-Key"], request.body) for request, _, _ in script.sent}
    assert len(names) == 1

    # No claim of failure when a node has it, no claim of success when nobody said so.
    if error is None:
        assert played[-1].name == "done"
    elif any(event.applied for event in played):
        assert error.outcome == "unknown"

    # Bounded in attempts, and in time: the deadline is over all of them.
    assert len(played) <= POLICY.attempts_max
    assert script.now_s <= timeout_s + 1e-9
    for _, attempt, _ in script.sent:
        assert attempt.connect_s <= attempt.timeout_s
        assert 1 <= int(attempt.headers["KV-Timeout-Ms"]) <= max(1, attempt.timeout_s * 1000)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("first", EVENTS, ids=lambda event: event.name)
def test_safety_in_every_pair_of_events(first: Event, kind: str) -> None:
    for second in EVENTS:
        for origins in (["http://a"], ["http://a", "http://b"]):
            check([first, second, EVENTS[0]], origins, kind, 5.0)


@given(scripts, nodes, st.sampled_from(KINDS), st.sampled_from([0.1, 0.5, 2.0, 10.0]))
def test_safety_in_longer_histories(
    events: list[Event], origins: list[str], kind: str, timeout_s: float
) -> None:
    check(events, origins, kind, timeout_s)


@given(st.integers(2, 5), st.sampled_from(EVENTS[1:9]))
def test_every_node_is_tried_before_one_is_tried_again(count: int, event: Event) -> None:
    script = Script([event])
    run(script, [f"http://n{i}" for i in range(count)], "put", 60.0)
    asked = [attempt.node.origin for _, attempt, _ in script.sent]
    assert len(asked) >= min(count, 2)
    assert len(set(asked[:count])) == len(asked[:count])


def test_a_failed_operation_tells_how_often_it_was_tried() -> None:
    error = run(Script([EVENTS[5]]), ["http://a", "http://b"], "put", 10.0)
    assert error is not None
    assert any("attempts" in note for note in error.__notes__)


@pytest.mark.parametrize("event", EVENTS[1:], ids=lambda event: event.name)
def test_one_failure_is_survived_where_that_is_safe(event: Event) -> None:
    """The point of it all: with another node at hand, a plain put survives whatever may be repeated."""
    error = run(Script([event, EVENTS[0]]), ["http://a", "http://b"], "put", 2.0)
    assert (error is None) == (event.name not in ("bad", "taken"))
