"""The kernel's limits on a process: its descendants inherit them, and none can raise them."""

import os
import platform
import re
import resource
import sys

import psutil

from workers.sandbox.sandbox import Limits


def lower(limits: Limits) -> None:
    """Lower this process's limits; called between fork and exec, so it does nothing else."""
    wanted = [
        (resource.RLIMIT_FSIZE, limits.file_bytes),
        (resource.RLIMIT_CPU, limits.cpu_seconds),
        (resource.RLIMIT_NOFILE, limits.open_files),
        (resource.RLIMIT_CORE, 1),  # 0 would still start a handler that core_pattern pipes to
    ]
    if limits.address_bytes:
        wanted.append((resource.RLIMIT_AS, limits.address_bytes))
    if sys.platform == "linux":
        wanted += [
            (resource.RLIMIT_MEMLOCK, 1_048_576),
            (resource.RLIMIT_MSGQUEUE, 0),
            (resource.RLIMIT_SIGPENDING, 512),
        ]
    for what, most in wanted:
        _, hard = resource.getrlimit(what)
        allowed = most if hard == resource.RLIM_INFINITY else min(most, hard)
        resource.setrlimit(what, (allowed, allowed))


def counted_elsewhere() -> int:
    """What a kernel before 5.14 counts against the limit on processes besides the sandbox: this user's own."""
    release = re.match(r"(\d+)\.(\d+)", platform.release())
    if release is None or (int(release[1]), int(release[2])) >= (5, 14):
        return 0
    own = os.geteuid()
    return sum(
        process.info["num_threads"] or 0
        for process in psutil.process_iter(["uids", "num_threads"])
        if process.info["uids"] and process.info["uids"].real == own
    )
