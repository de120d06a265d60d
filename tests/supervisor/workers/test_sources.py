"""Options from the command line, the environment, a file and the defaults."""

import argparse
import os
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import NoReturn

import pytest
from attrs import define, field
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from actors.errors import Misuse
from supervisor.workers.options import ServeOptions, describe
from supervisor.workers.sources import add_options, gather

NAMES = list(describe())


class Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise AssertionError(message)


def gathered(*argv: str, environ: Mapping[str, str] | None = None, handler: str | None = "app:handler") -> ServeOptions:
    parser = Parser(prog="muxlink serve")
    add_options(parser)
    return gather(parser.parse_args([*argv, *([handler] if handler else [])]), environ or {})


def refusal(*argv: str, environ: Mapping[str, str] | None = None, handler: str | None = "app:handler") -> str:
    with pytest.raises(Misuse) as caught:
        gathered(*argv, environ=environ, handler=handler)
    assert len(str(caught.value).splitlines()) == 1
    return str(caught.value)


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return Path("muxlink.toml")


# --- each option through each source ----------------------------------------------------------------------------------

OTHERS: dict[str, tuple[object, ...]] = {
    "handler": ("a:one", "b:two", "c:three"),
    "bind": ("127.0.0.1:1", "[::1]:2", "unix:three.sock"),
    "health_bind": ("127.0.0.1:11", "127.0.0.1:12", "127.0.0.1:13"),
    "log_format": ("json", "text", "json"),
    "log_level": ("error", "info", "debug"),
}
"""Values that an option can have; of a number 3, 4 and 5, of any other text some words."""


def values_of(name: str) -> tuple[object, ...]:
    words = {int: (3, 4, 5), float: (3.0, 4.5, 5.25), str: ("one", 'two "and" more', "thr€e")}
    return OTHERS.get(name, words[describe()[name][0].kind])


def in_toml(value: object) -> str:
    return str(value) if not isinstance(value, str) else '"' + value.replace('"', '\\"') + '"'


@define
class Said:
    """What is said in each of the sources."""

    argv: list[str] = field(factory=list)
    environ: dict[str, str] = field(factory=dict)
    lines: list[str] = field(factory=list)

    def add(self, source: int, name: str, value: object) -> None:
        """Say the option on the command line (0), in the environment (1), or in the file (2)."""
        if source == 0:
            self.argv += [str(value)] if name == "handler" else [f"--{name.replace('_', '-')}", str(value)]
        elif source == 1:
            self.environ[f"MUXLINK_{name.upper()}"] = str(value)
        else:
            self.lines.append(f"{name} = {in_toml(value)}")

    def gathered(self, config: Path, handler: str | None) -> ServeOptions:
        config.write_text("\n".join(self.lines), encoding="utf-8")
        return gathered("--config", str(config), *self.argv, environ=self.environ, handler=handler)


def with_certificate(name: str) -> dict[str, object]:
    return {"certfile": "cert.pem"} if name in ("keyfile", "client_ca") else {}


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sampled_from(NAMES), st.sets(st.sampled_from(range(3))))
def test_the_first_source_that_has_an_option_decides(config: Path, name: str, sources: set[int]) -> None:
    said = Said()
    if with_certificate(name):
        said.environ["MUXLINK_CERTFILE"] = "cert.pem"
    if name != "handler":
        said.lines.append('handler = "app:handler"')
    elif not sources:
        return  # it must be given somewhere
    for source in sorted(sources):
        said.add(source, name, values_of(name)[source])
    made = said.gathered(config, None)
    wanted = values_of(name)[min(sources)] if sources else describe()[name][1]
    assert getattr(made, name) == wanted
    assert type(getattr(made, name)) is type(wanted)
    handler = {"handler": "app:handler"} if name != "handler" else {}
    assert made == ServeOptions.of({**handler, **with_certificate(name), name: wanted}), "and nothing else was said"


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.dictionaries(st.sampled_from([name for name in NAMES if name not in OTHERS]), st.sampled_from(range(3))))
def test_options_of_all_sources_come_together(config: Path, sources: dict[str, int]) -> None:
    said = Said(environ={"MUXLINK_CERTFILE": "cert.pem"})
    wanted: dict[str, object] = {"handler": "app:handler", "certfile": "cert.pem"}
    for name, source in sources.items():
        wanted[name] = values_of(name)[0]
        said.add(source, name, wanted[name])
    if sources.get("certfile") == 2:
        wanted["certfile"] = "cert.pem"  # the environment comes first
    assert said.gathered(config, "app:handler") == ServeOptions.of(wanted)


