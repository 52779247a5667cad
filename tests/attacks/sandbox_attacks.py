"""What code was told to try in the sandbox, each by a mechanism of its own, and what stopped it.

A program prints ESCAPED when it got through. `stopped_by` is looked for in the report: the output, then the exit code,
the stop, what comes back and what was left. HERE stands for what the attacker knows of the machine outside.
"""

import re
from dataclasses import dataclass, replace

from workers.sandbox.sandbox import MIB, Language, Limits, Outcome

PYTHON, SHELL, SQL = Language.PYTHON, Language.SHELL, Language.SQL
CANARY = "canary-5f1c9e"
LIMITS = Limits(wall_seconds=8, disk_bytes=8 * MIB)
SERVER = replace(LIMITS, disk_bytes=96 * MIB)

PRELUDE = """
import ctypes, errno, json, os, signal, socket, struct, sys, time
HERE = json.loads(open('here.json').read()) if os.path.exists('here.json') else {}
libc = ctypes.CDLL(None, use_errno=True)
ARM = os.uname().machine == 'aarch64'
def call(x86, arm, *given):
    done = libc.syscall(arm if ARM else x86, *given)
    if done < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return done
def tried(what):
    try:
        print('ESCAPED', what())
    except BaseException as stopped:
        print('stopped:', type(stopped).__name__, stopped)
"""


@dataclass(frozen=True)
class Attack:
    """One mechanism: what is tried, in which language, and what must be found in the report."""

    tried: str
    language: Language
    code: str
    stopped_by: str
    limits: Limits = LIMITS

    @property
    def program(self) -> str:
        """The code as the sandbox gets it."""
        return f"{PRELUDE}\n{self.code}" if self.language is PYTHON else self.code


def report(outcome: Outcome) -> str:
    """An outcome as one text."""
    left = "; ".join(f"{item.path!r}: {item.why}" for item in outcome.left_out)
    return (
        f"{outcome.output}\n[exit {outcome.exit_code}] [stop {outcome.stopped}] "
        f"[back {sorted(outcome.changed)!r}] [left {left}]"
    )


def breach(attack: Attack, outcome: Outcome) -> str | None:
    """What got through, or what did not stop it as expected; None when the sandbox held."""
    told = report(outcome)
    if "ESCAPED" in told or CANARY in told or any(CANARY.encode() in content for content in outcome.changed.values()):
        return f"got through: {told[-1500:]}"
    if not re.search(attack.stopped_by, told, re.DOTALL):
        return f"not stopped by {attack.stopped_by!r}: {told[-1500:]}"
    return None


def tight(**limits: float) -> Limits:
    """Limits with some of them lower."""
    return replace(LIMITS, **limits)  # type: ignore[arg-type]


_SOCKET = "tried(lambda: socket.socket({0}).connect({1}))"
_NO_FAMILY, _DENIED, _READ_ONLY = "not supported by protocol", "not permitted", "Read-only file system"
NETWORK = (
    Attack("TCP to a server of this machine", PYTHON, _SOCKET.format("socket.AF_INET", "('127.0.0.1', HERE['port'])"), _NO_FAMILY),
    Attack("TCP over IPv6", PYTHON, _SOCKET.format("socket.AF_INET6", "('::1', HERE['port'])"), _NO_FAMILY),
    Attack("UDP to a name server", PYTHON, "tried(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'x', ('127.0.0.1', 53)))", _NO_FAMILY),
    Attack("a name looked up", PYTHON, "tried(lambda: socket.getaddrinfo('localhost.example.com', 80))", "gaierror"),
    Attack("a raw packet socket", PYTHON, "tried(lambda: socket.socket(17, socket.SOCK_RAW))", _NO_FAMILY),
    Attack("netlink to the kernel's routing", PYTHON, "tried(lambda: socket.socket(16, socket.SOCK_RAW))", _NO_FAMILY),
    Attack("a socket to the hypervisor", PYTHON, "tried(lambda: socket.socket(40, socket.SOCK_STREAM))", _NO_FAMILY),
    Attack("crypto sockets", PYTHON, "tried(lambda: socket.socket(38, socket.SOCK_SEQPACKET))", _NO_FAMILY),
    Attack("an abstract Unix socket of this machine", PYTHON, _SOCKET.format("socket.AF_UNIX", "'\\0' + HERE['abstract']"), "refused"),
    Attack("a Unix socket in a file of this machine", PYTHON, _SOCKET.format("socket.AF_UNIX", "HERE['socket']"), "No such file"),
    Attack("bash's own /dev/tcp", SHELL, "bash -c 'echo x >/dev/tcp/127.0.0.1/80' && echo ESCAPED", "not supported by protocol"),
)  # fmt: skip

