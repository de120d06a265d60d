"""The peers of these tests."""

from __future__ import annotations

import pytest

from tests.interop.peers import Tool, executable


@pytest.fixture
def h2load() -> Tool:
    return Tool(executable("h2load"))
