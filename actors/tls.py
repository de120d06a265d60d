"""TLS as HTTP/2 wants it (RFC 9113, 9.2): contexts from :class:`~actors.settings.Tls`, and its failures in a line.

TLS 1.2 is the least, and there only ECDHE with an AEAD, which no entry of RFC 9113's Appendix A has; no compression, no
renegotiation, and ``h2`` alone by ALPN. ``SSLKEYLOGFILE`` is honoured on both sides. Who brings a context of their own
answers for all of this but the ALPN, which must still end up with ``h2``.
"""

from __future__ import annotations

import os
import re
import ssl
import sys
from typing import Final, NoReturn

from attrs import field, frozen

from actors.errors import Misuse, TlsFailed, TransportLost
from actors.settings import Limits, Tls

StrPath = str | os.PathLike[str]

ALPN: Final = "h2"
CIPHERS: Final = "ECDHE+AESGCM:ECDHE+CHACHA20:!PSK"
"""For TLS 1.2; those of TLS 1.3 are all allowed."""


@frozen
class TlsSide:
    """What one side needs for its handshakes."""

    context: ssl.SSLContext = field(repr=False)
    server_hostname: str | None = None
    """The name that a client asks for and verifies; None: the host that it connects to; empty: none."""
    handshake_timeout: float = 10.0
    shutdown_timeout: float = 1.0
    """Seconds that the peer has for answering our end with its own."""


def server_side(tls: Tls, limits: Limits) -> TlsSide:
    """What a server needs. Raises Misuse."""
    return TlsSide(server_context(tls), None, limits.handshake_timeout, limits.shutdown_timeout)


def client_side(tls: Tls, limits: Limits, *, named: bool) -> TlsSide:
    """What a client needs; ``named``: it connects to a host, whose name is verified. Raises Misuse."""
    context, name = client_context(tls), tls.server_hostname
    if name is None and not named:
        if context.check_hostname:
            raise Misuse("TLS over a Unix socket: give Tls.server_hostname, the name that its certificate is for")
        name = ""
    return TlsSide(context, name, limits.handshake_timeout, limits.shutdown_timeout)


def server_context(tls: Tls) -> ssl.SSLContext:
    """The context of a server. Raises Misuse, naming the file or the field at fault."""
    for name, odd in (
        ("cacert", tls.cacert is not None),
        ("verify", not tls.verify),
        ("server_hostname", tls.server_hostname is not None),
    ):
        if odd:
            raise Misuse(f"Tls.{name} is for clients: a server takes certfile, keyfile and client_ca, or a context")
    if tls.context is not None:
        return _own(tls.context, ssl.PROTOCOL_TLS_CLIENT, "a server")
    if tls.certfile is None:
        raise Misuse("a server's Tls needs a certfile (and a keyfile, where the key is not in it), or a context")
    context = _fresh(ssl.Purpose.CLIENT_AUTH)
    _load_identity(context, tls.certfile, tls.keyfile)
    if tls.client_ca is not None:
        _load_authorities(context, tls.client_ca)
        context.verify_mode = ssl.CERT_REQUIRED
    return context


def client_context(tls: Tls) -> ssl.SSLContext:
    """The context of a client. Raises Misuse, naming the file or the field at fault."""
    if tls.client_ca is not None:
        raise Misuse("Tls.client_ca is for servers: a client's authorities are its cacert")
    if tls.context is not None:
        return _own(tls.context, ssl.PROTOCOL_TLS_SERVER, "a client")
    context = _fresh(ssl.Purpose.SERVER_AUTH)
    if not tls.verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    elif tls.cacert is not None:
        _load_authorities(context, tls.cacert)
    else:
        context.load_default_certs(ssl.Purpose.SERVER_AUTH)
    if tls.certfile is not None:
        _load_identity(context, tls.certfile, tls.keyfile)
    return context


def _own(context: ssl.SSLContext, other_side: ssl._SSLMethod, side: str) -> ssl.SSLContext:
    if context.protocol is other_side:
        raise Misuse(f"Tls.context is a context for the other side: {side} cannot use it")
    return context


