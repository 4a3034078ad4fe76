"""``init``: a first portmon.yaml, connections, and what to run on the servers."""

from __future__ import annotations

import csv
import io
import json
import re
import shlex
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from portmon.api.server_setup import Account, setup_script
from portmon.cli.terminal import say
from portmon.errors import CommandError, RequestError

_HOST = re.compile(
    r"(?P<name>[^\s=,;:\[\]]+)(=(\[(?P<v6>[0-9A-Fa-f:.]+)\]|(?P<address>[^\s=,;:\[\]]+))(:(?P<port>[0-9]{1,5}))?)?"
)
_YAML = """\
# portmon's configuration, see docs/configuration.md for every field. `portmon check` says what it means.
# Secrets do not belong here, but into Airflow connections.

cmdb:
  # Where the hosts come from. Later this may be NetBox, Prometheus service discovery, an Ansible inventory or any JSON
  # over HTTP: docs/cmdb.md.
  source: {{type: file, path: {hosts}}}     # columns id,name,address,port,declared,label.<name>

ssh:
  conn_id: ssh_default             # Airflow SSH connection with user and key
  sudo: true                       # list with `sudo -n`, to see the programs of other users
  # Hosts with another user, key, port or bastion:
  # groups:
  #   - {{name: dmz, match: {{host: "dmz-*"}}, conn_id: ssh_dmz, port: 2222}}

# What is watched: the first rule that matches counts; a port that no rule matches is watched.
# rules:
#   - {{action: deny, program: "code-server*", comment: of developers}}

# Ports that must listen, besides those that are learned:
# declared:
#   - {{host: "web*", port: [80, 443]}}

# Who is told. Without channels, alerts are in the logs of the alert tasks and on portmon's page: docs/alerts.md.
# alerts:
#   channels:
#     - {{type: notifier, name: mail, notifier: airflow.providers.smtp.notifications.smtp.SmtpNotifier,
#        arguments: {{to: ops@example.com, smtp_conn_id: smtp_default, subject: $title, html_content: $html}}}}
"""


def init(
    key: Annotated[
        str | None,
        typer.Option("--key", help="SSH key for portmon alone, made if it is not there; default: in --folder."),
    ] = None,
    user: Annotated[
        str | None,
        typer.Option("--user", help="Account on the servers, which portmon-server.sh makes; default: portmon."),
    ] = None,
    hosts: Annotated[
        str | None,
        typer.Option(
            "--hosts",
            help="NAME, NAME=ADDRESS or NAME=ADDRESS:PORT, with commas; or a CSV file (id,name,address,port).",
        ),
    ] = None,
    port: Annotated[
        int, typer.Option("--port", help="Port of Airflow's page (written to portmon.env).", min=1, max=65535)
    ] = 8080,
    folder: Annotated[Path | None, typer.Option("--folder", help="Where to write; default: $AIRFLOW_HOME.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Write over files that are there.")] = False,
) -> None:
    """Write a first portmon.yaml, a host list, an Airflow connection and settings, and say what is left to do.

    Without --hosts it asks for what no option gives. portmon-server.sh is what to run on each server. portmon.env has
    the settings of an Airflow that is made for portmon; an Airflow that you have already needs only its
    `dag_bundle_config_list`.
    """
    into = _path(str(folder or _home()), "--folder")
    asks, default = hosts is None, str(into / "portmon_key")
    if asks and key is None:
        key = typer.prompt("SSH key for portmon alone (made if it is not there)", default=default)
    if asks and user is None:
        user = typer.prompt("Account for portmon on the servers (portmon-server.sh makes it)", default="portmon")
    key_file, user = _path(key or default, "--key"), user or "portmon"
    account = Account(user, sudo=True)
    listed, path = _host_list(hosts or typer.prompt("Hosts (NAME=ADDRESS,… or a CSV file)"))
    config, connections, env, server = (
        into / f"portmon{rest}" for rest in (".yaml", "-connections.json", ".env", "-server.sh")
    )
    extra = json.dumps({"key_file": str(key_file)})
    made = {
        config: _YAML.format(hosts=json.dumps(str(path or "portmon-hosts.csv"))),
        connections: json.dumps({"ssh_default": {"conn_type": "ssh", "login": user, "extra": extra}}, indent=2) + "\n",
        env: exports(_settings(into, config, port)),
    }
    if listed:
        made[into / "portmon-hosts.csv"] = listed
    if there := [str(file) for file in (*made, server) if file.exists() and not force]:
        raise CommandError(f"{', '.join(there)}: there already; --force writes over, --folder writes elsewhere")
    try:
        into.mkdir(parents=True, exist_ok=True)
        made[server] = setup_script(replace(account, keys=(_public_key(key_file),)))
        for file, text in made.items():
            file.write_text(text)
            say(f"wrote {file}")
    except OSError as error:
        raise CommandError(f"{error.filename or into}: {error.strerror}") from error
    _say_what_is_left(env, connections, server)


