"""Certificates of an authority that lives as long as a benchmark, and what the standard library's ssl makes of them."""

from __future__ import annotations

import ssl
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

AUTHORITY = "authority.pem"
CERTIFICATE = "server.pem"
KEY = "server.key"


@contextmanager
def certificates() -> Iterator[Path]:
    """A folder with an authority, and a server's certificate and key by it."""
    # Only here, so that the other benchmarks do without it.
    import trustme  # noqa: PLC0415

    authority = trustme.CA()
    server = authority.issue_cert("127.0.0.1", "localhost")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        authority.cert_pem.write_to_path(str(folder / AUTHORITY))
        server.private_key_pem.write_to_path(str(folder / KEY))
        for blob in server.cert_chain_pems:
            blob.write_to_path(str(folder / CERTIFICATE), append=True)
        yield folder


def server_context(folder: Path) -> ssl.SSLContext:
    """What a server of the bare loop needs."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(folder / CERTIFICATE, folder / KEY)
    context.set_alpn_protocols(["h2"])
    return context


def client_context(folder: Path) -> ssl.SSLContext:
    """What a client of the bare loop needs; it verifies the server's certificate."""
    context = ssl.create_default_context(cafile=folder / AUTHORITY)
    context.set_alpn_protocols(["h2"])
    return context
