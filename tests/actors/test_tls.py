"""TLS contexts: what they allow, what they refuse, and files that are not what they should be."""

import ssl
from pathlib import Path
from typing import Any

import pytest

from actors.errors import LinkError, Misuse, TlsFailed, TransportLost
from actors.settings import Limits, Tls
from actors.tls import client_context, client_side, first_cause, not_h2, server_context, tls_broken, tls_failed
from tests.support.certificates import Authority


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


def contexts(authority: Authority) -> list[ssl.SSLContext]:
    return [server_context(authority.server()), client_context(authority.client()), client_context(Tls())]


def test_the_least_is_tls_1_2_with_the_ciphers_that_http2_allows(authority: Authority) -> None:
    """RFC 9113, 9.2.2 and Appendix A: an ephemeral key exchange and an AEAD."""
    for context in contexts(authority):
        assert context.minimum_version is ssl.TLSVersion.TLSv1_2
        assert context.maximum_version is ssl.TLSVersion.MAXIMUM_SUPPORTED
        old = [cipher for cipher in context.get_ciphers() if cipher["protocol"] != "TLSv1.3"]
        assert len(old) >= 4
        assert all(cipher["aead"] and cipher["kea"] == "kx-ecdhe" for cipher in old), old
        assert not any("PSK" in cipher["name"] for cipher in old)
        assert context.options & ssl.OP_NO_COMPRESSION
        assert context.options & ssl.OP_NO_RENEGOTIATION


def test_a_client_verifies_unless_it_is_told_not_to(authority: Authority) -> None:
    """C5."""
    for tls in (Tls(), authority.client()):
        context = client_context(tls)
        assert (context.verify_mode, context.check_hostname) == (ssl.CERT_REQUIRED, True)
    context = client_context(Tls(verify=False))
    assert (context.verify_mode, context.check_hostname) == (ssl.CERT_NONE, False)


def test_a_cacert_is_trusted_alone(authority: Authority) -> None:
    assert len(client_context(authority.client()).get_ca_certs()) == 1


def test_a_server_demands_certificates_only_of_the_authorities_that_it_is_given(authority: Authority) -> None:
    assert server_context(authority.server()).verify_mode is ssl.CERT_NONE
    demanding = server_context(authority.server(client_ca=authority.file))
    assert demanding.verify_mode is ssl.CERT_REQUIRED
    assert len(demanding.get_ca_certs()) == 1


@pytest.mark.parametrize(
    ("values", "complaint"),
    [
        ({"keyfile": "k"}, "keyfile is the key of a certfile"),
        ({"cacert": "c", "verify": False}, "give one of them"),
        ({"context": ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT), "cacert": "c"}, "used as it is"),
        ({"context": ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT), "verify": False}, "used as it is"),
        ({"context": ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), "certfile": "c"}, "used as it is"),
        ({"context": "ssl"}, "must be an ssl.SSLContext"),
        ({"verify": 0}, "must be True or False"),
        ({"certfile": ""}, "the path of a file"),
        ({"certfile": b"-----BEGIN"}, "the path of a file, not bytes"),
        ({"server_hostname": ""}, "a host name"),
        ({"server_hostname": ".h"}, "a host name"),
        ({"server_hostname": "a..b"}, "a host name"),
        ({"server_hostname": "a b"}, "a host name"),
        ({"server_hostname": 5}, "a host name"),
    ],
)
def test_what_contradicts_itself_is_misuse(values: dict[str, Any], complaint: str) -> None:
    with pytest.raises(Misuse, match=complaint):
        Tls(**values)


def test_what_belongs_to_the_other_side_is_misuse(authority: Authority) -> None:
    cert, key = authority.issue()
    other: dict[str, Any]
    for other in ({"cacert": authority.file}, {"verify": False}, {"server_hostname": "h"}):
        with pytest.raises(Misuse, match=f"{next(iter(other))} is for clients"):
            server_context(Tls(certfile=cert, keyfile=key, **other))
    with pytest.raises(Misuse, match="client_ca is for servers"):
        client_context(Tls(client_ca=authority.file))
    with pytest.raises(Misuse, match="needs a certfile"):
        server_context(Tls())
    with pytest.raises(Misuse, match="context for the other side: a server"):
        server_context(Tls(context=ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)))
    with pytest.raises(Misuse, match="context for the other side: a client"):
        client_context(Tls(context=ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)))


def test_a_context_of_the_users_own_is_used_as_it_is() -> None:
    client, server = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT), ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    assert client_context(Tls(context=client, server_hostname="h")) is client
    assert server_context(Tls(context=server)) is server


def test_over_a_unix_socket_a_name_is_needed_where_names_are_verified() -> None:
    with pytest.raises(Misuse, match=r"give Tls\.server_hostname"):
        client_side(Tls(), Limits(), named=False)
    assert client_side(Tls(verify=False), Limits(), named=False).server_hostname == ""
    assert client_side(Tls(server_hostname="h"), Limits(), named=False).server_hostname == "h"


def refused(tls: Tls) -> str:
    """What both sides say of it, in the one line that they both say."""
    said = set()
    for context in (server_context, client_context):
        with pytest.raises(Misuse) as caught:
            context(tls)
        said.add(str(caught.value))
    (line,) = said
    assert "\n" not in line
    return line


