"""``portmon server-setup``: what it prints and refuses. tests/e2e/test_rollout.py runs it on hosts."""

from __future__ import annotations

import subprocess
from pathlib import Path

import jinja2
import pytest
import yaml

from portmon.api import server_setup
from portmon.api.server_setup import Account, removal_script, setup_script
from portmon.probe import script
from tests.worlds.shell import run_command
from tests.worlds.sshd import make_key

ROOT = Path(__file__).parents[2]
ROLE = ROOT / "contrib" / "ansible" / "roles" / "portmon_target"
KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIC4y4Miq+fdCVA+9yDg2Vp7GCdSfapYU/DZyNPjPbO46 portmon@airflow"


def test_a_key_is_a_text_or_a_file_or_the_private_half_of_one(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    key = make_key(tmp_path / "key")
    public = (tmp_path / "key.pub").read_text()
    for given in (str(key), f"{key}.pub", public):
        code, out, err = run_command(capsys, "server-setup", "--key", given)
        assert (code, out, err) == (0, setup_script(Account(keys=(public,))), "")
        assert "PRIVATE" not in out


def test_options_are_in_the_script(capsys: pytest.CaptureFixture[str]) -> None:
    more = ("--user", "watcher", "--sudo", "--from", "10.0.0.5,10.1.0.0/16", "--home", "/srv/watcher")
    code, out, _ = run_command(capsys, "server-setup", "--key", KEY, *more)
    assert code == 0
    assert f'\nrestrict,command="/usr/local/bin/portmon-probe",from="10.0.0.5,10.1.0.0/16" {KEY}\nEND\n' in out
    assert "\nwatcher ALL=(root) NOPASSWD: /usr/bin/netstat -nltpW," in out
    assert "user=watcher home=/srv/watcher " in out
    assert script(sudo=True) in out
    plain = setup_script(Account(keys=(KEY,)))
    assert script(sudo=False) in plain
    assert "NOPASSWD" not in plain
    code, out, _ = run_command(capsys, "server-setup", "--remove")
    assert (code, out) == (0, removal_script(Account()))
    for text in (plain, out):
        subprocess.run(["sh", "-n"], input=text, text=True, check=True)


def test_an_authority_signs_for_the_user_alone() -> None:
    lines = Account("watcher", (KEY, KEY), authority=True).authorized_keys()
    assert lines == f'cert-authority,principals="watcher",restrict,command="{server_setup.PROBE}" {KEY}\n' * 2


WRONG = [
    ((), "--key: give the public key"),
    (("--key", "/nowhere/key.pub"), "--key: /nowhere/key.pub: No such file"),
    (("--key", "{private}"), "--key: that is a private key"),
    (("--key", "{binary}"), "is no text"),
    (("--key", f"{KEY}\n{KEY}"), "--key: a public key is one line, there are 2"),
    (("--key", KEY[:60]), "is cut, or no public key"),
    (("--key", f"restrict {KEY}"), "does not begin with the type of a key"),
    (("--key", "ssh-dss AAAAB3NzaC1kc3M= old"), "does not begin with the type of a key"),
    (("--key", "ssh-ed25519 AAAAB3NzaC1yc2EAAAADAQABAAABAQDDDDDDDDDDDDDDDDDDDDDDDDDDDDDDDDDDDDDD x"), "no public key"),
    (("--key", "ssh-ed25519-cert-v01@openssh.com AAAA x"), "is a certificate"),
    (("--key", f"{KEY}\x1b[31m"), "can't be printed"),
    (("--key", KEY, "--user", "a b"), "--user: 'a b' can't be the name"),
    (("--key", KEY, "--user", "x;id"), "--user: 'x;id' can't be the name"),
    (("--key", KEY, "--user", "root"), "--user: root would be changed"),
    (("--key", KEY, "--from", '10.0.0.1" '), "--from: '10.0.0.1\" ' is no list of addresses"),
    (("--key", KEY, "--from", ""), "--from: '' is no list"),
    (("--key", KEY, "--home", "/"), "--home: '/' is no absolute path"),
    (("--key", KEY, "--home", "/home/../etc"), "--home: '/home/../etc' is no absolute path"),
    (("--remove", "--user", "root"), "--user: root would be changed"),
]


@pytest.mark.parametrize(("given", "message"), WRONG, ids=[message for _, message in WRONG])
def test_wrong_input_is_an_error_and_prints_no_script(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, given: tuple[str, ...], message: str
) -> None:
    private, binary = make_key(tmp_path / "key"), tmp_path / "binary.pub"
    (tmp_path / "key.pub").unlink()
    binary.write_bytes(b"\xff\xfe")
    places = {"{private}": str(private), "{binary}": str(binary)}
    code, out, err = run_command(capsys, "server-setup", *(places.get(word, word) for word in given))
    assert (code, out) == (2, "")
    assert err.startswith("error: --")
    assert message in err


# ── the role has the same texts ─────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("name", [name for name, _ in server_setup.role_files()])
def test_a_file_of_the_role_is_what_the_command_prints(name: str) -> None:
    assert (ROLE / name).read_text() == dict(server_setup.role_files())[name], f"write it anew: {ROLE / name}"


def rendered(template: str, **values: object) -> str:
    return (
        jinja2.Environment(trim_blocks=True, keep_trailing_newline=True, autoescape=False)
        .from_string(template)
        .render(values)
    )


@pytest.mark.parametrize("authority", [False, True])
@pytest.mark.parametrize("only_from", [None, "10.0.0.5,10.1.0.0/16"])
def test_the_keys_of_the_role_are_those_of_the_command(authority: bool, only_from: str | None) -> None:
    account = Account("watcher", (KEY, KEY.rpartition(" ")[0]), authority=authority, only_from=only_from)
    own = yaml.safe_load((ROLE / "vars" / "main.yml").read_text())
    assert own["portmon_target_probe"] == server_setup.PROBE
    assert own["portmon_target_sudoers"] == server_setup.SUDOERS
    assert own["portmon_target_comment"] == server_setup.COMMENT
    given = {
        "portmon_target_user": "watcher",
        "portmon_target_keys": [KEY + "\n", KEY.rpartition(" ")[0]],
        "portmon_target_authority": authority,
        "portmon_target_from": only_from.split(",") if only_from else [],
        "portmon_target_probe": server_setup.PROBE,
    }
    options = yaml.safe_load(rendered(own["portmon_target_key_options"], **given))
    template = (ROLE / "templates" / "authorized_keys.j2").read_text()
    assert rendered(template, **given, portmon_target_key_options=options) == account.authorized_keys()


def test_variables_of_the_role_are_checked_and_documented() -> None:
    defaults = yaml.safe_load((ROLE / "defaults" / "main.yml").read_text())
    (spec,) = yaml.safe_load((ROLE / "meta" / "argument_specs.yml").read_text())["argument_specs"].values()
    assert spec["options"].keys() == defaults.keys()
    for name, option in spec["options"].items():
        assert f"| `{name}` |" in (ROLE / "README.md").read_text()
        if "{{" not in str(defaults[name]):
            assert option["default"] == defaults[name], name
    about = yaml.safe_load((ROLE / "meta" / "main.yml").read_text())
    assert about["galaxy_info"]["role_name"] == ROLE.name
    for file in (*ROLE.glob("tasks/*.yml"), *ROLE.glob("meta/*.yml")):
        assert file.read_text().startswith("---\n"), file


def test_the_documents_have_the_same_rules_for_sudo() -> None:
    told = (ROOT / "docs" / "security.md").read_text()
    for line in server_setup.sudoers("portmon").splitlines()[1:]:
        assert line in told
