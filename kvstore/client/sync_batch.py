"""The batch of the synchronous client."""

from __future__ import annotations

from types import TracebackType
from typing import TYPE_CHECKING, Self, TypeVar

from kvstore.client.batch import BatchRules
from kvstore.errors import KVStoreError

if TYPE_CHECKING:
    from kvstore.client.synchronous import Bucket

T = TypeVar("T")


class Batch(BatchRules[T]):
    """The operations of one `with` block."""

    def __init__(self, bucket: Bucket[T], timeout_s: float | None) -> None:
        self._runner = bucket._runner
        super().__init__(bucket._rules, self._runner.shared.policy)
        self._bucket = bucket
        self._timeout_s = bucket._timeout_of(timeout_s)

    def __enter__(self) -> Self:
        self._bucket._know_homes(self._rules.reads)
        self._bucket._know_homes(self._rules.writes)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self._send()
            self.finish()

    def _send(self) -> None:
        runner, ports = self._runner, self._runner.ports
        deadline_s = ports.clock() + self._timeout_s
        while True:
            for request, chunk in self.requests():
                try:
                    self.answered(chunk, runner.perform(request, self._timeout_s))
                except KVStoreError as failure:
                    self.lost(chunk, failure)
            wait_s = self.next_round_s(deadline_s - ports.clock(), ports.chance())
            if wait_s is None:
                return
            ports.sleep(wait_s)