_OPEN = "tried(lambda: open({0}, 'rb').read(100))"
HOST = (
    Attack("a file that everybody here may read", PYTHON, _OPEN.format("HERE['canary']"), "No such file"),
    Attack("the accounts of this machine", PYTHON, "names = open('/etc/passwd').read()\nprint('ESCAPED' if 'root:' in names else 'only our own: ' + names)", "only our own: sandbox:x:1000"),
    Attack("the shadow file", PYTHON, _OPEN.format("'/etc/shadow'"), "No such file"),
    Attack("PAM's own state and secrets", PYTHON, _OPEN.format("HERE['state']"), "No such file"),
    Attack("the checkout", PYTHON, _OPEN.format("HERE['checkout'] + '/pyproject.toml'"), "No such file"),
    Attack("the root folder of process 1", PYTHON, _OPEN.format("'/proc/1/root' + HERE['canary']"), "No such file"),
    Attack("up and out of the working folder", PYTHON, _OPEN.format("'../' * 40 + HERE['canary'].lstrip('/')"), "No such file"),
    Attack("any environment under /proc", PYTHON, "import glob\nfor path in sorted(glob.glob('/proc/[0-9]*/environ')):\n    print(path, open(path, 'rb').read().replace(b'\\0', b' ').decode())\nprint(dict(os.environ))", "PATH="),
    Attack("any command line under /proc", PYTHON, "import glob\nwords = b' '.join(open(p, 'rb').read() for p in glob.glob('/proc/[0-9]*/cmdline'))\nprint('ESCAPED' if HERE['checkout'].encode() in words else 'nothing of the machine')", "nothing of the machine"),
    Attack("an open file left by the worker", PYTHON, "print('fds', sorted(int(n) for n in os.listdir('/proc/self/fd'))[:5])", r"fds \[0, 1, 2, 3\]"),
    Attack("the machine's devices", PYTHON, "seen = set(os.listdir('/dev'))\nprint('devices', sorted(seen - {'fd','full','null','random','shm','stderr','stdin','stdout','urandom','zero'}))\ntried(lambda: open('/dev/mem', 'rb'))", r"devices \[\].*No such file"),
    Attack("the kernel's objects under /sys", SHELL, "ls /sys/kernel && echo ESCAPED", "No such file"),
    Attack("a device node of one's own", PYTHON, "tried(lambda: os.mknod('disk', 0o60666, os.makedev(254, 0)))", _DENIED),
    Attack("a file opened by its handle", PYTHON, "tried(lambda: call(304, 265, -100, bytes(64), 0))", _DENIED),
    Attack("the host's program, by a script in SQL", SQL, "copy (select 1) to program 'cat /etc/shadow >&2 && printf ESC%s APED >&2';", "child process exited", SERVER),
    Attack("the server's own file functions", SQL, "select pg_read_file('/etc/hostname');", "No such file", SERVER),
    Attack("psql's way into a shell", SQL, r"\! cat /etc/hostname && echo ESCAPED", "No such file", SERVER),
    Attack("packages of the worker", PYTHON, "for name in ('workers', 'psycopg', 'boto3', 'pydantic', 'cryptography', 'pip'):\n    tried(lambda: __import__(name))", "No module named 'workers'.*'psycopg'.*'boto3'.*'pydantic'.*'cryptography'.*'pip'"),
    Attack("packages of the worker by their folder", PYTHON, "sys.path.insert(0, HERE['packages'])\ntried(lambda: __import__('psycopg'))", "No module named"),
)  # fmt: skip