def test_the_environment_names_the_file_and_the_command_line_another(config: Path, tmp_path: Path) -> None:
    config.write_text("workers = 2")
    (tmp_path / "other.toml").write_text("workers = 3")
    environ = {"MUXLINK_CONFIG": str(config)}
    assert gathered(environ=environ).workers == 2
    assert gathered("--config", "other.toml", environ=environ).workers == 3


def test_a_whole_number_is_a_time_in_every_source(config: Path) -> None:
    config.write_text("drain_timeout = 7")
    made = (
        gathered("--config", str(config)), gathered("--drain-timeout", "7"),
        gathered(environ={"MUXLINK_DRAIN_TIMEOUT": "7"}),
    )  # fmt: skip
    assert [each.drain_timeout for each in made] == [7, 7, 7]


@pytest.mark.parametrize("name", [name for name, (_, default) in describe().items() if default is None])
def test_an_empty_variable_of_what_may_be_missing_counts_as_none(name: str) -> None:
    assert gathered(environ={f"MUXLINK_{name.upper()}": ""}) == gathered()


# --- what is wrong, and where -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        ("workers", "4.5", "must be a whole number from 0 to 512, not '4.5'"),
        ("workers", "٣", "must be a whole number from 0 to 512, not '٣'"),
        ("workers", "1_0", "must be a whole number"),
        ("workers", "", "must be a whole number"),
        ("workers", "9" * 5000, "must be a whole number"),
        ("workers", "600", "must be a whole number from 0 to 512, not 600"),
        ("drain_timeout", "5s", "must be a number of seconds from 0 to 86400, not '5s'"),
        ("drain_timeout", "nan", "must be a number of seconds"),
        ("drain_timeout", "inf", "must be a number of seconds"),
        ("drain_timeout", "1e999", "must be a number of seconds"),
        ("log_format", "xml", "must be one of text, json"),
        ("bind", "nowhere", ": bad address 'nowhere'"),
    ],
)
def test_a_wrong_value_names_its_source(config: Path, name: str, value: str, told: str) -> None:
    flag, variable = f"--{name.replace('_', '-')}", f"MUXLINK_{name.upper()}"
    gap = "" if told.startswith(":") else " "
    assert refusal(f"{flag}={value}").startswith(f"{flag}{gap}{told}")
    assert refusal(environ={variable: value}).startswith(f"{variable}{gap}{told}")
    config.write_text(f'{name} = "{value}"', encoding="utf-8")
    begin, _, _ = told.partition(", not ")
    assert refusal("--config", str(config)).startswith(f"{name} in muxlink.toml{gap}{begin}")


def test_two_options_that_do_not_go_together_name_both_sources(config: Path) -> None:
    config.write_text("workers = 0")
    told = refusal("--config", str(config), environ={"MUXLINK_HEALTH_BIND": "127.0.0.1:1"})
    assert told == "MUXLINK_HEALTH_BIND needs a parent, and workers in muxlink.toml is 0: --workers 1 has one"
    told = refusal("--keyfile", "key.pem")
    assert told == "--keyfile and --client-ca go with --certfile, the certificate to serve with"


