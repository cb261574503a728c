"""Nodes that hang, reset, lie or are gone, over real sockets, with both clients."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from typing import Any

import msgpack
import pytest

from kvstore.client import AsyncClient, AsyncPorts, Client, Policy, SyncPorts
from kvstore.errors import (
    BatchError,
    ConnectError,
    InvalidRequest,
    KVStoreError,
    NotFound,
    Overloaded,
    PreconditionFailed,
    QuorumNotMet,
    QuorumUnavailable,
    RateLimited,
    RequestTimeout,
    StaleRead,
    StorageFull,
    TooLarge,
    Unauthorized,
    Unavailable,
)
from tests.client.conftest import ThreadedClient
from tests.client.stub import (
    MISSING,
    RECEIPT,
    WRITTEN,
    Answer,
    Behaviour,
    Hang,
    Reset,
    StubNode,
    problem,
    value,
)

# One attempt must be over soon where a node hangs on purpose.
HASTY = Policy(attempt_s_min=0.05)


class Fixture:
    """Stub nodes and clients of them. `waits` are the pauses before retries, which are not waited."""

    def __init__(self, stack: AsyncExitStack, *, threaded: bool) -> None:
        self._stack, self._threaded = stack, threaded
        self.waits: list[float] = []

    async def nodes(self, count: int) -> list[StubNode]:
        return [await self._stack.enter_async_context(StubNode()) for _ in range(count)]

    def client(self, *nodes: StubNode | str, **options: Any) -> Any:
        origins = [node if isinstance(node, str) else node.origin for node in nodes]
        options = {"timeout_s": 5.0, "policy": HASTY, "follow_layout": False, **options}
        if self._threaded:
            client = Client(origins, ports=SyncPorts(sleep=self.waits.append, chance=lambda: 0.5), **options)
            self._stack.callback(client.close)
            return ThreadedClient(client)
        ports = AsyncPorts(sleep=self._wait, chance=lambda: 0.5)
        client_ = AsyncClient(origins, ports=ports, **options)
        self._stack.push_async_callback(client_.close)
        return client_

    async def _wait(self, delay_s: float) -> None:
        self.waits.append(delay_s)


@pytest.fixture(params=["asynchronous", "synchronous"])
async def world(request: pytest.FixtureRequest) -> AsyncIterator[Fixture]:
    async with AsyncExitStack() as stack:
        yield Fixture(stack, threaded=request.param == "synchronous")


@pytest.fixture
async def node(world: Fixture) -> StubNode:
    return (await world.nodes(1))[0]


def put_ids(*nodes: StubNode) -> list[str]:
    return [seen.headers["idempotency-key"] for node in nodes for seen in node.data]


# --- what goes out ----------------------------------------------------------------------------------


async def test_a_priority_goes_out_with_everything(world: Fixture, node: StubNode) -> None:
    for priority, sent in (("normal", None), ("background", "background"), ("critical", "critical")):
        await world.client(node, priority=priority).bucket("users").put("a", b"v")
        assert node.data[-1].headers.get("kv-priority") == sent
    with pytest.raises(InvalidRequest, match="priority='urgent'"):
        world.client(node, priority="urgent")


async def test_a_put_as_it_goes_out(world: Fixture, node: StubNode) -> None:
    users = world.client(node, token="secret").bucket("users", codec="json")
    await users.put("ä/b", {"a": 1}, context="Y3R4", meta={"By": "ann"}, w=2, ttl_s=1.5, timeout_s=1)
    (seen,) = node.data
    assert (seen.method, seen.target) == ("PUT", "/v1/kv/users/%C3%A4%2Fb?w=2&ttl=1.5")
    assert seen.body == b'{"a":1}'
    sent = seen.headers
    assert len(sent.pop("idempotency-key")) == 32
    assert 0 < int(sent.pop("kv-timeout-ms")) < 1000
    sent.pop("accept", None)
    assert sent == {
        "host": f"127.0.0.1:{node.port}",
        "user-agent": "kvstore",
        "accept-encoding": "identity",
        "authorization": "Bearer secret",
        "content-type": "application/json",
        "content-length": "7",
        "kv-context": "Y3R4",
        "kv-meta-by": "ann",
    }


async def test_a_get_as_it_goes_out(world: Fixture, node: StubNode) -> None:
    assert await world.client(node).bucket("users").get("ann", r=1, pr=0, monotonic=True) == b"1"
    (seen,) = node.data
    assert (seen.method, seen.target) == ("GET", "/v1/kv/users/ann?r=1&pr=0&read=monotonic")
    assert seen.headers["accept"].startswith("application/msgpack, ")
    assert "idempotency-key" not in seen.headers


async def test_connections_are_kept(world: Fixture, node: StubNode) -> None:
    users = world.client(node).bucket("users")
    for _ in range(5):
        await users.put("ann", b"1")
        assert await users.get("ann") == b"1"
    assert node.connections == 1


async def test_every_operation_has_an_id_of_its_own(world: Fixture, node: StubNode) -> None:
    users = world.client(node).bucket("users")
    for _ in range(3):
        await users.put("ann", b"1")
    await users.delete("ann")
    assert len(set(put_ids(node))) == 4


# --- no answer --------------------------------------------------------------------------------------


@pytest.mark.parametrize("fault", [Reset(), Hang(), Answer(204, {}, b"", then_close=True)], ids=str)
async def test_a_put_that_was_lost_is_sent_again_elsewhere_as_the_same_write(
    world: Fixture, fault: Behaviour
) -> None:
    a, b = await world.nodes(2)
    for stub in (a, b):
        stub.script.append(fault)
    c = (await world.nodes(1))[0]
    users = world.client(a, b, c, timeout_s=1.0).bucket("users")
    await users.put("ann", b"1")
    ids = put_ids(a, b, c)
    assert len(ids) in (1, 2, 3)
    assert len(set(ids)) == 1
    await users.put("ann", b"2")
    await users.put("ann", b"3")
    assert len(set(put_ids(a, b, c))) == 3
    assert not a.script
    assert not b.script


@pytest.mark.parametrize("fault", [Reset(), Hang()], ids=str)
@pytest.mark.parametrize("condition", [{"if_absent": True}, {"if_match": "0123456789abcdef"}], ids=str)
async def test_a_conditional_put_that_was_lost_is_never_sent_again(
    world: Fixture, node: StubNode, fault: Behaviour, condition: dict[str, Any]
) -> None:
    """The second would fail at its own condition, and the caller would think nothing was written."""
    node.script.append(fault)
    with pytest.raises(RequestTimeout) as raised:
        await world.client(node, timeout_s=0.3).bucket("users").put("ann", b"1", **condition)
    assert raised.value.outcome == "unknown"
    assert raised.value.advice
    assert len(node.data) == 1


async def test_a_conditional_put_on_a_kept_connection_is_not_repeated_either(
    world: Fixture, node: StubNode
) -> None:
    """HTTP libraries repeat a PUT by themselves when a kept connection turns out to be closed."""
    users = world.client(node).bucket("users")
    await users.put("ann", b"1")
    node.script.append(Reset())
    with pytest.raises(RequestTimeout) as raised:
        await users.put("ann", b"2", if_match="0123456789abcdef")
    assert raised.value.outcome == "unknown"
    assert len(node.data) == 2
    assert node.connections == 1


async def test_a_conditional_put_that_was_not_sent_goes_elsewhere(world: Fixture) -> None:
    dead, alive = await world.nodes(2)
    await dead.stop()
    users = world.client(dead, alive).bucket("users")
    for i in range(4):
        await users.put(f"{i}", b"1", if_absent=True)
    assert len(alive.data) == 4
    assert not world.waits


async def test_a_dead_node_is_left_alone(world: Fixture) -> None:
    """Connection refused costs no wait, and after the first time nobody is sent there for a while."""
    dead, alive = await world.nodes(2)
    await dead.stop()
    users = world.client(dead, alive).bucket("users")
    for _ in range(20):
        assert await users.get("ann") == b"1"
    assert len(alive.data) == 20
    assert not world.waits


async def test_no_node_at_all(world: Fixture) -> None:
    (dead,) = await world.nodes(1)
    await dead.stop()
    users = world.client(dead).bucket("users")
    with pytest.raises(ConnectError) as raised:
        await users.put("ann", b"1")
    assert raised.value.outcome == "failed"
    assert raised.value.retryable
    assert dead.origin in str(raised.value)


async def test_a_get_that_hangs_is_asked_elsewhere_within_its_deadline(world: Fixture) -> None:
    hung, alive = await world.nodes(2)
    hung.otherwise = Hang()
    users = world.client(hung, alive, timeout_s=0.6).bucket("users")
    for _ in range(6):
        assert await users.get("ann") == b"1"
    assert len(hung.data) == 3  # three failures in a row, and the node is left alone


async def test_the_deadline_is_over_all_attempts(world: Fixture) -> None:
    nodes = await world.nodes(3)
    for stub in nodes:
        stub.otherwise = Hang()
    users = world.client(*nodes).bucket("users", timeout_s=0.4)
    started_s = asyncio.get_running_loop().time()
    with pytest.raises(RequestTimeout) as raised:
        await users.get("ann")
    elapsed_s = asyncio.get_running_loop().time() - started_s
    assert 0.3 < elapsed_s < 2.0
    assert raised.value.outcome == "failed"
    assert sum(len(stub.data) for stub in nodes) > 1


async def test_an_answer_that_stops_half_way_is_no_answer(world: Fixture) -> None:
    a, b = await world.nodes(2)
    for stub in (a, b):
        stub.script.append(value(b"0123456789")._replace(cut=3))
        stub.otherwise = value(b"0123456789")
    users = world.client(a, b).bucket("users")
    for _ in range(4):
        assert await users.get("ann") == b"0123456789"


async def test_what_may_be_applied_stays_unknown_whatever_comes_after(world: Fixture) -> None:
    """First a lost answer, then a node that says: applied nowhere. It speaks for its own attempt only."""
    (node,) = await world.nodes(1)
    node.script.append(Reset())
    node.otherwise = problem(503, "quorum-unavailable", outcome="failed", required=2, received=1)
    with pytest.raises(RequestTimeout) as raised:
        await world.client(node).bucket("users").put("ann", b"1")
    assert raised.value.outcome == "unknown"
    assert isinstance(raised.value.__cause__, QuorumUnavailable)
    assert len(node.data) > 1


async def test_a_node_that_comes_back_is_used_again(world: Fixture) -> None:
    back, alive = await world.nodes(2)
    await back.stop()
    users = world.client(back, alive).bucket("users")
    for _ in range(4):
        await users.get("ann")
    await back.__aenter__()
    async with asyncio.timeout(10):
        while not back.data:
            assert await users.get("ann") == b"1"
            await asyncio.sleep(0.01)


# --- problems ---------------------------------------------------------------------------------------

PROBLEMS: list[tuple[Answer, type[KVStoreError], str]] = [
    (problem(400, "invalid-request"), InvalidRequest, "failed"),
    (problem(401, "unauthorized"), Unauthorized, "failed"),
    (problem(404, "no-such-route"), NotFound, "failed"),
    (problem(412, "precondition-failed"), PreconditionFailed, "failed"),
    (problem(413, "too-large"), TooLarge, "failed"),
    (problem(503, "quorum-unavailable"), QuorumUnavailable, "failed"),
    (problem(504, "write-timeout", outcome="unknown"), QuorumNotMet, "unknown"),
    (problem(503, "overloaded", retry_after="7"), Overloaded, "failed"),
    (problem(429, "rate-limited", retry_after="7"), RateLimited, "failed"),
    (problem(507, "storage-full"), StorageFull, "failed"),
    (problem(500, "internal", outcome="unknown"), KVStoreError, "unknown"),
    (problem(500, "internal"), KVStoreError, "unknown"),
    (problem(503, "of-a-later-release", outcome="failed"), Unavailable, "failed"),
    (problem(503, "of-a-later-release"), Unavailable, "unknown"),
    (problem(418, "of-a-later-release"), KVStoreError, "failed"),
    (problem(503, "https://example.org/problems/stale"), StaleRead, "unknown"),
    (Answer(503, {"Content-Type": "application/problem+json"}, b"{garbage"), Unavailable, "unknown"),
    (Answer(503, {"Content-Type": "application/problem+json"}, b"[]"), Unavailable, "unknown"),
    (Answer(502, {"Content-Type": "text/html"}, b"<h1>Bad Gateway"), Unavailable, "unknown"),
    (Answer(504), RequestTimeout, "unknown"),
    (Answer(404, {"Content-Type": "text/html"}, b"<h1>Not Found"), NotFound, "failed"),
    (Answer(200, {"Content-Type": "text/html"}, b"<h1>Please log in"), Unavailable, "unknown"),
    (Answer(302, {"Location": "http://127.0.0.1:1/"}), KVStoreError, "unknown"),
]


@pytest.mark.parametrize(("answer", "kind", "outcome"), PROBLEMS)
async def test_problems_of_a_put(
    world: Fixture, node: StubNode, answer: Answer, kind: type[KVStoreError], outcome: str
) -> None:
    node.otherwise = answer
    with pytest.raises(kind) as raised:
        await world.client(node).bucket("users").put("ann", b"1")
    assert type(raised.value) is kind
    assert raised.value.outcome == outcome
    assert str(raised.value)
    assert len(set(put_ids(node))) == 1


@pytest.mark.parametrize("answer", [a for a, _, _ in PROBLEMS], ids=str)
async def test_a_failed_get_wrote_nothing(world: Fixture, node: StubNode, answer: Answer) -> None:
    node.otherwise = answer
    with pytest.raises(KVStoreError) as raised:
        await world.client(node).bucket("users").get("ann")
    assert raised.value.outcome == "failed"


async def test_an_error_carries_what_the_node_said(world: Fixture, node: StubNode) -> None:
    node.otherwise = problem(
        504,
        "write-timeout",
        outcome="unknown",
        advice="send it again",
        required=2,
        received=1,
        asked=3,
        hinted=1,
        replicas=[{"node": "n1", "answer": "answered"}, {"node": "n2", "answer": "PeerTimeout"}, 7],
        request_id="abc-1",
    )
    with pytest.raises(QuorumNotMet) as raised:
        await world.client(node).bucket("users").put("ann", b"1")
    error = raised.value
    assert (error.required, error.received, error.asked, error.hinted) == (2, 1, 3, 1)
    assert error.replicas == (("n1", "answered"), ("n2", "PeerTimeout"))
    assert (error.detail, error.advice) == ("stub says write-timeout", "send it again")
    assert error.request_id == "abc-1"
    assert error.problem["type"] == "write-timeout"


async def test_a_problem_may_hold_anything(world: Fixture, node: StubNode) -> None:
    node.otherwise = problem(
        504, "write-timeout", outcome=7, required="x", replicas={}, detail=None, advice=[]
    )
    with pytest.raises(QuorumNotMet) as raised:
        await world.client(node).bucket("users").put("ann", b"1")
    assert raised.value.required == 0
    assert raised.value.outcome == "unknown"


async def test_a_stranger_is_named_with_what_it_said(world: Fixture, node: StubNode) -> None:
    node.otherwise = Answer(404, {"Content-Type": "text/html"}, b"<h1>It works!")
    with pytest.raises(NotFound, match="It works!") as raised:
        await world.client(node).bucket("users").get("ann")
    assert node.origin in str(raised.value)


async def test_a_missing_key_needs_a_receipt(world: Fixture, node: StubNode) -> None:
    node.otherwise = MISSING
    assert await world.client(node).bucket("users").get("ann") is None
    node.otherwise = MISSING._replace(headers={"Content-Type": "application/problem+json"})
    with pytest.raises(NotFound):
        await world.client(node).bucket("users").get("ann")


# --- retries ----------------------------------------------------------------------------------------


async def test_an_overloaded_node_is_given_its_pause(world: Fixture, node: StubNode) -> None:
    node.script.append(problem(503, "overloaded", retry_after="2"))
    await world.client(node).bucket("users").put("ann", b"1")
    assert world.waits == [2.0]


async def test_another_node_need_not_wait_for_it(world: Fixture) -> None:
    a, b = await world.nodes(2)
    a.otherwise = problem(503, "overloaded", retry_after="2")
    users = world.client(a, b).bucket("users")
    for _ in range(6):
        assert await users.get("ann") == b"1"
    assert len(a.data) == 1
    assert world.waits == [HASTY.backoff_first_s * 0.5]


async def test_a_pause_longer_than_the_deadline_ends_it(world: Fixture, node: StubNode) -> None:
    node.script.append(problem(503, "overloaded", retry_after="7"))
    with pytest.raises(Overloaded) as raised:
        await world.client(node).bucket("users").put("ann", b"1")
    assert raised.value.retry_after_s == 7.0
    assert len(node.data) == 1


@pytest.mark.parametrize("answer", [a for a, k, _ in PROBLEMS if a.status in (400, 401, 404, 412, 413)])
async def test_what_cannot_help_is_not_sent_again(world: Fixture, node: StubNode, answer: Answer) -> None:
    node.otherwise = answer
    users = world.client(node).bucket("users")
    for call in (users.put("ann", b"1"), users.get("ann")):
        with pytest.raises(KVStoreError):
            await call
    assert len(node.data) == 2


async def test_the_budget_ends_a_retry_storm(world: Fixture, node: StubNode) -> None:
    node.otherwise = problem(503, "not-ready")
    users = world.client(node).bucket("users")
    operations = 120
    for _ in range(operations):
        with pytest.raises(Unavailable):
            await users.get("ann")
    retries = len(node.data) - operations
    assert 100 <= retries <= 100 + operations * 0.1 + 1


async def test_a_page_or_answer_that_does_not_parse(world: Fixture, node: StubNode) -> None:
    client = world.client(node)
    users = client.bucket("users")
    packed = {**RECEIPT, "Content-Type": "application/msgpack"}
    for status, body in ((300, b"\xc1"), (300, msgpack.packb({"siblings": [{"value": 7}]})), (300, b"")):
        node.otherwise = Answer(status, packed, body)
        with pytest.raises(KVStoreError, match="does not parse"):
            await users.fetch("ann")
    documents: list[Any] = [{}, [], {"items": [], "complete": True, "next": "http://evil/"}, {"items": [{}]}]
    for document in documents:
        node.otherwise = Answer(200, packed, msgpack.packb(document))
        with pytest.raises(KVStoreError, match="does not parse"):
            [item async for item in users.scan()]
    node.otherwise = Answer(200, RECEIPT, b"{")
    with pytest.raises(KVStoreError, match="does not parse"):
        await client.cluster()


async def test_a_scan_says_when_keys_may_be_missing(world: Fixture, node: StubNode) -> None:
    page = {"items": [{"key": b"a", "etag": "e", "siblings": 1, "values": []}], "complete": False}
    node.otherwise = Answer(200, {**RECEIPT, "Content-Type": "application/msgpack"}, msgpack.packb(page))
    users = world.client(node).bucket("users")
    with pytest.raises(QuorumNotMet):
        [item async for item in users.scan()]
    assert [item.key async for item in users.scan(partial=True)] == [b"a"]


# --- batches ----------------------------------------------------------------------------------------


def entry(answer: Answer) -> dict[str, Any]:
    made: dict[str, Any] = {"status": answer.status, "headers": dict(answer.headers)}
    if answer.status == 200:
        made["value"] = answer.body
    elif answer.body:
        made["problem"] = json.loads(answer.body)
    return made


def entries(*answers: Answer) -> Answer:
    body = msgpack.packb([entry(answer) for answer in answers])
    return Answer(200, {**RECEIPT, "Content-Type": "application/msgpack"}, body)


async def test_only_what_failed_of_a_batch_is_sent_again(world: Fixture, node: StubNode) -> None:
    shed = problem(503, "overloaded")
    node.script.extend([entries(WRITTEN, shed, MISSING), entries(WRITTEN)])
    async with world.client(node).bucket("users").batch() as batch:
        first, second, third = batch.put("a", b"1"), batch.put("b", b"2"), batch.get("c")
    assert (first.receipt.acks, second.receipt.acks, third.value) == (2, 2, None)
    one, two = (msgpack.unpackb(seen.body) for seen in node.data)
    assert [item["key"] for item in one] == [b"a", b"b", b"c"]
    assert two == [one[1]]
    assert node.data[0].target == "/v1/batch"


async def test_a_lost_batch_is_sent_again_without_its_conditional_writes(
    world: Fixture, node: StubNode
) -> None:
    node.script.extend([Reset(), entries(WRITTEN), Reset()])
    with pytest.raises(BatchError) as raised:  # noqa: PT012 - the block is the batch
        async with world.client(node).bucket("users").batch() as batch:
            plain = batch.put("a", b"1")
            conditional = batch.put("b", b"2", if_absent=True)
    assert plain.receipt.acks == 2
    assert set(raised.value.errors) == {1}
    assert raised.value.errors[1].outcome == "unknown"
    with pytest.raises(RequestTimeout):
        _ = conditional.receipt
    sent = [[item["key"] for item in msgpack.unpackb(seen.body)] for seen in node.data]
    assert sent == [[b"a"], [b"a"], [b"b"]]


async def test_a_batch_answer_of_another_length_is_no_answer(world: Fixture, node: StubNode) -> None:
    node.otherwise = entries(WRITTEN)
    with pytest.raises(BatchError) as raised:  # noqa: PT012 - the block is the batch
        async with world.client(node).bucket("users").batch() as batch:
            batch.put("a", b"1")
            batch.put("b", b"2")
    assert {error.outcome for error in raised.value.errors.values()} == {"unknown"}


# --- routing ----------------------------------------------------------------------------------------


def layout_of(*addresses: str, version: int = 1) -> Answer:
    """Every partition at home on the nodes in this order, the first alone where n=1."""
    document = {
        "version": version,
        "partitions": 2,
        "hash": "blake2b-16-be-mod",
        "members": [{"id": str(i), "http": address} for i, address in enumerate(addresses)],
        "walks": [list(range(len(addresses)))] * 2,
    }
    return Answer(200, {**RECEIPT, "KV-Layout": str(version)}, json.dumps(document).encode())


class Routed(StubNode):
    """Serves a layout, and names its version."""

    def __init__(self) -> None:
        super().__init__()
        self.layout = Answer(404)

    def _next(self, method: str, target: str) -> Behaviour:
        if target == "/v1/layout":
            return self.layout
        return value(KV_Layout="1") if method == "GET" else super()._next(method, target)


async def settled(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.005)


async def test_requests_go_to_the_homes_of_their_key(world: Fixture) -> None:
    async with Routed() as seed, Routed() as home, Routed() as other:
        seed.layout = layout_of(f"127.0.0.1:{home.port}", f"127.0.0.1:{seed.port}", f"127.0.0.1:{other.port}")
        client = world.client(seed, follow_layout=True)
        users = client.bucket("users", n=1)
        await users.get("first")
        await settled(lambda: any(seen.target == "/v1/layout" for seen in seed.seen))
        await settled_on(users, home)
        before = len(seed.data), len(other.data)
        for i in range(10):
            await users.get(f"{i}")
        assert (len(seed.data), len(other.data)) == before


async def settled_on(users: Any, home: StubNode) -> None:
    """Until a request arrives there: the layout is learned beside the requests."""
    async with asyncio.timeout(10):
        while not home.data:
            await users.get("again")


async def test_addresses_that_lead_nowhere_do_no_harm(world: Fixture) -> None:
    """Containers advertise what only they can resolve: the seeds go on serving, without a wait."""
    async with Routed() as seed:
        seed.layout = layout_of("no-such-host.invalid:8001", "127.0.0.1:9")
        users = world.client(seed, follow_layout=True).bucket("users")
        await users.get("first")
        await settled(lambda: any(seen.target == "/v1/layout" for seen in seed.seen))
        for _ in range(30):
            assert await users.get("ann") == b"1"
            await users.put("ann", b"1", if_absent=True)
        assert not world.waits


@pytest.mark.parametrize("answer", [Answer(404), Answer(200, RECEIPT, b"[]"), Hang()], ids=str)
async def test_without_a_layout_requests_go_round(world: Fixture, answer: Answer) -> None:
    async with Routed() as a, Routed() as b:
        a.layout = b.layout = answer
        users = world.client(a, b, follow_layout=True).bucket("users")
        for _ in range(10):
            assert await users.get("ann") == b"1"
        assert len(a.data) + len(b.data) == 10
        assert min(len(a.data), len(b.data)) >= 3
        asked = [seen for seen in [*a.seen, *b.seen] if seen.target == "/v1/layout"]
        assert 1 <= len(asked) <= HASTY.attempts_max
