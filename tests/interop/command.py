"""The ``muxlink`` command as a process of its own."""

from __future__ import annotations

import asyncio
import os
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import IO

import pytest
from attrs import frozen

from tests.interop.peers import ROOT, Ran, environment, kill, run


@frozen(eq=False)
class Served:
    """A ``muxlink serve`` that has said where it serves."""

    process: asyncio.subprocess.Process
    line: str
    url: str
    _err: IO[bytes]

    async def ends(self, limit: float = 10.0) -> int:
        """Its exit code, once it has ended; the test fails if it does not end in time."""
        assert self.process.stdout is not None
        try:
            async with asyncio.timeout(limit):
                # To the end of the pipe first: only then does asyncio close the process's transport.
                await self.process.stdout.read()
                return await self.process.wait()
        except TimeoutError:
            pytest.fail(f"muxlink serve did not end within {limit} s; it said: {self.err()}")

    def err(self) -> str:
        return os.pread(self._err.fileno(), 1 << 20, 0).decode("utf-8", "replace")


def muxlink_argv(*arguments: str) -> tuple[str, ...]:
    """The command, run by the interpreter that runs the tests.

    As where it is installed, the working directory is not on its path by itself (``-P``).
    """
    return (sys.executable, "-P", "-m", "supervisor.cli", *arguments)


async def muxlink(*arguments: str, limit: float = 30.0, cwd: Path = ROOT) -> Ran:
    """Run ``muxlink`` to its end."""
    return await run(*muxlink_argv(*arguments), limit=limit, cwd=cwd)


@asynccontextmanager
async def muxlink_serve(handler: str, bind: str, *, cwd: Path = ROOT) -> AsyncIterator[Served]:
    """Run ``muxlink serve`` from the moment at which it says where it serves; it is killed if it is still there."""
    with tempfile.TemporaryFile() as err:
        process = await asyncio.create_subprocess_exec(
            *muxlink_argv("serve", handler, "--bind", bind),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=err,
            cwd=cwd,
            env=environment(),
        )
        assert process.stdout is not None
        try:
            async with asyncio.timeout(15):
                line = (await process.stdout.readline()).decode().rstrip("\n")
            url = next((word for word in line.split() if word.startswith(("http://", "unix:"))), "")
            served = Served(process, line, url, err)
            assert url, f"the first line names no URL: {line!r}; on stderr: {served.err()}"
            yield served
        finally:
            if process.returncode is None:
                process.kill()
            await process.stdout.read()
            await kill(process)