def test_a_handler_must_come_from_somewhere() -> None:
    assert refusal(handler=None).startswith("there is nothing to serve: name it as MODULE:HANDLER, such as")
    assert refusal(handler="app").startswith("the handler must be MODULE:HANDLER")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("wrokers = 4", "muxlink.toml has 'wrokers', which is no option: did you mean workers?"),
        ("drain-timeout = 4", "muxlink.toml has 'drain-timeout', which is no option: did you mean drain_timeout?"),
        ("config = 'x'", "muxlink.toml has 'config', which is no option"),
        ("colour = 4", "muxlink.toml has 'colour', which is no option; 'muxlink serve --help' lists them"),
        ("[serve]\nworkers = 4", "has 'serve', which is no option: options stand at the top level of the file, not in"),
        ("workers = true", "workers in muxlink.toml must be a whole number from 0 to 512, not True"),
        ("max_worker_age = 2026-11-21", "max_worker_age in muxlink.toml must be a number of seconds"),
        ("workers = ", "muxlink.toml is no TOML: Invalid value (at"),
        ("workers = 1\nworkers = 2", "muxlink.toml is no TOML: Cannot overwrite a value"),
        ("a = " + "[" * 3000, "muxlink.toml is no TOML: "),
        ("# " + "x" * 2**20, "cannot read the options in muxlink.toml: it has more than 1048576 bytes"),
    ],
    ids="slip hyphen config stranger table true date value twice deep long".split(),
)
def test_a_file_that_is_wrong_is_one_line(config: Path, text: str, told: str) -> None:
    config.write_text(text)
    assert told in refusal("--config", str(config))


def test_a_file_that_cannot_be_read_is_one_line(config: Path) -> None:
    assert refusal("--config", "nosuch.toml") == "cannot read the options in nosuch.toml: No such file or directory"
    assert refusal("--config", ".") == "cannot read the options in .: Is a directory"
    assert refusal("--config", "") == "cannot read the options in : No such file or directory"
    assert refusal("--config", "a\0b").startswith("cannot read the options in")
    config.write_bytes(b'handler = "\xff"')
    assert refusal("--config", str(config)) == "muxlink.toml is no TOML: it is not written in UTF-8"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_of_somebody_elses_is_one_line(config: Path) -> None:
    config.touch(mode=0)
    assert refusal("--config", str(config)) == "cannot read the options in muxlink.toml: Permission denied"


def test_a_file_may_be_a_pipe(config: Path) -> None:
    os.mkfifo(config)
    writer = threading.Thread(target=config.write_text, args=("workers = 5",))
    writer.start()
    try:
        assert gathered("--config", str(config)).workers == 5
    finally:
        writer.join()


@pytest.mark.parametrize(
    ("variable", "meant"),
    [
        ("MUXLINK_WORKER", "MUXLINK_WORKERS"),
        ("MUXLINK_DRAIN_TIMOUT", "MUXLINK_DRAIN_TIMEOUT"),
        ("MUXLINK_LOGLEVEL", "MUXLINK_LOG_LEVEL"),
        ("MUXLINK_CERT_FILE", "MUXLINK_CERTFILE"),
        ("MUXLINK_CONFIGS", "MUXLINK_CONFIG"),
        ("MUXLINK_workers", "MUXLINK_WORKERS"),
    ],
)
def test_a_variable_that_is_nearly_an_option_is_refused(variable: str, meant: str) -> None:
    told = refusal(environ={variable: "a secret"})
    assert told == f"the environment has {variable}, which is no option: did you mean {meant}?"


@pytest.mark.parametrize(
    "name",
    "EXAMPLES REQUIRE_PEERS SILENCE SERVICE_HOST SERVICE_PORT SERVICE_PORT_H2 PORT PORT_8080_TCP PORT_8080_TCP_ADDR "
    "PORT_8080_TCP_PROTO".split(),
)
def test_a_variable_that_is_like_no_option_is_somebody_elses(name: str) -> None:
    assert gathered(environ={f"MUXLINK_{name}": "tcp://10.0.0.1:8080", "WORKERS": "5"}) == gathered()


# --- help -------------------------------------------------------------------------------------------------------------


def test_help_names_each_option_with_its_default_and_unit() -> None:
    parser = Parser(
        prog="muxlink serve",
        formatter_class=lambda prog: argparse.HelpFormatter(prog, max_help_position=100, width=4000),
    )
    add_options(parser)
    lines = {line.split()[0]: line for line in parser.format_help().splitlines() if line.startswith("  ")}
    for name, (described, default) in describe().items():
        if name == "handler":
            continue
        line = lines[f"--{name.replace('_', '-')}"]
        assert described.help in line
        assert (described.kind is float) == ("SECONDS" in line and "seconds" in line)
        if default is not None:
            shown = f"{default:g}" if isinstance(default, float) else default
            assert f"(default: {shown})" in line
    assert "seconds that open streams have, then (default: 20)" in lines["--drain-timeout"]
    assert {"MODULE:HANDLER", "--config"} <= lines.keys()
