"""HTTP/2 for :mod:`requests`: ``session.mount("https://", HTTP20Adapter())``; it comes with the extra ``requests``.

Servers that know HTTP/1.1 alone are spoken to by that. Whatever goes wrong is one of requests' own exceptions, with
muxlink's as its cause.
"""

from __future__ import annotations

import http.client
import os
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import unquote, urlsplit

import requests
from attrs import frozen
from requests.adapters import BaseAdapter
from requests.cookies import extract_cookies_to_jar
from requests.structures import CaseInsensitiveDict
from requests.utils import default_headers, get_encoding_from_headers, prepend_scheme_if_needed, select_proxy

from actors.errors import LinkError, Misuse
from actors.settings import Limits, check_limits
from supervisor.adapters.blocking.turns import Turns
from supervisor.adapters.either.connection import FORCED, AnyResponse, HTTPConnection
from supervisor.adapters.sessions.errors import translated
from supervisor.adapters.sessions.raw import RawResponse
from supervisor.adapters.sessions.tls import Certificate, Verification, context_for

Seconds = float | None
DECODED: Final = "gzip, deflate"
MOST_CONNECTIONS: Final = 10


@frozen
class _Route:
    """What requests share a connection by."""

    scheme: str
    host: str
    port: int
    verify: Verification
    cert: Certificate
    proxy: str
    timeout: tuple[Seconds, Seconds]


class HTTP20Adapter(BaseAdapter):
    """Sends a session's requests over HTTP/2 where the server speaks it, and over HTTP/1.1 where it does not.

    Connections are kept by origin, TLS arguments, proxy and time-outs; beyond ``pool_maxsize`` the one that was used
    least recently is given up, as soon as its last response is read. Any number of threads may share it.
    """

    def __init__(
        self, *, pool_maxsize: int = MOST_CONNECTIONS, force_proto: str | None = None, limits: Limits | None = None
    ) -> None:
        """``force_proto="h2"`` speaks HTTP/2 to ``http://`` at once (prior knowledge); ``limits`` are muxlink's."""
        super().__init__()
        if type(pool_maxsize) is not int or pool_maxsize < 1:
            raise Misuse(f"pool_maxsize is a number of connections from 1 on, not {pool_maxsize!r}")
        if force_proto not in FORCED:
            raise Misuse(f'force_proto is "h2", "http/1.1" or None, not {force_proto!r}')
        if limits is not None:
            check_limits(limits)
        self.pool_maxsize: Final = pool_maxsize
        self._force_proto = force_proto
        self._limits = limits
        self._lock: Final = Turns()
        self._pool: OrderedDict[_Route, HTTPConnection] = OrderedDict()

    def __reduce__(self) -> tuple[Any, ...]:
        return _again, (self.pool_maxsize, self._force_proto, self._limits)  # connections stay where they are

    def send(  # noqa: PLR0917  (the base's)
        self,
        request: requests.PreparedRequest,
        stream: bool = False,
        timeout: float | tuple[Seconds, Seconds] | None = None,
        verify: bool | str = True,
        cert: str | bytes | tuple[str | bytes, str | bytes] | None = None,
        proxies: Mapping[str, str] | None = None,
    ) -> requests.Response:
        """Send a request and return its response, whose body is still to be read. Raises requests' exceptions."""
        route = self._route(request, timeout, verify, cert, proxies)
        try:
            answer = self._exchange(self._connection(route), request)
        except LinkError as error:
            raise translated(error, request, proxied=bool(route.proxy)) from error
        except BaseException:
            # An interruption between a request and its response: nobody else shall be given that.
            self._give_up(route)
            raise
        return self._response(request, answer)

    def close(self) -> None:
        """Close every connection; the next request makes another."""
        with self._lock:
            connections = list(self._pool.values())
            self._pool.clear()
        for connection in connections:
            connection.close()

    # --- below --------------------------------------------------------------------------------------------------------

    def _exchange(self, connection: HTTPConnection, request: requests.PreparedRequest) -> AnyResponse:
        headers = CaseInsensitiveDict(request.headers)
        if headers.get("Connection", "").lower() == "keep-alive":
            del headers["Connection"]  # requests' default, which says nothing
        if headers.get("Accept-Encoding") == default_headers()["Accept-Encoding"]:
            headers["Accept-Encoding"] = DECODED
        # Iterables come without a length, and are not in chunks yet.
        number = connection.request(
            request.method or "GET", request.path_url, request.body, headers, encode_chunked=True
        )
        return connection.get_response(number)

    def _response(self, request: requests.PreparedRequest, answer: AnyResponse) -> requests.Response:
        response = requests.Response()
        response.status_code = answer.status
        response.headers = CaseInsensitiveDict()
        for raw_name, raw_value in answer.headers.iter_raw():
            name, value = raw_name.decode("latin-1"), raw_value.decode("latin-1")
            known = response.headers.get(name)
            response.headers[name] = value if known is None else f"{known}, {value}"
        response.encoding = get_encoding_from_headers(response.headers)
        raw = RawResponse(answer, request)
        response.raw = raw
        response.reason = answer.reason or http.client.responses.get(answer.status, "")
        response.url = request.url or ""
        response.request = request
        response.connection = self  # type: ignore[assignment]  # any adapter will do
        extract_cookies_to_jar(response.cookies, request, raw)  # type: ignore[no-untyped-call]
        return response

    def _route(
        self,
        request: requests.PreparedRequest,
        timeout: object,
        verify: bool | str,
        cert: object,
        proxies: Mapping[str, str] | None,
    ) -> _Route:
        parts = urlsplit(request.url or "")
        secure = parts.scheme.lower() == "https"
        if not parts.hostname:
            raise requests.exceptions.InvalidURL(f"there is no host in {request.url!r}", request=request)
        return _Route(
            parts.scheme.lower(), parts.hostname, parts.port or (443 if secure else 80),
            verify if secure else None, _pair(cert) if secure else None,
            select_proxy(request.url or "", proxies) or "", _times(timeout, request),
        )  # fmt: skip

    def _connection(self, route: _Route) -> HTTPConnection:
        """The connection for a route; what is beyond the bound is given up, and closes with its last response."""
        with self._lock:
            if (found := self._pool.get(route)) is not None:
                self._pool.move_to_end(route)
                return found
            made = self._pool[route] = self._make(route)
            while len(self._pool) > self.pool_maxsize:
                self._pool.popitem(last=False)
        return made

    def _give_up(self, route: _Route) -> None:
        with self._lock:
            self._pool.pop(route, None)

    def _make(self, route: _Route) -> HTTPConnection:
        secure = route.scheme == "https"
        host, port, headers = _proxy_of(route.proxy)
        return HTTPConnection(
            route.host, route.port, secure,
            ssl_context=context_for(route.verify, route.cert) if secure else None,
            proxy_host=host, proxy_port=port, proxy_headers=headers, timeout=route.timeout,
            force_proto=self._force_proto, limits=self._limits,
        )  # fmt: skip


