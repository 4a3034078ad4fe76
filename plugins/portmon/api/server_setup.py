"""What portmon needs on a host: an account whose keys can do nothing but list the listening ports.

The texts are here once: ``portmon server-setup`` and ``portmon init`` print them as a shell script, and the Ansible
role in ``contrib`` has them as files, which a test compares.
"""

from __future__ import annotations

import base64
import binascii
import re
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from portmon.errors import RequestError
from portmon.probe import script as probe_script
from portmon.text import plain

PROBE = "/usr/local/bin/portmon-probe"
"""The only command of the keys."""
SUDOERS = "/etc/sudoers.d/portmon"
COMMENT = "portmon lists listening ports"
"""Comment of the account in /etc/passwd, which says that it is ours: another one of that name is left alone."""
LISTINGS = {
    "TCP": (
        "/usr/bin/netstat -nltpW",
        "/usr/bin/netstat -nltp",
        "/usr/bin/ss -tnpe state listening",
        "/usr/sbin/ss -tnpe state listening",
    ),
    "UDP": (
        "/usr/bin/netstat -nlutpW",
        "/usr/bin/netstat -nlutp",
        "/usr/bin/ss -tunpe state listening state unconnected",
        "/usr/sbin/ss -tunpe state listening state unconnected",
    ),
}
"""What the probe runs through sudo, of TCP alone and where UDP is asked for."""
KEY_TYPES = ("ssh-ed25519", "ecdsa-sha2-nistp256", "ecdsa-sha2-nistp384", "ecdsa-sha2-nistp521", "ssh-rsa")

_USER = re.compile(r"[a-z_][a-z0-9_-]{0,31}")
_HOME = re.compile(r"(/[\w.@+-]+){2,}", re.ASCII)
# sshd reads names, addresses, masks and patterns with * and ?, of which a ! takes some away.
_FROM = re.compile(r"!?[\w.:*?%/-]+(,!?[\w.:*?%/-]+)*", re.ASCII)
_PEM = "-----BEGIN"


@dataclass(frozen=True, slots=True)
class Account:
    """The account of one host or of all.

    :param keys: public keys that may log in, as in a file ``.pub``
    :param authority: the keys are those of authorities: certificates that they signed for the user may log in
    :param sudo: see the programs of other users
    :param only_from: addresses that may log in, as in ``from=`` of sshd
    :param home: default: below /home
    :raises RequestError: one of these can't be used
    """

    user: str = "portmon"
    keys: tuple[str, ...] = ()
    authority: bool = False
    sudo: bool = False
    only_from: str | None = None
    home: str = ""

    def __post_init__(self) -> None:
        if not _USER.fullmatch(self.user):
            given = plain(self.user, 80)
            raise RequestError(
                f"--user: {given!r} can't be the name of an account: give small letters, digits, - and _"
            )
        if self.user == "root":
            raise RequestError("--user: root would be changed for all its users: give an account for portmon alone")
        if self.only_from is not None and not _FROM.fullmatch(self.only_from):
            given = plain(self.only_from, 80)
            raise RequestError(
                f"--from: {given!r} is no list of addresses: give for instance 10.0.0.5,10.1.0.0/16,*.example.com"
            )
        if not self.home:
            object.__setattr__(self, "home", f"/home/{self.user}")
        if not _HOME.fullmatch(self.home) or ".." in self.home:
            raise RequestError(f"--home: {plain(self.home, 80)!r} is no absolute path of a folder of its own")
        object.__setattr__(self, "keys", tuple(map(public_key, self.keys)))

    def authorized_keys(self) -> str:
        """The whole file."""
        options = ["restrict", f'command="{PROBE}"']
        if self.authority:
            # Without a name, a certificate for any user would do.
            options[:0] = ["cert-authority", f'principals="{self.user}"']
        if self.only_from:
            options.append(f'from="{self.only_from}"')
        return "".join(f"{','.join(options)} {key}\n" for key in self.keys)


def public_key(text: str) -> str:
    """A public key as one line: type, base64 and comment.

    :raises RequestError: it is none that could be used
    """
    lines = [line for line in text.strip().splitlines() if line.strip() and not line.startswith("#")]
    if text.lstrip().startswith(_PEM):
        raise RequestError("--key: that is a private key, which stays where it is: give its public half, a file .pub")
    if len(lines) != 1:
        raise RequestError(f"--key: a public key is one line, there are {len(lines)}")
    words = lines[0].split(None, 2)
    shown = plain(lines[0], 60)
    if "-cert-v01@" in words[0]:
        raise RequestError(
            f"--key: {shown!r} is a certificate: give the public key of the authority that signed it, with --authority"
        )
    if words[0] not in KEY_TYPES:
        known = ", ".join(KEY_TYPES)
        raise RequestError(f"--key: {shown!r} does not begin with the type of a key that portmon can use ({known})")
    try:
        data = base64.b64decode(words[1], validate=True)
    except (IndexError, binascii.Error, ValueError):
        data = b""
    # The type stands in the key once more.
    kind = words[0].encode()
    if not data.startswith(len(kind).to_bytes(4, "big") + kind) or len(data) < len(kind) + 36:
        raise RequestError(f"--key: {shown!r} is cut, or no public key")
    comment = words[2].strip() if len(words) > 2 else "portmon"
    if not comment.isprintable():
        raise RequestError(f"--key: the comment of {shown!r} has characters that can't be printed")
    return f"{words[0]} {words[1]} {comment}"


