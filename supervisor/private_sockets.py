"""Unix sockets that one user keeps to himself: where they lie, how one is made, and which of them live.

The directory has the mode 0700 and belongs to the user; where it does not, or is a symbolic link, it is refused. A
socket has the mode 0600 from its birth. Those that dead processes left behind are removed by the next that listens.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import re
import socket
import stat
import struct
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

from attrs import frozen

from actors.errors import ConnectFailed, ListenFailed, Misuse

BACKLOG: Final = 1024
NAMED_BY_PID: Final = re.compile(r"[0-9]+\.sock")
MAX_PATH: Final = 107
"""Bytes of a Unix socket's path (Linux)."""

# --- who --------------------------------------------------------------------------------------------------------------


@frozen
class Credentials:
    """Who is at the other end of a Unix socket, or was when it began to listen."""

    pid: int
    uid: int


def peer_of(connected: socket.socket) -> Credentials:
    """Whom the kernel knows at the other end (SO_PEERCRED)."""
    pid, uid, _ = struct.unpack(
        "3i", connected.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    )
    return Credentials(pid, uid)


# --- where ------------------------------------------------------------------------------------------------------------


def default_path(environ: Mapping[str, str], pid: int) -> Path:
    """Where the server of the process ``pid`` has its control socket, unless it is told otherwise."""
    return _places(environ, f"{pid}.sock")[0]


def _places(environ: Mapping[str, str], name: str) -> list[Path]:
    """The paths that such a socket may have, the usual one first."""
    places = []
    if given := environ.get("RUNTIME_DIRECTORY", "").split(":")[0]:
        places.append(Path(given, "control.sock"))
    if runtime := environ.get("XDG_RUNTIME_DIR"):
        places.append(Path(runtime, "muxlink", name))
    return [*places, Path(environ.get("TMPDIR") or tempfile.gettempdir(), f"muxlink-{os.geteuid()}", name)]


def find(environ: Mapping[str, str]) -> Path:
    """The control socket of the one server that this user runs here.

    ``MUXLINK_CONTROL`` names it, as it does for the server; else the first of the usual places counts in which one
    lives. Raises ConnectFailed where none does, and Misuse where there are several to choose from.
    """
    if (told := environ.get("MUXLINK_CONTROL", "off")) not in ("", "off"):
        return Path(told)
    places = _places(environ, "*.sock")
    for place in places:
        living = [(path, pid) for path in sorted(_sockets_at(place)) if (pid := _pid_at(path)) is not None]
        if len(living) > 1:
            known = ", ".join(f"{path} (pid {pid})" for path, pid in living)
            raise Misuse(f"several servers run here: choose one by --control PATH, of {known}")
        if living:
            return living[0][0]
    where = " or ".join(str(place.parent) for place in places)
    raise ConnectFailed(
        f"no server with a control socket runs in {where}: "
        "'muxlink serve MODULE:HANDLER' starts one, and --control PATH names one elsewhere"
    )


def _sockets_at(place: Path) -> list[Path]:
    if "*" not in place.name:
        return [place] if place.exists() else []
    try:
        os.close(_open_private(place.parent))
    except FileNotFoundError:
        return []
    except OSError as error:
        raise ConnectFailed.because(_not_private(place.parent, error), error) from error
    return list(place.parent.glob(place.name))


def _pid_at(path: Path) -> int | None:
    """The process that listens there; None where none does."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(str(path))
        except (FileNotFoundError, ConnectionRefusedError):
            return None
        except OSError as error:
            raise ConnectFailed.because(f"cannot connect to {path}: {error.strerror or error}", error) from error
        return peer_of(probe).pid


# --- how --------------------------------------------------------------------------------------------------------------


def listen_privately(path: Path) -> socket.socket:
    """A socket that listens at ``path``, for this user only; its directory is made where it is not there.

    Raises ListenFailed where that cannot be, and where somebody lives there.
    """
    if len(os.fsencode(path)) > MAX_PATH:
        raise ListenFailed(
            f"the path of a Unix socket has {MAX_PATH} bytes at most: {path} is too long, choose another"
        )
    with _locked(path.parent):
        _make_way(path)
        if NAMED_BY_PID.fullmatch(path.name):
            for other in path.parent.iterdir():
                if NAMED_BY_PID.fullmatch(other.name) and stat.S_ISSOCK(other.lstat().st_mode) and _is_stale(other):
                    other.unlink(missing_ok=True)
        listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            listening.setblocking(False)
            # What is bound takes the mode of the socket (Linux): there is no moment in which others may connect.
            os.fchmod(listening.fileno(), 0o600)
            listening.bind(str(path))
            listening.listen(BACKLOG)
        except OSError as error:
            listening.close()
            raise ListenFailed.because(f"cannot listen at {path}: {error.strerror or error}", error) from error
    return listening


@contextlib.contextmanager
def _locked(directory: Path) -> Iterator[None]:
    """Make the directory where need be, and keep others who listen there from doing so at the same time."""
    try:
        with contextlib.suppress(FileExistsError):
            directory.mkdir(0o700)
        opened = _open_private(directory)
    except OSError as error:
        raise ListenFailed.because(_not_private(directory, error), error) from error
    try:
        fcntl.flock(opened, fcntl.LOCK_EX)
        yield
    finally:
        os.close(opened)


def _open_private(directory: Path) -> int:
    """The directory, opened; raises PermissionError where it is not this user's, or others may enter."""
    opened = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    found = os.fstat(opened)
    if found.st_uid == os.geteuid() and found.st_mode & 0o777 == 0o700:
        return opened
    os.close(opened)
    owner = "" if found.st_uid == os.geteuid() else f" of the user {found.st_uid}"
    raise PermissionError(errno.EPERM, f"it has the mode {stat.S_IMODE(found.st_mode):04o}{owner}")


def _not_private(directory: Path, error: OSError) -> str:
    symbolic = error.errno in (errno.ELOOP, errno.ENOTDIR) and directory.is_symlink()
    why = "it is a symbolic link" if symbolic else error.strerror or error
    return f"a control socket needs a directory of your own with the mode 0700, which {directory} is not: {why}"


def _make_way(path: Path) -> None:
    """Remove what a server left at ``path`` that has ended."""
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise ListenFailed(f"{path} is there already, and is no socket: remove it, or choose another path")
    if not _is_stale(path):
        raise ListenFailed(f"a server has its control socket at {path}: stop it first, or choose another path")
    path.unlink(missing_ok=True)


def _is_stale(path: Path) -> bool:
    try:
        return _pid_at(path) is None
    except ConnectFailed:
        return False
