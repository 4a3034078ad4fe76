r"""The remote command: one line of POSIX shell that prints a frame with the listening TCP sockets, and if it is asked
for them, the UDP sockets without a peer.

It asks the best tool that works on the host, then the sources that name the owners of sockets. A second ``sh`` does it
below a limit: if a tool hangs, the second shell is killed, even if its pipes are still held, and the next tool has its
turn. The output of the second shell is the payload of the frame (:mod:`portmon.probe.frame`)::

    @@NONCE BEGIN v=2 bytes=N tcp=1 tcp6=1 netns=4026531840 pid1=12 tried=-
    @@NONCE LIST tool=netstat-W ended=0 via=- bytes=N ver=-
    (N bytes of the tool's output)
    @@NONCE PROC bytes=N
    (N bytes: boot id, ports that the kernel hands out, uid; comm, uid and cgroup of each process)
    @@NONCE SSX ended=0 bytes=N
    (N bytes of `ss -tne state listening`: uid, inode and cgroup of each socket; only beside netstat)
    @@NONCE END volatile uptime=4711.02 clock=2026-01-01T00:00:00.000000000+0000 sockets=40

``tcp`` and ``tcp6`` tell whether the kernel's tables could be read: ``1`` for a table whose header came, and for a
``tcp6`` that opens and of which the kernel counts no socket; ``0`` for an unreadable table, ``-`` for an absent one, as
in a kernel without IPv6. ``ended`` is the exit status as the shell says it; ``tried`` names the tools that failed
before: ``netstat-W:139`` was killed by a signal, ``netstat:limit`` by the limit. The lengths are those of the
shell's ``${#…}``: bytes, or characters in a shell that knows no bytes.

Where UDP is asked for, ``udp=1 udp6=1`` follows ``pid1``; an answer without these is one about TCP alone, as of a
forced command of earlier versions. PROC then holds the rows of ``/proc/net/udp`` and ``udp6`` that have no peer, which
costs least: if ss is asked for unconnected sockets of both protocols, the kernel walks its hash of TCP's connections.
Who may see all processes (root) has netstat or ss list UDP as well, which names the programs. For others ss adds the
cgroups of UDP sockets in SSX (``ss -une state unconnected``), if it is asked first and shows any.

Without privileges, a host with netstat and ss starts six processes besides the login shell: the limit, the second
shell, netstat, grep, ss and ls.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Collection
from dataclasses import dataclass

LIMIT = 0.3
"""Share of the time for the whole command that one tool may take: three of them may hang one after the other."""
NETSTAT_UP_TO = 5000
"""Sockets of a host that netstat walks in milliseconds."""
FAMILIES = ("netstat", "ss", "proc")
"""Tools that are asked; ``netstat`` has two variants."""


@dataclass(frozen=True, slots=True)
class Question:
    """How a host is asked.

    :param sudo: list through ``sudo -n`` where the user is not root and may
    :param limit: seconds that one tool may take
    :param netstat_up_to: with more sockets than this in use, orphaned or in time-wait, ss is asked before netstat
    :param last: the tool that answered last; after ss, half as many sockets are enough
    :param skip: tools that are not asked, of :data:`FAMILIES`: they hung not long ago
    :param udp: list UDP sockets too
    """

    sudo: bool = False
    limit: int = 6
    netstat_up_to: int = NETSTAT_UP_TO
    last: str | None = None
    skip: Collection[str] = ()
    udp: bool = False


# Inside single quotes no login shell interprets anything, as long as there is no single quote, no `!` (csh), no newline
# (csh) and no doubled backslash (fish). The script is its own $0, since it starts itself once more below the limit.
_PREAMBLE = " ".join(
    (
        "LC_ALL=C; export LC_ALL; PATH=$PATH:/usr/sbin:/sbin:/usr/local/sbin:/usr/bin:/bin; export PATH;",
        "unset COLUMNS; set -f;",
        "s={sudo}; k={limit}; m={many}; l={last}; x={skip};",
    )
)
_INNER = " ".join(
    (
        # $1: what to ask, $2: the nonce, $3: sudo or nothing
        "n=$2; w=$3; y=; h=Recv-Q;",
        # The header proves that a tool worked, and its exit status that it ended by itself.
        'run() {{ b=$1; shift; if [ -n "$w" ]; then sudo -n -l "$@" >/dev/null 2>&1 || return 1;',
        'o=$(sudo -n "$@" 2>/dev/null); else o=$("$@" 2>/dev/null); fi; r=$?;',
        'if [ "$r" -lt 124 ]; then case $o in *"$h"*) return 0;; esac; fi; y=$y,$b:$r; return 1; }};',
        "v=;{privileged} case $1 in",
        # toybox cuts a row with -W and -p within the pid
        'netstat) run netstat-W netstat -nl{u}tpW && case $o in *"Program Name"*) y=,netstat-W:cut; false;; esac ||',
        "run netstat netstat -nl{u}tp;;",
        # sudoers may name the line that earlier versions ran. An old ss that the kernel does not answer prints its
        # header alone: then the next tool is asked.
        "ss) {{ run ss ss -t{u}npe state listening{unconnected} ||",
        '{{ [ -n "$w" ] && {tcp_alone}run ss ss -ltnpe; }}; }} &&',
        "case $o in *{tcp_row}:[0-9]*) ;; *) y=$y,ss:empty; o=; false;; esac &&",
        "{unless_new}for i in $(ss -V 2>&1); do case $i in iproute2-*) v=${{i%,}};; esac; done{end_unless};;",
        '*) h=local_address; t=/proc/net/tcp; [ -r /proc/net/tcp6 ] && t="$t /proc/net/tcp6";',
        'run proc sed -n "/local_address/p;/ 0A /p" $t;; esac;',
        r'case $o in *"$h"*) [ "$r" -lt 124 ];; *) false;; esac || {{ printf %s "$y"; exit 41; }};',
        r'printf "@@%s LIST tool=%s ended=%s via=%s bytes=%s ver=%s\n%s\n"',
        '"$n" "$b" "$r" "${{w:--}}" "${{#o}}" "${{v:--}}" "$o";',
        # the pids: of netstat what stands before a slash, of ss what follows a name
        "{udp_of_ss}q=; c=0; g=; z=0;",
        'add() {{ case $1 in ""|*[[:space:][:alpha:][:punct:]]*) return;; esac;',
        'case " $q " in *" $1 "*) return;; esac; c=$((c+1)); [ $c -gt 500 ] || q="$q $1"; }};',
        "case $b in",
        "netstat*) IFS=/; for i in $o; do case $i in *LISTEN*[0-9]{udp_pid}) add ${{i##* }};; esac; done;;",
        r"ss) IFS=,; for i in $o; do case $i in *users:\(\(*) z=0;; esac; case $g in *\") z=$((z+1));",
        '[ $z -gt 8 ] || add "${{i#pid=}}";; esac; g=$i; done;; esac; unset IFS;',
        'f=; for i in $q; do f="$f /proc/$i/status /proc/$i/cgroup"; done;',
        'o=$(grep -s{only}E "{facts}"',
        "/proc/sys/kernel/random/boot_id /proc/sys/net/ipv4/ip_local_port_range",
        "/proc/sys/net/ipv4/ip_local_reserved_ports /proc/self/status{tables} $f);",
        r'printf "@@%s PROC bytes=%s\n%s\n" "$n" "${{#o}}" "$o";',
        "{udp_second}case $b in netstat*) if command -v ss >/dev/null 2>&1; then",
        "o=$(ss -tne state listening 2>/dev/null); r=$?;",
        r'printf "@@%s SSX ended=%s bytes=%s\n%s\n" "$n" "$r" "${{#o}}" "$o"; fi;; esac; exit 40;',
    )
)
_OUTER = " ".join(
    (
        "{nonce} export n;{udp_export}",
        "j=0; q=; for i in /proc/net/sockstat /proc/net/sockstat6; do [ -r $i ] && while read -r a b c d e f g h; do",
        "case $a in TCP:) j=$((j+c+e+g));; TCP6:) j=$((j+c)); q=$c;; esac; done <$i; done;",
        "t=0; u=-; a=; {{ read -r a </proc/net/tcp; }} 2>/dev/null; case $a in *local_address*) t=1;; esac;",
        # For the header of a table without a socket the kernel walks all of its hash, which takes milliseconds.
        "if [ -e /proc/net/tcp6 ]; then u=0; a=; {{ case $q,$j in 0,[1-9]*) true </proc/net/tcp6 && u=1;;",
        "*) read -r a </proc/net/tcp6;; esac; }} 2>/dev/null; case $a in *local_address*) u=1;; esac; fi;{udp_read}",
        '[ "$l" = ss ] && m=$((m/2));',
        'o="netstat ss proc"; if [ $j -gt $m ]; then o="ss netstat proc"; fi;',
        # netstat and proc read these tables
        "case $t$u in *0*) o=ss;; esac; p=;",
        'if [ $s = 1 ] && command -v sudo >/dev/null 2>&1 && [ "$(id -u)" -gt 0 ]; then',
        'for i in $o; do [ $i = proc ] || p="$p sudo,$i"; done; fi;',
        "y=; r=41; a=; for i in $p $o; do w=; case $i in sudo,*) w=sudo; i=${{i#*,}};; esac;",
        "case ,$x, in *,$i,*) continue;; esac;",
        "case $i in proc) ;; *) command -v $i >/dev/null 2>&1 || continue;; esac;",
        'a=$(timeout -s KILL $k sh -c "$0" "$0" $i $n $w 2>/dev/null); r=$?;',
        # busybox before 1.30 wants the limit as an option; without any, a watcher does the same
        'case $r in 1|2|125|126|127) a=$(timeout -t $k -s KILL sh -c "$0" "$0" $i $n $w 2>/dev/null); r=$?;; esac;',
        # A watcher of our own; the exclamation mark is one that csh does not see.
        r'case $r in 1|2|125|126|127) e=$(printf "\041"); a=$(sh -c "$0" "$0" $i $n $w 2>/dev/null & eval "b=\$$e";',
        r'{{ sleep $k && kill -9 $b; }} </dev/null >/dev/null 2>&1 & eval "c=\$$e"; wait $b; r=$?; kill $c; exit $r);',
        "r=$?;; esac;",
        "case $r in 40) break;; 41) y=$y$a; a=; continue;; esac;",
        # Processes of the tool are killed: they began after this shell and have its nonce in their environment.
        # Older processes are not read, since the tool may hang on one of them. A name with a newline leaves too few
        # fields, and is none of ours.
        "{{ read -r b </proc/$$/stat; b=${{b##*\\) }}; set -- $b; g=; [ $# -gt 19 ] && shift 19 && g=$1; set +f;",
        "set -- /proc/[0-9]*; set -f; for d do [ ${{d#/proc/}} -gt $$ ] || continue; b=;",
        "read -r b <$d/stat || continue;",
        "b=${{b##*\\) }}; set -- $b; [ $# -gt 19 ] || continue; shift 19; if [ $1 -ge $g ]; then",
        'if grep -qs "n=$n" $d/environ; then kill -9 ${{d#/proc/}}; fi; fi; done; }} 2>/dev/null;',
        # After PROC the listing is complete: the ss that is asked besides hung.
        'case $a in *"@@$n PROC "*) y=$y,ss:limit; r=40; break;; esac;',
        # Neither with sudo nor without is it asked again.
        "y=$y,$i:limit; x=$x,$i; a=; done;",
        "[ $r = 40 ] || a=;",
        "k=; set -- $(ls -dn --full-time /proc/self/ns/net 2>/dev/null);",
        "[ $# -gt 0 ] || set -- $(ls -dn /proc/self/ns/net 2>/dev/null);",
        "for i; do case $i in net:*) k=${{i#*\\[}}; k=${{k%\\]}};; esac; done;",
        "d=-; case $7 in *:*:*) d=${{6}}T$7$8;; esac;",
        "b=; {{ read -r b </proc/1/stat; }} 2>/dev/null; i=-; case $b in *\\)\\ *) b=${{b##*\\) }}; set -- $b;",
        "[ $# -gt 19 ] && shift 19 && i=$1;; esac; b=; {{ read -r b c </proc/uptime; }} 2>/dev/null;",
        r'printf "\n@@%s BEGIN v=2 bytes=%s tcp=%s tcp6=%s netns=%s pid1=%s{udp_place} tried=%s\n%s\n"',
        '"$n" "${{#a}}" "$t" "$u" "${{k:--}}" "$i"{udp_told} "${{y:--}}" "$a";',
        r'printf "@@%s END volatile uptime=%s clock=%s sockets=%s\n" "$n" "${{b:--}}" "$d" "$j";',
        '[ -n "$a" ] || exit 3; exit 0',
    )
)
_BODY = f"{_PREAMBLE} if [ $# -gt 0 ]; then {_INNER} fi; {_OUTER}"

_ALONE = dict.fromkeys(
    (
        *("u", "unconnected", "privileged", "tcp_alone", "tcp_row", "unless_new", "end_unless", "udp_pid"),
        *("only", "tables", "udp_of_ss", "udp_second", "udp_export", "udp_read", "udp_place", "udp_told"),
    ),
    "",
) | {"facts": "^(Name|Uid):|^0::|:name=systemd:|^[0-9a-f]{8}-|^[0-9]+[[:blank:]]|^[0-9]+[-,0-9]*$"}
"""The command to a host that is not asked for UDP has nothing of it."""
_UDP = {
    # The variable D says that UDP is asked for: a forced command hears that from its client. It is exported for the
    # second shell.
    "u": "${B:+u}",
    # B: and that the user may see whose the sockets are, so that the tools list both protocols.
    "privileged": ' B=$D; [ -n "$w" ] || [ -r /proc/1/environ ] || B=;',
    "unconnected": " ${B:+state unconnected}",
    # A rule of an earlier version would list TCP alone.
    "tcp_alone": '[ -z "$B" ] && ',
    "tcp_row": '"${B:+tcp }"*',
    # An ss that shows cgroups needs no version to be understood. That pays for its list of UDP.
    "unless_new": 'case $D$o in udp*" cgroup:/"*) ;; *) ',
    "end_unless": ";; esac",
    "udp_pid": "|*udp*[0-9]",
    # Of UDP's rows up to the inode: what follows changes all the time. A header proves that a table was read.
    "only": "${D:+o}",
    "facts": "^(Name|Uid):.*|^0::.*|:name=systemd:.*|^[0-9a-f]{8}-.*|^[0-9]+[[:blank:]].*|^[0-9]+[-,0-9]*$"
    "|^ *[0-9]+: [0-9A-F:]+ 0+:0000 07 [0-9A-F:]+ [0-9A-F:]+ [0-9A-F]+ +[0-9]+ +[0-9]+ [0-9]+"
    "|^ *sl +local_address",
    "tables": " $T",
    # Neither is needed if ss shows what it says.
    "udp_of_ss": 'T=; U=; [ -n "$D" ] && T="/proc/net/udp /proc/net/udp6"; case $D$b,$B$v in '
    "udpss,) U=$(ss -une state unconnected 2>/dev/null); e=$?; case $U in *:[0-9]*) T=;; esac;; "
    "udpss,*) case $o in *udp*UNCONN*) T=;; esac;; esac; ",
    "udp_second": r'case $U in ?*) printf "@@%s SSX ended=%s bytes=%s\n%s\n" "$n" "$e" "${#U}" "$U";; esac; ',
    "udp_export": " export D;",
    "udp_read": ' E=; for i in ${D:+udp udp6}; do b=-; [ -e /proc/net/$i ] && b=1; E="$E $i=$b"; done;',
    "udp_place": "%s",
    "udp_told": ' "$E"',
}

_FORCED = " ".join(
    (
        # Not od, which small systems lack. This file has another value each time.
        "n=$(cat /proc/sys/kernel/random/uuid 2>/dev/null); IFS=-; set -- $n; unset IFS; n=$1$2$3$4$5;",
        "n=${n:-pid$$}; set --;",
        # sshd ran this script instead of the client's command, which holds facts about this host.
        'case $SSH_ORIGINAL_COMMAND in *" l=ss;"*) l=ss;; esac;',
        'case $SSH_ORIGINAL_COMMAND in *" x=netstat;"*) x=netstat;; *" x=ss;"*) x=ss;;',
        '*" x=netstat,ss;"*) x=netstat,ss;; esac;',
        'D=; case $SSH_ORIGINAL_COMMAND in *" D=udp;"*) D=udp;; esac;',
    )
)

_NONCE = re.compile(r"[A-Za-z0-9]{4,64}")


def new_nonce() -> str:
    """16 hex digits that no program on the host can guess."""
    return secrets.token_hex(8)


def command(nonce: str, question: Question | None = None) -> str:
    """The command to run, one line for any login shell.

    :raises ValueError: the nonce is not 4 to 64 letters and digits
    """
    if not _NONCE.fullmatch(nonce):
        raise ValueError("a nonce is 4 to 64 letters and digits")
    question = question or Question()
    return _line(f"n={nonce}; D=udp;" if question.udp else f"n={nonce};", question, udp=question.udp)


def script(*, sudo: bool = False) -> str:
    """The probe as a shell script with a nonce of its own, for a forced command; ``sudo`` as of :class:`Question`."""
    return (
        "#!/bin/sh\n# portmon's probe: lists the listening TCP ports, and UDP ports if asked, and does nothing else.\n"
        f"{_line(_FORCED, Question(sudo=sudo), udp=True)}\n"
    )


def _line(nonce: str, question: Question, *, udp: bool) -> str:
    body = _BODY.format(
        **_UDP if udp else _ALONE,
        nonce=nonce,
        sudo=int(question.sudo),
        limit=max(1, question.limit),
        many=max(0, question.netstat_up_to),
        last="ss" if question.last == "ss" else "",
        skip=",".join(family for family in FAMILIES if family in question.skip),
    )
    return f"exec sh -c 'eval \"$0\"' '{body}'"