def exports(values: Mapping[str, str]) -> str:
    """Lines that a shell reads to have variables in its environment."""
    return "".join(f"export {name}={shlex.quote(text)}\n" for name, text in values.items())


def _path(given: str, option: str) -> Path:
    try:
        return Path(given).expanduser().absolute()
    except RuntimeError as error:
        raise RequestError(f"{option}: {given[:80]!r}: {error}") from error


def _settings(home: Path, config: Path, port: int) -> dict[str, str]:
    from portmon.airflow.provider import BUNDLES

    return {
        "AIRFLOW_HOME": str(home),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__DAG_PROCESSOR__DAG_BUNDLE_CONFIG_LIST": json.dumps(BUNDLES),
        # `airflow standalone` has a simple login: a reader elsewhere comes through `ssh -L`.
        "AIRFLOW__API__HOST": "127.0.0.1",
        "AIRFLOW__API__PORT": str(port),
        "AIRFLOW__API__BASE_URL": f"http://localhost:{port}",
        "AIRFLOW__PORTMON__CONFIG": str(config),
    }


def _home() -> Path:
    from portmon.airflow.installation import home

    return home()


def _host_list(given: str) -> tuple[str, Path | None]:
    """Lines of a host list to write, or the path of one that is there."""
    if given.strip().endswith(".csv") or "/" in given:
        file = _path(given.strip(), "--hosts")
        if not file.is_file():
            raise RequestError(f"--hosts: there is no file {str(file)[:200]}")
        return "", file
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(("id", "name", "address", "port"))
    seen: set[str] = set()
    for part in filter(None, (one.strip() for one in given.split(","))):
        found = _HOST.fullmatch(part)
        if found is None or not 1 <= int(found["port"] or 22) <= 65535:
            raise RequestError(f"--hosts: {part[:80]!r} is not NAME, NAME=ADDRESS or NAME=ADDRESS:PORT")
        name = found["name"]
        if name in seen:
            raise RequestError(f"--hosts: {name} is named twice")
        seen.add(name)
        writer.writerow((name, name, found["v6"] or found["address"] or name, found["port"] or ""))
    if not seen:
        raise RequestError("--hosts: name at least one host")
    return out.getvalue(), None


def _public_key(file: Path) -> str:
    """The public half of a key, which is made if it is not there."""
    if file.exists() and not file.is_file():
        raise CommandError(f"--key: {file} is no file")
    if not file.exists():
        file.parent.mkdir(parents=True, exist_ok=True)
        _keygen(file, "-q", "-t", "ed25519", "-N", "", "-C", "portmon", "-f", str(file))
        say(f"made {file}")
    public = file.with_name(f"{file.name}.pub")
    return public.read_text().strip() if public.is_file() else _keygen(public, "-y", "-P", "", "-f", str(file)).strip()


def _keygen(wanted: Path, *arguments: str) -> str:
    """Run ``ssh-keygen``, which is to make a file or its text."""
    tool = shutil.which("ssh-keygen")
    if tool is None:
        raise CommandError(f"there is no {wanted}, and no ssh-keygen here that could make it (Debian: openssh-client)")
    command = [tool, *arguments]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    if done.returncode:
        raise CommandError(f"{shlex.join(command)}: {done.stderr.strip() or done.returncode}")
    return done.stdout


def _say_what_is_left(env: Path, connections: Path, server: Path) -> None:
    quoted = {name: shlex.quote(str(file)) for name, file in (("env", env), ("conn", connections), ("server", server))}
    lines = [
        "",
        f"On every server, as root: {server}. For instance",
        "",
        f"ssh root@SERVER sh -s < {quoted['server']}",
        "",
        "Here, for an Airflow of portmon's own:",
        "",
        f". {quoted['env']}",
        "airflow db migrate",
        f"airflow connections import --overwrite {quoted['conn']}",
        "airflow standalone    # prints the login of its page, and stays: go on in another terminal",
        "",
        f". {quoted['env']}",
        "portmon doctor",
        "",
        "In an Airflow that you have already, do not load portmon.env: set its dag_bundle_config_list as README says,",
        f"import {connections} without --overwrite, restart it, and call portmon doctor.",
    ]
    for line in lines:
        say(line, whole=True)
