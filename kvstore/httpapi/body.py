"""Request bodies, within size and time. Whatever is over a limit is refused before memory is taken."""

from __future__ import annotations

import asyncio

import aiohttp
from aiohttp import web
from multidict import istr

from kvstore.errors import InvalidRequest, TooLarge
from kvstore.httpapi.connection import WholeRequest
from kvstore.httpapi.status_codes import BodyBroken, RequestTooSlow

CONTENT_ENCODING = istr("Content-Encoding")


def body_at_hand(request: web.BaseRequest | WholeRequest, bytes_max: int) -> bytes | None:
    """The body if it has all arrived, as a small one does with its header: no wait, no timer.

    Raises TooLarge, BodyBroken, InvalidRequest.
    """
    content = request.content
    if not content.is_eof():
        return None
    _refuse_encoding(request)
    try:
        body = content.read_nowait()
    except Exception as error:
        raise BodyBroken(f"the body does not parse: {error}") from None
    if len(body) > bytes_max:
        raise _too_large(str(len(body)), bytes_max)
    return body


async def read_body(request: web.BaseRequest | WholeRequest, bytes_max: int, timeout_s: float) -> bytes:
    """The body, some of it still on its way. Raises TooLarge, RequestTooSlow, BodyBroken, InvalidRequest.

    A declared length is checked before anything is read; a chunked body is cut off at the limit.
    """
    _refuse_encoding(request)
    headers = request.headers
    declared = headers.get("Content-Length")
    if declared is not None and int(declared) > bytes_max:
        raise _too_large(declared, bytes_max)
    expect = headers.get("Expect")
    if expect is not None:
        _continue(request, expect)
    try:
        async with asyncio.timeout(timeout_s):
            return await _read_chunks(request.content, bytes_max)
    except TimeoutError:
        raise RequestTooSlow(f"no complete body within {timeout_s:g} s") from None


def _refuse_encoding(request: web.BaseRequest | WholeRequest) -> None:
    encoding = request.headers.get(CONTENT_ENCODING)
    if encoding is not None and encoding.strip().lower() != "identity":
        raise InvalidRequest(
            f"Content-Encoding {encoding[:64]!r} is not taken",
            advice="send the bytes as they are to be stored, and note their encoding in a KV-Meta- header",
        )


async def _read_chunks(content: aiohttp.StreamReader, bytes_max: int) -> bytes:
    body = bytearray()
    while True:
        try:
            chunk = await content.readany()
        except (asyncio.CancelledError, TimeoutError):
            raise
        except Exception as error:
            # aiohttp's own classes differ by cause (closed early, bad chunk); all say: not whole.
            raise BodyBroken(f"the body ended early or does not parse: {error}") from None
        if not chunk:
            return bytes(body)
        body += chunk
        if len(body) > bytes_max:
            raise _too_large("chunks", bytes_max)


def _continue(request: web.BaseRequest | WholeRequest, expect: str) -> None:
    """The client waits for leave to send (RFC 9110 §10.1.1); over the limit it was not given."""
    if expect.lower() != "100-continue":
        raise InvalidRequest(f"Expect {expect[:64]!r} is not understood", advice="only 100-continue is")
    if request.transport is not None:
        request.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")


def _too_large(length: str, bytes_max: int) -> TooLarge:
    size = f"{length} bytes" if length.isdigit() else "more bytes than allowed"
    return TooLarge(
        f"the body has {size}, the limit is {bytes_max}", advice="split it over several keys or requests"
    )
