"""What is broken, and what reads it: frames, listings, inventories and configurations.

``case(kind, number)`` makes the same input for the same number, in any process.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from portmon import probe
from portmon.cmdb import fetch, read_file
from portmon.cmdb_hook import _decode
from portmon.config import AnsibleSource, FileSource, HttpSdSource, HttpSource, NetboxSource, load_config
from portmon.probe.listing import parse_listeners
from tests.fuzz.mutations import Mutator

ROOT = Path(__file__).resolve().parents[2]
FIXTURES = ROOT / "tests" / "fixtures"
NONCE = "n0n0"
KINDS = ("frame", "listing", "inventory", "config")


@dataclass(frozen=True, slots=True)
class Case:
    """One input.

    :param data: as it is read
    :param read: reads it; a frame's result is an observation, a listing's listeners
    """

    data: bytes
    read: Callable[[], Any]


def case(kind: str, number: int, folder: Path) -> Case:
    """The input of a number.

    :param folder: for files
    """
    # Strings are seeds as well, and the same in every process.
    mutator = Mutator(int.from_bytes(f"{kind} {number}".encode(), "big"))
    return _MAKERS[kind](mutator, folder)


# ── frames ──────────────────────────────────────────────────────────────────────────────────────


@cache
def listings() -> tuple[bytes, ...]:
    """What tools printed."""
    paths = [*(FIXTURES / "netstat" / "cases").glob("*.txt"), *(FIXTURES / "netstat" / "ss").glob("*.txt")]
    return tuple(path.read_bytes() for path in sorted(paths))


@cache
def frames() -> tuple[bytes, ...]:
    """What the probe printed, in both versions, all with one nonce."""
    old = sorted((FIXTURES / "netstat" / "frames").glob("*.txt"))
    recorded = [path.read_bytes().replace(b"@@k7Qz", b"@@n0n0") for path in old]
    return (*recorded, (FIXTURES / "fuzz" / "frame-v2.txt").read_bytes())


@cache
def processes() -> tuple[bytes, ...]:
    """What frames say of processes."""
    found = (re.search(rb"@@n0n0 PROC[^\n]*\n(.*?)\n?@@n0n0 ", frame, re.DOTALL) for frame in frames())
    return tuple({match[1]: None for match in found if match})


FIELDS = {
    "tcp": "1", "tcp6": "1", "netns": "4026531840", "pid1": "12", "tried": "-", "tool": "netstat-W", "ended": "0", "via": "-", "ver": "-",
    "uid": "0", "boot": "b1", "range": "32768-60999", "ssx": "0",
}  # fmt: skip


def forged(body: bytes, proc: bytes, ssx: bytes | None, fields: dict[str, bytes], *, version: int = 2) -> bytes:
    """A frame whose lengths are right, whatever it holds: what an attacker prints."""
    begin = b"@@n0n0 "
    if version == 1:
        head = begin + b"BEGIN v=1 tool=%(tool)s uid=%(uid)s via=%(via)s bytes=" % _by_name(fields)
        head += b"%d boot=%s range=%s netns=%s ver=%s\n" % (
            len(body), fields["boot"], fields["range"], fields["netns"], fields["ver"]
        )  # fmt: skip
        return (
            b"\n"
            + head
            + body
            + b"\n"
            + begin
            + b"SSX bytes=%d\n" % len(ssx or b"")
            + (ssx or b"")
            + b"\n"
            + (begin + b"PROC\n" + proc + b"\n" + begin + b"END\n")
        )
    payload = begin + b"LIST tool=%(tool)s ended=%(ended)s via=%(via)s bytes=" % _by_name(fields)
    payload += b"%d ver=%s\n" % (len(body), fields["ver"]) + body + b"\n"
    payload += begin + b"PROC bytes=%d\n" % len(proc) + proc
    if ssx is not None:
        payload += b"\n" + begin + b"SSX ended=%s bytes=%d\n" % (fields["ssx"], len(ssx)) + ssx
    said = b"tcp=%(tcp)s tcp6=%(tcp6)s netns=%(netns)s pid1=%(pid1)s tried=%(tried)s" % _by_name(fields)
    head = begin + b"BEGIN v=2 bytes=%d " % len(payload) + said + b"\n"
    return b"\n" + head + payload + b"\n" + begin + b"END volatile uptime=1.0 clock=- sockets=3\n"


def _by_name(fields: dict[str, bytes]) -> dict[bytes, bytes]:
    return {name.encode(): value for name, value in fields.items()}


def _frame(mutator: Mutator, _: Path) -> Case:
    chance = mutator.random
    if chance.random() < 0.2:
        data = mutator.broken(mutator.pick(frames()), frames())
    else:
        body = mutator.broken(mutator.pick(listings()), listings())
        # Most often one part is broken, and what reads the others sees what it knows.
        proc = mutator.pick(processes())
        proc = mutator.broken(proc, processes()) if chance.random() < 0.5 else proc
        ssx = mutator.broken(mutator.pick(listings()), listings()) if chance.random() < 0.4 else None
        fields = {name: value.encode() for name, value in FIELDS.items()}
        if b"local_address" in body:
            fields["tool"] = b"proc"
        elif b"Recv-Q" in body and b"Proto" not in body:
            fields["tool"] = b"ss"
        if chance.random() < 0.3:
            name = chance.choice(sorted(fields))
            fields[name] = mutator.broken(fields[name], (b"ss:limit,netstat:139", b"iproute2-6.1.0", b"sudo"))
        data = forged(body, proc, ssx, fields, version=chance.choice((1, 2, 2, 2)))
    return Case(data, lambda: probe.read(data, NONCE)[1])


def _listing(mutator: Mutator, _: Path) -> Case:
    data = mutator.broken(mutator.pick(listings()), listings())
    version = mutator.random.choice((None, None, "iproute2-ss170501", "iproute2-ss170905", "iproute2-6.1.0"))
    return Case(data, lambda: parse_listeners(data, version=version))


# ── inventories ─────────────────────────────────────────────────────────────────────────────────

BASE = "https://cmdb.example/base"
CSV = b"id,name,address,port,declared,enabled,label.role\n1,web01,10.0.0.1,,80;443,yes,web\n2,db01,10.0.1.7,2222,5432,no,db\n"
HOSTS = b"""\
defaults: &d {port: 22, labels: {env: prod, since: 2024-01-01}}
hosts:
- {<<: *d, id: 1, name: web01, address: 10.0.0.1}
- {id: "2", name: "db01", address: db01.example.com, declared: [5432, "80,443"]}
- id: 0x3
  name: |
    db02
  address: 2001:db8::1
  labels: [a=b, c]
