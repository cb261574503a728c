"""What became of a write whose answer never came: /v1/outcome/{operation}."""

from __future__ import annotations

from kvstore.core.bucket import check_bucket_name
from kvstore.core.credential import Role
from kvstore.core.outcome import OK, AskOutcome
from kvstore.core.ring import full_key
from kvstore.core.token import seal_encoded
from kvstore.errors import InvalidRequest
from kvstore.httpapi.media import document
from kvstore.httpapi.options import checked_operation_id, left_ms, to_count
from kvstore.httpapi.rate_limits import RateLimits
from kvstore.httpapi.reply import Reply
from kvstore.httpapi.routes import Call, check_key, check_permission
from kvstore.httpapi.service import Service
from kvstore.httpapi.target import as_text

_ADVICE = (
    "not held by the replicas that answered: it may come yet, or be superseded, or be lost; send it again"
)
_ADVICE_HELD = "some replicas hold it, too few durably yet: ask again"


class OutcomeRoutes:
    def __init__(self, service: Service, rates: RateLimits) -> None:
        self._service, self._rates = service, rates

    async def outcome(self, call: Call) -> Reply:
        """200, whatever it is. Raises InvalidRequest, Forbidden, NotReady, StorageFull."""
        service, options = self._service, call.options
        operation = as_text({"": call.key})[""]
        bucket, key = as_text({"bucket": options.get("bucket", b"")})["bucket"], options.get("key")
        if not bucket or key is None:
            raise InvalidRequest(
                "an operation is looked for where it wrote", advice="say bucket=NAME&key=KEY, percent-encoded"
            )
        check_bucket_name(bucket)
        check_key(key, service.limits.key_bytes_max)
        check_permission(call.principal, Role.READ, bucket)
        if self._rates.active:
            self._rates.check_bucket(bucket)
        told = await service.outcome(
            AskOutcome(
                bucket,
                key,
                checked_operation_id(operation, service.limits, "the operation"),
                to_count(options, "n", 1),
                to_count(options, "w", 1),
                left_ms(call, service.limits),
            )
        )
        answer = {"operation": operation, "outcome": told.outcome, "n": told.n, "required": told.required}
        answer |= {"answered": told.answered, "acks": told.acks}
        lines = f"KV-Outcome: {told.outcome}\r\n"
        if told.context:
            token = seal_encoded(told.context, full_key(bucket, key), service.signing_key)
            lines += f"KV-Context: {token}\r\n"
        if told.outcome != OK:
            answer["advice"] = _ADVICE_HELD if told.context else _ADVICE
        return document(answer, head=lines)
