"""Clients that carry out a plan against the nodes, and write down what they did and saw.

A client does its actions one after the other. It turns to the next node where a request was applied
nowhere, and sends a write of unknown outcome again, as the same write, or asks what became of it, where its
action says so; a write of which it is told `ok` is acknowledged. Tokens are encoded contexts: of a get the
context of the state, of a put what `Written` gave.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from contextlib import suppress
from typing import Any, NamedTuple

from kvstore.core.encoding import decode_context, decode_state, encode_context
from kvstore.core.message import Get, Got, Put, Written
from kvstore.core.outcome import OK, AskOutcome, OutcomeTold
from kvstore.core.ring import full_key, partition_of
from kvstore.core.sibling import EMPTY_STATE, collapse, last_write
from kvstore.core.vector_clock import EMPTY_CONTEXT, CausalContext, Dot
from kvstore.errors import ConnectError, CorruptRecord, KVStoreError, RequestTimeout
from kvstore.node.node import Node
from kvstore.node.ports import Kind as NodeKind
from kvstore.simulation.history import Ended, History, Kind, Operation
from kvstore.simulation.loop import VirtualTimeLoop
from kvstore.simulation.machine import Observer, SimulatedMachine
from kvstore.simulation.plan import BUCKET, SET_PREFIX, Action, Plan, write_id_of
from kvstore.simulation.probes import Probes
from kvstore.simulation.trace import Trace

ATTEMPTS_MAX = 4
TIMEOUT_S = 2.0
_NEXT_NODE_S = 0.005
_RETRY_S = 0.2
_RESET = "the node's process ended"


class _Known(NamedTuple):
    """What a client last learned of a key: its token, from which operation, and the elements of a set."""

    token: bytes
    operation: int
    elements: frozenset[bytes]


class Clients:
    """All clients of one run, over the machines of its world."""

    def __init__(
        self,
        loop: VirtualTimeLoop,
        plan: Plan,
        machines: list[SimulatedMachine],
        trace: Trace,
        probes: Probes,
        observers: list[Observer],
        bugs: list[str],
    ) -> None:
        self._loop, self._plan, self._machines = loop, plan, machines
        self._trace, self._probes, self._observers, self._bugs = trace, probes, observers, bugs
        self.history = History()

    async def run(self) -> None:
        """All actions of all clients; returns when the last one has ended."""
        started = [self._loop.create_task(self._client(i)) for i in range(len(self._plan.clients))]
        for task in started:
            await task

    async def _client(self, number: int) -> None:
        client = _Client(self, number)
        for action in self._plan.clients[number]:
            wait_s = action.at_s - self._loop.time()
            if wait_s > 0:
                await asyncio.sleep(wait_s)
            await client.act(action)

    async def ask(
        self, machine: SimulatedMachine, request: Get | Put | AskOutcome, timeout_s: float = TIMEOUT_S
    ) -> Any:
        """As a client of this machine: what its node says. Raises KVStoreError, RequestTimeout for no answer.

        A process that ends breaks the connection; one that is stalled reads the request when it runs
        again, if that is soon enough, whether or not anybody waits.
        """
        node, process = machine.node, machine.process
        if node is None or process is None:
            raise ConnectError(f"{machine.name} does not listen")
        answer: asyncio.Future[Any] = self._loop.create_future()
        for observer in self._observers:
            observer.asked(machine.name, request)

        def ended(task: asyncio.Task[Any]) -> None:
            if task.cancelled():
                _settle(answer, RequestTimeout(_RESET))
                return
            error = task.exception()
            if error is None:
                _settle(answer, task.result())
                return
            if not isinstance(error, KVStoreError):
                self._bugs.append(f"{machine.name}: serving a client: {error!r}")
                error = RequestTimeout("the node's handler broke")
            _settle(answer, error)

        def begin() -> None:
            if process.owner.ended:
                _settle(answer, RequestTimeout(_RESET))
                return
            process.owner.task(_work(node, request)).add_done_callback(ended)

        timer = self._loop.call_later(timeout_s, _settle, answer, RequestTimeout("no answer in time"))
        if process.owner.stalled is not None and process.endpoint is not None:
            process.endpoint.held.append((self._loop.time(), begin))
        else:
            begin()
        try:
            reply = await answer
            for observer in self._observers:
                observer.answered(machine.name, request, reply)
            return reply
        finally:
            timer.cancel()


def _work(node: Node, request: Get | Put | AskOutcome) -> Coroutine[Any, Any, Any]:
    if isinstance(request, Get):
        return node.get(request)
    return node.put(request) if isinstance(request, Put) else node.outcome(request)


def _settle(answer: asyncio.Future[Any], result: Any) -> None:
    if answer.done():
        return
    if isinstance(result, BaseException):
        answer.set_exception(result)
    else:
        answer.set_result(result)


class _Client:
    def __init__(self, clients: Clients, number: int) -> None:
        self._all, self._number = clients, number
        self._known: dict[str, _Known] = {}
        self._seen: dict[str, CausalContext] = {}  # all this client ever saw of a key, for its sessions

    async def act(self, action: Action) -> None:
        known = self._known.get(action.key) if action.token else None
        operation = self._operation(action, known)
        request = self._request(action, operation, known)
        everything = self._all
        ended, answer, machine = await self._carry_out(action, operation, request)
        operation.ended, operation.ended_s = ended, everything._loop.time()
        if isinstance(answer, KVStoreError):
            operation.error = type(answer).__name__
        else:
            operation.node = machine.name
            self._learn(action.key, operation, answer, known)
            if not isinstance(answer, Got):
                for observer in everything._observers:
                    observer.acked(machine.name, operation)
        everything._trace.add(
            "operation",
            self._number,
            action.number,
            action.kind,
            action.key,
            ended.value,
            operation.error,
            operation.seen,
        )

    def _operation(self, action: Action, known: _Known | None) -> Operation:
        history, plan = self._all.history, self._all._plan
        kind = Kind(action.kind)
        writes = kind is not Kind.GET
        operation = Operation(
            index=len(history.operations),
            client=self._number,
            kind=kind,
            key=action.key.encode(),
            started_s=self._all._loop.time(),
            write_id=write_id_of(action) if writes else b"",
            token_from=known.operation if writes and known else None,
            strict=plan.strict,
            session=action.session and not writes,
            monotonic=plan.monotonic and 2 * plan.r > plan.n and not writes,
        )
        if kind is Kind.PUT:
            operation.value = self._value(action, operation.write_id, known)
        history.operations.append(operation)
        return operation

    def _value(self, action: Action, write_id: bytes, known: _Known | None) -> bytes:
        if action.key.startswith(SET_PREFIX):
            elements = known.elements if known else frozenset()
            return b" ".join(sorted(elements | {write_id}))
        return write_id.ljust(action.value_bytes, b".")

    def _request(self, action: Action, operation: Operation, known: _Known | None) -> Get | Put:
        plan = self._all._plan
        if operation.kind is Kind.GET:
            seen = self._seen.get(action.key) if action.session else None
            return Get(
                BUCKET,
                operation.key,
                monotonic=plan.monotonic,
                session=b"" if seen is None else encode_context(seen),
                timeout_ms=int(TIMEOUT_S * 1000),
            )
        return Put(
            BUCKET,
            operation.key,
            operation.value,
            tombstone=operation.kind is Kind.DELETE,
            operation_id=operation.write_id,
            context=known.token if known else None,
            mode=None if known else "sibling",
            timeout_ms=int(TIMEOUT_S * 1000),
        )

    async def _carry_out(
        self, action: Action, operation: Operation, request: Get | Put
    ) -> tuple[Ended, Any, SimulatedMachine]:
        """Node after node until one has done it; (how it ended, the answer or the last error, by whom)."""
        everything = self._all
        machines, probes = everything._machines, everything._probes
        sent = 0
        before: set[Dot] | None = None
        error = KVStoreError("not tried")
        machine = machines[action.node % len(machines)]
        for attempt in range(ATTEMPTS_MAX):
            machine = machines[(action.node + attempt) % len(machines)]
            if machine.twin is not None and action.number % 2:
                machine = machine.twin  # one name, two addresses
            try:
                answer = await everything.ask(machine, request)
            except KVStoreError as failed:
                error = failed
            else:
                if before is not None and isinstance(request, Put):
                    self._probe_retry(request, answer, before)
                operation.attempts = sent + 1
                return Ended.OK, answer, machine
            if error.outcome == "unknown" and isinstance(request, Put):
                sent += 1
                probes.hit("write unknown")
                if not action.retry:
                    break
                await asyncio.sleep(_RETRY_S)
                before = self._dots_of(request)
            else:
                probes.hit("write refused before it was applied", isinstance(request, Put))
                await asyncio.sleep(_NEXT_NODE_S)
        operation.attempts = max(1, sent)
        if sent and action.ask and isinstance(request, Put):
            told = await self._what_became_of(request, machine)
            if told is not None and told.outcome == OK:
                return Ended.OK, told, machine
        ended = Ended.UNKNOWN if sent or isinstance(request, Get) else Ended.FAILED
        return ended, error, machine

    async def _what_became_of(self, request: Put, last: SimulatedMachine) -> OutcomeTold | None:
        """As told by the first node after the last one that says anything."""
        everything = self._all
        question = AskOutcome(
            request.bucket, request.key, request.operation_id, timeout_ms=int(TIMEOUT_S * 1000)
        )
        for step in range(1, ATTEMPTS_MAX):
            at = (last.number + step) % len(everything._machines)
            try:
                told: OutcomeTold = await everything.ask(everything._machines[at], question)
            except KVStoreError:
                await asyncio.sleep(_NEXT_NODE_S)
                continue
            everything._probes.hit(f"outcome told {told.outcome}")
            return told
        return None

    def _dots_of(self, request: Put) -> set[Dot]:
        """Dots that this write has already, on any disk."""
        key = full_key(request.bucket, request.key)
        dots: set[Dot] = set()
        for machine in self._all._machines:
            with suppress(CorruptRecord):
                record = machine.disk.record(NodeKind.DATA, partition_of(key), key)
                siblings = decode_state(record).siblings if record else {}
                dots.update(d for d, v in siblings.items() if v.operation_id == request.operation_id)
        return dots

    def _probe_retry(self, request: Put, answer: Written, before: set[Dot]) -> None:
        covers = decode_context(answer.context).covers
        found = any(covers(dot) for dot in before)
        self._all._probes.hit("retry found its own write" if found else "retry wrote again")

    def _learn(
        self, key: str, operation: Operation, answer: Got | Written | OutcomeTold, known: _Known | None
    ) -> None:
        if not isinstance(answer, Got):
            elements = frozenset(operation.value.split())
            token = answer.context
            if isinstance(answer, OutcomeTold) and known is not None:  # it knows the write, not its token
                token = encode_context(decode_context(token).join(decode_context(known.token)))
        else:
            token, elements = self._see(operation, answer)
        self._known[key] = _Known(token, operation.index, elements)
        self._seen[key] = self._seen.get(key, EMPTY_CONTEXT).join(decode_context(token))

    def _see(self, operation: Operation, got: Got) -> tuple[bytes, frozenset[bytes]]:
        state = decode_state(got.state) if got.state else EMPTY_STATE
        view = last_write if got.last_write_wins else collapse
        shown = [version for _, version in sorted(view(state.siblings).items())]
        live = [version for version in shown if not version.tombstone]
        operation.seen = tuple(version.operation_id for version in live)
        operation.seen_values = tuple(version.value for version in live)
        operation.seen_tombstones = tuple(v.operation_id for v in shown if v.tombstone)
        self._all._probes.hit("sibling shown", len(live) > 1)
        self._all._probes.hit("tombstone seen", bool(operation.seen_tombstones))
        elements = frozenset(element for version in live for element in version.value.split())
        return encode_context(state.context), elements