"""
PAGE = {
    "count": 2,
    "next": None,
    "results": [
        {"id": 1, "name": "web01", "address": "10.0.0.1", "port": 22, "labels": {"role": "web", "n": 1.5}},
        {"id": 2, "name": "db01", "address": "db01", "port": None, "labels": ["a=b", {"slug": "c"}]},
    ],
}
EXPRESSIONS = (
    "id", "name", "labels", "@", "*", "[]", "length(@)", "to_number(name)", "sum(labels)", "keys(@)", "max_by(@, &id)", "join(',', labels)", "abs(port)",
    "sort(labels)", "map(&a, labels)", "labels[?a]", "[*].a.b", "contains(id, 'a')", "not_null(a, b)", "reverse(name)", "merge(labels, @)", "starts_with(id, id)", "labels.*",
)  # fmt: skip


@cache
def inventories() -> dict[str, tuple[bytes, ...]]:
    """Host lists, by what reads them."""
    known = {path.name: path.read_bytes() for path in sorted((FIXTURES / "cmdb").iterdir()) if path.is_file()}
    return {
        "csv": (CSV, CSV.replace(b",", b"\t"), CSV.replace(b";", b" ").replace(b",", b";")),
        "yaml": (HOSTS,),
        "ini": (known["ansible.ini"],),
        "ansible yaml": (known["ansible.yaml"],),
        "ansible json": (known["ansible.json"],),
        "http": (
            json.dumps(PAGE).encode(),
            known["blueking.json"],
            known["servicenow.json"],
            known["blueking_error.json"],
        ),
        "netbox": (known["netbox_devices.json"], known["netbox_virtual_machines.json"], known["netbox_forbidden.json"]),
        "http_sd": (known["http_sd.json"],),
    }


def _inventory(mutator: Mutator, folder: Path) -> Case:
    chance = mutator.random
    kind = chance.choice(sorted(inventories()))
    own = inventories()[kind]
    return inventory_case(mutator, kind, mutator.broken(mutator.pick(own), own), folder)


def inventory_case(mutator: Mutator, kind: str, data: bytes, folder: Path) -> Case:
    """A host list and what reads it.

    :param kind: of :func:`inventories`
    """
    chance = mutator.random
    expression = chance.choice(EXPRESSIONS)
    names = ("id", "name", "address", "port", "labels", "declared", "enabled")
    given = {chance.choice(names): expression} if chance.random() < 0.2 else {}

    def stored(read: Callable[[], Any]) -> Case:
        def whole() -> bytes:
            found = read()
            # As the database and the journal want it.
            return json.dumps([asdict(one) | {"labels": dict(one.labels)} for one in found.hosts]).encode("ascii")

        return Case(data, whole)

    def from_file(name: str, make: Any, **values: Any) -> Case:
        def read() -> Any:
            (folder / name).write_bytes(data)
            return read_file(make.model_validate({"path": name, **values}), folder)

        return stored(read)

    def from_http(source: Any) -> Case:
        answer = SimpleNamespace(status_code=200, is_redirect=False, headers={})

        def send(_: Any) -> Any:
            return _decode(answer, data, "test", "")  # type: ignore[arg-type]

        return stored(lambda: fetch(source, send, base_url=BASE, shown="test"))

    match kind:
        case "csv":
            return from_file("hosts.csv", FileSource, type="file", fields=given)
        case "yaml":
            return from_file(
                "hosts.yaml", FileSource, type="file", items=chance.choice(("hosts", "@", expression)), fields=given
            )
        case "ini" | "ansible yaml" | "ansible json":
            return from_file("hosts", AnsibleSource, type="ansible", format=kind.split()[-1], fields=given)
        case "netbox":
            return from_http(NetboxSource(type="netbox", fields=given, max_pages=3, attempts=1))
        case "http_sd":
            return from_http(HttpSdSource(type="http_sd", fields=given, target_port=True))
        case _:
            style = chance.choice(
                ({"style": "none"}, {"style": "next_link", "next": "next"}, {"style": "page"}, {"style": "offset"})
            )
            more = chance.choice(({}, {"total": "count"}, {"unique": "id"}, {"total": expression}))
            items = chance.choice(("results", "result", "data.info", expression))
            return from_http(HttpSource(items=items, pagination=style, max_pages=3, attempts=1, fields=given, **more))


# ── configurations ──────────────────────────────────────────────────────────────────────────────

CONFIGS = (
    b"""\
