"""Making replicas equal on request: repair, barrier, and the tasks that do it."""

from __future__ import annotations

from kvstore.core.ring import PARTITIONS
from kvstore.errors import InvalidRequest
from kvstore.httpapi.media import JSON, document, encode_json
from kvstore.httpapi.options import TIMEOUT, to_count, to_flag, to_timeout_ms
from kvstore.httpapi.reply import Reply
from kvstore.httpapi.routes import Call, check_key
from kvstore.httpapi.service import Service
from kvstore.httpapi.target import as_text
from kvstore.node.tasks import Task

_LATE_S = 1.0  # for the node to say itself that the time is up


class RepairRoutes:
    def __init__(self, service: Service) -> None:
        self._service = service

    async def repair(self, call: Call) -> Reply:
        """202 with the task; with `wait` 200 once it has ended. Raises Overloaded, NotReady."""
        options = call.options
        key, bucket = options.get("key"), as_text({"bucket": options.get("bucket", b"")})["bucket"]
        partition = to_count(options, "partition", 0, PARTITIONS - 1)
        wanted = (bool(bucket) or key is not None, partition is not None, to_flag(options, "all"))
        if sum(wanted) != 1 or (wanted[0] and not (bucket and key is not None)):
            raise InvalidRequest(
                "say what to repair",
                advice="one of: bucket=NAME&key=KEY, partition=NUMBER, or all; from every node one is enough",
            )
        if key is not None:
            check_key(key, self._service.limits.key_bytes_max)
        wait, timeout_s = to_flag(options, "wait"), self._timeout_s(call)
        task = self._service.upkeep.begin_repair(bucket, key or b"", partition)
        if not wait or not await task.ended(timeout_s):
            return Reply(202, f"Content-Type: {JSON}\r\nLocation: /v1/tasks\r\n", _encoded(task))
        if task.error is not None:
            raise task.error
        return document(task.as_dict())

    async def status(self, call: Call) -> Reply:
        return document(self._service.upkeep.status())

    async def tasks(self, call: Call) -> Reply:
        return document({"tasks": self._service.upkeep.shown_tasks()})

    async def barrier(self, call: Call) -> Reply:
        """200, or 504 if the time is up before it is certain. Raises Overloaded, NotReady."""
        timeout_s = self._timeout_s(call)
        task = self._service.upkeep.begin_barrier(timeout_s)
        await task.ended(timeout_s + _LATE_S)
        if task.error is not None:
            raise task.error
        return document(task.as_dict())

    def _timeout_s(self, call: Call) -> float:
        if "timeout" in call.options or TIMEOUT in call.headers:
            return to_timeout_ms(call.options, call.headers, self._service.limits) / 1000
        return self._service.limits.request_timeout_max_s


def _encoded(task: Task) -> bytes:
    return encode_json(task.as_dict())
