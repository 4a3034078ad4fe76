"""Ansible inventories: three formats of one fleet, ranges, precedence, and what is refused."""

from __future__ import annotations

import string
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from portmon.errors import CmdbError
from portmon.inventory.config import AnsibleSource
from portmon.inventory.sources.ansible import AnsibleError
from portmon.inventory.sources.ansible_names import expand
from portmon.inventory.sources.files import read_file
from portmon.model.host import Host, Inventory

FIXTURES = Path(__file__).resolve().parents[1] / "fixtures" / "cmdb"


def source(path: str, **values: Any) -> AnsibleSource:
    return AnsibleSource.model_validate({"type": "ansible", "path": path, **values})


def read(tmp_path: Path, text: str, name: str = "hosts", **values: Any) -> Inventory:
    (tmp_path / name).write_text(text, encoding="utf-8")
    return read_file(source(name, **values), tmp_path)


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
    assert "s3cret" not in str(found)


def test_no_variable_is_a_label_unless_it_is_named() -> None:
    found = read_file(source("ansible.ini"), FIXTURES)
    assert all(label.startswith("group_") for host in found.hosts for label in host.labels)


def test_hosts_of_some_groups_only() -> None:
    found = read_file(source("ansible.yaml", fields={"enabled": "contains(groups, 'db')"}), FIXTURES)
    assert [host.id for host in found.hosts] == ["db-a", "db-b"]
    assert found.disabled == 5


@pytest.mark.parametrize("word", ["false", "False", "no", "off", "0", "'no'", '"n"'])
def test_variables_that_say_no(tmp_path: Path, word: str) -> None:
    text = f"a watch={word}\nb watch=yes\nc watch=True\n"
    found = read(tmp_path, text, fields={"enabled": "vars.watch"})
    assert [host.id for host in found.hosts] == ["b", "c"]
    assert [host.id for host in read(tmp_path, text, fields={"enabled": "!(vars.watch)"}).hosts] == ["a"]


def test_a_decision_that_only_ansible_can_make(tmp_path: Path) -> None:
    found = read(tmp_path, "a watch='{{ x }}'\nb\n", fields={"enabled": "vars.watch || `true`"})
    assert [host.id for host in found.hosts] == ["b"]
    assert "which only Ansible can fill in" in found.invalid[0].reason


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("web[1:900]\n" * 20, "names hosts more than 10000 times"),
        ("".join(f"[g{n}:children]\nx\n" for n in range(120)) + "[x]\nw[1:100]\n", "in more than 10000 groups"),
        ("".join(f"[g{n}:children]\ng{n + 1}\n" for n in range(60)) + "[g60]\nw\n", "nested more than 50 levels deep"),
        ("a x=" + "(" * 20_000 + "\n", "line 1: has more than 16384 characters"),
        ("w" * 2000 + "\n", "has more than 1000 characters"),
    ],
    ids=["ranges", "memberships", "depth", "line", "pattern"],
)
def test_a_few_lines_that_stand_for_too_much(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, message: str
) -> None:
    monkeypatch.setattr("portmon.inventory.sources.ansible.MAX_NAMED", 10_000)
    with pytest.raises(CmdbError, match=message) as caught:
        read(tmp_path, text)
    assert len(str(caught.value)) < 600


