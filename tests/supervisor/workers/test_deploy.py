"""The files in ``examples/deploy`` are right: by the hosts' own checks, and by what the options mean (M4, M5, M7)."""

from __future__ import annotations

import argparse
import configparser
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import attrs
import pytest
import yaml  # type: ignore[import-untyped, unused-ignore]
from kubernetes_validate import ValidationError, latest_version, validate  # type: ignore[import-untyped, unused-ignore]

from supervisor.workers.options import ServeOptions
from supervisor.workers.probes import LIVENESS, READINESS
from supervisor.workers.sources import add_options, gather
from tests.interop.peers import ROOT, missing

DEPLOY = ROOT / "examples" / "deploy"
UNITS = ("muxlink.service", "muxlink.socket")
TOML = DEPLOY / "muxlink.toml"
FIRST_WITH_GRPC_PROBES = "1.27"
EXPOSURE = 30
"""Tenths; what systemd-analyze calls OK ends at 40."""


def told(command: list[str], environ: Mapping[str, str]) -> ServeOptions:
    """The options that a command line, ``muxlink serve ...``, comes to on the host."""
    assert Path(command[0]).name == "muxlink"
    assert command[1] == "serve"
    parser = argparse.ArgumentParser(exit_on_error=False)
    add_options(parser)
    arguments = [str(TOML) if Path(each).name == TOML.name else each for each in command[2:]]
    return gather(parser.parse_args(arguments), environ)


# --- the file of options ----------------------------------------------------------------------------------------------


def test_the_file_has_options_only_and_they_are_accepted() -> None:
    values = tomllib.loads(TOML.read_text())
    options = ServeOptions.of(values)
    assert {name: getattr(options, name) for name in values} == values


def test_the_file_shows_every_option_also_those_that_are_off() -> None:
    """A line that is switched on, by taking away its #, is accepted too."""
    switched_on = re.sub(r"^# (\w+ = )", r"\1", TOML.read_text(), flags=re.MULTILINE)
    values = tomllib.loads(switched_on)
    assert set(values) == {each.name for each in attrs.fields(ServeOptions)}
    ServeOptions.of(values)


# --- systemd ----------------------------------------------------------------------------------------------------------


def unit(name: str) -> dict[str, dict[str, str]]:
    """The settings of a unit, by section."""
    parser = configparser.RawConfigParser(delimiters=("=",), comment_prefixes=("#",), strict=True)
    parser.optionxform = str  # type: ignore[assignment, method-assign]
    parser.read_string((DEPLOY / name).read_text())
    return {section: dict(parser[section]) for section in parser.sections()}


def seconds(setting: str) -> float:
    """A span of time of a unit, here always a number of seconds."""
    return float(unit("muxlink.service")["Service"][setting])


def served_by_systemd() -> ServeOptions:
    return told(shlex.split(unit("muxlink.service")["Service"]["ExecStart"]), {})


@pytest.fixture
def installed(tmp_path: Path) -> Path:
    """A copy of the units whose commands are there on this machine, too."""
    for name in UNITS:
        text = re.sub(r"^(Exec\w+=)\S+", rf"\g<1>{sys.executable}", (DEPLOY / name).read_text(), flags=re.MULTILINE)
        (tmp_path / name).write_text(text)
    return tmp_path


def systemd_analyze(*arguments: str) -> tuple[int, str]:
    """Its exit code, and what it had to say."""
    program = shutil.which("systemd-analyze")
    if program is None:
        missing("systemd-analyze is not installed: it is in the Debian package systemd")
    done = subprocess.run([program, *arguments], capture_output=True, text=True, timeout=60, check=False)
    return done.returncode, done.stdout + done.stderr


def verified(folder: Path) -> tuple[int, str]:
    return systemd_analyze("verify", "--man=no", *(str(folder / name) for name in UNITS))


def test_systemd_has_nothing_to_say_against_the_units(installed: Path) -> None:
    """M5."""
    assert verified(installed) == (0, "")


@pytest.mark.parametrize(
    ("right", "wrong", "complaint"),
    [
        ("RestartSec=", "RestartSecs=", "Unknown key 'RestartSecs'"),
        ("KillMode=mixed", "KillMode=some", "Failed to parse"),
        ("ListenStream=8080", "", "Unit has no Listen setting"),
        (sys.executable, "/nonexistent", "not executable"),
    ],
)
def test_systemd_would_complain_of_a_wrong_unit(installed: Path, right: str, wrong: str, complaint: str) -> None:
    for name in UNITS:
        (installed / name).write_text((installed / name).read_text().replace(right, wrong))
    assert complaint in verified(installed)[1]


def test_the_service_is_exposed_to_little(installed: Path) -> None:
    arguments = ("--offline=true", f"--threshold={EXPOSURE}", "--no-pager", str(installed / "muxlink.service"))
    code, said = systemd_analyze("security", *arguments)
    assert code == 0, said.splitlines()[-1]


def test_the_command_line_of_the_service_is_understood() -> None:
    assert served_by_systemd() == ServeOptions.of(tomllib.loads(TOML.read_text()))


def test_systemd_gives_a_service_that_stops_more_time_than_it_takes() -> None:
    """M4."""
    options = served_by_systemd()
    assert options.health_bind is not None  # else nothing waits for drain_delay
    assert seconds("TimeoutStopSec") >= options.drain_delay + options.drain_timeout + 5


def test_systemd_gives_a_service_that_starts_more_time_than_a_worker_has() -> None:
    assert seconds("TimeoutStartSec") > served_by_systemd().start_timeout


