"""Each peer is a fixture, so that a test's signature says which programs it needs."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.interop.bodies import big_blocks
from tests.interop.peers import Nghttpd, Tool, executable, find_curl, free_port
from tests.interop.programs import Node, find_node


@pytest.fixture
def nghttp() -> Tool:
    return Tool(executable("nghttp"))


@pytest.fixture
def curl() -> Tool:
    return find_curl()


@pytest.fixture
def h2load() -> Tool:
    return Tool(executable("h2load"))


@pytest.fixture
def nghttpd() -> Nghttpd:
    return Nghttpd(executable("nghttpd"))


@pytest.fixture
def node() -> Node:
    return find_node()


@pytest.fixture
def htdocs(tmp_path: Path) -> Path:
    """A folder for nghttpd to serve, with one small file."""
    folder = tmp_path / "htdocs"
    folder.mkdir()
    (folder / "small").write_bytes(b"hello, world")
    return folder


@pytest.fixture(scope="session")
def big_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """100 MB on disk: ``BIG`` bytes with the digest ``big_digest()``."""
    path = tmp_path_factory.mktemp("big") / "big"
    with path.open("wb") as file:
        file.writelines(big_blocks())
    return path


@pytest.fixture
def unused_port() -> int:
    return free_port()
