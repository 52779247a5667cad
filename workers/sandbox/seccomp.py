"""The system calls that code in the sandbox may not make, as the program that the kernel reads (classic BPF).

Namespaces keep code away from what there is; this list keeps it away from parts of the kernel where holes are found.
Calls newer than the list are answered as unknown, so that a new kernel opens nothing by itself.
"""

import errno
import platform
import struct
from dataclasses import dataclass

_KILL, _ALLOW, _ERRNO = 0x80000000, 0x7FFF0000, 0x00050000
_LOAD, _EQUALS, _ABOVE, _AT_LEAST, _HAS_BITS, _RETURN = 0x20, 0x15, 0x25, 0x35, 0x45, 0x06
_NUMBER, _MACHINE, _ARGUMENTS = 0, 4, 16

_NEW_NAMESPACES = 0x7E020000  # CLONE_NEW*; the clock's fits only into clone3
_TIOCSTI, _TIOCLINUX = 0x5412, 0x541C
_AF_UNIX, _RLIMIT_CORE = 1, 4
_MOST_SHARED_BYTES = 65_536  # Postgres asks for 56; more than this would be memory that nobody counts

# name: (number on x86-64, number on arm64)
_DENIED: dict[str, tuple[int | None, int | None]] = {
    # other processes
    "ptrace": (101, 117),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "process_madvise": (440, 440),
    "kcmp": (312, 272),
    "pidfd_getfd": (438, 438),
    # large, young or leaky parts of the kernel
    "perf_event_open": (298, 241),
    "bpf": (321, 280),
    "userfaultfd": (323, 282),
    "io_uring_setup": (425, 425),
    "io_uring_enter": (426, 426),
    "io_uring_register": (427, 427),
    "add_key": (248, 217),
    "request_key": (249, 218),
    "keyctl": (250, 219),
    "personality": (135, 92),
    "seccomp": (317, 277),
    "modify_ldt": (154, None),
    "uselib": (134, None),
    "ustat": (136, None),
    "sysfs": (139, None),
    "_sysctl": (156, None),
    "lookup_dcookie": (212, 18),
    "move_pages": (279, 239),
    "migrate_pages": (256, 238),
    "syslog": (103, 116),
    "fanotify_init": (300, 262),
    "fanotify_mark": (301, 263),
    # namespaces and mounts
    "unshare": (272, 97),
    "setns": (308, 268),
    "mount": (165, 40),
    "umount2": (166, 39),
    "pivot_root": (155, 41),
    "chroot": (161, 51),
    "move_mount": (429, 429),
    "open_tree": (428, 428),
    "fsopen": (430, 430),
    "fsconfig": (431, 431),
    "fsmount": (432, 432),
    "fspick": (433, 433),
    "mount_setattr": (442, 442),
    "statmount": (457, 457),
    "listmount": (458, 458),
    "name_to_handle_at": (303, 264),
    "open_by_handle_at": (304, 265),
    # the machine itself
    "kexec_load": (246, 104),
    "kexec_file_load": (320, 294),
    "init_module": (175, 105),
    "finit_module": (313, 273),
    "delete_module": (176, 106),
    "reboot": (169, 142),
    "swapon": (167, 224),
    "swapoff": (168, 225),
    "acct": (163, 89),
    "quotactl": (179, 60),
    "quotactl_fd": (443, 443),
    "settimeofday": (164, 170),
    "clock_settime": (227, 112),
    "clock_adjtime": (305, 266),
    "adjtimex": (159, 171),
    "sethostname": (170, 161),
    "setdomainname": (171, 162),
    "vhangup": (153, 58),
    "iopl": (172, None),
    "ioperm": (173, None),
    # memory outside every count: no file system's size and no process's pages hold it
    "memfd_create": (319, 279),
    "memfd_secret": (447, 447),
    "semget": (64, 190),
    "msgget": (68, 186),
    "mq_open": (240, 180),
}
_CLONE, _CLONE3, _SOCKET, _SOCKETPAIR = (56, 220), (435, 435), (41, 198), (53, 199)
_IOCTL, _SHMGET, _SETRLIMIT, _PRLIMIT = (16, 29), (29, 194), (160, 164), (302, 261)
_NEWEST = 466
_X32 = 0x40000000


