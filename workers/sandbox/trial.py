"""Runs inside a sandbox, never in the worker: tries what code must not be able to do, and says what it could."""

import ctypes
import json
import os
import socket
import sys
from collections.abc import Callable
from pathlib import Path

_KEYCTL = {"x86_64": 250, "aarch64": 219}
_NEW_USER_NAMESPACE = 0x10000000


def _connects(port: int) -> bool:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as client:
        client.settimeout(1)
        client.connect(("127.0.0.1", port))
    return True


def _reads(path: str) -> bool:
    return bool(Path(path).read_bytes())


def _writes(path: str) -> bool:
    with open(path, "ab") as file:
        file.write(b"")
    return True


def _forks(most: int) -> bool:
    """Whether more processes than allowed can live at once."""
    children = []
    read_end, write_end = os.pipe()
    try:
        for _ in range(most + 1):
            child = os.fork()
            if child == 0:
                os.close(write_end)
                os.read(read_end, 1)
                os._exit(0)
            children.append(child)
        return True
    finally:
        os.close(write_end)
        for child in children:
            os.waitpid(child, 0)


def _fills(folder: str, more_than: int) -> bool:
    path = Path(folder) / "filled"
    try:
        with path.open("wb") as file:
            for _ in range(more_than // 65_536 + 2):
                file.write(bytes(65_536))
        return True
    finally:
        path.unlink()


def _allocates(more_than: int) -> bool:
    return len(bytearray(more_than)) > 0


def _calls(name: str, *arguments: int) -> bool:
    return int(getattr(ctypes.CDLL(None), name)(*arguments)) >= 0


def _status(name: str) -> str:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(line.partition(":")[2].strip() for line in lines if line.startswith(f"{name}:"))


def _tried(attempt: Callable[[], bool]) -> bool:
    try:
        return attempt()
    except (OSError, MemoryError):
        return False


def main() -> None:
    """Print the sentences about what was possible, as JSON; an empty list is good."""
    told = json.loads(Path(sys.argv[1] if len(sys.argv) > 1 else "trial.json").read_text())
    tries: dict[str, Callable[[], bool]] = {
        "Code could reach the network.": lambda: _connects(told["port"]),
        "Code could read a file of this machine.": lambda: _reads(told["canary"]),
        "Code could see the worker's environment.": lambda: bool(set(os.environ) - set(told["environment"])),
        "Code ran as root.": lambda: 0 in (os.getuid(), os.geteuid()),
        "Code kept capabilities.": lambda: int(_status("CapEff"), 16) != 0,
        "Code could change the kernel's core_pattern.": lambda: _writes("/proc/sys/kernel/core_pattern"),
        "Code could write outside its folders.": lambda: _writes("/escaped"),
        "Code could see processes of this machine.": lambda: sum(n.isdigit() for n in os.listdir("/proc")) > 4,
        "The limit on processes does not hold.": lambda: _forks(told["processes"]),
        "The limit on memory does not hold.": lambda: _allocates(told["address_bytes"]),
        "The limit on the disk does not hold.": lambda: _fills(".", told["disk_bytes"]),
        "The list of system calls does not hold.": lambda: (
            _status("Seccomp") != "2" or _calls("syscall", _KEYCTL[os.uname().machine], 0, -3, 1)
        ),
        "Code could make a namespace.": lambda: _calls("unshare", _NEW_USER_NAMESPACE),
    }
    print(json.dumps([sentence for sentence, attempt in tries.items() if _tried(attempt)]))


if __name__ == "__main__":
    main()
