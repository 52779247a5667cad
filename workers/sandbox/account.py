"""The ordinary user that sandboxes run as, and how a thread of root takes its place for a while."""

import ctypes
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

# No distribution hands it out: above people, below what systemd gives to services for a while.
_UID = 61_100


@dataclass(frozen=True)
class Account:
    """A user and group by number; nothing needs to know its name."""

    uid: int
    gid: int
    is_ours: bool

    @property
    def drop(self) -> dict[str, object]:
        """What subprocess needs to start a program as this user: nothing when the worker is it already."""
        return {} if self.is_ours else {"user": self.uid, "group": self.gid, "extra_groups": []}


def ordinary_account() -> Account:
    """The worker's own user, or for root another one that owns nothing.

    Root in a sandbox would keep writing to the kernel's settings and ignore the limit on processes.
    """
    if os.geteuid() != 0:
        return Account(os.geteuid(), os.getegid(), True)
    return Account(_UID, _UID, False)


@contextmanager
def acting_as(account: Account) -> Iterator[None]:
    """File access of this thread alone as the account: root gives up its rights over files meanwhile."""
    if account.is_ours:
        yield
        return
    libc = ctypes.CDLL(None)
    libc.setfsgid(account.gid)
    libc.setfsuid(account.uid)
    try:
        if libc.setfsuid(-1) != account.uid:
            raise PermissionError("this thread could not become the sandbox's user")
        yield
    finally:
        libc.setfsuid(0)
        libc.setfsgid(0)


def can_reach(path: Path, account: Account) -> bool:
    """Whether the account can walk down to the path and read it. Its own worker simply looks."""
    if account.is_ours:
        return os.access(path, os.R_OK | (os.X_OK if path.is_dir() else 0))
    wanted = stat.S_IROTH | (stat.S_IXOTH if path.is_dir() else 0)
    return path.stat().st_mode & wanted == wanted and all(
        folder.stat().st_mode & stat.S_IXOTH for folder in path.resolve().parents
    )