@dataclass(frozen=True)
class Machine:
    """A processor: its name for the kernel, and its column of the list."""

    audit: int
    column: int


MACHINES = {
    "x86_64": Machine(0xC000003E, 0),
    "aarch64": Machine(0xC00000B7, 1),
}


def machine() -> Machine | None:
    """The processor this Python runs on, if there is a list for it."""
    return MACHINES.get(platform.machine())


def denied(machine: Machine) -> dict[str, int]:
    """The calls that are refused whatever their arguments."""
    return {name: number for name, both in _DENIED.items() if (number := both[machine.column]) is not None}


def assembled(machine: Machine) -> bytes:
    """The filter: another processor's calls kill, denied ones are answered EPERM, unknown ones ENOSYS."""
    column = machine.column
    refuse = _return(_ERRNO | errno.EPERM)
    unknown = _return(_ERRNO | errno.ENOSYS)
    steps = [_load(_MACHINE), *_unless(_EQUALS, machine.audit, _return(_KILL)), _load(_NUMBER)]
    if column == 0:
        steps += _when(_AT_LEAST, _X32, _return(_KILL))
    steps += _when(_ABOVE, _NEWEST, unknown)
    for number in denied(machine).values():
        steps += _when(_EQUALS, number, refuse)
    steps += _when(_EQUALS, _CLONE3[column], unknown)  # its flags lie in memory: libc falls back to clone
    steps += _for_call(_CLONE[column], [_load(_low(0)), *_when(_HAS_BITS, _NEW_NAMESPACES, refuse)])
    for call in (_SOCKET, _SOCKETPAIR):
        steps += _for_call(
            call[column], [_load(_low(0)), *_unless(_EQUALS, _AF_UNIX, _return(_ERRNO | errno.EAFNOSUPPORT))]
        )
    steps += _for_call(
        _IOCTL[column],
        [_load(_low(1)), *_when(_EQUALS, _TIOCSTI, refuse), *_when(_EQUALS, _TIOCLINUX, refuse)],
    )
    steps += _for_call(
        _SHMGET[column],
        [
            _load(_high(1)),
            *_unless(_EQUALS, 0, refuse),
            _load(_low(1)),
            *_when(_ABOVE, _MOST_SHARED_BYTES, refuse),
        ],
    )
    # A limit of 0 for core dumps lets the host's handler run all the same; the sandbox sets 1, and it stays.
    steps += _for_call(_SETRLIMIT[column], [_load(_low(0)), *_when(_EQUALS, _RLIMIT_CORE, refuse)])
    new_limit = [_load(_low(2)), *_unless(_EQUALS, 0, refuse), _load(_high(2)), *_unless(_EQUALS, 0, refuse)]
    steps += _for_call(_PRLIMIT[column], [_load(_low(1)), *_skip_unless(_RLIMIT_CORE, new_limit)])
    return b"".join([*steps, _return(_ALLOW)])


def _instruction(code: int, yes: int, no: int, value: int) -> bytes:
    return struct.pack("=HBBI", code, yes, no, value)


def _load(offset: int) -> bytes:
    return _instruction(_LOAD, 0, 0, offset)


def _low(argument: int) -> int:
    return _ARGUMENTS + 8 * argument


def _high(argument: int) -> int:
    return _low(argument) + 4


def _return(what: int) -> bytes:
    return _instruction(_RETURN, 0, 0, what)


def _when(test: int, value: int, then: bytes) -> list[bytes]:
    return [_instruction(test, 0, 1, value), then]


def _unless(test: int, value: int, then: bytes) -> list[bytes]:
    return [_instruction(test, 1, 0, value), then]


def _skip_unless(value: int, steps: list[bytes]) -> list[bytes]:
    """These steps only when what was loaded is the value."""
    return [_instruction(_EQUALS, 0, len(steps), value), *steps]


def _for_call(number: int, steps: list[bytes]) -> list[bytes]:
    """These steps only for one call; the call's number is loaded again behind them."""
    return _skip_unless(number, [*steps, _load(_NUMBER)])