cmdb:
  source: {type: http, endpoint: api, params: {a: [1, b]}, pagination: {style: page}, fields: {labels: {a: b.c}}}
  stale_after: 1h 30m
ssh:
  max_output: 4MiB
  groups:
  - {name: old, match: {label: {os: "rhel*"}}, port: 2222}
""",
    b"""\
rules:
- {action: deny, port: [22, 8000-8100], host: "web*", bind: [loopback, 10.0.0.0/8], comment: &c why}
- {action: allow, program: nginx, comment: *c}
declared:
- {host: web*, port: 443}
states: {down_after: 2, retire_after: 30d, flap_window: 3600}
""",
    b"""\
alerts:
  channels:
  - {name: log, type: log}
  - {name: hook, type: webhook, conn_id: hook}
  - {type: notifier, name: mail, notifier: airflow.providers.smtp.notifications.smtp.SmtpNotifier, arguments: {to: a@b.c}}
  routes:
  - {name: db, match: {label: {role: db}, severity: critical, port: 80-90}, channels: [log], language: zh}
  default: [log]
  repeat_every: 1d
retention: {observations: 14d, events: 365d}
""",
)


@cache
def configurations() -> tuple[bytes, ...]:
    """Configurations that are right."""
    sources = (
        b"cmdb:\n  source: {type: netbox, params: {role: [web]}, device_params: {rack_id: 3}}\n",
        b"cmdb:\n  source: {type: http_sd, endpoint: targets}\n",
        b"cmdb:\n  source: {type: ansible, path: hosts}\n  max_prune_ratio: 0.2\n",
        b"cmdb:\n  source: {type: file, path: hosts.csv, fields: {enabled: state == 'on'}}\n",
    )
    # The longest takes the longest to read, and is one of many.
    return (*CONFIGS * 3, *sources * 2, (ROOT / "config" / "portmon.yaml").read_bytes())


def _config(mutator: Mutator, folder: Path) -> Case:
    data = mutator.broken(mutator.pick(configurations()), configurations())

    def read() -> Any:
        path = folder / "portmon.yaml"
        path.write_bytes(data)
        return load_config(path).to_json()

    return Case(data, read)


_MAKERS: dict[str, Callable[[Mutator, Path], Case]] = {
    "frame": _frame,
    "listing": _listing,
    "inventory": _inventory,
    "config": _config,
}
