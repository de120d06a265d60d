"""requests' ``verify`` and ``cert`` as an :class:`ssl.SSLContext` that offers HTTP/2."""

from __future__ import annotations

import ssl
from pathlib import Path

from requests.exceptions import SSLError
from requests.utils import DEFAULT_CA_BUNDLE_PATH

Verification = bool | str | None
Certificate = str | tuple[str, str] | None


def context_for(verify: Verification, cert: Certificate) -> ssl.SSLContext:
    """The context; ``verify=True`` trusts the authorities that requests brings. Raises requests' SSLError."""
    context = (
        ssl.create_default_context()
        if verify is False
        else _trusting(DEFAULT_CA_BUNDLE_PATH if verify is True else str(verify))
    )
    if verify is False:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    if cert is not None:
        files = (cert,) if isinstance(cert, str) else cert
        try:
            context.load_cert_chain(*files)
        except OSError as error:
            raise SSLError(f"cannot use the client certificate in {', '.join(files)}: {error}") from error
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_COMPRESSION
    context.set_alpn_protocols(["h2", "http/1.1"])
    return context


def _trusting(path: str) -> ssl.SSLContext:
    """A context for a file, or a directory, of authorities."""
    try:
        is_folder = Path(path).is_dir()
        return ssl.create_default_context(cafile=None if is_folder else path, capath=path if is_folder else None)
    except OSError as error:
        raise SSLError(f"cannot use the certificates of authorities in {path}: {error}") from error
