"""Handlers by name: ``MODULE:HANDLER``, as a command line or a worker process gets it, and back."""

from __future__ import annotations

import functools
import importlib
import os
import sys
from collections.abc import Iterator
from importlib.machinery import PathFinder
from pathlib import Path
from types import MethodType, ModuleType
from typing import Final, cast

from actors.errors import Misuse
from actors.handling import is_coroutine_function
from actors.server_stream import Handler

MAIN: Final = "__main__"
NOWHERE: Final = object()


def load_handler(name: str) -> Handler:
    """What ``MODULE:HANDLER`` names, the working directory being importable. Raises Misuse."""
    module_name, colon, attribute = name.partition(":")
    if not colon or not module_name or not attribute:
        raise Misuse(f"bad handler {name!r}: write MODULE:HANDLER, such as examples.hello:hello")
    if "" not in sys.path and os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        found: object = importlib.import_module(module_name)
    except (Exception, SystemExit) as error:  # whatever the module does at import, the line says so
        what = str(error).splitlines()[0] if str(error) else ""
        raise Misuse.because(f"cannot import {module_name}: {type(error).__name__}: {what}", error) from error
    for part in attribute.split("."):
        try:
            found = getattr(found, part)
        except AttributeError:
            raise Misuse(f"{module_name} has no {attribute}: is the handler's name right?") from None
    if not is_coroutine_function(found):
        raise Misuse(f"{name} is no coroutine function: write 'async def' before the handler's name")
    return cast("Handler", found)


def name_of(handler: Handler) -> str:
    """The ``MODULE:HANDLER`` by which a fresh interpreter in the same directory finds this handler.

    Raises Misuse for what has no such name: a lambda, a function within a function, or a partial, an object or an
    object's method that no attribute of a module is. A function of ``__main__`` goes by the name under which its
    file can be imported, if there is one.
    """
    called = _called(handler)
    if not is_coroutine_function(handler):
        raise Misuse(f"the handler {called} is no coroutine function: write 'async def' before its name")
    found = _method_name(handler) if isinstance(handler, MethodType) else _name(handler)
    if found is None:
        raise Misuse(f"the handler {called} cannot be found by a worker process: {_remedy(handler)}")
    module, attribute = found
    if module == MAIN:
        module = _main_name(called)
    elif (directory := _only_beside_script(module)) is not None:
        raise Misuse(
            f"the handler {called} is in {module}, which workers cannot import: run from {directory}, "
            "or name that in PYTHONPATH"
        )
    return f"{module}:{attribute}"


def _called(handler: object) -> str:
    name = getattr(handler, "__qualname__", None)
    return name if isinstance(name, str) else f"of type {type(handler).__qualname__}"


def _remedy(handler: object) -> str:
    if isinstance(handler, functools.partial):
        return "give the partial a name in a module, and pass it by that"
    if isinstance(handler, MethodType) or not isinstance(getattr(handler, "__qualname__", None), str):
        return "give the object a name in a module, and pass what is found there"
    return "define it at the top level of a module, with 'async def'"


# --- names ------------------------------------------------------------------------------------------------------------


def _name(thing: object) -> tuple[str, str] | None:
    """The module and the attribute that are ``thing``; its own word is taken only where it is true."""
    module, attribute = getattr(thing, "__module__", None), getattr(thing, "__qualname__", None)
    if isinstance(module, str) and isinstance(attribute, str) and _resolve(module, attribute) is thing:
        return module, attribute
    for name in _modules(thing):
        for key, value in list(vars(sys.modules[name]).items()):
            if value is thing and key.isidentifier():
                return name, key
    return None


def _method_name(method: MethodType) -> tuple[str, str] | None:
    """The name of a bound method: that of its object, and its own."""
    owner, own = _name(method.__self__), method.__func__.__name__
    if owner is None:
        return None
    module, attribute = owner[0], f"{owner[1]}.{own}"
    # A method is bound anew each time that it is looked up: it is equal, and not the same.
    return (module, attribute) if _resolve(module, attribute) == method else None


def _modules(thing: object) -> Iterator[str]:
    """Modules that may name it, the likeliest first, and the one that has no name of its own last."""
    inner = thing.func if isinstance(thing, functools.partial) else thing
    likely = [getattr(inner, "__module__", None), type(thing).__module__]
    names = dict.fromkeys([*(name for name in likely if isinstance(name, str)), *sys.modules])
    yield from (name for name in names if name != MAIN and _is_importable(name))
    if MAIN in sys.modules:
        yield MAIN


def _is_importable(name: str) -> bool:
    """Whether an import of this name gave the module: one that a program made up has no spec, an alias another one."""
    module = sys.modules.get(name)
    spec = getattr(module, "__spec__", None)
    return isinstance(module, ModuleType) and getattr(spec, "name", None) == name


def _resolve(module: str, attribute: str) -> object:
    if module != MAIN and not _is_importable(module):
        return NOWHERE
    found: object = sys.modules.get(module, NOWHERE)
    for part in attribute.split("."):
        found = getattr(found, part, NOWHERE)
    return found


# --- what a fresh interpreter can import ------------------------------------------------------------------------------


def _script_directory() -> str | None:
    """The directory that is on the path only because a script there was started."""
    main = sys.modules.get(MAIN)
    file = getattr(main, "__file__", None)
    if getattr(main, "__spec__", None) is not None or not isinstance(file, str) or sys.flags.safe_path:
        return None
    return str(Path(file).resolve().parent)


def _fresh_path() -> list[str]:
    """Where a worker looks for modules: as we do, less the script's directory, and in the working directory."""
    script, path = _script_directory(), [entry or os.getcwd() for entry in sys.path]
    if script in path:
        path.remove(script)  # once: PYTHONPATH may name it, too
    return [os.getcwd(), *path]


def _found_at(name: str, path: list[str]) -> str | None:
    """The file of a module as these directories have it."""
    where: list[str] | None = path
    parts = name.split(".")
    spec = None
    for depth in range(len(parts)):
        spec = PathFinder.find_spec(".".join(parts[: depth + 1]), where)
        if spec is None:
            return None
        where = list(spec.submodule_search_locations or ())
    return spec.origin if spec is not None else None


def _only_beside_script(module: str) -> str | None:
    """The directory of the script, if workers would not find the module because only the script brought them there."""
    script, file = _script_directory(), getattr(sys.modules[module], "__file__", None)
    if script is None or not isinstance(file, str) or _found_at(module, [script]) != file:
        return None
    return script if not _same_file(_found_at(module, _fresh_path()), file) else None


def _main_name(called: str) -> str:
    """The name by which the file of ``__main__`` can be imported."""
    main = sys.modules[MAIN]
    spec, file = getattr(main, "__spec__", None), getattr(main, "__file__", None)
    if isinstance(file, str):
        name = str(spec.name) if spec is not None else Path(file).stem
        fits = all(part.isidentifier() for part in name.split("."))
        if fits and _same_file(_found_at(name, _fresh_path()), file):
            return name
    raise Misuse(
        f"the handler {called} is in __main__, which workers cannot import: define it in a module of its own, "
        "or run from the directory where that program is"
    )


def _same_file(one: str | None, other: str) -> bool:
    try:
        return one is not None and os.path.samefile(one, other)
    except OSError:
        return False
