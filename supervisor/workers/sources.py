"""Where options come from: the command line, then ``MUXLINK_*`` variables, then a TOML file, then the defaults.

A file has the options at its top level, by the names of the fields: ``drain_timeout = 30``. Its paths are relative to
the working directory, as those of the command line. What the file has and no option is called is an error. So is a
variable whose name is nearly an option's (``MUXLINK_WORKER``); one that is like none is passed over, because others
have names with this beginning, too: for a Service called ``muxlink``, Kubernetes sets ``MUXLINK_SERVICE_HOST``.
"""

from __future__ import annotations

import argparse
import difflib
import re
import tomllib
from collections.abc import Collection, Mapping
from typing import Any, Final

from attrs import field, frozen

from actors.errors import Misuse
from supervisor.workers.options import Described, ServeOptions, describe

PREFIX: Final = "MUXLINK_"
CONFIG: Final = "config"
POSITIONAL: Final = "handler"
NEARLY: Final = 0.8
"""How like an option's name a variable's is that was meant as one."""
MAX_FILE: Final = 1024 * 1024
"""Bytes of a file; what is longer is none of ours."""
WHOLE: Final = re.compile(r"[+-]?[0-9]{1,30}")
DECIMAL: Final = re.compile(r"[+-]?([0-9]{1,30}(\.[0-9]{0,30})?|\.[0-9]{1,30})([eE][+-]?[0-9]{1,3})?")


@frozen
class _Given:
    """A value, and where it was said."""

    value: object = field(repr=False)
    where: str


def add_options(parser: argparse.ArgumentParser) -> None:
    """Give the parser a flag for each option, and ``--config``; :func:`gather` reads what it finds."""
    for name, (described, default) in describe().items():
        if name == POSITIONAL:
            parser.add_argument(
                name, nargs="?", metavar=described.metavar,
                help=f"{described.help}; optional where {_variable(name)} or the file names it",
            )  # fmt: skip
            continue
        said = described.help.replace("%", "%%")
        if default is not None:
            said += f" (default: {_plain(default)})".replace("%", "%%")
        parser.add_argument(_flag(name), metavar=described.metavar, help=said)
    parser.add_argument(
        _flag(CONFIG), metavar="FILE",
        help=f"a TOML file with any of these, such as drain_timeout = 30; {PREFIX}DRAIN_TIMEOUT, in the environment, "
        "comes before the file, and the command line before both",
    )  # fmt: skip


def gather(asked: argparse.Namespace, environ: Mapping[str, str]) -> ServeOptions:
    """The options from all sources; raises Misuse, which names the source of what is wrong.

    An empty variable counts as one that is not set where the option need not have a value.
    """
    options = describe()
    given: dict[str, _Given] = {}
    for source in (_from_file(_file_of(asked, environ), options), _from_environ(environ, options)):
        given.update(source)
    given.update(_from_command_line(asked, options))
    if POSITIONAL not in given:
        raise Misuse("there is nothing to serve: name it as MODULE:HANDLER, such as examples.hello:hello")
    try:
        return ServeOptions.of({name: each.value for name, each in given.items()})
    except Misuse as error:
        raise Misuse(_in_users_words(str(error), given, options)) from None


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _variable(name: str) -> str:
    return f"{PREFIX}{name.upper()}"


def _plain(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _in_users_words(message: str, given: Mapping[str, _Given], options: Collection[str]) -> str:
    """The message with each option called as it was said, or as it can be."""

    def called(match: re.Match[str]) -> str:
        name = match[1]
        if name not in options:
            return match[0]
        return given[name].where if name in given else _flag(name)

    return re.sub(r"\boption ([a-z_]+)", called, message)


# --- sources ----------------------------------------------------------------------------------------------------------


def _from_command_line(asked: argparse.Namespace, options: Mapping[str, tuple[Described, object]]) -> dict[str, _Given]:
    found: dict[str, _Given] = {}
    for name, (described, _) in options.items():
        if (text := getattr(asked, name, None)) is not None:
            where = "the handler" if name == POSITIONAL else _flag(name)
            found[name] = _Given(_read(described, text), where)
    return found


def _from_environ(environ: Mapping[str, str], options: Mapping[str, tuple[Described, object]]) -> dict[str, _Given]:
    found: dict[str, _Given] = {}
    for key in sorted(key for key in environ if key.startswith(PREFIX)):
        name = key.removeprefix(PREFIX).lower()
        if key == _variable(name) and name in options:
            described, default = options[name]
            if environ[key] or default is not None:
                found[name] = _Given(_read(described, environ[key]), key)
        elif key != _variable(CONFIG) and (near := _nearest(name, [*options, CONFIG], NEARLY)) is not None:
            raise Misuse(f"the environment has {key}, which is no option: did you mean {_variable(near)}?")
    return found


def _file_of(asked: argparse.Namespace, environ: Mapping[str, str]) -> str | None:
    """The file's path, if there is one."""
    path: str | None = getattr(asked, CONFIG, None)
    return path if path is not None else environ.get(_variable(CONFIG)) or None


def _from_file(path: str | None, options: Mapping[str, tuple[Described, object]]) -> dict[str, _Given]:
    if path is None:
        return {}
    found: dict[str, _Given] = {}
    for key, value in _parsed(path).items():
        if key not in options:
            raise Misuse(f"{path} has {key!r}, which is no option{_hint(key, value, options)}")
        found[key] = _Given(value, f"{key} in {path}")
    return found


def _hint(key: str, value: object, options: Collection[str]) -> str:
    if isinstance(value, dict):
        return ": options stand at the top level of the file, not in a table"
    near = _nearest(key.lower().replace("-", "_"), options, 0.6)
    return f": did you mean {near}?" if near is not None else "; 'muxlink serve --help' lists them"


def _parsed(path: str) -> dict[str, Any]:
    try:
        with open(path, "rb") as file:
            text = file.read(MAX_FILE + 1)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise Misuse.because(f"cannot read the options in {path}: {reason}", error) from error
    if len(text) > MAX_FILE:
        raise Misuse(f"cannot read the options in {path}: it has more than {MAX_FILE} bytes")
    try:
        return tomllib.loads(text.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise Misuse.because(f"{path} is no TOML: it is not written in UTF-8", error) from error
    except (ValueError, RecursionError) as error:
        raise Misuse.because(f"{path} is no TOML: {' '.join(str(error).split())}", error) from error


def _nearest(name: str, names: Collection[str], cutoff: float) -> str | None:
    return next(iter(difflib.get_close_matches(name, names, 1, cutoff)), None)


def _read(described: Described, text: str) -> object:
    """The value that a text says; what is no number stays a text, which the option then refuses."""
    if described.kind is int and WHOLE.fullmatch(text):
        return int(text)
    if described.kind is float and DECIMAL.fullmatch(text):
        return float(text)
    return text