# ── host patterns ───────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("pattern", "names", "port"),
    [
        ("web01", ["web01"], None),
        ("web[01:03].lan", ["web01.lan", "web02.lan", "web03.lan"], None),
        ("web[8:11]", ["web8", "web9", "web10", "web11"], None),
        ("w[0:6:3]", ["w0", "w3", "w6"], None),
        ("w[:2]", ["w0", "w1", "w2"], None),
        ("[a:c].lan", ["a.lan", "b.lan", "c.lan"], None),
        ("[a:b][1:2]", ["a1", "a2", "b1", "b2"], None),
        ("w[1:2]:2222", ["w1", "w2"], 2222),
        ("web01:22", ["web01"], 22),
        ("10.0.0.[1:2]", ["10.0.0.1", "10.0.0.2"], None),
        ("2001:db8::1", ["2001:db8::1"], None),
        ("[2001:db8::1]:2222", ["2001:db8::1"], 2222),
        ("fe80::[1:2]", ["fe80::1", "fe80::2"], None),
        ("[009:011]", ["009", "010", "011"], None),
    ],
)
def test_patterns(pattern: str, names: list[str], port: int | None) -> None:
    assert expand(pattern) == (names, port)


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("w[1]", "a range is"),
        ("w[1:]", "from number to number"),
        ("w[1:2:0]", "the step '0'"),
        ("w[1:2:3:4]", "a range is"),
        ("w[3:1]", "ends before it begins"),
        ("w[c:a]", "ends before it begins"),
        ("w[a:3]", "from number to number"),
        ("w[aa:bb]", "from number to number"),
        ("w[01:100]", "equally long"),
        ("w[1:2", "a bracket"),
        ("w1:2]", "a bracket"),
        ("w[[1:2]]", "a bracket"),
        ("w:", "ends with a colon"),
        ("w:0", "the port is not"),
        ("w:70000", "the port is not"),
        ("w[1:999999999]", "more than 100000 hosts"),
        ("w[1:1000][1:1000]", "more than 100000 hosts"),
    ],
)
def test_patterns_that_are_none(pattern: str, message: str) -> None:
    with pytest.raises(AnsibleError) as caught:
        expand(pattern)
    assert message in str(caught.value)


@given(st.integers(0, 500), st.integers(0, 300), st.integers(1, 9), st.integers(0, 5))
def test_a_range_of_numbers_is_all_of_them(begin: int, more: int, step: int, width: int) -> None:
    end = begin + more
    first = str(begin).zfill(width)
    padded = len(first) > 1 and first[0] == "0"
    last = str(end).zfill(len(first)) if padded else str(end)
    pattern = f"n[{first}:{last}:{step}].lan"
    if padded and len(first) != len(last):
        with pytest.raises(AnsibleError):
            expand(pattern)
        return
    names, port = expand(pattern)
    assert port is None
    assert [int(name[1:-4]) for name in names] == list(range(begin, end + 1, step))
    assert len({len(name) for name in names}) == 1 or not padded
    assert names[0] == f"n{first}.lan"


@given(st.sampled_from(string.ascii_lowercase), st.sampled_from(string.ascii_lowercase))
def test_a_range_of_letters_is_all_of_them(begin: str, end: str) -> None:
    if begin > end:
        with pytest.raises(AnsibleError):
            expand(f"[{begin}:{end}]")
    else:
        assert "".join(expand(f"[{begin}:{end}]")[0]) == "".join(map(chr, range(ord(begin), ord(end) + 1)))


@given(st.text(alphabet="ab01:[].-", max_size=14))
def test_any_pattern_gives_names_or_a_reason(pattern: str) -> None:
    try:
        names, port = expand(pattern)
    except AnsibleError:
        return
    assert names
    assert port is None or 1 <= port <= 65535


# ── which variable counts ───────────────────────────────────────────────────────────────────────


def test_the_nearest_group_counts_and_the_host_most(tmp_path: Path) -> None:
    text = """
        [a]
        h1
        h2 ansible_port=9
        [b]
        h1
        [outer:children]
        a
        b
        [all:vars]
        ansible_port=1
        [outer:vars]
        ansible_port=2
        [a:vars]
        ansible_port=3
        [b:vars]
        ansible_port=4
    """
    assert [host.port for host in read(tmp_path, text).hosts] == [4, 9]
    assert read(tmp_path, text + "[a:vars]\nansible_group_priority=10\n").hosts[0].port == 3


def test_depth_is_the_longest_way(tmp_path: Path) -> None:
    text = "[deep]\nh\n[flat]\nh\n[m:children]\ndeep\n[deep:vars]\nansible_port=2\n[flat:vars]\nansible_port=1\n"
    assert read(tmp_path, text).hosts[0].port == 2


