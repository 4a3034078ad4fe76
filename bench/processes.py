"""What processes cost: CPU time with that of the processes they waited for, and memory."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from demo.airflow_env import die_with_parent

_TICKS = os.sysconf("SC_CLK_TCK")
_PR_SET_CHILD_SUBREAPER = 36


def cpu_seconds(roots: Iterable[int]) -> float:
    """CPU time that some processes and their descendants used so far, those that have ended included.

    What has ended counts for the process that waited for it (``cutime``); an orphan's time is lost, unless there is a
    reaper, see :func:`below_a_reaper`.
    """
    parents, times = _stat()
    return sum(times.get(pid, 0.0) for pid in _descendants(roots, parents))


def below_a_reaper() -> None:
    """Go on in a child of this process, which from now on waits for every orphan among the child's descendants.

    So the time of what ends after its parent, as sessions of an SSH server and tasks of a killed scheduler do, counts
    for this process. It ends as the child does, and hands SIGTERM on to it.
    """
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    signals = (signal.SIGINT, signal.SIGTERM)
    # No signal is lost between the fork and the handlers.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, signals)
    child = os.fork()
    if child == 0:
        die_with_parent()
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        return
    # The terminal sends Ctrl-C to both.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda number, _: os.kill(child, number))
    signal.pthread_sigmask(signal.SIG_SETMASK, before)
    while True:
        pid, status = os.wait()
        if pid == child:
            code = os.waitstatus_to_exitcode(status)
            os._exit(code if code >= 0 else 128 - code)


def machine_cpu_seconds() -> float:
    """CPU time that all processes of this machine used so far, and that the hypervisor took."""
    # user nice system idle iowait irq softirq steal; what guests use is in the first two.
    fields = Path("/proc/stat").read_text().splitlines()[0].split()[1:9]
    return sum(int(field) for number, field in enumerate(fields) if number not in (3, 4)) / _TICKS


def memory_mib(roots: Iterable[int]) -> float:
    """Memory of some processes and what they started, what several of them share counted once."""
    parents, _ = _stat()
    total = 0
    for pid in _descendants(roots, parents):
        with contextlib.suppress(OSError):
            for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
                if line.startswith("Pss:"):
                    total += int(line.split()[1])
    return total / 1024


class Peak:
    """The largest of several samples."""

    def __init__(self) -> None:
        self.value = 0.0


@contextmanager
def peak_memory(roots: Callable[[], Iterable[int]], every: float = 0.5) -> Iterator[Peak]:
    """Sample the memory of processes while the block runs. Costs CPU time itself: not to be used in a timed run.

    :param roots: asked anew for each sample
    :param every: seconds
    """
    peak = Peak()
    over = threading.Event()

    def sample() -> None:
        while True:
            peak.value = max(peak.value, memory_mib(roots()))
            if over.wait(every):
                return

    thread = threading.Thread(target=sample, daemon=True)
    thread.start()
    try:
        yield peak
    finally:
        over.set()
        thread.join()


@contextmanager
def paused(pids: Iterable[int]) -> Iterator[None]:
    """Processes that rest while the block runs."""
    stopped = list(pids)
    for pid in stopped:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGSTOP)
    # Work that they began in the kernel or in other processes comes to its end.
    time.sleep(0.5)
    try:
        yield
    finally:
        for pid in stopped:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)


def _stat() -> tuple[dict[int, int], dict[int, float]]:
    """Pid: its parent; pid: CPU seconds of itself and of those it waited for."""
    parents, times = {}, {}
    for place in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            # The second field is the name, in parentheses, and may hold anything.
            fields = (place / "stat").read_text().rpartition(")")[2].split()
            pid = int(place.name)
            parents[pid] = int(fields[1])
            times[pid] = sum(map(int, fields[11:15])) / _TICKS
    return parents, times


def _descendants(roots: Iterable[int], parents: dict[int, int]) -> set[int]:
    children = defaultdict(list)
    for pid, parent in parents.items():
        children[parent].append(pid)
    found: set[int] = set()
    waiting = list(roots)
    while waiting:
        pid = waiting.pop()
        if pid not in found:
            found.add(pid)
            waiting += children[pid]
    return found
