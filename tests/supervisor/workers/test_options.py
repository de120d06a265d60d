"""What ``muxlink serve`` can be told, and what it cannot."""

import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.errors import Misuse
from actors.settings import Tls
from supervisor.workers.options import MAX_SOCKET_PATH, MAX_WORKERS, ServeOptions, describe


def options(**values: Any) -> ServeOptions:
    return ServeOptions.of({"handler": "app:handler", **values})


def test_the_defaults_are_options_that_work() -> None:
    made = options()
    assert (made.workers, made.drain_delay, made.drain_timeout) == (1, 5.0, 20.0)
    assert ServeOptions.of(json.loads(json.dumps(made.as_dict()))) == made


COUNTS = {"workers": (0, MAX_WORKERS), "max_requests": (1, 2**31 - 1), "max_connections": (1, 2**31 - 1)}
TIMES = {
    "drain_delay": (0, 86_400),
    "drain_timeout": (0, 86_400),
    "start_timeout": (0.001, 86_400),
    "worker_timeout": (1.5, 86_400),
    "max_worker_age": (0.001, 365 * 86_400),
    "max_connection_age": (0.001, 864_000),
}


@pytest.mark.parametrize(("name", "low", "high"), [(name, *ends) for name, ends in {**COUNTS, **TIMES}.items()])
def test_a_number_is_taken_up_to_its_ends_and_refused_beyond(name: str, low: float, high: float) -> None:
    for value in (low, high):
        assert getattr(options(**{name: value}), name) == value
    wrong: object
    for wrong in (low - 1, high + 1, -1, math.nan, math.inf, True, "4", b"4", [4]):
        with pytest.raises(Misuse, match=rf"^option {name} must be a .*number.* from .* to .*, not ") as caught:
            options(**{name: wrong})
        assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize("name", COUNTS)
def test_a_count_is_whole(name: str) -> None:
    with pytest.raises(Misuse, match=f"option {name} must be a whole number"):
        options(**{name: 2.0})


@pytest.mark.parametrize("name", TIMES)
def test_a_time_may_be_whole_as_files_have_it(name: str) -> None:
    assert getattr(options(**{name: 7}), name) == 7


@pytest.mark.parametrize("name", [name for name, (kind, _) in describe().items() if kind.kind is str])
@pytest.mark.parametrize("value", ["", "a\0b", "x" * 5000, 7, True, b"app:handler", ["app:handler"]])
def test_a_text_that_is_none_is_refused(name: str, value: object) -> None:
    if (name, value) == ("dossiers", ""):
        value = "\0"  # empty is a way to switch them off
    with pytest.raises(Misuse, match=f"^option {name} must be ") as caught:
        options(**{name: value})
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize("name", [name for name, (_, default) in describe().items() if default is not None])
def test_what_must_have_a_value_cannot_be_none(name: str) -> None:
    with pytest.raises(Misuse, match=f"option {name} must be"):
        options(**{name: None})


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        ("handler", "app", "option handler must be MODULE:HANDLER, such as examples.hello:hello, not 'app'"),
        ("handler", ":app", "option handler must be MODULE:HANDLER"),
        ("bind", "127.0.0.1", "option bind: bad address '127.0.0.1': write HOST:PORT"),
        ("bind", "127.0.0.1:70000", "option bind: bad address"),
        ("bind", "unix:", "option bind: bad address"),
        ("bind", "h:" + "9" * 4000, "option bind must be HOST:PORT or unix:PATH"),
        (
            "bind",
            "unix:/" + "x" * 107,
            "option bind is too long for a Unix socket: its path has 108 bytes, and 107 fit",
        ),
        ("control", "/" + "ü" * 60, "option control is too long for a Unix socket: its path has 121 bytes"),
        ("health_bind", "unix:/run/health", "option health_bind must be HOST:PORT, which a probe can reach"),
        ("health_bind", "8081", "option health_bind: bad address"),
        ("log_format", "xml", "option log_format must be one of text, json, not 'xml'"),
        ("log_level", "loud", "option log_level must be one of critical, error, warning, info, debug, not 'loud'"),
        ("log_level", "INFO", "option log_level must be one of"),
        ("keyfile", "key.pem", "option keyfile and option client_ca go with option certfile"),
        ("client_ca", "ca.pem", "option keyfile and option client_ca go with option certfile"),
    ],
)
def test_a_wrong_value_names_the_option_and_the_remedy(name: str, value: str, told: str) -> None:
    with pytest.raises(Misuse) as caught:
        options(**{name: value})
    assert str(caught.value).startswith(told)


def test_the_longest_path_of_a_socket_is_taken() -> None:
    made = options(control="x" * MAX_SOCKET_PATH, bind="unix:" + "y" * MAX_SOCKET_PATH)
    assert made.control == "x" * MAX_SOCKET_PATH


@pytest.mark.parametrize(
    ("name", "value"),
    [("health_bind", "127.0.0.1:1"), ("max_requests", 9), ("max_worker_age", 9.0)],
)
def test_what_needs_a_parent_is_refused_without_one(name: str, value: object) -> None:
    with pytest.raises(Misuse, match=f"option {name} needs a parent, and option workers is 0: --workers 1 has one"):
        options(workers=0, **{name: value})
    assert getattr(options(workers=1, **{name: value}), name) == value


@pytest.mark.parametrize("path", ["off", "control.sock"])
def test_a_control_socket_needs_no_parent(path: str) -> None:
    assert options(workers=0, control=path).control == path


@pytest.mark.parametrize("directory", ["", "off", "/var/lib/app/dossiers", None])
def test_dossiers_go_to_a_directory_or_nowhere(directory: str | None) -> None:
    assert options(dossiers=directory).dossiers == directory


def test_probes_have_a_port_of_their_own() -> None:
    with pytest.raises(Misuse, match="option health_bind is what option bind is"):
        options(health_bind="127.0.0.1:8080")
    assert options(bind="127.0.0.1:0", health_bind="127.0.0.1:0").health_bind == "127.0.0.1:0"


def test_an_unknown_name_or_no_handler_is_refused() -> None:
    with pytest.raises(Misuse, match="there is no option wrokers"):
        options(wrokers=4)
    with pytest.raises(Misuse, match="option handler is missing"):
        ServeOptions.of({})


def test_limits_and_tls_are_those_of_the_options() -> None:
    made = options(certfile="c", keyfile="k", client_ca="a", max_connections=5, max_connection_age=9.0, drain_timeout=3)
    assert made.tls() == Tls(certfile="c", keyfile="k", client_ca="a")
    limits = made.limits()
    assert (limits.max_connections, limits.max_connection_age, limits.drain_timeout) == (5, 9.0, 3)
    assert options().tls() is None


@given(
    st.sampled_from(list(describe())),
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary() | st.lists(st.integers()),
)
def test_whatever_is_said_is_an_option_or_one_line(name: str, value: object) -> None:
    told, made = "", None
    try:
        made = options(**{name: value})
    except Misuse as error:
        told = str(error)
    if made is None:
        assert name in told
        assert len(told.splitlines()) == 1
    else:
        assert made.limits().max_connections == made.max_connections
        assert ServeOptions.of(json.loads(json.dumps(made.as_dict()))) == made