KERNEL = (
    Attack("core_pattern", PYTHON, "tried(lambda: open('/proc/sys/kernel/core_pattern', 'w').write('|/bin/sh'))", _READ_ONLY),
    Attack("any setting of the kernel", SHELL, "find /proc/sys -type f -writable 2>/dev/null | head; for f in $(find /proc/sys -type f | head -300); do (echo 1 >$f) 2>/dev/null && echo ESCAPED $f; done; echo none", "none"),
    Attack("the magic key", PYTHON, "tried(lambda: open('/proc/sysrq-trigger', 'w').write('b'))", f"{_READ_ONLY}|No such file"),
    Attack("its own chance to be spared when memory ends", PYTHON, "tried(lambda: open('/proc/self/oom_score_adj', 'w').write('-1000'))", _READ_ONLY),
    Attack("a new map of users", PYTHON, "tried(lambda: open('/proc/self/uid_map', 'w').write('0 0 1'))", _READ_ONLY),
    Attack("becoming root", PYTHON, "tried(lambda: os.setuid(0))", "not permitted|Invalid argument"),
    Attack("a program with the set-user-ID bit", SHELL, "cp /bin/sh ./sh && chmod 4755 ./sh && ./sh -p -c 'id -u'; su -c 'echo ESCAPED' </dev/null; echo over", "1000.*over"),
    Attack("namespaces by unshare", PYTHON, "tried(lambda: call(272, 97, 0x10000000))", _DENIED),
    Attack("namespaces by clone", PYTHON, "tried(lambda: call(56, 220, 0x10000000 | 17, 0, 0, 0, 0) or os._exit(0))", _DENIED),
    Attack("namespaces by clone3", PYTHON, "flags = (ctypes.c_uint64 * 8)(0x10000000, 0, 0, 0, 17)\ntried(lambda: call(435, 435, ctypes.byref(flags), 64) or os._exit(0))", "not implemented"),
    Attack("another process's namespaces", PYTHON, "fd = os.open('/proc/1/ns/user', os.O_RDONLY)\ntried(lambda: call(308, 268, fd, 0))", _DENIED),
    Attack("a mount", PYTHON, "tried(lambda: call(165, 40, b'tmpfs', b'/tmp', b'tmpfs', 0, 0))", _DENIED),
    Attack("the new calls for mounts", PYTHON, "tried(lambda: call(430, 430, b'tmpfs', 0))\ntried(lambda: call(428, 428, -100, b'/', 1))", f"{_DENIED}.*{_DENIED}"),
    Attack("an unmount that shows what lies below", PYTHON, "tried(lambda: call(166, 39, b'/proc', 2))", _DENIED),
    Attack("another root folder", PYTHON, "tried(lambda: call(161, 51, b'/tmp'))\ntried(lambda: call(155, 41, b'/tmp', b'/tmp'))", f"{_DENIED}.*{_DENIED}"),
    Attack("io_uring", PYTHON, "tried(lambda: call(425, 425, 1, bytes(256)))", _DENIED),
    Attack("the kernel's key rings", PYTHON, "tried(lambda: call(250, 219, 0, -3, 1))\ntried(lambda: call(248, 217, b'user', b'a', b'b', 1, -3))", f"{_DENIED}.*{_DENIED}"),
    Attack("programs in the kernel (bpf)", PYTHON, "tried(lambda: call(321, 280, 0, bytes(128), 128))", _DENIED),
    Attack("personality", PYTHON, "tried(lambda: call(135, 92, 0xffffffff))", _DENIED),
    Attack("userfaultfd", PYTHON, "tried(lambda: call(323, 282, 1))", _DENIED),
    Attack("perf events", PYTHON, "tried(lambda: call(298, 241, bytes(128), 0, -1, -1, 0))", _DENIED),
    Attack("kernel modules and another kernel", PYTHON, "tried(lambda: call(175, 105, b'', 0, b''))\ntried(lambda: call(246, 104, 0, 0, 0, 0))", f"{_DENIED}.*{_DENIED}"),
    Attack("the kernel's log", PYTHON, "tried(lambda: call(103, 116, 10, 0, 0))", _DENIED),
    Attack("the machine's name and clock", PYTHON, "tried(lambda: socket.sethostname('x'))\ntried(lambda: time.clock_settime(time.CLOCK_REALTIME, 0))", f"{_DENIED}.*{_DENIED}"),
    Attack("system calls of another machine's kind", PYTHON, "call(0x40000000 | 39, 10_000)\nprint('ESCAPED')", r"exit 159|not implemented"),
    Attack("system calls newer than the list", PYTHON, "tried(lambda: call(600, 600))\ntried(lambda: call(467, 467, -100, b'/', 1, 0, 0))", "not implemented.*not implemented"),
    Attack("a filter of one's own, to see others' calls", PYTHON, "tried(lambda: call(317, 277, 1, 8, bytes(16)))", _DENIED),
    Attack("real-time priority", PYTHON, "tried(lambda: os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(50)))", _DENIED),
    Attack("letters put into a terminal's input", PYTHON, "import fcntl\ntried(lambda: fcntl.ioctl(0, 0x5412, b'x'))\ntried(lambda: fcntl.ioctl(0, 0x541C, b'x'))", f"{_DENIED}.*{_DENIED}"),
    Attack("the worker's terminal", PYTHON, "tried(lambda: open('/dev/tty', 'w'))\ntried(lambda: os.openpty())", f"({_READ_ONLY}|No such file).*(No such file|out of pty)"),
)  # fmt: skip

