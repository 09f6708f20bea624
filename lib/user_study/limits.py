"""What a client may ask for: requests a second (token buckets), bytes of a body; and the headers of every reply."""

import time
from collections import OrderedDict

from starlette.responses import JSONResponse

LARGEST_BODY = 4096  # bytes; an answer has about a hundred
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; img-src 'self' data:; script-src 'self'; style-src 'self'; "
    "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), microphone=(), geolocation=()",
}


class Buckets:
    """Token buckets by key: `rate` a second on average, `burst` at once; the oldest of `most` are forgotten."""

    def __init__(self, rate, burst, most=10_000, clock=time.monotonic):
        self.rate, self.burst, self.most, self._clock = rate, burst, most, clock
        self._held = OrderedDict()  # key -> (tokens, when)

    def take(self, key):
        """Whether one more request of `key` is allowed now."""
        now = self._clock()
        tokens, when = self._held.get(key, (self.burst, now))
        tokens = min(self.burst, tokens + max(0.0, now - when) * self.rate)
        self._held[key] = max(0.0, tokens - 1) if tokens >= 1 else tokens, now
        self._held.move_to_end(key)
        if len(self._held) > self.most:
            self._held.popitem(last=False)
        return tokens >= 1


class Guarded:
    """ASGI middleware: refuses large bodies before they are read, and adds HEADERS to every reply."""

    def __init__(self, app):
        self.app = app

    async def __call__(self, scope, receive, send):
        if scope["type"] != "http":
            return await self.app(scope, receive, send)

        async def headed(message):
            if message["type"] == "http.response.start":
                own = {name.lower() for name, _ in message["headers"]}
                fresh = {"Cache-Control": "no-store", **HEADERS}
                extra = [(k.lower().encode(), v.encode()) for k, v in fresh.items() if k.lower().encode() not in own]
                message["headers"] = [*message["headers"], *extra]
            await send(message)

        length = dict(scope["headers"]).get(b"content-length", b"0")
        if not length.isdigit() or int(length) > LARGEST_BODY:
            refused = JSONResponse({"error": "Too large."}, 413, headers={"Connection": "close"})
            return await refused(scope, receive, headed)
        await self.app(scope, receive, headed)


async def body_of(request):
    """The bytes of a request's body; None as soon as they are more than LARGEST_BODY, whatever its headers said."""
    held = b""
    async for chunk in request.stream():
        held += chunk
        if len(held) > LARGEST_BODY:
            return None
    return held
