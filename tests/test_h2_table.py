"""The README's tables of what aioh2, hyper and h2 offered: nothing is left out, and what they name of ours is there."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import attrs
import h2.events
import h2.exceptions
import pytest
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.settings import SettingCodes

import actors.headers
from actors.client_stream import ClientStream, PushedStream
from actors.server_stream import ServerStream
from actors.settings import Limits
from actors.stats import ConnectionStats
from supervisor.link import Link
from supervisor.server import Server

README = Path(__file__).parent.parent / "README.md"
HEADING = "## What aioh2, hyper and h2 offered, and where it is here"

AIOH2 = (
    "open_connection start_server open_unix_connection start_unix_server concurrency functional_timeout H2Protocol "
    "SendException set_handler close_connection start_request start_response send_data send_trailers end_stream "
    "recv_request recv_response recv_trailers read_stream update_settings wait_functional reprioritize "
    "initial_window_size max_frame_size max_concurrent_streams"
)
"""What aioh2 0.2.3, its last version, has for its users."""
HYPER = (
    "HTTPConnection HTTP20Connection HTTP11Connection HTTP20Response HTTP11Response HTTPHeaderMap request get_response "
    "getresponse putrequest putheader endheaders send ping get_pushes connect close status reason headers trailers "
    "read read_chunked version scheme method authority path request_headers cancel secure ssl_context enable_push "
    "proxy_host proxy_port force_proto window_manager"
)
"""The same of hyper 0.7.0."""
OURS: dict[str, tuple[object, ...]] = {
    "Limits": (Limits(),),
    "link": (Link("http://localhost"),),
    "server": (Server,),
    "stream": (ServerStream, ClientStream),
    "pushed": (PushedStream,),
    "headers": (actors.headers,),
}
"""Whose names the tables use, by what they call it."""


def section() -> str:
    text = README.read_text(encoding="utf-8")
    assert text.count(HEADING) == 1
    return re.split(r"^## ", text.partition(HEADING)[2], flags=re.MULTILINE)[0]


def table(project: str) -> str:
    return re.split(r"^### ", section().partition(f"\n### {project}\n")[2], flags=re.MULTILINE)[0]


def named(text: str) -> set[str]:
    """Every word that stands as code."""
    return {word for code in re.findall(r"`([^`]+)`", text) for word in re.findall(r"[A-Za-z_]\w*", code)}


def public(names: object) -> set[str]:
    return {name for name in vars(names) if not name.startswith("_")}


def options(kind: type) -> set[str]:
    """The arguments of its methods that may be left out."""
    methods = [getattr(kind, name) for name in public(kind) if inspect.isfunction(getattr(kind, name))]
    found = [each for method in methods for each in inspect.signature(method).parameters.values()]
    return {each.name for each in found if each.default is not each.empty}


def classes(module: object, base: type) -> set[str]:
    kinds = {name: kind for name, kind in vars(module).items() if inspect.isclass(kind) and issubclass(kind, base)}
    return {name for name in kinds if not name.startswith("_")}


@pytest.mark.parametrize(
    "offered",
    [
        pytest.param(public(H2Connection), id="connection"),
        pytest.param(public(H2Connection()), id="connection's values"),
        pytest.param(
            public(H2Configuration) | (set(inspect.signature(H2Configuration).parameters) - {"self"}),
            id="configuration",
        ),
        pytest.param({code.name for code in SettingCodes}, id="settings"),
        pytest.param(classes(h2.events, h2.events.Event), id="events"),
        pytest.param(classes(h2.exceptions, h2.exceptions.H2Error), id="exceptions"),
        pytest.param(options(H2Connection), id="options"),
    ],
)
def test_the_table_has_a_line_for_everything_that_h2_offers(offered: set[str]) -> None:
    """A release of h2 that offers more fails here: give it a line."""
    assert offered
    assert offered - named(table("h2")) == set()


@pytest.mark.parametrize(("project", "offered"), [("aioh2", AIOH2), ("hyper", HYPER)])
def test_the_table_has_a_line_for_everything_that_the_seeds_offered(project: str, offered: str) -> None:
    assert set(offered.split()) - named(table(project)) == set()


def test_what_the_tables_name_of_ours_is_there() -> None:
    text = section()
    missing = [
        f"{owner}.{name}"
        for owner, found in OURS.items()
        for name in set(re.findall(rf"\b{owner}\.(\w+)", text)) - {"py"}
        if not any(hasattr(each, name) for each in found)
    ]
    assert missing == []


def test_the_figures_that_the_tables_name_are_there() -> None:
    """Each `name` before "of `link.stats().connection_stats`" or the server's."""
    fields = {each.name for each in attrs.fields(ConnectionStats)}
    found = re.findall(r"((?:`\w+`(?: and |, )?)+) of `\w+\.stats\(\)\.connection_stats`", section())
    assert found
    assert {name for names in found for name in re.findall(r"`(\w+)`", names)} <= fields


def test_every_line_says_where_it_is_or_that_it_is_left_out_and_why() -> None:
    for line in section().splitlines():
        if line.startswith("| ") and not line.startswith("|---"):
            _, where, better = (cell.strip() for cell in line.strip("|").split(" | "))
            assert where, line
            assert better or "left out" not in where, f"says not why: {line}"