PROCESSES = (
    Attack("processes of this machine, seen", PYTHON, "print('processes', sorted(n for n in os.listdir('/proc') if n.isdigit()))\ntried(lambda: os.kill(HERE['pid'], 0) if HERE['pid'] > 50 else os.kill(10 ** 6, 0))", r"processes \['1', '\d+'\].*No such process"),
    Attack("a signal to everybody", SHELL, "kill -9 -1; echo still here", "still here|exit 137"),
    Attack("ptrace", PYTHON, "tried(lambda: call(101, 117, 16, 1, 0, 0))", _DENIED),
    Attack("another process's memory, read and written", PYTHON, "tried(lambda: call(310, 270, 1, 0, 0, 0, 0, 0))\ntried(lambda: open('/proc/1/mem', 'r+b'))", f"{_DENIED}.*({_READ_ONLY}|denied)"),
    Attack("another process's open files", PYTHON, "fd = os.pidfd_open(1)\ntried(lambda: call(438, 438, fd, 0, 0))", _DENIED),
    Attack("the program behind process 1, overwritten", PYTHON, "tried(lambda: open('/proc/1/exe', 'r+b'))\ntried(lambda: open('/proc/self/exe', 'r+b'))", f"({_READ_ONLY}|denied|busy).*({_READ_ONLY}|denied|busy)"),
    Attack("the guard, stopped and killed", SHELL, "kill -STOP 1; kill -9 1; echo guarded", "guarded.*exit 0"),
    Attack("a fork bomb", SHELL, "bomb() { bomb | bomb & }; bomb 2>/dev/null; sleep 1; echo over", "Cannot fork|over|Resource temporarily|stop time"),
    Attack("threads without end", PYTHON, "import threading\nthreading.stack_size(65536)\nfor n in range(500):\n    try:\n        threading.Thread(target=time.sleep, args=(3,), daemon=True).start()\n    except RuntimeError as full:\n        print(full, n < 64); os._exit(0)\nprint('ESCAPED')", "can't start new thread True"),
    Attack("a daemon that outlives its parent", SHELL, "(setsid sh -c 'trap \"\" TERM HUP INT; sleep 77; echo ESCAPED' &) ; exit 7", "exit 7"),
    Attack("time, and deaf to signals", PYTHON, "for number in range(1, 65):\n    try: signal.signal(number, signal.SIG_IGN)\n    except (OSError, ValueError): pass\nwhile True: pass", "stop time", tight(wall_seconds=0.5)),
    Attack("processor time", PYTHON, "while True: pass", r"exit (137|152)", tight(cpu_seconds=1)),
    Attack("waiting for input that never comes", PYTHON, "print('read', repr(sys.stdin.read()))", "read ''"),
    Attack("an endless list of arguments", PYTHON, "tried(lambda: os.execv('/bin/true', ['x' * 4_000_000]))\ntried(lambda: os.execv('/bin/true', ['x' * 1000] * 60_000))", "too long.*too long"),
)  # fmt: skip

