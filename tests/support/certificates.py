"""A made-up authority, and the certificates that it gives to whoever a test asks for."""

from __future__ import annotations

import datetime
import itertools
import ssl
from pathlib import Path
from typing import Final

import trustme

from actors.settings import Tls

NAMES: Final = ("localhost", "127.0.0.1", "::1")


class Authority:
    """A certificate authority, with its files in a folder."""

    def __init__(self, folder: Path, name: str = "authority") -> None:
        self._ca: Final = trustme.CA(organization_name=name)
        self._folder: Final = folder
        self._numbers: Final = itertools.count(1)
        self.name: Final = name
        self.file: Final = str(folder / f"{name}.pem")
        self._ca.cert_pem.write_to_path(self.file)

    def issue(
        self, *names: str, common_name: str | None = None, until: datetime.datetime | None = None
    ) -> tuple[str, str]:
        """The files of a certificate for the names (this machine's) and of its key."""
        issued = self._ca.issue_cert(*(names or NAMES), common_name=common_name, not_after=until)
        cert, key = (str(self._folder / f"{self.name}-{next(self._numbers)}.{kind}") for kind in ("pem", "key"))
        for number, part in enumerate(issued.cert_chain_pems):
            part.write_to_path(cert, append=number > 0)
        issued.private_key_pem.write_to_path(key)
        return cert, key

    def server(self, *names: str, client_ca: str | None = None) -> Tls:
        """What a server of ours is given."""
        cert, key = self.issue(*names)
        return Tls(certfile=cert, keyfile=key, client_ca=client_ca)

    def expired(self) -> Tls:
        """The same with a certificate whose time is up."""
        past = datetime.datetime.now(datetime.UTC) - datetime.timedelta(days=1)
        cert, key = self.issue(until=past)
        return Tls(certfile=cert, keyfile=key)

    def client(self, name: str | None = None) -> Tls:
        """What a link of ours is given, which trusts this authority; with ``name``, it has a certificate of its own."""
        if name is None:
            return Tls(cacert=self.file)
        cert, key = self.issue(f"{name}.test", common_name=name)
        return Tls(cacert=self.file, certfile=cert, keyfile=key)

    def server_context(self, *alpn: str) -> ssl.SSLContext:
        """A context of the standard library's own for a server, with the protocols that it knows."""
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(*self.issue())
        if alpn:
            context.set_alpn_protocols(alpn)
        return context

    def client_context(self, *alpn: str) -> ssl.SSLContext:
        """A context of the standard library's own for a client that trusts this authority."""
        context = ssl.create_default_context(cafile=self.file)
        if alpn:
            context.set_alpn_protocols(alpn)
        return context
