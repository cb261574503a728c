"""Drives one operation at a time through call.py, from any thread."""

from __future__ import annotations

from collections.abc import Callable
from random import random
from threading import Lock
from time import monotonic, sleep
from typing import NamedTuple

from kvstore.client import answers, protocol
from kvstore.client.call import Call, NoAnswer, Shared
from kvstore.client.protocol import Reply, Request
from kvstore.client.retry import backoff_s
from kvstore.client.settings import LAYOUT_TIMEOUT_S, new_operation_id
from kvstore.client.urllib3_transport import SyncTransport
from kvstore.errors import KVStoreError


class SyncPorts(NamedTuple):
    """Time and chance."""

    clock: Callable[[], float] = monotonic
    sleep: Callable[[float], None] = sleep
    chance: Callable[[], float] = random
    new_id: Callable[[], str] = new_operation_id


class SyncRunner:
    """`_lock` guards what operations share: routes, breakers and the budget. Never held while waiting."""

    def __init__(self, shared: Shared, transport: SyncTransport, ports: SyncPorts) -> None:
        self.shared, self.ports = shared, ports
        self._transport = transport
        self._lock = Lock()
        self._learning = Lock()

    def perform(self, request: Request, timeout_s: float) -> Reply:
        """Send one operation until it is answered, its deadline passes, or sending it again is not safe.

        Raises the errors of kvstore.errors; that of a write says in `outcome` what may be applied.
        """
        clock, lock = self.ports.clock, self._lock
        call = Call(self.shared, request, timeout_s, clock())
        while True:
            with lock:
                attempt = call.attempt(clock())
            try:
                reply = self._transport.send(request, attempt)
            except NoAnswer as failure:
                with lock:
                    call.unanswered(failure, clock())
            else:
                with lock:
                    done = call.answered(reply, clock())
                if done:
                    if call.wants_layout:
                        self._learn_layout()
                    return reply
            with lock:
                wait_s = call.again(clock(), self.ports.chance())
            if wait_s > 0:
                self.ports.sleep(wait_s)

    def back_off(self, failures: int) -> None:
        self.ports.sleep(backoff_s(failures, self.ports.chance(), self.shared.policy))

    def close(self) -> None:
        self._transport.close()

    def _learn_layout(self) -> None:
        """By one thread, in passing: a thread of its own would outlive its client.

        A hint only: if it cannot be had, requests go round the nodes as before.
        """
        if not self._learning.acquire(blocking=False):
            return
        try:
            document = answers.document(self.perform(protocol.layout(), LAYOUT_TIMEOUT_S))
            with self._lock:
                self.shared.router.learn(document)
        except KVStoreError:
            return
        finally:
            self._learning.release()