RESOURCES = (
    Attack("memory in one piece", PYTHON, "tried(lambda: len(bytearray(5 * 2 ** 30)))", "MemoryError"),
    Attack("memory in many processes", PYTHON, "for _ in range(6):\n    if os.fork() == 0:\n        held = bytearray(os.urandom(1)) * (60 * 2 ** 20); time.sleep(8); os._exit(0)\ntime.sleep(8); print('ESCAPED')", "stop memory", tight(memory_bytes=200 * MIB)),
    Attack("memory in shared segments that nobody maps", PYTHON, "tried(lambda: call(29, 194, 0, 2 ** 20, 0o1600))", _DENIED),
    Attack("memory in files that have no name", PYTHON, "tried(lambda: os.memfd_create('x'))", _DENIED),
    Attack("memory in queues and semaphores of the kernel", PYTHON, "tried(lambda: call(68, 186, 0, 0o1600))\ntried(lambda: call(64, 190, 0, 30000, 0o1600))\ntried(lambda: call(240, 180, b'q', 0o102, 0o600, 0))", f"{_DENIED}.*{_DENIED}.*{_DENIED}"),
    Attack("the disk, through the working folder", SHELL, "dd if=/dev/zero of=fill bs=1M count=32 && echo ESCAPED; rm -f fill", "No space left"),
    Attack("the disk, through /tmp", SHELL, "dd if=/dev/zero of=/tmp/fill bs=1M count=32 && echo ESCAPED", "No space left"),
    Attack("the disk, through shared memory", SHELL, "for n in 1 2 3; do dd if=/dev/zero of=/dev/shm/fill$n bs=1M count=60 2>&1 || exit 0; done; echo ESCAPED", "No space left"),
    Attack("the disk, everywhere else", SHELL, "for d in / /dev /usr /etc /program /python /root /proc /postgres; do touch $d/x 2>&1 && echo ESCAPED $d; done", "Read-only file system"),
    Attack("one file beyond its limit", PYTHON, "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\ntried(lambda: os.truncate(os.open('big', os.O_CREAT | os.O_RDWR), 2 ** 32))", "File too large"),
    Attack("files without end", PYTHON, "for n in range(200_000): os.close(os.open(f'/tmp/{n}', os.O_CREAT))\nprint('ESCAPED')", "stop files", tight(files=2_000)),
    Attack("open files without end", PYTHON, "tried(lambda: [os.open('/dev/null', 0) for _ in range(2000)] and 1)", "Too many open files"),
    Attack("output without end", SHELL, "yes", "stop output", tight(output_bytes=MIB)),
    Attack("a core dump handed to the machine", PYTHON, "import resource\nprint(resource.getrlimit(resource.RLIMIT_CORE))\ntried(lambda: resource.setrlimit(resource.RLIMIT_CORE, (0, 0)))\nsys.stdout.flush(); os.abort()", r"\(1, 1\).*stopped.*exit 134\] \[stop None\] \[back \[\]\]"),
    Attack("its own limits, raised", PYTHON, "import resource\nfor what in (resource.RLIMIT_AS, resource.RLIMIT_NPROC, resource.RLIMIT_NOFILE, resource.RLIMIT_FSIZE):\n    tried(lambda: resource.setrlimit(what, (resource.RLIM_INFINITY,) * 2))", "(not allowed to raise|exceeds).*(not allowed to raise|exceeds).*(not allowed|exceeds).*(not allowed|exceeds)"),
    Attack("memory locked into the machine", PYTHON, "held = ctypes.create_string_buffer(2 ** 22)\ntried(lambda: call(149, 228, held, 2 ** 22))", "Cannot allocate|not permitted"),
)  # fmt: skip