def _again(pool_maxsize: int, force_proto: str | None, limits: Limits | None) -> HTTP20Adapter:
    return HTTP20Adapter(pool_maxsize=pool_maxsize, force_proto=force_proto, limits=limits)


def _pair(cert: object) -> Certificate:
    if isinstance(cert, tuple) and len(cert) == 2 and cert[1] is None:
        cert = cert[0]  # which holds the key, too
    if cert is None or isinstance(cert, (str, os.PathLike)):
        return cert if cert is None else os.fspath(cert)
    if isinstance(cert, tuple) and len(cert) == 2:
        return str(cert[0]), str(cert[1])
    raise requests.exceptions.SSLError(f"cert is a file, or a pair of certificate and key, not {type(cert).__name__}")


def _times(timeout: object, request: requests.PreparedRequest) -> tuple[Seconds, Seconds]:
    """For connecting and reading; urllib3's Timeout is taken, too."""
    if timeout is not None and hasattr(timeout, "connect_timeout"):
        pair = _of_urllib3(timeout)
    else:
        pair = timeout if isinstance(timeout, tuple) else (timeout, timeout)
    if len(pair) != 2 or any(each is not None and type(each) not in (int, float) for each in pair):
        raise ValueError(f"timeout is seconds, or a pair for connecting and reading, not {timeout!r}")
    return pair


def _of_urllib3(timeout: Any) -> tuple[Seconds, Seconds]:
    if timeout.total is None:
        return timeout.connect_timeout, timeout.read_timeout
    begun = timeout.clone()  # urllib3 tells how long reading may take once a connection is begun
    begun.start_connect()
    reading = begun.read_timeout
    return timeout.connect_timeout, None if reading is None else round(reading, 2)


def _proxy_of(url: str) -> tuple[str | None, int | None, dict[str, str] | None]:
    """Where a proxy is, and what it is told of us."""
    if not url:
        return None, None, None
    shown = url.rpartition("@")[2]
    refused = requests.exceptions.InvalidProxyURL(f"a proxy is http://HOST:PORT, for tunnels by CONNECT, not {shown!r}")
    try:
        parts = urlsplit(prepend_scheme_if_needed(url, "http"))  # type: ignore[no-untyped-call]
        port = parts.port or 80
    except ValueError:
        raise refused from None  # the cause shows the password
    if parts.scheme != "http" or not parts.hostname:
        raise refused
    headers = None
    if parts.username is not None:
        basic = requests.auth._basic_auth_str(unquote(parts.username), unquote(parts.password or ""))
        headers = {"Proxy-Authorization": basic}
    return parts.hostname, port, headers
