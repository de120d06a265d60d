"""The ``muxlink`` command: serve, request, demo; the others are in ``console`` and ``trace_commands``.

Errors go to stderr in one line with the remedy. Exit codes: 0 done, 1 failed, 2 asked wrongly, 130 interrupted.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import stat
import sys
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Final, NoReturn, cast

from actors.errors import InvalidHeaders, LinkError, Misuse
from actors.exchange import OutgoingBody
from actors.headers import check_fields
from actors.settings import Tls
from supervisor import console, demo, trace_commands
from supervisor.endpoints import UNIX_PREFIX, Endpoint, parse_url
from supervisor.handlers import load_handler
from supervisor.link import Link
from supervisor.workers import serving
from supervisor.workers.alone import run_alone
from supervisor.workers.child import flush
from supervisor.workers.logs import configure
from supervisor.workers.sources import add_options, gather

__all__ = ("load_handler", "main")

DONE, FAILED, ASKED_WRONGLY, INTERRUPTED = 0, 1, 2, 130
FILE_CHUNK: Final = 64 * 1024


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """One line, not argparse's usage and a line."""
        self.exit(ASKED_WRONGLY, f"{self.prog}: {message}; see '{self.prog} --help'\n")


def _parser() -> argparse.ArgumentParser:
    raw = argparse.RawDescriptionHelpFormatter
    parser = _Parser(
        prog="muxlink", description="Long-lived, multiplexed HTTP/2 links between services.", formatter_class=raw,
        epilog="example: muxlink demo",
    )  # fmt: skip
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    serve = commands.add_parser(
        "serve", help="serve a handler", formatter_class=raw,
        description="Serve a handler over HTTP/2, over TLS with --certfile and else with prior knowledge, by worker\n"
        "processes that are replaced when they fail. The working directory is importable.\n\n"
        "SIGTERM and SIGINT drain and end, a second one hastens; SIGHUP replaces the workers one by one;\n"
        "SIGTTIN and SIGTTOU add and remove one; SIGUSR2 writes what everything waits for to the log.",
        epilog="example: muxlink serve examples.hello:hello --bind 127.0.0.1:8080 --workers 2",
    )  # fmt: skip
    add_options(serve)
    serve.set_defaults(run=_serve)
    console.add_commands(commands)
    trace_commands.add_commands(commands)

    ask = commands.add_parser(
        "request", help="send one request and print the response's body", formatter_class=raw,
        description="Send one request over HTTP/2, over TLS for https and else with prior knowledge,\n"
        "and print the response's body.",
        epilog="example: muxlink request -d world http://127.0.0.1:8080/",
    )  # fmt: skip
    ask.add_argument("url", metavar="URL", help="http://HOST[:PORT][/PATH], or https://")
    ask.add_argument("-X", "--request", dest="method", metavar="METHOD", help="default: GET, or POST with -d")
    ask.add_argument("-d", "--data", metavar="DATA|@FILE", help="the request's body, or the file that holds it")
    ask.add_argument(
        "-H", "--header", dest="headers", action="append", default=[], metavar="'NAME: VALUE'", help="may be repeated"
    )
    ask.add_argument("-i", "--include", action="store_true", help="print the response's head and trailers, too")
    ask.add_argument("--timeout", type=float, metavar="SECONDS", help="for the whole request (default: none)")
    ask.add_argument("--unix-socket", metavar="PATH", help="connect there; the URL's host is only named in the request")
    ask.add_argument(
        "--proxy", metavar="URL", help="go through this HTTP proxy (CONNECT): http://[USER:PASSWORD@]HOST:PORT"
    )
    ask.add_argument("--cacert", metavar="FILE", help="trust these authorities (PEM), and not the system's")
    ask.add_argument("--cert", metavar="FILE", help="show this client certificate")
    ask.add_argument("--key", metavar="FILE", help="its key, where that is not in the same file")
    ask.add_argument("--insecure", action="store_true", help="verify neither the server's certificate nor its name")
    ask.set_defaults(run=_request)

    story = commands.add_parser(
        "demo", help="a link at work, whose server is killed and started again", formatter_class=raw,
        description="Start a server process, link to it, and send many requests at a time; kill the server half-way,\n"
        "start it again, check each answer, and tell what it took. Fails where any of it was not so.",
        epilog="example: muxlink demo --requests 5000",
    )  # fmt: skip
    story.add_argument("--requests", type=int, default=2000, metavar="N", help="how many (default: %(default)s)")
    story.set_defaults(run=_demo)
    return parser


# --- serve ------------------------------------------------------------------------------------------------------------


async def _serve(asked: argparse.Namespace) -> int:
    options = gather(asked, os.environ)
    configure(options.log_format, options.log_level, process="muxlink")
    if options.workers:
        await serving.run(options)
    else:
        await run_alone(options, out=sys.stdout)
    return DONE


# --- request ----------------------------------------------------------------------------------------------------------


