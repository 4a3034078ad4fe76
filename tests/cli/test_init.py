"""``portmon init``: the first files of a new installation."""

from __future__ import annotations

import io
import json
import stat
import subprocess
from pathlib import Path

import pytest

from portmon.airflow.provider import BUNDLES
from portmon.api.server_setup import Account, setup_script
from portmon.config import load_config
from tests.worlds.shell import run_command


def run(capsys: pytest.CaptureFixture[str], folder: Path, hosts: str, *more: str) -> tuple[int, str, str]:
    given = ("--key", str(folder / "key"), "--user", "watcher", "--hosts", hosts, "--folder", str(folder))
    return run_command(capsys, "init", *given, *more)


def test_what_it_writes_can_be_used_at_once(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    code, out, err = run(capsys, tmp_path, "web1=192.0.2.1, db=db.example.com:2222,plain,v6=[2001:db8::1]:23")
    assert (code, err) == (0, "")
    config = load_config(tmp_path / "portmon.yaml")
    found = config.cmdb.source.read(tmp_path, lambda _: pytest.fail("it is no HTTP source"))
    assert [(host.name, host.address, host.port) for host in found.hosts] == [
        ("web1", "192.0.2.1", None),
        ("db", "db.example.com", 2222),
        ("plain", "plain", None),
        ("v6", "2001:db8::1", 23),
    ]
    (connection,) = json.loads((tmp_path / "portmon-connections.json").read_text()).values()
    assert (connection["conn_type"], connection["login"]) == ("ssh", "watcher")
    assert json.loads(connection["extra"]) == {"key_file": str(tmp_path / "key")}
    assert stat.S_IMODE((tmp_path / "key").stat().st_mode) == 0o600
    public = (tmp_path / "key.pub").read_text().strip()
    # Each line can be pasted: what the servers need, then what Airflow does.
    server = (tmp_path / "portmon-server.sh").read_text()
    assert server == setup_script(Account("watcher", (public,), sudo=True))
    assert f"ssh root@SERVER sh -s < {tmp_path}/portmon-server.sh" in out
    assert f"airflow connections import --overwrite {tmp_path}/portmon-connections.json" in out
    assert f". {tmp_path}/portmon.env" in out
    shown = subprocess.run(["sh", "-c", f". {tmp_path}/portmon.env; env"], capture_output=True, text=True, check=True)
    assert f"AIRFLOW__PORTMON__CONFIG={tmp_path}/portmon.yaml\n" in shown.stdout
    assert f"AIRFLOW__DAG_PROCESSOR__DAG_BUNDLE_CONFIG_LIST={json.dumps(BUNDLES)}\n" in shown.stdout


def test_only_the_hosts_have_to_be_given(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Nothing is asked: what is pasted after it would be the answer.
    assert run_command(capsys, "init", "--hosts", "web1", "--folder", str(tmp_path))[0] == 0
    (connection,) = json.loads((tmp_path / "portmon-connections.json").read_text()).values()
    assert (connection["login"], json.loads(connection["extra"])["key_file"]) == (
        "portmon",
        str(tmp_path / "portmon_key"),
    )
    monkeypatch.setattr("sys.stdin", io.StringIO(f"{tmp_path}/new/mine\nwatcher\nweb1,web2\n"))
    assert run_command(capsys, "init", "--folder", str(tmp_path / "new"))[0] == 0
    assert (tmp_path / "new" / "mine.pub").exists()
    assert len((tmp_path / "new" / "portmon-hosts.csv").read_text().splitlines()) == 3


def test_nothing_is_written_over(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "portmon.yaml").write_text("mine")
    code, _, err = run(capsys, tmp_path, "web1")
    assert (code, (tmp_path / "portmon.yaml").read_text()) == (1, "mine")
    assert "portmon.yaml: there already" in err
    # All or nothing.
    assert sorted(file.name for file in tmp_path.iterdir()) == ["portmon.yaml"]
    assert run(capsys, tmp_path, "web1", "--force")[0] == 0
    assert (tmp_path / "portmon.yaml").read_text() != "mine"


def test_a_host_list_that_is_there_is_used(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    listed = tmp_path / "my servers.csv"
    listed.write_text("id,name,address\n1,web1,192.0.2.1\n")
    assert run(capsys, tmp_path, str(listed))[0] == 0
    config = load_config(tmp_path / "portmon.yaml")
    assert len(config.cmdb.source.read(tmp_path, lambda _: pytest.fail("it is no HTTP source")).hosts) == 1
    assert not (tmp_path / "portmon-hosts.csv").exists()


WRONG = (
    "gone.csv",
    "~no-such-user/servers.csv",
    "web1,web1",
    "web1=192.0.2.1:99999",
    "web1=192.0.2.1:²",
    "web1=192.0.2.1:abc",
    "web1:2222",
    "web1 web2",
    "web1;web2",
    "web1=2001:db8::1",
    ",",
    "=192.0.2.1",
)


@pytest.mark.parametrize("hosts", WRONG)
def test_a_wrong_host_is_named_and_nothing_is_written(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, hosts: str
) -> None:
    code, _, err = run(capsys, tmp_path, hosts)
    assert code == 2
    assert err.startswith("error: --hosts: ")
    assert list(tmp_path.iterdir()) == []


def test_many_servers_are_a_list_and_no_file_name(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert run(capsys, tmp_path, ",".join(f"web{number}=192.0.2.{number}" for number in range(200)))[0] == 0
    assert len((tmp_path / "portmon-hosts.csv").read_text().splitlines()) == 201


def test_the_public_half_of_a_key_is_made_of_it(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    run(capsys, tmp_path, "web1")
    public = (tmp_path / "key.pub").read_text().split()[1]
    (tmp_path / "key.pub").unlink()
    assert run(capsys, tmp_path, "web1", "--force")[0] == 0
    assert public in (tmp_path / "portmon-server.sh").read_text()


def test_what_can_not_be_written_is_an_error_that_names_it(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    common = ("--user", "watcher", "--hosts", "web1", "--key")
    code, _, err = run_command(capsys, "init", *common, str(tmp_path / "key"), "--folder", str(tmp_path / "file"))
    assert (code, err.startswith(f"error: {tmp_path}/file: ")) == (1, True)
    code, _, err = run_command(capsys, "init", *common, str(tmp_path), "--folder", str(tmp_path / "new"))
    assert (code, err) == (1, f"error: --key: {tmp_path} is no file\n")
    assert not (tmp_path / "new" / "portmon.yaml").exists()
    code, _, err = run(capsys, tmp_path, "web1", "--user", "a b")
    assert (code, err.startswith("error: --user: 'a b' can't be the name")) == (2, True)
