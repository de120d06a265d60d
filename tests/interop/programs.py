"""Other people's servers that say in their own log where they serve: Node's http2, and hypercorn."""

from __future__ import annotations

import asyncio
import json
import os
import re
import sys
import tempfile
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import IO

import pytest
from attrs import frozen

from tests.interop.peers import ROOT, Tool, environment, executable, kill

NODE_SCRIPTS = Path(__file__).parent / "node"


@frozen(eq=False)
class Running:
    """A server that runs as a process of its own, from the moment at which it serves."""

    process: asyncio.subprocess.Process
    url: str
    _log: IO[bytes]

    def log(self) -> str:
        """What it has said until now."""
        return os.pread(self._log.fileno(), 4 << 20, 0).decode("utf-8", "replace")

    def events(self, name: str) -> list[dict[str, object]]:
        """What a script of ours has said of ``name`` until now: one JSON object a line."""
        said = [json.loads(line) for line in self.log().splitlines() if line.startswith("{")]
        return [event for event in said if event["event"] == name]

    async def logged(self, pattern: str, *, limit: float = 10.0) -> re.Match[str]:
        """Wait until its log has a match of the regular expression; the test fails if it ends or takes too long."""
        return await logged(self.process, self._log, pattern, limit=limit)

    async def ends(self, limit: float = 10.0) -> int:
        """Its exit code, once it has ended; the test fails if it does not end in time."""
        try:
            async with asyncio.timeout(limit):
                return await self.process.wait()
        except TimeoutError:
            pytest.fail(f"it did not end within {limit} s; it said: {self.log()}")


async def logged(
    process: asyncio.subprocess.Process, log: IO[bytes], pattern: str, *, limit: float = 10.0
) -> re.Match[str]:
    """Wait until a process has written what the regular expression matches."""
    deadline = asyncio.get_running_loop().time() + limit
    while True:
        gone = process.returncode is not None
        text = os.pread(log.fileno(), 4 << 20, 0).decode("utf-8", "replace")
        if found := re.search(pattern, text):
            return found
        if gone or asyncio.get_running_loop().time() > deadline:
            pytest.fail(f"no match of {pattern!r} within {limit} s:\n{text}")
        await asyncio.sleep(0.01)


@asynccontextmanager
async def running(*argv: str, where: str, cwd: Path = ROOT) -> AsyncIterator[Running]:
    """Run a server; the first group of the regular expression ``where`` is the URL in its log."""
    with tempfile.TemporaryFile() as log:
        process = await asyncio.create_subprocess_exec(
            *argv, stdin=asyncio.subprocess.DEVNULL, stdout=log, stderr=log, cwd=cwd, env=environment()
        )
        try:
            found = await logged(process, log, where, limit=20.0)
            yield Running(process, found[1], log)
        finally:
            await kill(process)


@frozen
class Node:
    """Node's ``http2``: ``async with node.serving(settings) as peer``, and ``await node.client(url, job)``."""

    path: str

    @asynccontextmanager
    async def serving(self, settings: Mapping[str, int] | None = None) -> AsyncIterator[Running]:
        script = str(NODE_SCRIPTS / "server.js")
        async with running(self.path, script, json.dumps(settings or {}), where='"url":"([^"]+)"') as peer:
            yield peer

    async def client(self, url: str, job: str, number: int = 0, *, limit: float = 60.0) -> NodeReport:
        """Do a job of ``node/client.js``; the test fails if the script does."""
        ran = await Tool(self.path)(str(NODE_SCRIPTS / "client.js"), url, job, str(number), limit=limit)
        assert ran.code == 0, ran
        assert ran.text, ran
        said = json.loads(ran.text)
        return NodeReport(said["result"], said["goaways"], said["errors"])


@frozen
class NodeReport:
    """What ``node/client.js`` says of its one connection."""

    result: dict[str, object]
    goaways: list[list[object]]
    """Code and debug text of each GOAWAY that came."""
    errors: list[str]


def find_node() -> Node:
    return Node(executable("node"))


@asynccontextmanager
async def hypercorn(app: str, *options: str) -> AsyncIterator[Running]:
    """Run hypercorn on a port of its choice; its plain port takes HTTP/2 with prior knowledge."""
    # --workers 0: in one process, so that none is left behind, and the port is gone when it says so.
    argv = (sys.executable, "-m", "hypercorn", app, "--workers", "0", "--bind", "127.0.0.1:0", *options)
    async with running(*argv, where=r"Running on (http://127\.0\.0\.1:\d+)") as peer:
        yield peer
