"""Virtual environments of their own, for libraries that cannot live beside ours: made once, and kept where ours is."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from tests.benchmarks.harness import Failed

OLD_AIOH2: Final = ("aioh2==0.2.3", "h2==3.2.0", "hpack==3.0.0", "hyperframe==5.2.0", "priority==1.3.0")
"""aioh2's last version, with the newest of what it can be installed with."""
_SECONDS: Final = 300


@contextmanager
def python_with(packages: Sequence[str]) -> Iterator[str]:
    """The interpreter of an environment that has nothing but these, which the first of them names.

    It is kept in the virtual environment that runs the benchmarks; where there is none, only until the end.
    """
    if sys.prefix == sys.base_prefix:
        with tempfile.TemporaryDirectory() as folder:
            yield _made(Path(folder), packages)
    else:
        yield _made(Path(sys.prefix) / "benchmarks", packages)


def _made(folder: Path, packages: Sequence[str]) -> str:
    environment = folder / packages[0].replace("==", "-")
    if not environment.exists():
        folder.mkdir(exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder) as unfinished:
            made = Path(unfinished) / "environment"
            _run([sys.executable, "-m", "venv", str(made)])
            _run([str(made / "bin" / "python"), "-m", "pip", "install", "--quiet", *packages])
            made.rename(environment)  # so that what is there is whole
    return str(environment / "bin" / "python")


def _run(command: Sequence[str]) -> None:
    quiet = os.environ | {"PIP_DISABLE_PIP_VERSION_CHECK": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=quiet, timeout=_SECONDS, check=False)
    if done.returncode:
        raise Failed(f"{' '.join(command)} ended with {done.returncode}: {done.stderr.strip()[-2000:]}")