def test_systemd_stops_the_parent_alone_and_starts_it_again_only_where_that_can_help() -> None:
    """M4: the parent has its workers drain; exit code 2 is for what was asked wrongly."""
    service = unit("muxlink.service")["Service"]
    assert service["KillMode"] == "mixed"
    assert (service["Restart"], service["RestartPreventExitStatus"]) == ("on-failure", "2")
    assert service["OOMPolicy"] == "continue"


def test_systemd_is_told_by_the_parent_and_reloads_by_sighup() -> None:
    """M2 and M5; systemd 252 has no Type=notify-reload."""
    service = unit("muxlink.service")["Service"]
    assert (service["Type"], service["NotifyAccess"]) == ("notify", "main")
    assert shlex.split(service["ExecReload"])[1:] == ["-HUP", "$MAINPID"]
    assert seconds("WatchdogSec") > 0


def test_the_files_that_a_worker_may_open_are_more_than_its_connections() -> None:
    assert int(unit("muxlink.service")["Service"]["LimitNOFILE"]) > 2 * served_by_systemd().max_connections


# --- Kubernetes -------------------------------------------------------------------------------------------------------


def resources() -> dict[str, dict[str, Any]]:
    """What the file declares, by kind."""
    found = [each for each in yaml.safe_load_all((DEPLOY / "kubernetes.yaml").read_text()) if each]
    assert len({each["kind"] for each in found}) == len(found)
    return {each["kind"]: each for each in found}


def pod() -> dict[str, Any]:
    found: dict[str, Any] = resources()["Deployment"]["spec"]["template"]
    return found


def container() -> dict[str, Any]:
    (found,) = pod()["spec"]["containers"]
    assert isinstance(found, dict)
    return found


def served_by_kubernetes() -> ServeOptions:
    return told(container()["command"], {each["name"]: each["value"] for each in container()["env"]})


def port_of(bind: str | None) -> int:
    assert bind is not None
    host, _, port = bind.rpartition(":")
    assert host == "0.0.0.0"  # noqa: S104  # from other pods, and from the kubelet
    return int(port)


@pytest.mark.parametrize("version", [FIRST_WITH_GRPC_PROBES, latest_version()])
@pytest.mark.parametrize("kind", ["Service", "Deployment"])
def test_kubernetes_accepts_the_file_by_its_own_schemas(kind: str, version: str) -> None:
    """M7."""
    validate(resources()[kind], version, strict=True)


def test_kubernetes_would_refuse_a_wrong_file() -> None:
    deployment = resources()["Deployment"]
    (its,) = deployment["spec"]["template"]["spec"]["containers"]
    its["readinessProbe"]["grpc"]["services"] = its["readinessProbe"]["grpc"].pop("service")
    with pytest.raises(ValidationError, match="services"):
        validate(deployment, latest_version(), strict=True)


def test_the_command_line_and_the_variables_of_the_pod_are_understood() -> None:
    options = served_by_kubernetes()
    variables = {each["name"] for each in container()["env"]}
    assert variables
    assert variables <= {f"MUXLINK_{each.name.upper()}" for each in attrs.fields(ServeOptions)}
    assert options.control is not None
    assert any(options.control.startswith(f"{each['mountPath']}/") for each in container()["volumeMounts"])


def test_kubernetes_gives_a_pod_that_stops_more_time_than_it_takes() -> None:
    """M4."""
    options = served_by_kubernetes()
    assert pod()["spec"]["terminationGracePeriodSeconds"] >= options.drain_delay + options.drain_timeout + 5


def test_each_probe_asks_where_and_what_the_health_listener_answers() -> None:
    """M7."""
    probes = {name: container()[f"{name}Probe"]["grpc"] for name in ("startup", "readiness", "liveness")}
    assert {each["port"] for each in probes.values()} == {port_of(served_by_kubernetes().health_bind)}
    assert probes["readiness"]["service"] in READINESS
    assert probes["startup"]["service"] in READINESS
    assert probes["liveness"]["service"] == LIVENESS


def test_a_pod_has_time_to_start_and_its_end_is_seen_while_it_still_accepts() -> None:
    """M7."""
    startup, readiness = container()["startupProbe"], container()["readinessProbe"]
    options = served_by_kubernetes()
    assert startup["periodSeconds"] * startup["failureThreshold"] > options.start_timeout
    assert readiness["periodSeconds"] * readiness["failureThreshold"] < options.drain_delay


def test_the_headless_service_leads_to_the_port_that_the_pods_serve() -> None:
    service, ports = resources()["Service"]["spec"], {each["name"]: each for each in container()["ports"]}
    (leads,) = service["ports"]
    assert service["clusterIP"] == "None"
    assert ports[leads["targetPort"]]["containerPort"] == port_of(served_by_kubernetes().bind)
    labels = pod()["metadata"]["labels"].items()
    assert service["selector"].items() <= labels
    assert resources()["Deployment"]["spec"]["selector"]["matchLabels"].items() <= labels


def test_the_image_has_a_version_and_the_container_its_bounds() -> None:
    assert re.fullmatch(r"[^:]+:\d+\.\d+\.\d+", container()["image"])
    assert set(container()["resources"]["requests"]) == {"cpu", "memory"}
    assert "memory" in container()["resources"]["limits"]
    inside, outside = container()["securityContext"], pod()["spec"]["securityContext"]
    assert inside["readOnlyRootFilesystem"]
    assert not inside["allowPrivilegeEscalation"]
    assert inside["capabilities"] == {"drop": ["ALL"]}
    assert outside["runAsNonRoot"]
    assert outside["seccompProfile"] == {"type": "RuntimeDefault"}
