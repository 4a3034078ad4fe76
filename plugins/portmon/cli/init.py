"""``init``: a first portmon.yaml, connections, and what to run on the servers."""

from __future__ import annotations

import csv
import io
import json
import shlex
import shutil
import subprocess
from pathlib import Path
from typing import Annotated

import typer

from portmon.cli.terminal import say
from portmon.errors import CommandError, RequestError

SUDO_RULE = (
    "portmon ALL=(root) NOPASSWD: /usr/bin/netstat -nltpW, /usr/bin/netstat -nltp, /usr/bin/ss -tnpe state listening"
)
"""What lets portmon see the programs of other users, and nothing else."""
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
        str | None, typer.Option("--key", help="SSH key for portmon alone; made if it is not there.")
    ] = None,
    user: Annotated[str | None, typer.Option("--user", help="User on the servers.")] = None,
    hosts: Annotated[
        str | None,
        typer.Option(
            "--hosts", help="Path of a CSV file, or hosts as NAME, NAME=ADDRESS or NAME=ADDRESS:PORT, with commas."
        ),
    ] = None,
    port: Annotated[int, typer.Option("--port", help="Of Airflow's page, in portmon.env.", min=1, max=65535)] = 8080,
    folder: Annotated[Path | None, typer.Option("--folder", help="Where to write; default: $AIRFLOW_HOME.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Write over files that are there.")] = False,
) -> None:
    """Write a first portmon.yaml, a host list, an Airflow connection and settings, and say what is left to do.

    portmon.env has what an Airflow that is made for portmon needs in its environment; one that is there needs only the
    bundle of it. Asks for what no option gives. Nothing is written if something is wrong, and no file is written over.
    """
    into = (folder or _home()).expanduser().absolute()
    key = key or typer.prompt("SSH key for portmon alone (made if it is not there)", default=str(into / "portmon_key"))
    user = user or typer.prompt("User on the servers", default="portmon")
    hosts = hosts or typer.prompt("Hosts (a CSV file, or NAME=ADDRESS,…)")
    key_file = Path(key).expanduser().absolute()
    listed, path = _host_list(hosts)
    config, connections, env = (into / f"portmon{rest}" for rest in (".yaml", "-connections.json", ".env"))
    extra = json.dumps({"key_file": str(key_file)})
    made = {
        config: _YAML.format(hosts=json.dumps(str(path or "portmon-hosts.csv"))),
        connections: json.dumps({"ssh_default": {"conn_type": "ssh", "login": user, "extra": extra}}, indent=2) + "\n",
    }
    made[env] = "".join(
        f"export {name}={shlex.quote(value)}\n" for name, value in _settings(into, config, port).items()
    )
    if listed:
        made[into / "portmon-hosts.csv"] = listed
    if there := [str(file) for file in made if file.exists() and not force]:
        raise CommandError(f"{', '.join(there)}: there already; --force writes over, --folder writes elsewhere")
    into.mkdir(parents=True, exist_ok=True)
    _make_key(key_file)
    for file, text in made.items():
        file.write_text(text)
        say(f"wrote {file}")
    _say_what_is_left(env, connections, key_file, user)


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
    file = Path(given).expanduser()
    if file.suffix == ".csv" or file.is_file():
        if not file.is_file():
            raise RequestError(f"--hosts: there is no file {file}")
        return "", file.absolute()
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(("id", "name", "address", "port"))
    seen: set[str] = set()
    for part in filter(None, (one.strip() for one in given.split(","))):
        name, _, address = part.partition("=")
        name, address = name.strip(), address.strip()
        host, colon, port = address.rpartition(":")
        if not (colon and port.isdigit() and ":" not in host.strip("[]")) and not address.startswith("["):
            host, port = address, ""
        if not name or name in seen or (port and not 1 <= int(port) <= 65535):
            raise RequestError(f"--hosts: {part!r} is no NAME=ADDRESS:PORT, or is named twice")
        seen.add(name)
        writer.writerow((name, name, host.strip("[]") or name, port))
    if not seen:
        raise RequestError("--hosts: name at least one host")
    return out.getvalue(), None


def _make_key(file: Path) -> None:
    if file.exists():
        return
    keygen = shutil.which("ssh-keygen")
    if keygen is None:
        raise CommandError(f"there is no {file}, and no ssh-keygen here that could make it (Debian: openssh-client)")
    file.parent.mkdir(parents=True, exist_ok=True)
    command = [keygen, "-q", "-t", "ed25519", "-N", "", "-C", "portmon", "-f", str(file)]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    if done.returncode:
        raise CommandError(f"{shlex.join(command)}: {done.stderr.strip() or done.returncode}")
    say(f"made {file}")


def _say_what_is_left(env: Path, connections: Path, key: Path, user: str) -> None:
    try:
        public = key.with_name(f"{key.name}.pub").read_text().strip()
    except OSError:
        public = f"<the public half of {key}>"
    home = f"~{user}"
    rule = SUDO_RULE.replace("portmon ", f"{user} ", 1)
    lines = [
        "",
        "On every server, as root:",
        "",
        f"useradd --create-home --shell /bin/sh {shlex.quote(user)}",
        # Without a password the account is locked, and an sshd without PAM refuses its keys too.
        f"usermod --password '*' {shlex.quote(user)}",
        f"install -d -m 700 -o {shlex.quote(user)} {home}/.ssh",
        f"echo {shlex.quote(f'restrict {public}')} >> {home}/.ssh/authorized_keys",
        f"chown {shlex.quote(user)} {home}/.ssh/authorized_keys",
        f"echo {shlex.quote(rule)} > /etc/sudoers.d/portmon",
        "",
        "Here:",
        "",
        f". {shlex.quote(str(env))}",
        "airflow db migrate",
        f"airflow connections import {shlex.quote(str(connections))}",
        "airflow standalone    # prints the login of its page and stays; what follows in another terminal",
        f". {shlex.quote(str(env))}",
        "portmon doctor",
    ]
    for line in lines:
        say(line)
