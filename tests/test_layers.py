"""Imports point one way: a module imports only modules above it, and only the libraries that it may."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
ORDER = {
    "actors": (
        *("errors", "settings", "headers", "arrived", "trace", "mailbox", "pictures", "messages", "actor", "turns"),
        "slots",
        *("memory", "terms", "frames", "compression", "protocol", "records", "guard", "ledger", "outbox", "inbox"),
        *("wire",),
        *("commands", "pieces", "stream", "exchange", "server_stream", "client_stream"),
        *("handling", "outgoing", "bodies"),
        *("stats", "patience", "bursts", "outlet", "pulse", "changes", "farewell", "frame_log"),
        *("connection", "client", "serving"),
        *("tls", "renewal", "addresses", "transport", "dialling", "tunnel", "upgrade", "acceptor", "listener"),
    ),
    "supervisor": (
        *(
            "restart",
            "health",
            "outliers",
            "retry",
            "attempts",
            "placing",
            "census",
            "explanation",
            "why",
            "inspection",
            "tracing",
            "children",
            "tree",
        ),
        *(
            "endpoints",
            "link_state",
            "pool",
            "stats",
            "orders",
            "errands",
            "roster",
            "keeper",
            "course",
            "link",
            "served",
            "server",
        ),
        *("handlers", "openmetrics", "private_sockets", "control", "adapters", "workers"),
        *("screens", "console", "trace_reader", "trace_commands", "storytelling", "demo_server", "demo", "cli"),
    ),
}
RANK = {place: rank for rank, place in enumerate(f"{package}.{name}" for package in ORDER for name in ORDER[package])}
"""Each module or folder of modules, from the top down. A new one must be placed here."""

NEVER_ASYNCIO = {
    *(f"actors.{name}" for name in ("errors", "settings", "headers", "arrived", "slots", "memory", "terms", "frames")),
    *(
        f"actors.{name}"
        for name in ("compression", "protocol", "records", "guard", "ledger", "outbox", "inbox", "wire", "pieces")
    ),
    *(f"actors.{name}" for name in ("stats", "patience", "bursts", "outlet", "pulse", "changes", "farewell")),
    *("actors.frame_log", "actors.pictures"),
    *(f"supervisor.{name}" for name in ("restart", "health", "retry", "explanation", "why")),
}
LIBRARIES = {"h2", "attrs"}
RESTRICTED = {
    "hpack": {"actors.headers", "actors.inbox", "actors.compression"},
    "hyperframe": {"actors.protocol"},
    "requests": {
        "supervisor.adapters.requests",
        *(f"supervisor.adapters.sessions.{room}" for room in ("errors", "raw", "tls")),
    },
}
"""Libraries that only these modules import; an adapter's optional extra belongs here too."""

SUPERVISORD = set(
    "childutils compat confecho datatypes dispatchers events http http_client loggers options pidproxy poller process "
    "rpcinterface socket_manager states supervisorctl supervisord templating web xmlrpc".split()
)


def complaints(root: Path) -> list[str]:
    """What the two packages under `root` do against the rules."""
    found = []
    for path in sorted(path for package in ORDER for path in (root / package).rglob("*.py")):
        parts = path.relative_to(root).with_suffix("").parts
        is_package = parts[-1] == "__init__"
        module = ".".join(parts[:-1] if is_package else parts)
        if module not in ORDER and place(module) not in RANK:
            found.append(f"{module} has no place in the order")
        if parts[0] == "supervisor" and parts[1] in SUPERVISORD:
            found.append(f"{module} bears a name of supervisord's")
        for line, target in imports(ast.parse(path.read_text(), str(path)), module, is_package):
            if objection := judge(module, target):
                found.append(f"{module}:{line} imports {target}: {objection}")
    return found


def place(module: str) -> str:
    """The entry of the order that a dotted name belongs to."""
    return ".".join(module.split(".")[:2])


def imports(tree: ast.AST, module: str, is_package: bool) -> Iterator[tuple[int, str]]:
    """Every import as (line, dotted name), wherever it stands; relative ones are resolved."""
    for node in ast.walk(tree):
        match node:
            case ast.Import(names=names):
                yield from ((node.lineno, alias.name) for alias in names)
            case ast.ImportFrom(module=source, names=names, level=level):
                base = [source] if source else []
                if level:
                    here = module.split(".")
                    base = here[: len(here) + int(is_package) - level] + base
                yield from ((node.lineno, ".".join([*base, alias.name])) for alias in names)
            case ast.Call(
                func=ast.Attribute(attr="import_module") | ast.Name(id="import_module" | "__import__"),
                args=[ast.Constant(value=str(name)), *_],
            ):
                yield node.lineno, name
            case _:
                pass