def _fresh(purpose: ssl.Purpose) -> ssl.SSLContext:
    """A context without certificates; as :func:`ssl.create_default_context` makes it, less what HTTP/2 forbids."""
    server = purpose is ssl.Purpose.CLIENT_AUTH
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER if server else ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION | ssl.OP_CIPHER_SERVER_PREFERENCE
    context.set_ciphers(CIPHERS)
    context.set_alpn_protocols([ALPN])
    if (path := os.environ.get("SSLKEYLOGFILE")) and not sys.flags.ignore_environment:
        try:
            context.keylog_filename = path
        except OSError as error:
            raise Misuse.because(
                f"SSLKEYLOGFILE names {path}, which cannot be written: {error.strerror}", error
            ) from error
    return context


def _read(path: StrPath, what: str) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read()
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise Misuse.because(f"cannot read {what} {path}: {reason}", error) from error


def _load_identity(context: ssl.SSLContext, certfile: StrPath, keyfile: StrPath | None) -> None:
    """Load the certificate that a side shows, and its key; OpenSSL's own errors do not say which file is at fault."""
    if b"-----BEGIN CERTIFICATE-----" not in _read(certfile, "the certificate file"):
        raise Misuse(f"{certfile} holds no certificate in PEM")
    key = keyfile if keyfile is not None else certfile
    if b"PRIVATE KEY-----" not in _read(key, "the key file"):
        raise Misuse(f"{key} holds no private key in PEM" + ("" if keyfile is not None else ": name its keyfile"))

    def refuse() -> NoReturn:  # without it, OpenSSL would ask on the terminal
        raise Misuse(f"the key in {key} is encrypted: decrypt it, or load it into an ssl.SSLContext of your own")

    try:
        context.load_cert_chain(certfile, keyfile, password=refuse)
    except ssl.SSLError as error:
        if error.reason in ("KEY_VALUES_MISMATCH", "KEY_TYPE_MISMATCH"):
            raise Misuse.because(f"the key in {key} is not that of the certificate in {certfile}", error) from error
        files = certfile if keyfile is None else f"{certfile} with the key in {key}"
        raise Misuse.because(f"cannot use the certificate in {files}: {_words(error)}", error) from error


def _load_authorities(context: ssl.SSLContext, path: StrPath) -> None:
    _read(path, "the file of certificate authorities")
    try:
        context.load_verify_locations(path)
    except ssl.SSLError as error:
        raise Misuse.because(f"{path} holds no certificates of authorities in PEM: {_words(error)}", error) from error


# --- what goes wrong --------------------------------------------------------------------------------------------------

_STRANGER: Final = "its certificate comes from an unknown authority: name the authority's file as cacert to trust it"
_VERDICTS: Final = {
    9: "its certificate is not valid yet (are both clocks right?)",
    10: "its certificate has expired",
    18: "its certificate is self-signed and not among the trusted ones: name the file as cacert to trust it",
    19: _STRANGER,
    20: _STRANGER,
    21: _STRANGER,
    23: "its certificate was revoked",
    26: "its certificate is not for this purpose",
    62: "its certificate is for another host name",
    64: "its certificate is for another IP address",
}
"""By OpenSSL's verify code (X509_V_ERR_...)."""

_NO_TLS: Final = "it does not speak TLS on this port: is it plaintext (http://)?"
_DEMANDS: Final = "it demands a client certificate: give certfile and keyfile"
_DISTRUSTS: Final = "it does not trust our certificate's authority"
_REFUSES: Final = "it refuses our certificate"
_REASONS: Final = {
    "WRONG_VERSION_NUMBER": _NO_TLS,
    "HTTP_REQUEST": _NO_TLS,
    "HTTPS_PROXY_REQUEST": _NO_TLS,
    "RECORD_LAYER_FAILURE": _NO_TLS,
    "UNKNOWN_PROTOCOL": _NO_TLS,
    "TLSV13_ALERT_CERTIFICATE_REQUIRED": _DEMANDS,
    "PEER_DID_NOT_RETURN_A_CERTIFICATE": "it shows no client certificate",
    "TLSV1_ALERT_UNKNOWN_CA": _DISTRUSTS,
    "SSLV3_ALERT_BAD_CERTIFICATE": _REFUSES,
    "SSLV3_ALERT_CERTIFICATE_UNKNOWN": _REFUSES,
    "SSLV3_ALERT_UNSUPPORTED_CERTIFICATE": _REFUSES,
    "SSLV3_ALERT_CERTIFICATE_EXPIRED": "our certificate has expired, it says",
    "SSLV3_ALERT_CERTIFICATE_REVOKED": "our certificate was revoked, it says",
    "SSLV3_ALERT_HANDSHAKE_FAILURE": "it shares no cipher with us, or demands a client certificate",
    "NO_SHARED_CIPHER": "it shares no cipher with us",
    "TLSV1_ALERT_PROTOCOL_VERSION": "it speaks no TLS 1.2 or later",
    "UNSUPPORTED_PROTOCOL": "it speaks no TLS 1.2 or later",
    "TLSV1_ALERT_NO_APPLICATION_PROTOCOL": "it does not speak HTTP/2 over TLS",
    "NO_APPLICATION_PROTOCOL": "it does not speak HTTP/2 over TLS",
}
"""By the reason of an :class:`ssl.SSLError`."""
_NO_COMMON_PROTOCOL: Final = ("TLSV1_ALERT_NO_APPLICATION_PROTOCOL", "NO_APPLICATION_PROTOCOL")
"""Those of a handshake that ALPN ended."""
_OPENSSL: Final = re.compile(r"\[[\w: ]+\] (.+) \(_ssl\.c:\d+\)$")
"""What :mod:`ssl` says: the library and perhaps a reason, OpenSSL's words, and a line of its own source."""