async def _request(asked: argparse.Namespace) -> int:
    endpoint, path = parse_url(asked.url)
    if endpoint.path is not None:
        raise Misuse(f"bad URL {asked.url!r}: write --unix-socket {endpoint.path} http://localhost/PATH")
    tls = _client_tls(asked, endpoint)
    scheme = "http" if tls is None else "https"
    service = f"{UNIX_PREFIX}{asked.unix_socket}" if asked.unix_socket else f"{scheme}://{endpoint}"
    method = asked.method if asked.method is not None else "GET" if asked.data is None else "POST"
    headers = check_fields([_header(line) for line in asked.headers])  # before anything is connected
    body = _body(asked.data)
    if asked.timeout is not None and not asked.timeout > 0:
        raise Misuse(f"--timeout must be a number of seconds above 0, not {asked.timeout:g}")
    # Not entered: it connects at the first request, within its time limit.
    link = Link(service, tls=tls, proxy=asked.proxy)
    async with AsyncExitStack() as leaving:
        leaving.push_async_callback(link.close)
        stream = await leaving.enter_async_context(
            link.stream(method, path, headers=headers, body=body, timeout=asked.timeout, authority=endpoint.authority)
        )
        head = await stream.response()
        out = sys.stdout.buffer
        if asked.include:
            out.write(b"HTTP/2 %d\n" % head.status + _lines(head.headers) + b"\n")
        async for chunk in stream:
            out.write(chunk)
        if asked.include and (trailers := await stream.trailers()):
            out.write(b"\n" + _lines(trailers))
        out.flush()
    return DONE


def _client_tls(asked: argparse.Namespace, endpoint: Endpoint) -> Tls | None:
    if not endpoint.secure:
        if asked.insecure or any(each is not None for each in (asked.cacert, asked.cert, asked.key)):
            raise Misuse("--cacert, --cert, --key and --insecure go with an https URL")
        return None
    if asked.insecure and asked.cacert is not None:
        raise Misuse("--cacert says whom to trust, and --insecure to trust anyone: give one of them")
    if asked.key is not None and asked.cert is None:
        raise Misuse("--key goes with --cert, the certificate that it is for")
    if asked.insecure:
        print("muxlink request: warning: --insecure verifies nothing: anyone may answer and listen", file=sys.stderr)
    return Tls(
        cacert=asked.cacert, certfile=asked.cert, keyfile=asked.key, verify=not asked.insecure,
        server_hostname=endpoint.host,
    )  # fmt: skip


def _lines(headers: object) -> bytes:
    return b"".join(name + b": " + value + b"\n" for name, value in cast("Sequence[tuple[bytes, bytes]]", headers))


def _header(line: str) -> tuple[str, str]:
    name, colon, value = line.partition(":")
    if not colon or not name.strip():
        # What follows may be a secret.
        raise InvalidHeaders(f"bad header {line.split(' ')[0][:40]!r}...: write 'NAME: VALUE'")
    return name.strip(), value.strip()


def _body(data: str | None) -> OutgoingBody:
    if data is None:
        return b""
    if not data.startswith("@"):
        return data.encode("utf-8", "surrogateescape")
    path = Path(data[1:])
    try:
        with path.open("rb") as file:
            if stat.S_ISREG(os.fstat(file.fileno()).st_mode) and os.fstat(file.fileno()).st_size > FILE_CHUNK:
                return _chunks(path)
            return file.read()  # short, or a pipe, which can be read once only
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise Misuse(f"cannot read {path}: {reason}; -d @FILE names a file that can be read") from None


def _chunks(path: Path) -> Iterator[bytes]:
    """A long file in pieces; opened when the sending begins, closed when it ends."""
    with path.open("rb") as file:
        while chunk := file.read(FILE_CHUNK):
            yield chunk


# --- demo -------------------------------------------------------------------------------------------------------------


async def _demo(asked: argparse.Namespace) -> int:
    if asked.requests < 1:
        raise Misuse(f"--requests must be at least 1, not {asked.requests}")
    await demo.run(asked.requests, 50, sys.stdout)
    return DONE


# --- the command ------------------------------------------------------------------------------------------------------


def _complain(command: str, error: BaseException) -> None:
    """One line, whatever the arguments that it names held."""
    message = str(error) or type(error).__name__
    print(f"muxlink {command}: {' '.join(message.splitlines())}", file=sys.stderr)


def _first(error: BaseException) -> BaseException:
    """The first error in groups of them."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    try:
        asked = _parser().parse_args(argv)
    except SystemExit as done:
        return int(done.code or 0)
    if asked.run is not _serve:  # which has options for that
        logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    run = cast("Callable[[argparse.Namespace], Coroutine[None, None, int]]", asked.run)
    try:
        code = asyncio.run(run(asked))
        sys.stdout.flush()  # here, where a reader that has gone is still told well
        return code
    except (LinkError, ExceptionGroup) as group:
        error = _first(group)
        if not isinstance(error, LinkError):
            raise
        _complain(asked.command, error)
        return ASKED_WRONGLY if isinstance(error, (Misuse, InvalidHeaders)) else FAILED
    except OSError as failure:
        # Our output cannot be written, or a file that is sent cannot be read on; nothing may be left for exit to write.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if not isinstance(failure, BrokenPipeError):
            _complain(asked.command, failure)
        return FAILED
    except KeyboardInterrupt:
        return INTERRUPTED
    finally:
        flush()


if __name__ == "__main__":
    sys.exit(main())
