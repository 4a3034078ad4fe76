"""Ansible inventories, by the real command: what it prints, what it must not do, and what is kept of it."""

from __future__ import annotations

import json
import logging
import os
import random
import re
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from portmon.errors import CmdbError
from portmon.inventory.sources import ansible
from portmon.inventory.sources.ansible import AnsibleSource, read_printed
from portmon.inventory.sources.file import FileSource
from portmon.model.host import Host, Inventory
from portmon.storage.inventory import to_json
from portmon.text import plain
from tests.worlds import mutated
from tests.worlds.sources import read_file

FIXTURES = Path(__file__).resolve().parents[1] / "fixtures" / "cmdb"
SECRET = "s3cret"


def source(path: str, **values: Any) -> AnsibleSource:
    return AnsibleSource.model_validate({"type": "ansible", "path": path, **values})


def read(tmp_path: Path, text: str, name: str = "hosts", **values: Any) -> Inventory:
    (tmp_path / name).write_text(text, encoding="utf-8")
    return read_file(source(name, **values), tmp_path)


def refused(tmp_path: Path, text: str, name: str = "hosts", **values: Any) -> str:
    with pytest.raises(CmdbError) as caught:
        read(tmp_path, text, name, **values)
    assert SECRET not in str(caught.value)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def printed(tmp_path: Path, hosts: dict[str, Any], **values: Any) -> Inventory:
    """What is made of hosts and their variables that the command printed."""
    answer = {"_meta": {"hostvars": hosts}, "all": {"children": ["ungrouped"]}, "ungrouped": {"hosts": list(hosts)}}
    return read(tmp_path, json.dumps(answer), "hosts.json", **values)


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Nothing is kept from one test to another."""
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder))
    return folder / "portmon"


@pytest.mark.parametrize("name", ["ansible.ini", "ansible.yaml", "ansible.json"])
def test_one_fleet_in_three_formats(name: str) -> None:
    found = read_file(source(name, fields={"labels": {"env": "vars.env"}}), FIXTURES)
    web = {"group_ber1": "true", "group_web": "true"}
    db = {"group_ber1": "true", "group_db": "true", "env": "prod"}
    assert sorted(found.hosts, key=lambda host: host.id) == [
        Host("bastion.example.com", "bastion.example.com", "bastion.example.com", None, {"env": "unknown"}),
        Host("db-a", "db-a", "db-a.lan", 2200, db),
        Host("db-b", "db-b", "db-b.lan", 2200, db),
        *(
            Host(f"web0{n}.example.com", f"web0{n}.example.com", f"web0{n}.example.com", 22, {**web, "env": "berlin"})
            for n in (1, 2, 3)
        ),
        Host("web04.example.com", "web04.example.com", "10.0.0.4", 2222, {**web, "env": "pre prod"}),
    ]
    assert found.invalid == ()
    assert SECRET not in str(found)


def test_no_variable_is_a_label_unless_it_is_named() -> None:
    found = read_file(source("ansible.json"), FIXTURES)
    assert all(label.startswith("group_") for host in found.hosts for label in host.labels)


def test_hosts_of_some_groups_only() -> None:
    found = read_file(source("ansible.json", fields={"enabled": "contains(groups, 'db')"}), FIXTURES)
    assert [host.id for host in found.hosts] == ["db-a", "db-b"]
    assert found.disabled == 5


# ── which host, which variable: Ansible says so ─────────────────────────────────────────────────

FLEET = {
    "hosts.ini": """
        bare
        named ansible_host=10.0.0.1 ansible_port=2201   # a comment
        quoted ansible_host='10.0.0.2' note="two words = one value"
        r[01:03:2].lan:2222
        [2001:db8::1]:2223

        [web:children]
        front
        [front]
        w-[a:b]
        named
        [deep:children]
        web
        [all:vars]
        ansible_port=1
        [deep:vars]
        ansible_port=2
    """,
    "more/20.yml": """
        late:
          hosts:
            w-a: {env: host}
            y1: {ansible_port: !unsafe 77}
          vars: {env: group, site: ber}
    """,
    "more/10.toml": "[tom.hosts]\nt1 = {}\n",
    "group_vars/all.yml": "env: everyone\n",
    "group_vars/web/a.yml": "env: web\nansible_port: 10\n",
    "group_vars/web/b.yml": "ansible_port: 11\n",
    "group_vars/front": "ansible_host: 10.0.9.9\n",
    "host_vars/w-b.yml": "ansible_host: 10.0.0.9\n",
    # Read by no rule of Ansible.
    ".hidden/hosts": "never1\n",
    "README.md": "never2\n",
    "old.bak": "never3\n",
    "more/group_vars/late.yml": "env: never\n",
}


def test_ranges_groups_and_precedence_are_those_of_ansible(tmp_path: Path) -> None:
    for name, text in FLEET.items():
        path = tmp_path / "inventory" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        lines = text.strip("\n").split("\n")
        indent = len(lines[0]) - len(lines[0].lstrip())
        path.write_text("\n".join(line[indent:] for line in lines) + "\n")
    found = read_file(source("inventory", fields={"labels": {"env": "vars.env", "site": "vars.site"}}), tmp_path)
    assert found.invalid == ()
    hosts = {host.id: (host.address, host.port, host.labels["env"]) for host in found.hosts}
    assert hosts == {
        "bare": ("bare", 1, "everyone"),
        "named": ("10.0.0.1", 2201, "web"),
        "quoted": ("10.0.0.2", 1, "everyone"),
        "r01.lan": ("r01.lan", 2222, "everyone"),
        "r03.lan": ("r03.lan", 2222, "everyone"),
        "2001:db8::1": ("2001:db8::1", 2223, "everyone"),
        "w-a": ("10.0.9.9", 11, "host"),
        "w-b": ("10.0.0.9", 11, "web"),
        # The folder counts more than what is written at the group.
        "y1": ("y1", 77, "everyone"),
        "t1": ("t1", 1, "everyone"),
    }
    groups = {host.id: sorted(name for name in host.labels if name[:6] == "group_") for host in found.hosts}
    assert groups["named"] == groups["w-b"] == ["group_deep", "group_front", "group_web"]
    assert groups["w-a"] == ["group_deep", "group_front", "group_late", "group_web"]
    assert groups["bare"] == []
    assert [host.id for host in found.hosts if host.labels.get("site") == "ber"] == ["w-a", "y1"]


def test_the_older_names_of_variables_count_more_and_null_is_no_value(tmp_path: Path) -> None:
    found = printed(
        tmp_path,
        {
            "both": {
                "ansible_host": "10.0.0.1",
                "ansible_ssh_host": "10.0.0.2",
                "ansible_port": 1,
                "ansible_ssh_port": 2,
            },
            "nulls": {"ansible_host": None, "ansible_port": None, "ansible_connection": None},
            "older null": {"ansible_host": "10.0.0.3", "ansible_ssh_host": None},
        },
    )
    assert [(host.address, host.port) for host in found.hosts] == [("10.0.0.2", 2), ("nulls", None), ("10.0.0.3", None)]


@pytest.mark.parametrize("word", [False, "False", "no", "off", 0, "0", "n", None])
def test_variables_that_say_no(tmp_path: Path, word: object) -> None:
    hosts = {"a": {"watch": word}, "b": {"watch": "yes"}, "c": {"watch": True}}
    found = printed(tmp_path, hosts, fields={"enabled": "vars.watch"})
    assert [host.id for host in found.hosts] == ["b", "c"]
    assert [host.id for host in printed(tmp_path, hosts, fields={"enabled": "!(vars.watch)"}).hosts] == ["a"]


VAULT = {"__ansible_vault": "$ANSIBLE_VAULT;1.1;AES256\n36633261\n"}


@pytest.mark.parametrize(
    ("variables", "reason"),
    [
        ({"ansible_host": "{{ ip }}"}, "ansible_host is the template '{{ ip }}', which `ansible-inventory` does not fill in"),
        ({"ansible_port": "{{ p }}"}, "ansible_port is the template"),
        ({"ansible_host": VAULT}, "ansible_host is encrypted by Ansible Vault"),
        ({"ansible_connection": "winrm"}, "ansible_connection is 'winrm': only hosts that are reached by SSH"),
        ({"ansible_connection": ["ssh"]}, "ansible_connection is a list: only hosts that are reached by SSH"),
        ({"ansible_connection": "{{ c }}"}, "ansible_connection is the template"),
        ({"env": VAULT}, "the label 'env': env is encrypted"),
        ({"env": "{% if x %}"}, "the label 'env': env is the template"),
        ({"env": {"name": "{{ x }}"}}, "the label 'env': env.name is the template"),
        ({"ports": [80, "{{ x }}"]}, "ports is the template"),
        ({"ansible_host": ["a"]}, "the address is a list"),
        ({"ansible_host": {"__ansible_unsafe": "{{ x }}"}}, "the address '{{ x }}' is neither a host name nor an IP"),
    ],
)  # fmt: skip
def test_what_ansible_leaves_as_it_is_makes_the_host_invalid(
    tmp_path: Path, variables: dict[str, Any], reason: str
) -> None:
    hosts = {"h": variables, "ok": {"x": VAULT, "y": "{{ z }}", "z": {"__ansible_unsafe": "{{ q }}"}}}
    found = printed(tmp_path, hosts, fields={"labels": {"env": "vars.env"}, "declared": "vars.ports"})
    assert [host.id for host in found.hosts] == ["ok"]
    (invalid,) = found.invalid
    assert invalid.id == "h"
    assert reason in invalid.reason


def test_a_decision_that_ansible_does_not_make(tmp_path: Path) -> None:
    found = printed(tmp_path, {"a": {"watch": "{{ x }}"}, "b": {}}, fields={"enabled": "vars.watch || `true`"})
    assert [host.id for host in found.hosts] == ["b"]
    assert "does not fill in" in found.invalid[0].reason


DOCS = Path(__file__).resolve().parents[2] / "docs" / "cmdb.md"


@pytest.mark.slow
def test_the_play_of_the_documents_writes_what_templates_come_to(tmp_path: Path) -> None:
    ((play,),) = [re.findall(r"^```yaml\n(- hosts:.*?)^```", DOCS.read_text(encoding="utf-8"), flags=re.M | re.S)]
    (tmp_path / "play.yml").write_text(play.replace("/etc/portmon/", f"{tmp_path}/"))
    (tmp_path / "hosts").write_text(
        "[web]\na ansible_host='{{ inventory_hostname }}.{{ domain }}'\nb ansible_port='{{ 2200 + 22 }}'\n"
    )
    (tmp_path / "group_vars").mkdir()
    (tmp_path / "group_vars" / "all").write_text("domain: example.com\n")
    command = Path(sys.executable).with_name("ansible-playbook")
    environment = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "LANG": "C.UTF-8"}
    done = subprocess.run(
        [command, "-i", "hosts", "play.yml"], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    found = read_file(FileSource(type="file", path="hosts.yaml"), tmp_path)
    assert found.hosts == (
        Host("a", "a", "a.example.com", None, {"web": "true"}),
        Host("b", "b", "b", 2222, {"web": "true"}),
    )


# ── what the command prints ─────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{\n", "is no JSON: line 2: "),
        ("[]", "has no _meta.hostvars"),
        ('{"web": {"hosts": ["a"]}}', "has no _meta.hostvars"),
        ('{"_meta": {"hostvars": {"a": 3}}}', "_meta.hostvars.a is a int"),
        ('{"_meta": {"hostvars": {}}, "web": {"hosts": {"a": {}}}}', "web.hosts is not a list of names"),
        ('{"_meta": {"hostvars": {}}, "web": {"children": [3]}}', "web.children is not a list of names"),
        ('{"_meta": {"hostvars": {}}, "web": {"host": []}}', "'host' is neither hosts nor children"),
        ('{"_meta": {"hostvars": {}}, "web": 3}', "group web is a int"),
        ('{"_meta": {"hostvars": {}}, "web": {"vars": {"ansible_port": 1}}}', "as with --export: leave that out"),
        ('{"_meta": {"hostvars": {"a": {}, "a": {}}}}', "'a' is given twice"),
    ],
)
def test_a_broken_answer(tmp_path: Path, text: str, message: str) -> None:
    assert message in refused(tmp_path, text, "hosts.json")


def test_the_format_can_be_said(tmp_path: Path) -> None:
    answer = '{"_meta": {"hostvars": {"a": {}}}}'
    assert read(tmp_path, answer, "hosts.txt", format="json").hosts == (Host("a", "a", "a"),)
    assert read(tmp_path, "all: {hosts: {b: }}", "hosts.json", format="inventory").hosts == (Host("b", "b", "b"),)


@given(
    st.dictionaries(
        st.sampled_from("abcd"),
        st.dictionaries(st.sampled_from(["hosts", "children"]), st.lists(st.sampled_from("abcdh"), max_size=4)),
    )
)
def test_groups_that_contain_each_other_have_an_end(groups: dict[str, Any]) -> None:
    for entry in read_printed({"_meta": {"hostvars": {"h": {}}}, **groups}):
        inside = {name for name, group in groups.items() if entry["name"] in group.get("hosts", [])}
        assert inside <= set(entry["groups"]) <= set(groups)


def test_groups_that_stand_for_too_much(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ansible, "MAX_STEPS", 10_000)
    groups = {f"g{n}": {"children": ["x"]} for n in range(120)}
    answer = {"_meta": {"hostvars": {}}, **groups, "x": {"hosts": [f"w{n}" for n in range(100)]}}
    assert "in more than 10000 groups together" in refused(tmp_path, json.dumps(answer), "hosts.json")


# ── what the command can't read ─────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("hosts", "h ansible_password=two s3cret\n", "ini: Expected key=value host variable assignment, got:…"),
        ("hosts", "[a]\nh\n[a:vars]\npassword s3cret\n", "ini: Expected key=value, got:…"),
        ("hosts", "h password='s3cret\n", "ini: Error parsing host definition …"),
        ("h.yml", "web:\n  hosts:\n    a: {password: s3cret\n    b:\n", "yaml: YAML parsing failed: "),
        ("h.yml", "web:\n  hosts:\n    a: {password: s3cret, password: s3cret}\n", "duplicate mapping key 'password'"),
        ("h.yml", "web:\n  host:\n    a:\n", "Skipping unexpected key (host) in group (web)"),
        ("h.yml", "plugin: amazon.aws.aws_ec2\n", "hosts.json` wrote, or name the plugin in cmdb.source.plugins"),
        ("h.toml", "[web.hosts\n", "toml: "),
        ("group_vars/all.yml", "password: s3cret\na: {{ s3cret }}\n", "YAML parsing failed: "),
        ("host_vars/h", "- s3cret\n", "host_vars/h"),
        ("group_vars/all.yml", "$ANSIBLE_VAULT;1.1;AES256\n3663\n", "or set cmdb.source.ignore_vars_folders"),
    ],
)  # fmt: skip
def test_a_broken_inventory_is_told_on_one_line_without_its_secrets(
    tmp_path: Path, name: str, text: str, message: str
) -> None:
    (tmp_path / "hosts").write_text("h\n")
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text(text)
    path = "hosts" if "vars" in name else name
    told = refused(tmp_path, (tmp_path / path).read_text(), path)
    assert told.startswith(f"{tmp_path / path}: ansible-inventory can't read it: ")
    assert message in told
    assert len(told) < 1000


def test_hostile_bytes_are_told_harmlessly(tmp_path: Path) -> None:
    (tmp_path / "h.yml").write_bytes("\u202ea: {\x1b[31m::group::\n".encode())
    with pytest.raises(CmdbError) as caught:
        read_file(source("h.yml"), tmp_path)
    assert str(caught.value).isprintable()
    (tmp_path / "hosts").write_bytes(b"h\xff\n")
    with pytest.raises(CmdbError, match="Non UTF-8 encoded data"):
        read_file(source("hosts"), tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ansible.ini", "ansible.yaml"])
def test_broken_inventories_raise_nothing_else(tmp_path: Path, name: str) -> None:
    chance = random.Random(20261129)
    read, refused = 0, []
    for _ in range(15):
        text = mutated.broken(chance, (FIXTURES / name).read_text())
        (tmp_path / name).write_bytes(text.encode("utf-8", "surrogatepass"))
        try:
            to_json(read_file(source(name, timeout=60), tmp_path))
            read += 1
        except CmdbError as error:
            refused.append(str(error))
    assert read
    assert refused
    assert [plain(told, 3000) for told in refused] == refused


def test_a_part_that_can_not_be_read_refuses_the_whole(tmp_path: Path) -> None:
    (tmp_path / "inventory").mkdir()
    (tmp_path / "inventory" / "a").write_text("h1\n")
    (tmp_path / "inventory" / "b").write_text("[web\n")
    with pytest.raises(CmdbError, match="inventory/b"):
        read_file(source("inventory"), tmp_path)


def test_variables_in_folders_can_be_left_out(tmp_path: Path) -> None:
    (tmp_path / "group_vars").mkdir()
    (tmp_path / "group_vars" / "all").write_text("$ANSIBLE_VAULT;1.1;AES256\n3663\n")
    assert read(tmp_path, "h\n", ignore_vars_folders=True).hosts == (Host("h", "h", "h"),)


def test_there_is_no_such_inventory(tmp_path: Path) -> None:
    with pytest.raises(CmdbError, match=f"^{tmp_path}/nope: there is no such file or folder$"):
        read_file(source("nope"), tmp_path)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(CmdbError, match="no such file"):
        read_file(source("pipe"), tmp_path)
    assert list(source("nope").problems(tmp_path)) == [("path", f"{tmp_path}/nope does not exist")]


def test_ansible_is_not_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("sys.executable", str(tmp_path / "python"))
    told = refused(tmp_path, "h\n")
    assert told.startswith(f"{tmp_path}/hosts: ansible-inventory is not installed here: install ansible-core")
    assert "--list --output hosts.json" in told
    ((field, problem),) = source("hosts").problems(tmp_path)
    assert (field, "is not installed here" in problem) == ("path", True)
    # What it printed needs no Ansible.
    assert printed(tmp_path, {"h": {}}).hosts
    assert list(source("hosts.json").problems(tmp_path)) == []


def test_empty_files_have_no_hosts(tmp_path: Path) -> None:
    assert read(tmp_path, "").hosts == ()
    assert read(tmp_path, '{"_meta": {"hostvars": {}}}', "h.json").hosts == ()


@pytest.mark.parametrize("values", [{}, {"path": "a", "conn_id": "b"}])
def test_the_inventory_is_in_one_place(values: dict[str, str]) -> None:
    with pytest.raises(ValueError, match="give either path or conn_id"):
        AnsibleSource.model_validate({"type": "ansible", **values})


# ── what the command may do ─────────────────────────────────────────────────────────────────────

SCRIPT = """#!/bin/sh
[ "$1" = --list ] || exec echo '{{}}'
env > {folder}/environment
{more}
echo '{{"web": {{"hosts": ["s1"]}}, "_meta": {{"hostvars": {{"s1": {{"ansible_port": 22}}}}}}}}'
"""


def script(tmp_path: Path, more: str = "") -> Path:
    path = tmp_path / "script"
    path.write_text(SCRIPT.format(folder=tmp_path, more=more))
    path.chmod(0o755)
    return path


@pytest.mark.parametrize("name", ["script", "folder/script"])
def test_a_script_is_not_run(tmp_path: Path, name: str) -> None:
    (tmp_path / "folder").mkdir()
    script(tmp_path).rename(tmp_path / name)
    with pytest.raises(
        CmdbError, match=rf"{name}: is a script, which is not run: .* add `script` to cmdb.source.plugins"
    ):
        read_file(source(name.partition("/")[0]), tmp_path)
    assert not (tmp_path / "environment").exists()


def test_a_script_is_run_if_its_plugin_is_named_and_knows_nothing_of_this_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AIRFLOW_CONN_CMDB_DEFAULT", SECRET)
    monkeypatch.setenv("ANSIBLE_VAULT_PASSWORD_FILE", "/nonexistent")
    monkeypatch.setenv("HOME", str(tmp_path))
    script(tmp_path)
    for _ in range(2):
        (tmp_path / "environment").unlink(missing_ok=True)
        found = read_file(source("script", plugins="script"), tmp_path)
        assert found.hosts == (Host("s1", "s1", "s1", 22, {"group_web": "true"}),)
        # It is asked in each run.
        environment = dict(line.split("=", 1) for line in (tmp_path / "environment").read_text().splitlines())
    assert set(environment) - {"PWD", "SHLVL", "_", "OLDPWD", "LC_CTYPE"} == {"PATH", "HOME", "LANG", "ANSIBLE_CONFIG"}
    assert environment["HOME"] != str(tmp_path)
    assert not Path(environment["HOME"]).exists()


def test_no_configuration_but_its_own_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither one beside the inventory, nor the user's, nor that of the current folder, nor the environment."""
    ran = tmp_path / "ran"
    plugin = f"open({str(ran)!r}, 'w')\n"
    for folder in ("vars_plugins", "inventory_plugins", ".ansible/plugins/vars", ".ansible/plugins/inventory"):
        (tmp_path / folder).mkdir(parents=True)
        for name in ("ini.py", "host_group_vars.py", "other.py"):
            (tmp_path / folder / name).write_text(plugin)
    text = "[defaults]\nvars_plugins = {0}/vars_plugins\ninventory_plugins = {0}/inventory_plugins\n[inventory]\nenable_plugins = ini\nexport = True\n"
    for name in ("ansible.cfg", ".ansible.cfg"):
        (tmp_path / name).write_text(text.format(tmp_path))
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("ANSIBLE_CONFIG", str(tmp_path / "ansible.cfg"))
    monkeypatch.setenv("ANSIBLE_INVENTORY_EXPORT", "True")
    monkeypatch.chdir(tmp_path)
    assert read(tmp_path, "[web]\nh\n[web:vars]\nansible_port=23\n").hosts[0].port == 23
    assert not ran.exists()