def tls_failed(error: BaseException, where: str, *, name: str | None = None, what: str = "no TLS") -> TlsFailed:
    """What kept ``where`` and us from TLS, in a line; ``name`` is what a client verifies the certificate for."""
    match error:
        case ssl.SSLCertVerificationError(verify_code=code) if code in _VERDICTS:
            why = _VERDICTS[code] + (f" than {name}" if name is not None and code in (62, 64) else "")
        case ssl.SSLError():
            why = _REASONS.get(_reason(error)) or _words(error)
        case TimeoutError() | ConnectionAbortedError():  # the latter is asyncio's for a handshake that takes too long
            why = "the handshake took too long"
        case ConnectionError() if name is None:
            why = "it gave up the handshake; perhaps it does not trust our certificate"
        case ConnectionError():
            why = "it closed the connection during the handshake: does it speak TLS on this port?"
        case _:
            why = str(error) or type(error).__name__
    return TlsFailed.because(f"{what} with {where}: {why}", error, protocol=_none_in_common(error))


def _none_in_common(error: BaseException) -> str | None:
    """The protocol that ALPN ended with: none, where the two sides know no common one (RFC 7301, 3.2)."""
    return "" if isinstance(error, ssl.SSLError) and _reason(error) in _NO_COMMON_PROTOCOL else None


def tls_broken(error: BaseException | None, where: str, *, refused: bool) -> BaseException | None:
    """What the end of an encrypted connection means; ``refused``: ours is the client, and nothing ever came.

    With TLS 1.3 a client's handshake is over before the server has judged its certificate.
    """
    if isinstance(error, ssl.SSLError):
        return tls_failed(error, where, what="no TLS" if refused else "an end of TLS")
    if refused and (error is None or isinstance(error, ConnectionError)):
        return TlsFailed.because(
            f"no TLS with {where}: it closed the connection right after the handshake; perhaps it demands a client "
            "certificate, or another one: give certfile and keyfile", error,
        )  # fmt: skip
    return error


def first_cause(reason: BaseException | None) -> BaseException | None:
    """What ended a connection that never was ready: where TLS failed, that and not the loss that came of it."""
    cause = reason.__cause__ if isinstance(reason, TransportLost) else None
    return cause if isinstance(cause, TlsFailed) else reason


def not_h2(where: str, chosen: str | None) -> TlsFailed:
    """The error for a peer that chose another protocol, or none, by ALPN."""
    what = f"it chose {chosen!r}" if chosen is not None else "it chose no protocol"
    message = f"{where} does not speak HTTP/2 over TLS: {what} by ALPN where h2 is needed"
    return TlsFailed(message, protocol=chosen or "")


def _reason(error: ssl.SSLError) -> str:
    """OpenSSL's name of what went wrong; of an alert that :mod:`ssl` has no name for, from OpenSSL's words."""
    if error.reason:
        return error.reason
    words = _OPENSSL.match(str(error))
    return words[1].upper().replace(" ", "_") if words else ""


def _words(error: ssl.SSLError) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate does not verify: {error.verify_message}"
    return _reason(error).lower().replace("_", " ") or str(error)
