"""JSON Schema of what options, headers and paths may hold; the checks themselves are in options.py."""

from __future__ import annotations

from typing import Any

from kvstore.core.limits import DEFAULT_LIMITS

BUCKET: dict[str, Any] = {"type": "string", "pattern": "^[A-Za-z0-9][A-Za-z0-9._~-]{0,255}$"}
KEY: dict[str, Any] = {"type": "string", "minLength": 1, "maxLength": DEFAULT_LIMITS.key_bytes_max}
OPERATION: dict[str, Any] = {
    "type": "string",
    "pattern": f"^[!-~]{{1,{DEFAULT_LIMITS.operation_id_bytes_max}}}$",
}
TIMEOUT: dict[str, Any] = {"type": "string", "pattern": "^[1-9][0-9]{0,3}(ms)?$|^[1-9]s$"}
"""What nodes take is a little more: up to `request_timeout_max_s`."""
TIMEOUT_MS: dict[str, Any] = {
    "type": "integer",
    "minimum": 1,
    "maximum": int(DEFAULT_LIMITS.request_timeout_max_s * 1000),
}
SIBLING: dict[str, Any] = {"type": "string", "pattern": "^[0-9a-f]{16}$"}
ENTITY_TAG: dict[str, Any] = {"type": "string", "pattern": '^("[0-9a-f]{16}"|\\*)$'}
TOKEN: dict[str, Any] = {
    "type": "string",
    "pattern": "^[A-Za-z0-9_-]+(,[A-Za-z0-9_-]+)*$",
    "maxLength": DEFAULT_LIMITS.token_bytes_max,
}