def test_a_command_that_takes_too_long_ends_with_all_that_it_started(tmp_path: Path) -> None:
    script(tmp_path, f"sleep 600 & echo $! > {tmp_path}/child; wait")
    # On a busy machine it may take longer until the script runs.
    for seconds in (3, 12, 48):
        with pytest.raises(CmdbError, match=f"took longer than {seconds} s"):
            read_file(source("script", plugins="script", timeout=seconds), tmp_path)
        if (tmp_path / "child").exists():
            break
    child = int((tmp_path / "child").read_text())
    for _ in range(100):
        try:
            os.kill(child, 0)
        except ProcessLookupError:
            return
        # It may be a zombie that its new parent has not waited for yet.
        if Path(f"/proc/{child}/stat").read_text().split()[2] == "Z":
            return
        time.sleep(0.05)
    os.kill(child, signal.SIGKILL)
    pytest.fail("what the command started goes on")


def test_what_the_command_prints_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ansible, "MAX_SIZE", 1 << 20)
    assert "printed more than 1 MiB" in refused(tmp_path, f"w[1:40] x={'y' * 60_000}\n")


def test_the_memory_of_the_command_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ansible, "MEMORY", 300 << 20)
    assert "of memory; is a range too long?" in refused(tmp_path, "w[1:999999999]\n")