COMES_BACK = (
    Attack("a symbolic link to a file of this machine", PYTHON, "os.symlink(HERE['canary'], 'notes.txt')", r"back \[\]\] \[left 'notes.txt': it is a symbolic link"),
    Attack("a folder that is a symbolic link", PYTHON, "os.symlink('/', 'everything')", r"back \[\]\] \[left 'everything': it is a symbolic link"),
    Attack("a given file, swapped for a link", PYTHON, "os.unlink('here.json'); os.symlink(HERE['canary'], 'here.json')", r"back \[\]\] \[left 'here.json': it is a symbolic link"),
    Attack("a hard link to a program of this machine", PYTHON, "tried(lambda: os.link('/bin/sh', 'sh'))", "cross-device"),
    Attack("a name with a line break", PYTHON, "open('a\\nb', 'w').write('x')", r"back \['a\\nb'\]"),
    Attack("a name that is no Unicode", PYTHON, "open(b'\\xff\\xfe', 'w').write('x')", r"back \[\]\] \[left .*no Unicode"),
    Attack("names that climb", PYTHON, "for name in ('..', '.', '../x', '/x'):\n    tried(lambda: open(name, 'w'))", r"Is a directory.*Is a directory.*Read-only.*Read-only.*back \[\]"),
    Attack("a pipe that is never written", PYTHON, "os.mkfifo('pipe')", r"back \[\]\] \[left 'pipe': it is a pipe"),
    Attack("a socket", PYTHON, "socket.socket(socket.AF_UNIX).bind('door')", r"back \[\]\] \[left 'door': it is a socket"),
    Attack("a file of 4 GiB that takes no room", SHELL, "python3 -c 'open(\"hollow\", \"w\").truncate(60_000_000)'; truncate -s 4G huge", r"File size limit.*\[left 'hollow': it has 60,000,000 bytes"),
    Attack("more files than anybody asked for", PYTHON, "for n in range(300): open(f'{n:03}', 'w').write('x')", "left .*more than 200 files"),
    Attack("more bytes than anybody asked for", PYTHON, "for n in range(40): open(f'{n:03}', 'wb').write(bytes(1_000_000))", "left .*more than 200 files or 32 MiB", tight(disk_bytes=64 * MIB)),
    Attack("folders without end", PYTHON, "for n in range(60): os.mkdir('d'); os.chdir('d')\nopen('x', 'w').write('deep')", r"back \[\]\] \[left .*deeper than 40 folders"),
    Attack("a folder that nobody may enter", SHELL, "mkdir locked; echo x >locked/x; chmod 000 locked; echo y >open; echo z >shut; chmod 000 shut", r"back \['open'\]\] \[left .*cannot be"),
    Attack("results that are no plain text", PYTHON, "import pickle\nsys.stdout.buffer.write(pickle.dumps(os.getcwd)); sys.stdout.buffer.write(b'\\x1b[2J\\x00\\xff')", "getcwd"),
)  # fmt: skip

ATTACKS = (*NETWORK, *HOST, *KERNEL, *PROCESSES, *RESOURCES, *COMES_BACK)
