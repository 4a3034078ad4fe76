"""The hosts of the demo on a computer that allows no namespaces: each is a machine of its own with its own sockets."""

from __future__ import annotations

from pathlib import Path

import paramiko

from demo.fleet import USER, Fleet, HostSpec
from portmon import probe
from portmon.ssh.connect import connect
from portmon.ssh.target import Credentials, Options, Target
from portmon.ssh.trust import HostKey, Trust


def test_hosts_without_namespaces_are_machines_of_their_own(tmp_path: Path) -> None:
    specs = [
        HostSpec("1", "web", {28080: "nginx"}, {}),
        HostSpec("2", "db", {25432: "postgres", 28080: "java"}, {}),
    ]
    machines = set()
    with Fleet(specs, tmp_path / "fleet", isolate=False) as fleet:
        for spec in specs:
            host = fleet.hosts[spec.name]
            public = paramiko.PKey.from_path(tmp_path / "fleet" / f"{spec.name}.host_key")
            session = connect(
                Target(spec.name, host.address, host.port),
                Credentials(user=USER, key_file=str(fleet.key)),
                Trust(pinned=HostKey(public.get_name(), public.get_base64())),
                Options(timeout=30),
            )
            nonce = probe.new_nonce()
            try:
                answer = session.run(probe.command(nonce), deadline=60, max_output=1 << 22)
            finally:
                session.close()
            listing = probe.read_frame(answer.stdout, nonce)
            assert {one.port: one.program for one in listing.listeners} == dict(spec.services)
            machines.add(listing.netns)
    assert machines == {1, 2}