def test_a_folder_of_something_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "loop").symlink_to(tmp_path)
    (tmp_path / "hosts").write_text("h\n")
    monkeypatch.setattr(ansible, "MAX_FILES", 1)
    with pytest.raises(CmdbError, match="more than 1 files or 256 MiB: is it another folder"):
        read_file(source("."), tmp_path)


# ── answers of the last hour ────────────────────────────────────────────────────────────────────


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Inventories for which the command ran."""
    ran: list[Path] = []
    really = AnsibleSource._printed

    def ask(self: AnsibleSource, path: Path, *arguments: Any) -> str:
        ran.append(path)
        if path.name == "instead":
            return json.dumps({"_meta": {"hostvars": {"h": {"ansible_port": len(ran)}}}})
        return really(self, path, *arguments)

    monkeypatch.setattr(AnsibleSource, "_printed", ask)
    return ran


def test_the_same_files_are_read_once(tmp_path: Path, asked: list[Path], cache: Path) -> None:
    text = "a ansible_port=22 password=s3cret\nb ansible_host='{{ x }}'\nc\n"
    values = {"fields": {"declared": "vars.ansible_port", "labels": {"x": "'\u202e'"}}}
    first = read(tmp_path, text, **values)
    assert (len(first.hosts), len(first.invalid)) == (2, 1)
    assert read(tmp_path, text, **values) == first
    assert len(asked) == 1
    (kept,) = cache.iterdir()
    assert SECRET not in kept.read_text()
    assert (stat.S_IMODE(cache.stat().st_mode), stat.S_IMODE(kept.stat().st_mode)) == (0o700, 0o600)


def test_they_are_read_again_when_something_changes(tmp_path: Path, asked: list[Path], cache: Path) -> None:
    def ports(**values: Any) -> list[int | None]:
        return [host.port for host in read_file(source("instead", **values), tmp_path).hosts]

    (tmp_path / "instead").write_text("")
    assert ports() == ports() == [1]
    (tmp_path / "instead").write_text("# changed")
    assert ports() == ports() == [2]
    (tmp_path / "group_vars" / "web").mkdir(parents=True)
    assert ports() == ports() == [3]
    (tmp_path / "group_vars" / "web" / "x").write_text("a: 1")
    assert ports() == ports() == [4]
    (tmp_path / "group_vars" / "web" / "x").rename(tmp_path / "group_vars" / "web" / "y")
    assert ports() == ports() == [5]
    assert ports(fields={"name": "address"}) == [6]
    # Hidden files are none of an inventory's.
    (tmp_path / "group_vars" / ".git").mkdir()
    assert ports() == ports() == [7]
    (tmp_path / "group_vars" / ".git" / "x").write_text("a: 1")
    assert ports() == [7]
    (kept,) = cache.iterdir()
    # An hour ago, tomorrow, and damaged.
    for age in (3601, -86400):
        os.utime(kept, (time.time() - age,) * 2)
        number = len(asked)
        assert ports() == [number + 1]
    kept.write_bytes(kept.read_bytes()[:-9])
    assert ports() == [10]
    # Without a folder for it nothing is kept, and nothing fails.
    kept.unlink()
    cache.rmdir()
    cache.write_text("")
    assert (ports(), ports()) == ([11], [12])


def test_files_that_change_while_they_are_read_are_read_again(
    tmp_path: Path, asked: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "instead"
    path.write_text("one")
    really = AnsibleSource._printed

    def ask(self: AnsibleSource, *arguments: Any) -> str:
        if not asked:
            path.write_text("two")
        return really(self, *arguments)

    monkeypatch.setattr(AnsibleSource, "_printed", ask)
    read_file(source("instead"), tmp_path)
    path.write_text("one")
    assert read_file(source("instead"), tmp_path).hosts[0].port == 2


def test_warnings_are_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        read(tmp_path, "[a]\na\n[dash-ed]\nb\n")
    assert [record.getMessage() for record in caplog.records] == [
        f"{tmp_path}/hosts: Found both group and host with same name: a"
    ]


@pytest.mark.slow
def test_ten_thousand_hosts(tmp_path: Path) -> None:
    text = "[web]\nw[0001:9999].lan\nx\n[web:vars]\nansible_port=22\n[all:children]\nweb\n"
    found = read(tmp_path, text)
    assert len(found.hosts) == 10_000
    assert found.hosts[0].port == 22