def judge(module: str, target: str) -> str | None:
    """Why `module` must not import `target`, or None."""
    top = target.split(".")[0]
    here, there = place(module), place(target)
    if top in ORDER:
        if module in ORDER:
            return "a package's own file imports nothing of the house"
        if there not in RANK:
            return "name the module, and give it a place in the order"
        if here != there and RANK[there] >= RANK.get(here, len(RANK)):
            return "it does not stand above"
        return None
    if top in sys.stdlib_module_names:
        return "this module never imports asyncio" if top == "asyncio" and here in NEVER_ASYNCIO else None
    if top in RESTRICTED:
        return None if module in RESTRICTED[top] else f"only {', '.join(sorted(RESTRICTED[top]))} may"
    return None if top in LIBRARIES else "only h2, attrs and the standard library are imported at run time"


def test_every_module_keeps_to_the_layers() -> None:
    assert complaints(ROOT) == []


def test_the_actors_never_load_the_supervisor() -> None:
    modules = [f"actors.{path.stem}" for path in (ROOT / "actors").glob("[!_]*.py")]
    program = f"import sys, actors, {', '.join(modules or ['actors'])}; sys.exit('supervisor' in sys.modules)"
    subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=True, timeout=60)


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("actors/inbox.py", "import hpack, h2.events\nfrom attrs import frozen\nfrom . import frames\n"),
        ("actors/connection.py", "import asyncio\nfrom actors.wire import Wire\nimport actors.stream\n"),
        ("supervisor/link.py", "from actors.connection import ConnectionActor\nfrom .tree import Supervisor\n"),
        ("supervisor/tracing/merge.py", "from .jsonl import read\nfrom ..why import why\nfrom actors import trace\n"),
        ("supervisor/tracing/__init__.py", "from .jsonl import read\nfrom supervisor import why\n"),
        ("supervisor/__init__.py", "import importlib.metadata\n"),
    ],
)
def test_what_the_layers_allow_is_not_complained_about(tmp_path: Path, path: str, source: str) -> None:
    write(tmp_path, path, source)
    assert complaints(tmp_path) == []


@pytest.mark.parametrize(
    ("path", "source", "complaint"),
    [
        ("actors/frames.py", "import actors.wire", "actors.frames:1 imports actors.wire: it does not stand above"),
        ("actors/frames.py", "from actors import wire", "it does not stand above"),
        ("actors/frames.py", "from .wire import Wire", "it does not stand above"),
        ("actors/frames.py", "def f():\n    from . import wire", "actors.frames:2"),
        ("actors/trace.py", "if TYPE_CHECKING:\n    from actors.actor import Actor", "it does not stand above"),
        ("actors/trace.py", "importlib.import_module('actors.actor')", "it does not stand above"),
        ("actors/wire.py", "from actors import *", "name the module"),
        ("actors/wire.py", "import actors", "name the module"),
        ("actors/__init__.py", "from .wire import Wire", "imports nothing of the house"),
        ("actors/listener.py", "from supervisor.restart import ChildSpec", "it does not stand above"),
        ("actors/listener.py", "from supervisor import server", "it does not stand above"),
        ("supervisor/tree.py", "from .server import Server", "it does not stand above"),
        ("supervisor/tracing/jsonl.py", "from ..link import Link", "imports supervisor.link.Link"),
        ("supervisor/restart.py", "import asyncio", "never imports asyncio"),
        ("supervisor/health.py", "from asyncio import timeout", "never imports asyncio"),
        ("supervisor/retry.py", "import asyncio.tasks", "never imports asyncio"),
        *((f"actors/{name}.py", "import asyncio", "never imports asyncio") for name in ("frames", "wire", "slots")),
        *(
            (f"actors/{name}.py", "import asyncio", "never imports asyncio")
            for name in ("headers", "errors", "settings")
        ),
        ("actors/connection.py", "import hpack", "only actors.compression, actors.headers, actors.inbox may"),
        ("actors/connection.py", "import httpx", "only h2, attrs and the standard library"),
        ("supervisor/cli.py", "from tests.support import clock", "only h2, attrs and the standard library"),
        ("actors/extra.py", "", "actors.extra has no place in the order"),
        ("supervisor/extra/deep.py", "", "supervisor.extra.deep has no place in the order"),
        *((f"supervisor/{name}.py", "", "bears a name of supervisord's") for name in sorted(SUPERVISORD)),
        ("supervisor/web/page.py", "", "bears a name of supervisord's"),
    ],
)
def test_each_rule_that_is_broken_is_complained_about(tmp_path: Path, path: str, source: str, complaint: str) -> None:
    write(tmp_path, path, source)
    assert complaint in "\n".join(complaints(tmp_path))


def write(root: Path, path: str, source: str) -> None:
    (root / path).parent.mkdir(parents=True)
    (root / path).write_text(source)
