"""hyper's interface: blocking HTTP/2 that falls back to HTTP/1.1, with :mod:`http.client`'s names beside hyper's.

``HTTPConnection`` chooses for each server: over TLS by ALPN; in plaintext HTTP/1.1, with an offer of HTTP/2 along with
the first request (``Upgrade: h2c``), or HTTP/2 at once with ``force_proto="h2"`` or :class:`HTTP20Connection`. What was
chosen is kept as long as the object lives. Every object may be used from any thread.

In ``hyper.exceptions`` are the names of hyper's exceptions, all in muxlink's tree.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable
from pathlib import Path

from supervisor.adapters.blocking.errors import BadArgument
from supervisor.adapters.blocking.header_map import HTTPHeaderMap
from supervisor.adapters.either import exceptions
from supervisor.adapters.either.connection import HTTP1, HTTPConnection, HTTPSConnection
from supervisor.adapters.either.exceptions import MissingCertFile
from supervisor.adapters.http11.connection import HTTP11Connection
from supervisor.adapters.http11.response import HTTP11Response
from supervisor.adapters.http20.connection import HTTP20Connection
from supervisor.adapters.http20.response import HTTP20Push, HTTP20Response

__all__ = (
    "HTTP11Connection",
    "HTTP11Response",
    "HTTP20Connection",
    "HTTP20Push",
    "HTTP20Response",
    "HTTPConnection",
    "HTTPHeaderMap",
    "HTTPSConnection",
    "exceptions",
    "init_context",
)


def init_context(
    cert_path: str | None = None,
    cert: str | tuple[str, str] | None = None,
    cert_password: str | bytes | Callable[[], str | bytes] | None = None,
) -> ssl.SSLContext:
    """An :class:`ssl.SSLContext` that verifies certificates and offers ``h2`` and ``http/1.1`` by ALPN.

    ``cert_path`` is a file of the authorities that are trusted, without it the system's; ``cert`` a file with our
    certificate and its key, or a pair of files; ``cert_password`` decrypts the key. Raises MissingCertFile, and Misuse
    for files that hold something else.
    """
    files = (cert_path, *((cert,) if isinstance(cert, (str, type(None))) else cert))
    for file in files:
        if file is not None and not Path(file).exists():
            raise MissingCertFile(f"there is no file of certificates at {file}")
    try:
        context = ssl.create_default_context(cafile=cert_path)
        if isinstance(cert, str):
            context.load_cert_chain(cert, password=cert_password)
        elif cert is not None:
            context.load_cert_chain(cert[0], cert[1], cert_password)
    except (ssl.SSLError, OSError) as error:
        shown = ", ".join(str(file) for file in files if file is not None)
        raise BadArgument.because(f"cannot use the certificates in {shown}: {error}", error) from error
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_COMPRESSION
    context.set_alpn_protocols(["h2", HTTP1])
    return context
