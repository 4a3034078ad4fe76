"""Valid host lists and configurations, broken at random: whatever comes of them, only a PortmonError is raised.

``run(cases)`` is for suites that have time; the fast tests call it with a thousand.
"""

from __future__ import annotations

import json
import random
import re
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from portmon.config import Config, load_config, parse_config
from portmon.errors import PortmonError
from portmon.inventory.sources.ansible import AnsibleSource
from portmon.inventory.sources.file import FileSource
from portmon.inventory.sources.http import HttpSource
from portmon.inventory.sources.http_sd import HttpSdSource
from portmon.inventory.sources.netbox import NetboxSource
from portmon.model.host import Inventory
from portmon.storage.inventory import to_json
from portmon.untrusted.documents import DocumentError, parse_json
from tests.worlds.sources import fetch, read_file

FIXTURES = Path(__file__).parents[1] / "fixtures" / "cmdb"

CSV = "id,name,address,port,declared,on,label.role\n1,web01,10.0.0.1,,80;443,yes,web\n2,db01,10.0.1.7,2222,5432,no,db\n"
HOSTS = """\
defaults: &d {port: 22, labels: {env: prod, since: 2024-01-01}}
servers:
- {<<: *d, id: 1, name: web01, address: 10.0.0.1, on: true}
- {<<: [*d], id: "2", name: "db01", address: db01.example.com, declared: [5432, "80,443"], on: "no"}
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
        {"id": 1, "name": "web01", "address": "10.0.0.1/24", "port": 22, "labels": {"role": "web", "n": 1.5}},
        {"id": 2, "name": "db01", "address": "db01", "port": None, "labels": ["a=b", {"slug": "c"}], "on": "no"},
    ],
}
CONFIG = """\
cmdb:
  source: {type: http, endpoint: api, params: {a: [1, b]}, pagination: {style: page}, fields: {labels: {a: b.c}}}
  stale_after: 1h 30m
ssh:
  max_output: 4MiB
  groups:
  - {name: old, match: {label: {os: "rhel*"}}, port: 2222}
rules:
- {action: deny, port: [22, 8000-8100], host: "web*", bind: [loopback, 10.0.0.0/8], comment: &c why}
- {action: allow, program: nginx, comment: *c}
declared:
- {host: web*, port: 443}
states: {down_after: 2, retire_after: 30d, flap_window: 3600}
alerts:
  channels:
  - {name: log, type: log}
  - {name: hook, type: webhook, conn_id: hook}
