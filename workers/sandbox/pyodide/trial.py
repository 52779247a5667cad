"""Runs inside Pyodide, never in the worker: tries what Deno must not let code do, and says what it could."""

import json

import js
from pyodide.code import run_js

told = json.loads(open("trial.json").read())
tries = {
    "Code could read a file of this machine.": lambda: js.Deno.readTextFileSync(told["canary"]),
    "Code could write a file.": lambda: js.Deno.writeTextFileSync(told["canary"], ""),
    "Code could see the environment.": lambda: js.Deno.env.toObject(),
    "Code could start a process.": lambda: js.Deno.Command.new("/bin/true").outputSync(),
    "Code could open a library.": lambda: js.Deno.dlopen("libc.so.6", {}),
    "Code could ask the system.": lambda: js.Deno.hostname(),
    "Code could reach the network.": lambda: run_js(
        f"(() => {{ const r = new XMLHttpRequest(); r.open('GET', 'http://127.0.0.1:{told['port']}', false); r.send(); }})()"
    ),
}
could = []
for sentence, attempt in tries.items():
    try:
        attempt()
        could.append(sentence)
    except BaseException:  # noqa: BLE001, S112 - whatever stops it is good
        continue
print(json.dumps(could))