def test_old_names_of_variables(tmp_path: Path) -> None:
    found = read(tmp_path, "h ansible_ssh_host=10.0.0.1 ansible_ssh_port=2222\n")
    assert (found.hosts[0].address, found.hosts[0].port) == ("10.0.0.1", 2222)


def test_a_host_in_several_places_is_one(tmp_path: Path) -> None:
    found = read(tmp_path, "[a]\nh ansible_port=1\n[b]\nh ansible_port=2\n")
    assert found.hosts == (Host("h", "h", "h", 2, {"group_a": "true", "group_b": "true"}),)


# ── INI ─────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[web\n", "line 1: '[web' has a bracket"),
        ("ok\n[web:hots]\n", "line 2: [web:hots] is unknown"),
        ("[we b]\n", "line 1: '[we b]' is no section"),
        ("[web]\nh user root\n", "line 2: something is no key=value"),
        ("[web]\nh 'a\n", "line 2: no closing quotation"),
        ("[web]\nh\n[web:vars]\nport 22\n", "line 4: something is no key=value"),
        ("[web:vars]\na=1\n", "line 1: there is no group 'web'"),
        ("[a:children]\nweb\n", "line 2: there is no group 'web'"),
        ("[a:children]\nweb x=1\n", "line 2: 'web x=1' is no group name"),
        ("[a:children]\nb\n[b:children]\na\n", "the groups 'a', 'b' contain each other"),
        ("[a:children]\nall\n", "the group 'all' is a child of 'a'"),
        ("\n\nw[3:1]\n", "line 3: 'w[3:1]': the range ends"),
        ("#!/bin/sh\necho\n", "line 1: is a script"),
        ("[a]\nh\n[a:vars]\nansible_group_priority=x\n", "group 'a': ansible_group_priority is 'x', not a number"),
    ],
)
def test_a_broken_ini_names_its_line(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(CmdbError) as caught:
        read(tmp_path, text)
    assert str(caught.value).startswith(f"{tmp_path}/hosts: {message}")


def test_a_secret_is_not_part_of_the_message(tmp_path: Path) -> None:
    with pytest.raises(CmdbError) as caught:
        read(tmp_path, "h ansible_password=two s3cret\n")
    assert "s3cret" not in str(caught.value)


def test_comments_quotes_and_line_ends(tmp_path: Path) -> None:
    text = "; c\r\n# c\r\n[web] # c\r\nh ansible_host='10.0.0.1' # c\r\n[web:vars]\r\nansible_port = 22\r\n"
    assert read(tmp_path, text).hosts == (Host("h", "h", "10.0.0.1", 22, {"group_web": "true"}),)


@given(st.text(alphabet="ab=[]:'\"# \n;1{}", max_size=40))
def test_any_text_gives_hosts_or_a_reason(text: str) -> None:
    from portmon.inventory.sources.ansible_ini import read_ini

    try:
        list(read_ini(text).entries())
    except AnsibleError:
        return


# ── YAML and JSON ───────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: [\n", "line 2: "),
        ("- a\n", "the file is a list, not a mapping"),
        ("web:\n  host:\n    a:\n", "group web: 'host' is none of hosts, vars and children"),
        ("web:\n  hosts: [a]\n", "web.hosts is a list, not a mapping"),
        ("web:\n  hosts:\n    a: x\n", "web.hosts.a is a text"),
        ("web:\n  hosts:\n    a:\n    b:\n    a:\n", "line 5: 'a' is given twice"),
        ("web:\n  hosts:\n    true:\n", "web.hosts: a host is named True"),
        ("web:\n  hosts:\n    010:\n", "web.hosts: a host is named 8, which is a int: put its name in quotes"),
        ("a: &x\n  children:\n    b: *x\n", "its groups are nested too deeply, or within themselves"),
        ("web:\n  hosts:\n    w[1:]:\n", "web.hosts: 'w[1:]': a range"),
        ("a:\n  children:\n    b:\n      children:\n        a:\n", "the groups 'a', 'b' contain each other"),
        ("plugin: amazon.aws.aws_ec2\n", "is the configuration of the inventory plugin 'amazon.aws.aws_ec2'"),
        ("web:\n  hosts:\n    a: {x: !python/object:os.x 1}\n", "line 3: "),
    ],
)
def test_a_broken_yaml(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(CmdbError) as caught:
        read(tmp_path, text, "hosts.yaml")
    assert f"{tmp_path}/hosts.yaml: {message}" in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{\n", "line 2: is no JSON"),
        ("[]", "has no _meta.hostvars"),
        ('{"web": {"hosts": ["a"]}}', "has no _meta.hostvars"),
        ('{"_meta": {"hostvars": {"a": 3}}}', "_meta.hostvars.a is a int"),
        ('{"_meta": {"hostvars": {}}, "web": {"hosts": {"a": {}}}}', "web.hosts is not a list of names"),
        ('{"_meta": {"hostvars": {}}, "web": {"host": []}}', "'host' is none of"),
        ('{"_meta": {"hostvars": {}}, "web": 3}', "group web is a int"),
        ('{"_meta": {"hostvars": {"a": {}, "a": {}}}}', "'a' is given twice"),
    ],
)
def test_a_broken_json(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(CmdbError) as caught:
        read(tmp_path, text, "hosts.json")
    assert message in str(caught.value)


def test_the_format_can_be_said(tmp_path: Path) -> None:
    assert read(tmp_path, "all: {hosts: {a: }}", format="yaml").hosts == (Host("a", "a", "a"),)


def test_a_toml_inventory_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CmdbError, match=r"TOML inventories are not read: export it"):
        read(tmp_path, "", "hosts.toml")


