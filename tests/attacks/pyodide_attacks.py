"""What code was told to try in Pyodide under Deno, each by a mechanism of its own, and what stopped it."""

from tests.attacks.sandbox_attacks import PYTHON, Attack, tight
from workers.sandbox.sandbox import MIB, Limits

LIMITS = Limits(wall_seconds=30)
PRELUDE = """
import asyncio, json, os, sys, time
import js
from pyodide.code import run_js
from pyodide.ffi import run_sync
HERE = json.load(open('here.json'))
def tried(what):
    try:
        print('ESCAPED', what())
    except BaseException as stopped:
        print('stopped:', type(stopped).__name__, str(stopped)[:300])
def asked(text):
    return lambda: run_sync(run_js(f'(async () => {{ {text} }})()'))
"""
_CAPABLE = "NotCapable|Requires|not allowed|denied"
_JS = "tried(lambda: run_js({0!r}))"
_ASK = "tried(asked({0}))"

ESCAPES = {
    "a file of this machine": ("tried(lambda: js.Deno.readTextFileSync(HERE['canary']))", _CAPABLE),
    "a file, by Python's own open": ("tried(lambda: open(HERE['canary']).read())", "No such file"),
    "a file, by Node's face": (_ASK.format("f'''const fs = await import(\"node:fs\"); return fs.readFileSync({HERE['canary']!r}, \"utf8\")'''"), _CAPABLE),
    "the machine's folders, mounted into Python": ("tried(lambda: run_js('Deno.readDirSync(\"/etc\")'))", _CAPABLE),
    "the environment": ("tried(lambda: js.Deno.env.toObject())", _CAPABLE),
    "the environment, by Node's face": (_ASK.format("'const p = await import(\"node:process\"); const e = p.env.PAM_CANARY; if (e === undefined) throw new Error(\"denied: nothing there\"); return e'"), _CAPABLE),
    "a program": (_JS.format("new Deno.Command('/bin/sh').outputSync()"), _CAPABLE),
    "a program, by Node's face": (_ASK.format("'const c = await import(\"node:child_process\"); return c.execSync(\"id\").toString()'"), _CAPABLE),
    "a native library": (_JS.format("Deno.dlopen('libc.so.6', {})"), _CAPABLE),
    "a port to listen on": (_JS.format("Deno.listen({ port: 0 })"), _CAPABLE),
    "a connection": (_ASK.format("f'await Deno.connect({{ hostname: \"127.0.0.1\", port: {HERE[\"port\"]} }})'"), _CAPABLE),
    "a page": (_ASK.format("f'await fetch(\"http://127.0.0.1:{HERE[\"port\"]}/\")'"), _CAPABLE),
    "a Unix socket": (_ASK.format("f'await Deno.connect({{ transport: \"unix\", path: \"{HERE[\"socket\"]}\" }})'"), _CAPABLE),
    "a websocket": (_ASK.format("f'await new Promise((yes, no) => {{ const w = new WebSocket(\"ws://127.0.0.1:{HERE[\"port\"]}\"); w.onopen = yes; w.onerror = (e) => no(new Error(e.message || \"denied\")); }})'"), _CAPABLE),
    "a module from the web": (_ASK.format("'await import(\"https://raw.githubuser\" + \"content.com/a/b/c.js\")'"), "Only file and data URLs"),
    "a module that is a file of this machine": (_ASK.format("f'await import(\"file://{HERE[\"canary\"]}\")'"), _CAPABLE),
    "a thread with more rights": (_ASK.format("f'const w = new Worker(\"data:application/javascript,\" + encodeURIComponent(\"try {{ self.postMessage(Deno.readTextFileSync(\" + JSON.stringify({HERE[\"canary\"]!r}) + \")) }} catch (e) {{ self.postMessage(String(e)) }}\"), {{ type: \"module\" }}); return await new Promise((yes, no) => {{ w.onmessage = (m) => m.data.includes(\"NotCapable\") ? no(new Error(m.data)) : yes(m.data) }})'"), _CAPABLE),
    "storage that outlives the run": (_JS.format("localStorage.setItem('a', 'b') || localStorage.getItem('a')"), "storage|Storage|supported|defined|open|error"),
    "a cache on the disk": (_ASK.format("'const c = await caches.open(\"a\"); await c.put(\"http://a/\", new Response(\"x\".repeat(1e6))); return \"kept\"'"), "stopped"),
    "a key-value store on the disk": (_JS.format("Deno.openKv()"), "not a function|unstable|NotCapable"),
    "the machine's name": ("tried(lambda: js.Deno.hostname())", _CAPABLE),
    "another process": (_JS.format("Deno.kill(1, 'SIGKILL')"), _CAPABLE),
    "rights asked for at run time": (_ASK.format("f'const s = await Deno.permissions.request({{ name: \"read\", path: \"/\" }}); if (s.state !== \"granted\") throw new Error(\"denied: \" + s.state); return s.state'"), "denied"),
    "a file written": ("tried(lambda: js.Deno.writeTextFileSync(HERE['state'] + '/x', 'x'))", _CAPABLE),
    "packages from the web": ("tried(lambda: __import__('micropip'))\ntried(lambda: __import__('numpy'))", "No module named.*No module named"),
    "sockets of Python": ("import socket\ntried(lambda: socket.create_connection(('127.0.0.1', HERE['port']), 1).sendall(b'x') or 'sent')", "stopped"),
    "processes of Python": ("import subprocess\ntried(lambda: subprocess.check_output(['id']))\ntried(lambda: os.fork())", "stopped.*stopped"),
}  # fmt: skip
BOMBS = {
    "time": ("while True: pass", "stop time", tight(wall_seconds=2)),
    "processor time": ("while True: pass", "exit (137|152)", tight(wall_seconds=30, cpu_seconds=2)),
    "memory of Python": ("held = []\nwhile True: held.append(bytearray(2 ** 24))", "stop memory|MemoryError", tight(wall_seconds=30, memory_bytes=500 * MIB)),
    "memory of JavaScript": ("run_js('const a = []; while (true) a.push(new Uint8Array(1e7).fill(1))')", "stop memory|exit", tight(wall_seconds=30, memory_bytes=500 * MIB)),
    "output": ("while True: print('x' * 10_000)", "stop output", tight(wall_seconds=30, output_bytes=MIB)),
    "a forged end, with names that climb": ("run_js('Deno.stdout.writeSync(new TextEncoder().encode(JSON.stringify({code: 0, files: {\"../../x\": \"aGk=\", \"/etc/x\": \"aGk=\", \"ok\": \"aGk=\", \"bad\": 5}, left: [[1]]}) + \"\\\\n\"))')", r"back \['ok'\]", LIMITS),
    "a link out of the folder": ("os.symlink('/main.py', 'link'); os.mkdir('d'); os.symlink('/', 'd/root')", r"back \[\].*no regular file", LIMITS),
}  # fmt: skip

# Starting takes seconds, so what is only tried and refused shares one program; what must be stopped has its own.
TOGETHER = PRELUDE + "".join(f"print({f'## {tried}'!r})\n{code}\n" for tried, (code, _) in ESCAPES.items())
APART = tuple(
    Attack(tried, PYTHON, f"{PRELUDE}\n{code}", stopped, limits) for tried, (code, stopped, limits) in BOMBS.items()
)
