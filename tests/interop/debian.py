"""Debian's servers of HTTP, each with a configuration of its own in a folder of its own: nginx, tinyproxy, nghttpx."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from tests.interop.peers import RunningNghttpd as Accepting
from tests.interop.peers import environment, executable, free_port, kill


@asynccontextmanager
async def accepting(argv: Callable[[int], Sequence[str]], folder: Path, *, port: int = 0) -> AsyncIterator[Accepting]:
    """Run a server that is told its port, and cannot choose one; ``port`` 0: a free one."""
    with tempfile.TemporaryFile() as log:
        for _ in range(1 if port else 5):
            chosen = port or free_port()
            process = await asyncio.create_subprocess_exec(
                *argv(chosen), stdin=asyncio.subprocess.DEVNULL, stdout=log, stderr=log, cwd=folder, env=environment()
            )
            peer = Accepting(chosen, process, log)
            try:
                if await peer.accepts():
                    yield peer
                    return
            finally:
                await kill(process)
        pytest.fail(f"{argv(port)[0]} does not start: {peer.log()}")


@asynccontextmanager
async def nginx(
    folder: Path, cert: str, key: str, *, http2: bool, upstream: int = 0, tls: bool = True
) -> AsyncIterator[Accepting]:
    """nginx over TLS, which serves the folder; without ``http2`` it speaks HTTP/1.1 alone.

    With ``upstream`` it hands requests on to that port instead, and does not wait for their bodies.
    """
    behind = f"location / {{ proxy_pass http://127.0.0.1:{upstream}; proxy_http_version 1.1; "
    behind += "proxy_request_buffering off; proxy_buffering off; client_max_body_size 0; }"
    program = executable("nginx")
    own = folder / "nginx"
    own.mkdir()
    temporary = "\n".join(
        f"{name}_temp_path {own}/{name};" for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )

    def argv(port: int) -> Sequence[str]:
        config = own / "nginx.conf"
        config.write_text(
            f"""
            daemon off;
            master_process off;
            pid {own}/pid;
            error_log stderr info;
            events {{}}
            http {{
                access_log off;
                {temporary}
                server {{
                    listen 127.0.0.1:{port}{" ssl" * tls}{" http2" * http2};
                    ssl_certificate {cert};
                    ssl_certificate_key {key};
                    root {folder};
                    {behind if upstream else ""}
                }}
            }}
            """
        )
        return program, "-p", str(own), "-e", "stderr", "-c", str(config)

    async with accepting(argv, own) as peer:
        yield peer


@asynccontextmanager
async def tinyproxy(
    folder: Path, *, connects_to: Sequence[int], login: str = "", port: int = 0
) -> AsyncIterator[Accepting]:
    """tinyproxy, which lets CONNECT through to those ports; ``login`` is the user and password that it asks for."""
    program = executable("tinyproxy")
    config = folder / "tinyproxy.conf"

    def argv(chosen: int) -> Sequence[str]:
        lines = [f"Port {chosen}", "Listen 127.0.0.1", "Allow 127.0.0.1", "Timeout 60", "MaxClients 50"]
        lines += [f"ConnectPort {each}" for each in connects_to]
        lines += [f"BasicAuth {login}"] * bool(login)
        config.write_text("\n".join(lines) + "\n")
        return program, "-d", "-c", str(config)

    async with accepting(argv, folder, port=port) as peer:
        yield peer


@asynccontextmanager
async def nghttpx(folder: Path, *, backend: int) -> AsyncIterator[Accepting]:
    """nghttp2's proxy, in front of a server of HTTP/2 on the loopback interface; it takes ``Upgrade: h2c``."""
    program = executable("nghttpx")

    def argv(port: int) -> Sequence[str]:
        return (
            program, "--conf=/dev/null", "--workers=1", "--no-ocsp", f"--frontend=127.0.0.1,{port};no-tls",
            f"--backend=127.0.0.1,{backend};;proto=h2", "--accesslog-file=/dev/stderr", "--errorlog-file=/dev/stderr",
        )  # fmt: skip

    async with accepting(argv, folder) as peer:
        yield peer