def test_empty_files_have_no_hosts(tmp_path: Path) -> None:
    assert read(tmp_path, "").hosts == ()
    assert read(tmp_path, "", "h.yaml").hosts == ()
    assert read(tmp_path, '{"_meta": {"hostvars": {}}}', "h.json").hosts == ()


# ── what only Ansible could work out ────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("variables", "reason"),
    [
        ("{ansible_host: '{{ ip }}'}", "ansible_host is the template '{{ ip }}', which only Ansible can fill in"),
        ("{ansible_port: '{{ p }}'}", "ansible_port is the template"),
        ("{ansible_host: !vault abc}", "ansible_host is encrypted by Ansible Vault"),
        ("{ansible_connection: winrm}", "ansible_connection is 'winrm': only hosts that are reached by SSH"),
        ("{ansible_connection: '{{ c }}'}", "ansible_connection is the template"),
        ("{env: !vault abc}", "the label 'env': env is encrypted"),
        ("{env: '{% if x %}'}", "the label 'env': env is the template"),
        ("{ansible_host: [a]}", "the address is a list"),
    ],
)
def test_the_host_is_invalid_and_the_rest_goes_on(tmp_path: Path, variables: str, reason: str) -> None:
    text = f"all:\n  hosts:\n    h: {variables}\n    ok: {{x: !vault abc, y: '{{{{ z }}}}'}}\n"
    found = read(tmp_path, text, "h.yml", fields={"labels": {"env": "vars.env"}})
    assert [host.id for host in found.hosts] == ["ok"]
    (invalid,) = found.invalid
    assert invalid.id == "h"
    assert reason in invalid.reason


@pytest.mark.parametrize("folder", ["group_vars", "host_vars"])
def test_variables_in_folders_are_not_left_out_silently(tmp_path: Path, folder: str) -> None:
    (tmp_path / folder).mkdir()
    with pytest.raises(CmdbError, match=f"{folder} beside it, which is not read: export it"):
        read(tmp_path, "h\n")
    assert read(tmp_path, "h\n", ignore_vars_folders=True).hosts
    assert read(tmp_path, '{"_meta": {"hostvars": {"h": {}}}}', "h.json").hosts == (Host("h", "h", "h"),)


def test_ten_thousand_hosts(tmp_path: Path) -> None:
    text = "[web]\nw[0001:9999].lan\nx\n[web:vars]\nansible_port=22\n[all:children]\nweb\n"
    found = read(tmp_path, text)
    assert len(found.hosts) == 10_000
    assert found.hosts[0].port == 22
