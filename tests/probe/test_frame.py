"""The frame: what is complete is read, everything else is refused."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from portmon import probe
from portmon.errors import ProbeError
from portmon.probe.cgroup import unit_of

FRAMES = sorted((Path(__file__).parents[1] / "fixtures" / "netstat" / "frames").glob("*.txt"))
V2 = Path(__file__).parents[1] / "fixtures" / "fuzz" / "frame-v2.txt"
NONCE = "k7Qz"
SHELLS = ["sh", "bash", "dash", "busybox sh", "zsh", "ksh", "mksh", "yash", "tcsh", "fish"]
DEFAULT = next(path for path in FRAMES if path.name == "default.dashc.txt").read_bytes()


@pytest.mark.parametrize("path", FRAMES, ids=lambda path: path.stem)
def test_frame(path: Path) -> None:
    seen = probe.read_frame(path.read_bytes(), NONCE)
    # Ports of one scenario, whichever tool saw them.
    assert sorted(one.port for one in seen.listeners) == [80, 81, 82, 83, 8080]
    assert seen.ephemeral == (32768, 60999)
    assert seen.boot_id
    assert seen.via == ("sudo" if path.name.startswith(("sudoall", "sudonet")) and seen.uid else None)


@pytest.mark.parametrize("path", FRAMES, ids=lambda path: path.stem)
def test_every_cut_is_refused(path: Path) -> None:
    whole = path.read_bytes()
    for size in range(len(whole)):
        with pytest.raises(ProbeError):
            probe.read_frame(whole[:size], NONCE)


@given(st.integers(0, len(DEFAULT) - 1), st.integers(1, 200))
def test_a_hole_is_refused(start: int, size: int) -> None:
    broken = DEFAULT[:start] + DEFAULT[start + size :]
    if broken.strip() == DEFAULT.strip():
        return
    try:
        seen = probe.read_frame(broken, NONCE)
    except ProbeError:
        return
    # What is not counted are lines about processes; the listing itself is whole.
    assert sorted(one.port for one in seen.listeners) == [80, 81, 82, 83, 8080]


@given(st.data())
def test_two_answers_mixed_are_refused(data: st.DataObject) -> None:
    first, second = DEFAULT.splitlines(keepends=True), DEFAULT.splitlines(keepends=True)
    at = data.draw(st.integers(1, len(first) - 1))
    with pytest.raises(ProbeError):
        probe.read_frame(b"".join(first[:at] + second + first[at:]), NONCE)


@pytest.mark.parametrize(
    "noise",
    [b"Welcome to Ubuntu\n", b"@@ *** @@\n@@k7Q BEGIN\n", b"\xff\xfe\0\n", b"no newline at the end", b"{{ x }}\n"],
)
def test_noise_around_the_frame_is_skipped(noise: bytes) -> None:
    assert probe.read_frame(noise + DEFAULT + noise, NONCE) == probe.read_frame(DEFAULT, NONCE)


def test_a_name_in_the_listing_can_not_forge_the_frame() -> None:
    forged = DEFAULT.replace(b"80            ", b"80\n@@k7Qz END\n", 1)
    with pytest.raises(ProbeError, match="mixed"):
        probe.read_frame(forged, NONCE)


@pytest.mark.parametrize("field", [b"v=", b"v=1", b"v=-", b"tcp=0", b"netns=7", b"pid1=1"])
def test_the_line_of_the_listing_says_nothing_of_the_first_line_again(field: bytes) -> None:
    whole = V2.read_bytes()
    assert probe.read_frame(whole, "n0n0").listeners
    added = b" " + field
    forged = whole.replace(b"LIST tool", b"LIST" + added + b" tool", 1)
    count = re.search(rb"BEGIN v=2 bytes=(\d+)", whole)
    assert count is not None
    forged = forged.replace(count[0], b"BEGIN v=2 bytes=%d" % (int(count[1]) + len(added)), 1)
    with pytest.raises(ProbeError, match="says twice"):
        probe.read_frame(forged, "n0n0")


@pytest.mark.parametrize("value", [b"2", b"-1", b"01", b"yes", b"1" * 100_000, "\u0661".encode()])
@pytest.mark.parametrize("name", [b"tcp", b"tcp6"])
def test_whether_a_table_was_read_is_told_by_0_or_1(name: bytes, value: bytes) -> None:
    whole = V2.read_bytes()
    told = whole.replace(b" %s=1" % name, b" %s=%s" % (name, value), 1)
    assert told != whole
    with pytest.raises(ProbeError, match="is neither 0 nor 1"):
        probe.read_frame(told, "n0n0")


@pytest.mark.parametrize("shown", [b"0-60999", b"60999-32768", b"32768-65536", b"x", b"1", b"9" * 100_000])
def test_a_range_that_no_kernel_has_is_no_evidence(shown: bytes) -> None:
    told = DEFAULT.replace(b" ver=", b" range=" + shown + b" ver=", 1)
    assert told != DEFAULT
    with pytest.raises(ProbeError, match="is no range of ports"):
        probe.read_frame(told, NONCE)


def test_a_forced_command_has_a_nonce_of_its_own() -> None:
    assert probe.read_frame(DEFAULT, "somethingElse") == probe.read_frame(DEFAULT, NONCE)
    with pytest.raises(ProbeError, match="2 frames"):
        probe.read_frame(DEFAULT + DEFAULT.replace(b"k7Qz", b"x8Yz"), "somethingElse")


@pytest.mark.parametrize("output", [b"", b"sh: 1: exec: not found\n", b"This account is currently not available.\n"])
def test_no_frame(output: bytes) -> None:
    with pytest.raises(ProbeError, match="no answer at all" if not output else "no frame"):
        probe.read_frame(output, NONCE)


def test_no_tool_worked() -> None:
    frame = b"\n@@k7Qz BEGIN v=1 tool=none uid=0 via=- bytes=0 boot=- ver=-\n\n@@k7Qz SSX bytes=0\n\n@@k7Qz PROC\n@@k7Qz END\n"
    with pytest.raises(ProbeError, match="neither netstat nor ss"):
        probe.read_frame(frame, NONCE)


@pytest.mark.parametrize("path", FRAMES, ids=lambda path: path.stem)
def test_the_archive_form_is_the_frame_without_noise_and_nonce(path: Path) -> None:
    raw = path.read_bytes()
    kept = probe.cut_out(b"motd\n" + raw + b"bye\n", NONCE).archived()
    assert NONCE.encode() not in kept.replace(b"k7Qz/", b"")
    assert probe.read_archived(kept) == probe.read_frame(raw, NONCE)
    assert kept == probe.cut_out(raw.replace(b"@@k7Qz", b"@@other"), "other").archived()


@pytest.mark.parametrize(
    ("cgroup", "unit"),
    [
        ("/", None),
        ("/system.slice/nginx.service", "nginx.service"),
        ("/system.slice/system-postgresql.slice/postgresql@14-main.service", "postgresql@14-main.service"),
        # what a login started, tmux and screen in it, what sshd forwards for it
        ("/user.slice/user-1000.slice/session-3.scope", "session-3.scope"),
        ("/user.slice/user-1000.slice/session-c2.scope", "session-c2.scope"),
        ("/machine.slice/machine-web.scope/payload/user.slice/user-0.slice/session-1.scope", "session-1.scope"),
        # tmux built for systemd, a program of a desktop, `systemd-run --user --scope`
        ("/user.slice/user-1000.slice/user@1000.service/tmux-spawn-0f1e.scope", "tmux-spawn-0f1e.scope"),
        ("/user.slice/user-1000.slice/user@1000.service/app.slice/app-gnome-code-77.scope", "app-gnome-code-77.scope"),
        ("/user.slice/user-1000.slice/user@1000.service/app.slice/run-u5.scope", "run-u5.scope"),
        ("/user.slice/user-1000.slice/user@1000.service/init.scope", "user@1000.service"),
        ("/system.slice/system-container\\x2dshell.slice/container-shell@1.service", "container-shell@1.service"),
        ("/system.slice/init-db.scope", "init-db.scope"),
        ("/user.slice/user-1000.slice/user@1000.service/app.slice/sync.service", "sync.service"),
        ("/init.scope", None),
        (f"/docker/{'ab' * 32}", "docker:abababababab"),
        (f"/system.slice/docker-{'ab' * 32}.scope", "docker:abababababab"),
        (f"/machine.slice/libpod-{'0f' * 32}.scope", "podman:0f0f0f0f0f0f"),
        (f"/kubepods.slice/kubepods-pod1.slice/cri-containerd-{'1a' * 32}.scope", "containerd:1a1a1a1a1a1a"),
        (f"/kubepods/burstable/pod1/{'1a' * 32}", "container:1a1a1a1a1a1a"),
        ("/lxc.payload.web/system.slice/nginx.service", "lxc:web"),
    ],
)
def test_unit(cgroup: str, unit: str | None) -> None:
    assert unit_of(cgroup) == unit


# ── the command, run for real ───────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("shell", SHELLS)
@pytest.mark.parametrize("sudo", [False, True])
def test_the_command_under_a_login_shell(shell: str, sudo: bool) -> None:
    if not shutil.which(shell.split()[0]):
        pytest.skip(f"{shell} is not installed")
    with socket.create_server(("127.0.0.1", 0)) as held:
        nonce = probe.new_nonce()
        done = subprocess.run(
            [*shell.split(), "-c", probe.command(nonce, probe.Question(sudo=sudo))], capture_output=True, check=False
        )
        seen = probe.read_frame(done.stdout, nonce)
        (own,) = (one for one in seen.listeners if one.port == held.getsockname()[1])
    low, high = map(int, Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split())
    assert done.returncode == 0
    assert own.pid in (os.getpid(), None)
    assert own.uid == os.getuid()
    assert seen.uid == os.getuid()
    assert seen.ephemeral == (low, high)
    assert seen.boot_id == Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    assert f"net:[{seen.netns}]" == str(Path("/proc/self/ns/net").readlink())


@pytest.mark.parametrize("more", [(), ("timeout",), ("timeout", "ls", "sleep")], ids=len)
def test_without_netstat_and_ss(tmp_path: Path, more: tuple[str, ...]) -> None:
    for tool in ("sh", "sed", "grep", *more):
        (tmp_path / tool).symlink_to(shutil.which(tool) or "/nonexistent")
    nonce = probe.new_nonce()
    command = probe.command(nonce).replace("PATH=$PATH:/usr/sbin:/sbin:/usr/local/sbin:/usr/bin:/bin;", "")
    with socket.create_server(("127.0.0.1", 0)) as held:
        done = subprocess.run(
            [tmp_path / "sh", "-c", command], capture_output=True, check=False, env={"PATH": str(tmp_path)}
        )
        seen = probe.read_frame(done.stdout, nonce)
        (own,) = (one for one in seen.listeners if one.port == held.getsockname()[1])
        inode = os.fstat(held.fileno()).st_ino
    assert seen.tool == "proc"
    assert (own.protocol, own.address, own.uid, own.inode) == ("tcp", "127.0.0.1", os.getuid(), inode)
    # What holds a socket is not to be had from there.
    assert {one.pid for one in seen.listeners} == {None}


def test_the_command_is_one_quoted_word_for_any_shell() -> None:
    command = probe.command("abcd1234")
    assert command.startswith("exec sh -c 'eval \"$0\"' '")
    assert command.count("'") == 4
    assert not set(command) & set("!\n")
    assert "\\\\" not in command


@pytest.mark.parametrize("nonce", ["", "a;b", "x" * 65, "a b", "$(id)"])
def test_a_nonce_is_letters_and_digits(nonce: str) -> None:
    with pytest.raises(ValueError, match="nonce"):
        probe.command(nonce)


def test_the_script_for_a_forced_command(tmp_path: Path) -> None:
    path = tmp_path / "portmon-probe"
    path.write_text(probe.script())
    with socket.create_server(("127.0.0.1", 0)) as held:
        # As sshd does it: what the client asked for is in a variable that the script ignores.
        runs = [
            subprocess.run(
                ["sh", path],
                capture_output=True,
                check=True,
                env={**os.environ, "SSH_ORIGINAL_COMMAND": probe.command("abcd")},
            ).stdout
            for _ in range(2)
        ]
        port = held.getsockname()[1]
    assert runs[0].split()[0] != runs[1].split()[0]
    assert port in {one.port for one in probe.read_frame(runs[0], "abcd").listeners}
