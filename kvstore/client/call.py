"""One operation from its first attempt to its end: which node, how long, again or not. Pure.

    call = Call(shared, request, timeout_s, now_s)
    while True:
        attempt = call.attempt(now_s)
        … send it; then one of:
        call.answered(reply, now_s)        -> whether that was it
        call.unanswered(failure, now_s)
        wait_s = call.again(now_s, chance)   raises the error of the operation if that was all

Both clients run this; they differ only in how they send and wait.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from kvstore.client.protocol import Reply, Request, judge
from kvstore.client.retry import (
    Effect,
    Failed,
    Fate,
    GiveUp,
    Policy,
    RetryBudget,
    attempt_timeout_s,
    decide,
    verdict,
)
from kvstore.client.routing import Node, Router
from kvstore.errors import ConnectError, NotReady, Overloaded, RequestTimeout

_TRIAL_S = 0.5  # what a request may lose to find out if a node is back
_TRIAL_CONNECT_S = 0.25  # and to find out if an advertised address leads anywhere
_SERVER_MARGIN = 0.9  # a node answers before we stop listening, so that it can say what it knows


class Shared:
    """What all operations of one client have in common."""

    __slots__ = ("base_headers", "budget", "connect_s", "policy", "router")

    def __init__(
        self,
        router: Router,
        *,
        policy: Policy,
        budget: RetryBudget,
        connect_s: float,
        base_headers: Mapping[str, str],
    ) -> None:
        self.router, self.policy, self.budget = router, policy, budget
        self.connect_s, self.base_headers = connect_s, base_headers


class Attempt(NamedTuple):
    """Send `request` to `node`, connecting within `connect_s`, with the whole answer within `timeout_s`."""

    node: Node
    headers: dict[str, str]
    connect_s: float
    timeout_s: float


class NoAnswer(Exception):
    """One attempt ended without an answer. `sent`: bytes of the request may have left.

    `blames_node`: False where it never got as far as the node's address.
    """

    def __init__(self, why: str, *, sent: bool, timed_out: bool = False, blames_node: bool = True) -> None:
        super().__init__(why)
        self.why, self.sent, self.timed_out, self.blames_node = why, sent, timed_out, blames_node


class Call:
    __slots__ = ("_deadline_s", "_failures", "_request", "_shared", "_tried", "wants_layout")

    def __init__(self, shared: Shared, request: Request, timeout_s: float, now_s: float) -> None:
        self._shared, self._request = shared, request
        self._deadline_s = now_s + timeout_s
        self._tried: list[Node] = []
        self._failures: list[Failed] = []
        self.wants_layout = False
        shared.budget.deposit()

    def attempt(self, now_s: float) -> Attempt:
        shared, request = self._shared, self._request
        effect = request.effect
        left_s = max(self._deadline_s - now_s, 0.001)
        repeatable = effect is not Effect.CONDITIONAL
        node = shared.router.choose(
            request.bucket, request.key, request.homes, self._tried, now_s, trials=repeatable
        )
        timeout_s = attempt_timeout_s(effect, left_s, shared.policy)
        connect_s = min(shared.connect_s, timeout_s)
        if node.is_trial:
            if repeatable:
                timeout_s = min(timeout_s, _TRIAL_S)
            connect_s = min(connect_s, timeout_s if node.breaker.is_proven else _TRIAL_CONNECT_S)
        self._tried.append(node)
        shared.router.asked(node, now_s)
        for_node_ms = max(1, int(timeout_s * 1000 * _SERVER_MARGIN))
        headers = {**request.headers, **shared.base_headers, "KV-Timeout-Ms": str(for_node_ms)}
        return Attempt(node, headers, connect_s, timeout_s)

    def answered(self, reply: Reply, now_s: float) -> bool:
        """Whether the reply answers the request. If not, ask `again`."""
        node, router = self._tried[-1], self._shared.router
        failed = judge(self._request, reply, node.origin)
        if failed is None:
            self.wants_layout = router.answered(node, reply.headers.get("kv-layout"), now_s)
            return True
        self._failures.append(failed)
        if failed.fate is not Fate.FINAL and (reply.status == 500 or not failed.error.problem):
            router.failed(node, now_s, connected=True)  # broken, or not a node at all
        else:
            # A quorum that was not met says nothing about the node that reports it.
            pauses = isinstance(failed.error, Overloaded | NotReady)
            router.refused(node, failed.retry_after_s if pauses else 0.0, now_s)
        return False

    def unanswered(self, failure: NoAnswer, now_s: float) -> None:
        node = self._tried[-1]
        if failure.blames_node:
            self._shared.router.failed(node, now_s, connected=failure.sent)
        if not failure.sent:
            error = ConnectError(f"no connection to {node.origin}: {failure.why}")
            self._failures.append(Failed(error, Fate.NOT_SENT))
            return
        read = self._request.effect is Effect.READ
        why = "in time" if failure.timed_out else f"but {failure.why}"
        lost = RequestTimeout(
            f"{node.origin} did not answer {why}",
            outcome="failed" if read else "unknown",
            advice=""
            if read
            else "the write may be applied: read the key, or send it again with the same operation_id",
        )
        self._failures.append(Failed(lost, Fate.REFUSED if read else Fate.UNKNOWN))

    def again(self, now_s: float, chance: float) -> float:
        """Seconds to wait before the next attempt. Raises the error of the operation when it has failed."""
        shared = self._shared
        other_node = len(set(self._tried)) < len(shared.router.nodes)
        decision = decide(
            self._request.effect,
            self._failures[-1],
            failures=len(self._failures),
            other_node=other_node,
            left_s=self._deadline_s - now_s,
            chance=chance,
            policy=shared.policy,
            budget=shared.budget,
        )
        if isinstance(decision, GiveUp):
            error = verdict(self._failures)
            if len(self._failures) > 1:
                error.add_note(f"after {len(self._failures)} attempts: {decision.reason}")
            raise error
        return decision.after_s
