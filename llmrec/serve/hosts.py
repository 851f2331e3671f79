"""Protection of a server without a key or a login from web pages of other sites: the Host and Origin headers."""

from __future__ import annotations

import re
import uuid
from collections.abc import Collection

from starlette.types import ASGIApp, Receive, Scope, Send

from llmrec.serve.listen import is_loopback
from llmrec.serve.refused import Refused

_HOST = re.compile(r"(\[[0-9a-fA-F:.]+\]|[^:\[\]]+)(:\d*)?")


class TrustedHosts:
    """ASGI middleware that answers 421 to a foreign Host header and 403 to a foreign Origin header.

    A web page of another site can make a browser send requests to a server on the person's own machine. Where the
    page's name was made to point at this machine (DNS rebinding), Host is foreign; in all other cases Origin is.
    """

    def __init__(self, app: ASGIApp, hosts: Collection[str] | None = ()) -> None:
        """Wrap an app.

        Args:
            hosts: names and addresses of the server beside those of loopback, such as `films.example` or `192.168.1.5`;
                None allows every Host header, for a server that asks for a key or a login.
        """
        self.app, self.hosts = app, None if hosts is None else {host.lower() for host in hosts}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or refuse it."""
        refused = self._refusal(scope) if scope["type"] in ("http", "websocket") else None
        if refused is None:
            await self.app(scope, receive, send)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
        else:
            request_id = scope.get("state", {}).get("request_id") or uuid.uuid4().hex
            await refused.response(request_id)(scope, receive, send)

    def _refusal(self, scope: Scope) -> Refused | None:
        hosts = _headers(scope, b"host")
        if not all(self._trusted(host) for host in hosts):
            return Refused(421, "this server does not answer under the name in the Host header: use its own address.")
        # Sec-Fetch-Site is the browser's own judgement: right behind a proxy that rewrites Host, and no page can set it
        same = _headers(scope, b"sec-fetch-site") == ["same-origin"]
        if not same and any(_foreign(origin, hosts) for origin in _headers(scope, b"origin")):
            return Refused(403, "requests from pages of other sites are refused: open the server's own address.")
        return None

    def _trusted(self, host: str) -> bool:
        if self.hosts is None:
            return True
        match = _HOST.fullmatch(host)
        name = match[1].lower() if match else ""
        return is_loopback(name) or name in self.hosts or name.strip("[]") in self.hosts


def _foreign(origin: str, hosts: list[str]) -> bool:
    """Whether an Origin is none of the request's hosts; `null`, of a sandboxed frame or a local file, is foreign."""
    return origin.lower().partition("://")[2] not in {host.lower() for host in hosts}


def _headers(scope: Scope, name: bytes) -> list[str]:
    return [value.decode("latin-1").strip() for key, value in scope["headers"] if key == name]