"""
HOSTILE = [
    "[" * 200, "]" * 200, "{" * 200, "[" * 100_000, '{"a":' * 5000, "- " * 300, "? " * 300, "&a [*a]", "*d", "<<: *d", "!!python/object:os.x ",
    "!!timestamp x", "!!bool maybe", "!!int ''", "!!float x", "!!binary é", "!!set [a]", "!!omap {a: b}", "!!null x", "%YAML 9.9\n---\n", "1e999",
    "-1e999", "NaN", "Infinity", "9" * 5000, "0x" + "f" * 5000, "1:" * 40 + "1", "\x00", "\ud800", '"\\ud800"', "\u2028", "\ufeff", "\x85",
    '"a": 1, "a": 2', "2024-13-45", "null", "true", '""', "{}", "[]", "''", "{{ x }}", "{% x %}", "!vault |", "[1:99999999]", "[a:z:0]", "${x}", "\\", '"', "'", "\t",
    "http://evil\\@cmdb/", "//evil/", "http://[", "?page=2", "-" * 3000 + "1", "(" * 3000, "b'x'", "...", "1_000", "\r", "\n", ",", ";", ":", "@", "`", "|", ">", "#",
]  # fmt: skip
EXPRESSIONS = [
    "id", "name", "labels", "@", "*", "[]", "length(@)", "to_number(name)", "sum(labels)", "keys(@)", "max_by(@, &id)", "join(',', labels)", "abs(port)",
    "floor(port)", "sort(labels)", "map(&a, labels)", "type(@)", "!on", "on && id", "labels[?on]", "[*].a.b", "`[1e999]`", "contains(id, 'a')",
    "not_null(a, b)", "reverse(name)", "merge(labels, @)", "labels | [0]", "starts_with(id, id)", "to_string(@)", "labels.*", "a.b[0:5:0]",
]  # fmt: skip

Case = Callable[[], Any]


def cases(seed: int, folder: Path) -> Iterator[tuple[str, Case]]:
    """Without end: what each is about, and a function that reads it."""
    chance = random.Random(seed)
    valid = samples()
    kinds = list(valid)
    while True:
        kind = kinds[chance.randrange(len(kinds))]
        text = broken(chance, valid[kind])
        yield f"{kind}: {text[:300]!r}", reader(chance, kind, text, folder)


def run(count: int, *, seed: int = 0, slowest: float = 60.0) -> Counter[str]:
    """Read broken documents.

    :param slowest: seconds that one of them may take at most, on any machine
    :returns: how many of a kind were read, and how many refused
    :raises AssertionError: something else than a PortmonError came of one, or it took too long
    """
    told: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as folder:
        made = cases(seed, Path(folder))
        for number in range(count):
            about, read = next(made)
            began = time.monotonic()
            kind = about.partition(":")[0]
            try:
                found = read()
                if isinstance(found, Inventory):
                    to_json(found)
            except PortmonError as error:
                if not str(error):
                    raise AssertionError(f"an error without a word: {about}") from error
                told[f"{kind} refused"] += 1
            except Exception as error:
                raise AssertionError(
                    f"case {number} of seed {seed}: {type(error).__name__}: {error}: {about}"
                ) from error
            else:
                told[f"{kind} read"] += 1
            assert time.monotonic() - began < slowest, f"case {number} of seed {seed} took too long: {about}"
    return told


def samples() -> dict[str, str]:
    """By kind: a document that is right."""
    config = Path(__file__).resolve().parents[2] / "config" / "portmon.yaml"
    recorded = {path.name: path.read_text(encoding="utf-8") for path in FIXTURES.iterdir() if path.is_file()}
    return {
        "csv": CSV,
        "yaml": HOSTS,
        # Ansible inventories are read by Ansible, not by portmon.
        "ansible json": recorded["ansible.json"],
        "ansible http": recorded["ansible.json"],
        "http": json.dumps(PAGE),
        "netbox": recorded["netbox_devices.json"],
        "http_sd": recorded["http_sd.json"],
        "config": CONFIG,
        "example": config.read_text(encoding="utf-8"),
    }


def plain_chances() -> Iterator[random.Random]:
    """Those by which documents are read with the commonest configuration, and no byte is changed."""

    class First(random.Random):
        def random(self) -> float:
            return 0.99

        def choice(self, seq: Any) -> Any:
            return seq[0]

    yield First(0)


def broken(chance: random.Random, text: str) -> str:
    """A document of which some parts are gone, doubled or exchanged."""
    for _ in range(chance.choice((0, 1, 1, 1, 2, 3, 8))):
        at, end = sorted(chance.randrange(len(text) + 1) for _ in range(2))
        match chance.randrange(7):
            case 0:
                text = text[:at] + chance.choice(HOSTILE) + text[at:]
            case 1:
                text = text[:at] + text[min(end, at + 40) :]
            case 2:
                # Tokens are exchanged, so that more of the documents stay well formed.
                tokens = re.findall(r"\w+|\W", text)
                if tokens:
                    one, other = chance.randrange(len(tokens)), chance.randrange(len(tokens))
                    tokens[one], tokens[other] = tokens[other], tokens[one]
                text = "".join(tokens)
            case 3:
                text = text[:at] + text[at : min(end, at + 200)] * chance.choice((2, 3, 50)) + text[end:]
            case 4:
                tokens = re.findall(r"\w+|\W", text)
                if tokens:
                    tokens[chance.randrange(len(tokens))] = chance.choice(HOSTILE)
                text = "".join(tokens)
            case 5:
                text = (
                    text[:at]
                    + "".join(chr(chance.choice((chance.randrange(256), chance.randrange(0x110000)))) for _ in range(4))
                    + text[at:]
                )
            case _:
                text = text[:at]
    return text


def reader(chance: random.Random, kind: str, text: str | bytes, folder: Path) -> Case:
    """What reads a document, by some configuration."""
    expression = chance.choice(EXPRESSIONS)
    field = chance.choice(("id", "name", "address", "port", "labels", "declared", "enabled"))
    given = chance.choice(({}, {}, {field: expression}, {"enabled": chance.choice(("on", "!on", "!vars.off"))}))
    data = text if isinstance(text, bytes) else text.encode("utf-8", "surrogatepass")
    if chance.random() < 0.1:
        data = bytes(chance.choice((byte, chance.randrange(256))) if chance.random() < 0.02 else byte for byte in data)

    def from_file(name: str, make: Any, **values: Any) -> Case:
        def read() -> Inventory:
            (folder / name).write_bytes(data)
            return read_file(make.model_validate({"path": name, **values}), folder)

        return read

    def from_http(source: Any) -> Case:
        def send(_: Any) -> Any:
            try:
                return parse_json(data)
            except DocumentError as error:
                # As the hook does.
                raise PortmonError(str(error)) from error

        return lambda: fetch(source, send)

    match kind:
        case "csv":
            return from_file("hosts.csv", FileSource, type="file", fields=given)
        case "yaml":
            items = chance.choice(("servers", "servers", "@", expression))
            return from_file("hosts.yaml", FileSource, type="file", items=items, fields=given)
        case "ansible json":
            return from_file("hosts", AnsibleSource, type="ansible", format="json", fields=given)
        case "ansible http":
            over_http: list[Any] = []
            AnsibleSource(type="ansible", conn_id="cmdb", fields=given).read(folder, over_http.append)
            return from_http(over_http[0])
        case "http":
            following = chance.choice(("next", "next", expression))
            paging = chance.choice(({"style": "none"}, {"style": "next_link", "next": following}))
            counted, unique = chance.choice(("count", expression)), chance.choice(("id", expression))
            more = chance.choice(({}, {"total": counted}, {"unique": unique}))
            items = chance.choice(("results", "results", "results", expression))
            return from_http(HttpSource(items=items, pagination=paging, max_pages=3, fields=given, **more))
        case "netbox":
            return from_http(NetboxSource(type="netbox", fields=given, max_pages=3, attempts=1))
        case "http_sd":
            return from_http(HttpSdSource(type="http_sd", fields=given, target_port=True))
        case _ if isinstance(text, str):
            return lambda: parse_config(text)
        case _:

            def load() -> Config:
                (folder / "portmon.yaml").write_bytes(data)
                return load_config(folder / "portmon.yaml")

            return load
