"""``Upgrade: h2c`` for blocking code: the response that a server gives over HTTP/2 to a request over HTTP/1.1."""

from __future__ import annotations

import socket
from contextlib import AbstractAsyncContextManager
from typing import cast

from attrs import frozen

from actors.client_stream import ClientStream
from actors.settings import Limits
from actors.upgrade import upgraded
from supervisor.adapters.blocking.background import background
from supervisor.adapters.blocking.flow import Flow, Request
from supervisor.adapters.blocking.line import Line
from supervisor.adapters.blocking.service import Exchange
from supervisor.adapters.http20.response import HTTP20Response
from supervisor.link import Link


@frozen
class Upgrade:
    """A request that asked for HTTP/2."""

    method: str
    path: str
    authority: str
    limits: Limits

    def response(self, sock: socket.socket, early: bytes, timeout: float | None) -> HTTP20Response:
        """The response; the socket lives as long as somebody reads it. Raises ReadTimedOut and LinkError."""
        url, most = f"http://{self.authority}{self.path}", self.limits.max_response_body
        link = _OneStream(self, sock, early)
        try:
            flow = Flow(background(), f"{self.method} {url}", more=False)
            exchange = Exchange(flow, cast(Line, link), most)
            request = Request(method=self.method, path=self.path, headers=[], body=None)
            flow.begin(cast(Link, link), set(), request, push=False)
        except BaseException:
            sock.close()
            raise
        head = exchange.head(timeout)
        return HTTP20Response(head, exchange, url=url, timeout=timeout, most=most, bodiless=self.method == "HEAD")


@frozen(eq=False)
class _OneStream:
    """As much of a link as a flow needs: the connection of the upgrade, for its first stream."""

    upgrade: Upgrade
    sock: socket.socket
    early: bytes

    def stream(self, method: str, path: str, **_given: object) -> AbstractAsyncContextManager[ClientStream]:
        """The stream whose request is out already."""
        asked = self.upgrade
        return upgraded(self.sock, self.early, authority=asked.authority, method=method, path=path, limits=asked.limits)