def test_a_file_that_is_not_what_it_should_be_is_named(authority: Authority, tmp_path: Path) -> None:
    cert, key = authority.issue()
    other = authority.issue()[1]
    nosuch, empty = str(tmp_path / "nosuch"), tmp_path / "empty"
    empty.write_text("")
    assert refused(Tls(certfile=nosuch)) == f"cannot read the certificate file {nosuch}: No such file or directory"
    assert (
        refused(Tls(certfile=cert, keyfile=nosuch)) == f"cannot read the key file {nosuch}: No such file or directory"
    )
    assert refused(Tls(certfile=tmp_path)) == f"cannot read the certificate file {tmp_path}: Is a directory"
    assert refused(Tls(certfile=empty)) == f"{empty} holds no certificate in PEM"
    assert refused(Tls(certfile=cert, keyfile=empty)) == f"{empty} holds no private key in PEM"
    assert refused(Tls(certfile=cert)) == f"{cert} holds no private key in PEM: name its keyfile"
    assert refused(Tls(certfile=cert, keyfile=other)) == f"the key in {other} is not that of the certificate in {cert}"
    with pytest.raises(Misuse, match=f"cannot read the file of certificate authorities {nosuch}"):
        client_context(Tls(cacert=nosuch))
    with pytest.raises(Misuse, match=f"{empty} holds no certificates of authorities"):
        client_context(Tls(cacert=empty))
    with pytest.raises(Misuse, match=f"{empty} holds no certificates of authorities"):
        server_context(Tls(certfile=cert, keyfile=key, client_ca=empty))


def test_a_damaged_certificate_is_named(authority: Authority, tmp_path: Path) -> None:
    _, key = authority.issue()
    damaged = tmp_path / "damaged.pem"
    damaged.write_text("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")
    assert refused(Tls(certfile=damaged, keyfile=key)).startswith(
        f"cannot use the certificate in {damaged} with the key"
    )


def test_an_encrypted_key_is_refused_and_nobody_is_asked_for_its_password(authority: Authority, tmp_path: Path) -> None:
    from cryptography.hazmat.primitives import serialization as s  # noqa: PLC0415  (trustme brings it)

    cert, key = authority.issue()
    plain = s.load_pem_private_key(Path(key).read_bytes(), None)
    sealed = tmp_path / "sealed.key"
    sealed.write_bytes(
        plain.private_bytes(s.Encoding.PEM, s.PrivateFormat.PKCS8, s.BestAvailableEncryption(b"open sesame"))
    )
    assert refused(Tls(certfile=cert, keyfile=sealed)).startswith(f"the key in {sealed} is encrypted: decrypt it")


def test_a_key_log_that_cannot_be_written_is_named(
    authority: Authority, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSLKEYLOGFILE", str(tmp_path / "no" / "folder"))
    line = refused(authority.server())
    assert line.startswith(f"SSLKEYLOGFILE names {tmp_path / 'no' / 'folder'}, which cannot be written")


# --- what goes wrong --------------------------------------------------------------------------------------------------


def ssl_error(reason: str | None, text: str = "raw") -> ssl.SSLError:
    error = ssl.SSLError(1, text)
    error.reason = reason  # type: ignore[assignment]
    return error


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (ssl_error("TLSV13_ALERT_CERTIFICATE_REQUIRED"), "it demands a client certificate"),
        (ssl_error("TLSV1_ALERT_UNKNOWN_CA"), "does not trust our certificate's authority"),
        (ssl_error("HTTP_REQUEST"), "does not speak TLS on this port"),
        (ssl_error("SOME_NEW_REASON"), "some new reason"),
        (ssl_error(None, "raw words"), "raw words"),
        (ssl_error(None, "[SSL] tlsv1 alert no application protocol (_ssl.c:1006)"), "it does not speak HTTP/2"),
        (ssl_error(None, "[SSL] some new reason (_ssl.c:1006)"), "with h:443: some new reason"),
        (ConnectionAbortedError("SSL handshake is taking longer"), "took too long"),
        (TimeoutError(), "took too long"),
        (ConnectionResetError(), "closed the connection during the handshake"),
        (ValueError("what"), "what"),
    ],
)
def test_each_failure_is_one_line_and_its_cause_is_chained(error: Exception, line: str) -> None:
    failed = tls_failed(error, "h:443", name="h")
    assert isinstance(failed, TlsFailed)
    assert str(failed).startswith("no TLS with h:443: ")
    assert line in str(failed)
    assert failed.__cause__ is error


@pytest.mark.parametrize(
    ("error", "protocol"),
    [
        (ssl_error("TLSV1_ALERT_NO_APPLICATION_PROTOCOL"), ""),
        (ssl_error(None, "[SSL] tlsv1 alert no application protocol (_ssl.c:1006)"), ""),
        (ssl_error("SSLV3_ALERT_HANDSHAKE_FAILURE"), None),
        (ssl_error(None, "no application protocol"), None),
        (ConnectionResetError("no application protocol"), None),
        (TimeoutError(), None),
    ],
)
def test_only_alpn_says_that_a_peer_has_no_protocol_in_common_with_us(error: Exception, protocol: str | None) -> None:
    """W9."""
    assert tls_failed(error, "h:443", name="h").protocol == protocol


def test_a_server_that_leaves_a_client_right_after_the_handshake_has_refused_it() -> None:
    for error in (None, ConnectionResetError(), BrokenPipeError()):
        assert "demands a client certificate" in str(tls_broken(error, "h:443", refused=True))
        assert tls_broken(error, "h:443", refused=False) is error
    broken = tls_broken(ssl_error("BAD_RECORD"), "h:443", refused=False)
    assert isinstance(broken, TlsFailed)


def test_a_loss_that_came_of_tls_is_told_as_that() -> None:
    failed = not_h2("h:443", "http/1.1")
    assert first_cause(TransportLost.because("lost", failed)) is failed
    for other in (TransportLost("lost"), TransportLost.because("lost", OSError()), LinkError("other"), None):
        assert first_cause(other) is other