def sudoers(user: str) -> str:
    """The file in /etc/sudoers.d: exactly the listings of the probe."""
    rules = (f"{user} ALL=(root) NOPASSWD: {', '.join(lines)}\n" for lines in LISTINGS.values())
    return "# portmon sees the programs of other users, and nothing else.\n" + "".join(rules)


def setup_script(account: Account) -> str:
    """A shell script that makes the account and all that it needs, or changes what differs."""
    if not account.keys:
        raise RequestError("--key: give the public key with which portmon logs in: a file .pub, or its text")
    return "\n".join(_setup(account))


def removal_script(account: Account) -> str:
    """A shell script that takes away what :func:`setup_script` makes."""
    return "\n".join(_removal(account))


def _head(account: Account, does: str) -> Iterator[str]:
    yield f"""\
#!/bin/sh
# {does}
# Run it as root on each server, as often as you like: it changes what differs, and says so.
set -eu
umask 022
PATH=$PATH:/usr/sbin:/sbin
user={account.user} home={shlex.quote(account.home)} comment='{COMMENT}'
probe={PROBE} sudoers={SUDOERS}
fail() {{
    echo "$0: $1" >&2
    exit 1
}}
[ "$(id -u)" = 0 ] || fail "only root can do this"
account=$(grep "^$user:" /etc/passwd) || account="""


# A file is made whole, in the folder where it belongs. sudo reads none with a dot in its name.
_KEEP = """\
# keep MODE FILE [CHECK]: standard input becomes the file, unless it is that already
keep() {
    new=$(mktemp "$2.XXXXXX")
    cat >"$new"
    chmod "$1" "$new"
    ${3:-:} "$new" >/dev/null || { rm -f "$new"; fail "$2 would not be right, and stays as it is"; }
    if cmp -s "$new" "$2"; then
        rm -f "$new"
        chown root:root "$2"
        chmod "$1" "$2"
    else
        mv -f "$new" "$2"
        echo "wrote $2"
    fi
}
# folder FOLDER: only root writes there, so that what logs in can't give itself other keys
folder() {
    [ -d "$1" ] || { mkdir "$1"; echo "made $1"; }
    chown root:root "$1"
    chmod 755 "$1"
}"""
_ACCOUNT = """\
case $account in
*":$comment:$home:"*) ;;
?*) fail "there is an account $user already, which this did not make: give another name, or remove it ($account)" ;;
*)
    id "$user" >/dev/null 2>&1 && fail "there is an account $user already, in a directory: give another name"
    command -v useradd >/dev/null 2>&1 || fail "there is no useradd here (Alpine: apk add shadow)"
    grep -q "^$user:" /etc/group || groupadd --system "$user"
    # The password * matches nothing. With ! the account would be locked, and an sshd without PAM refuses its keys too.
    useradd --system --gid "$user" --password '*' --no-create-home --home-dir "$home" --shell /bin/sh \\
        --comment "$comment" "$user"
    echo "made the account $user"
    ;;
esac"""


def _here(command: str, text: str) -> str:
    return f"{command} <<'END'\n{text}END"


def _setup(account: Account) -> Iterator[str]:
    yield from _head(account, f"Makes the account {account.user} for portmon, which can list listening ports there.")
    yield _KEEP
    yield _ACCOUNT
    yield '[ -d "${probe%/*}" ] || mkdir -p "${probe%/*}"'
    yield _here('keep 755 "$probe"', probe_script(sudo=account.sudo))
    yield 'folder "$home"\nfolder "$home/.ssh"'
    yield _here('keep 644 "$home/.ssh/authorized_keys"', account.authorized_keys())
    yield 'if command -v restorecon >/dev/null 2>&1; then restorecon -R "$home" "$probe"; fi'
    if account.sudo:
        yield "if command -v visudo >/dev/null 2>&1 && [ -d /etc/sudoers.d ]; then"
        yield _here('keep 440 "$sudoers" "visudo -cf"', sudoers(account.user))
        yield 'else\n    echo "There is no sudo here: portmon sees no programs of other users" >&2\nfi'
    else:
        yield 'if [ -e "$sudoers" ]; then rm -f "$sudoers"; echo "removed $sudoers"; fi'
    yield ""


def _removal(account: Account) -> Iterator[str]:
    yield from _head(account, f"Takes the account {account.user} of portmon away again, and all that it had.")
    yield """\
case $account in
*":$comment:$home:"* | "") ;;
*) fail "the account $user was not made for portmon in this way: nothing is removed ($account)" ;;
esac
# The key first: nothing logs in any more.
for file in "$home/.ssh/authorized_keys" "$sudoers" "$probe"; do
    if [ -e "$file" ]; then rm -f "$file"; echo "removed $file"; fi
done
for folder in "$home/.ssh" "$home"; do
    if [ -n "$account" ] && [ -d "$folder" ]; then rmdir "$folder"; echo "removed $folder"; fi
done
if [ -n "$account" ]; then
    # This fails while portmon is logged in: run it again a minute later.
    userdel "$user"
    if grep -q "^$user:" /etc/group; then groupdel "$user"; fi
    echo "removed the account $user"
fi
"""


def role_files() -> Sequence[tuple[str, str]]:
    """Files of the Ansible role that are texts of this module: path within the role, and text."""
    return (
        ("files/portmon-probe", probe_script()),
        ("files/portmon-probe-sudo", probe_script(sudo=True)),
        ("templates/sudoers.j2", sudoers("{{ portmon_target_user }}")),
    )
