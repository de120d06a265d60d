"""Certificates that are renewed while we run."""

import asyncio
import logging
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from actors.acceptor import listen
from actors.addresses import Endpoint, resolve
from actors.dialling import connect
from actors.errors import Misuse
from actors.renewal import TlsFiles
from actors.settings import Limits, Tls
from actors.tls import TlsSide, client_context, client_side, server_side
from actors.trace import Tracer
from actors.transport import SocketProtocol
from tests.support.certificates import Authority
from tests.support.sides import until


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


class Identity:
    """A client's certificate, at a place that stays."""

    def __init__(self, authority: Authority, folder: Path) -> None:
        self._authority = authority
        self.cert, self.key = folder / "client.pem", folder / "client.key"
        self.tls = Tls(cacert=authority.file, certfile=self.cert, keyfile=self.key)
        self.put(*self.new("ann"))

    def new(self, name: str) -> tuple[str, str]:
        return self._authority.issue(f"{name}.test", common_name=name)

    def put(self, cert: str | None = None, key: str | None = None) -> None:
        """Replace the files as who renews them well does: at once."""
        for new, place in ((cert, self.cert), (key, self.key)):
            if new is not None:
                shutil.copy(new, f"{place}.new")
                os.replace(f"{place}.new", place)


@pytest.fixture
def identity(authority: Authority, tmp_path: Path) -> Identity:
    return Identity(authority, tmp_path)


def of(tls: Tls) -> TlsFiles:
    return TlsFiles(tls, lambda: client_side(tls, Limits(), named=True))


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]


def test_while_no_file_changes_it_is_the_same(identity: Identity, monkeypatch: pytest.MonkeyPatch) -> None:
    files = of(identity.tls)
    monkeypatch.setattr("actors.tls.open", lambda *_: pytest.fail("a file was read"), raising=False)
    assert files.side() is files.side()


def test_files_that_cannot_be_used_to_begin_with_are_misuse(identity: Identity) -> None:
    identity.key.unlink()
    with pytest.raises(Misuse, match="cannot read the key file"):
        of(identity.tls)


async def test_the_next_connection_shows_the_certificate_that_was_renewed(
    authority: Authority, identity: Identity
) -> None:
    accepted: list[SocketProtocol] = []
    serving = server_side(authority.server(client_ca=authority.file), Limits())
    server = await listen(Tracer(), accepted.append, tls=serving)
    places = await resolve(Endpoint(*server.sockets[0].getsockname()), timeout=5.0)
    files = of(identity.tls)
    seen = []
    for name in ("bob", None, "eve"):
        _, protocol = await connect(Tracer(), places, timeout=20.0, tls=files.side())
        await until(lambda: bool(accepted))
        seen.append(str(accepted[0].peer.certificate))
        for each in (protocol, accepted.pop()):
            each.transport.abort()
        if name is not None:
            identity.put(*identity.new(name))
    assert [("'ann'" in each, "'bob'" in each, "'eve'" in each) for each in seen] == [
        (True, False, False),
        (False, True, False),
        (False, True, False),
    ]
    server.close()
    await asyncio.sleep(0)


@pytest.mark.parametrize("which", ["certfile", "keyfile", "cacert"])
def test_each_file_that_it_names_is_looked_at(identity: Identity, which: str) -> None:
    files = of(identity.tls)
    before = files.side()
    path = getattr(identity.tls, which)
    os.utime(path, ns=(1, 1))
    renewed = files.side()
    assert renewed is not before
    assert files.side() is renewed


def test_a_link_that_leads_elsewhere_is_a_change(identity: Identity, tmp_path: Path) -> None:
    """As volumes of Kubernetes are renewed: by a symbolic link to a folder."""
    for name in ("old", "new"):
        (tmp_path / name).mkdir()
        cert, key = identity.new(name)
        shutil.copy(cert, tmp_path / name / "cert")
        shutil.copy(key, tmp_path / name / "key")
        for file in ("cert", "key"):
            os.utime(tmp_path / name / file, ns=(1, 1))
    current = tmp_path / "current"
    current.symlink_to("old")
    files = of(Tls(certfile=current / "cert", keyfile=current / "key"))
    before = files.side()
    current.unlink()
    current.symlink_to("new")
    assert files.side() is not before


def half_written(identity: Identity) -> None:
    identity.cert.write_text(identity.cert.read_text()[:200])


def gone(identity: Identity) -> None:
    identity.cert.unlink()


def without_its_key(identity: Identity) -> None:
    identity.put(cert=identity.new("bob")[0])


@pytest.mark.parametrize(
    ("spoil", "complaint"),
    [
        (half_written, "cannot use the certificate in"),
        (gone, "cannot read the certificate file"),
        (without_its_key, "is not that of the certificate"),
    ],
)
def test_a_renewal_half_written_keeps_the_old_one_with_one_warning(
    identity: Identity, spoil: Callable[[Identity], None], complaint: str, caplog: pytest.LogCaptureFixture
) -> None:
    files = of(identity.tls)
    before = files.side()
    spoil(identity)
    assert [files.side() for _ in range(3)] == [before] * 3
    (warning,) = warnings(caplog)
    assert "the old ones stay" in warning
    assert complaint in warning
    identity.put(*identity.new("bob"))
    assert files.side() is not before
    spoil(identity)
    files.side()
    assert len(warnings(caplog)) == 2, "the next failure is another one"


def test_files_that_are_put_back_are_those_that_are_in_use(
    identity: Identity, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    files = of(identity.tls)
    before = files.side()
    for count in (1, 2):
        identity.cert.rename(tmp_path / "aside")
        assert files.side() is before
        assert len(warnings(caplog)) == count
        (tmp_path / "aside").rename(identity.cert)
        assert files.side() is before


def test_a_file_that_may_be_read_again_is_read_although_it_did_not_change(
    identity: Identity, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A change of permissions is no change of the file's content, size or time."""
    files = of(identity.tls)
    before = files.side()
    identity.put(*identity.new("bob"))

    def refuse(path: str, *_: object) -> None:
        raise PermissionError(13, "Permission denied", path)

    with monkeypatch.context() as denied:
        denied.setattr("actors.tls.open", refuse, raising=False)
        assert files.side() is before
    assert "Permission denied" in warnings(caplog)[0]
    assert files.side() is not before


def test_a_context_of_the_users_own_names_no_file(authority: Authority) -> None:
    context = client_context(authority.client())
    tls = Tls(context=context)
    made: list[TlsSide] = []

    def make() -> TlsSide:
        made.append(client_side(tls, Limits(), named=True))
        return made[-1]

    files = TlsFiles(tls, make)
    assert files.side() is files.side() is made[0]
    assert len(made) == 1
    assert files.side().context is context
