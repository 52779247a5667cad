"""What is run inside Pyodide before it is trusted: tries what Deno must not let code do, and says what it could."""

PROGRAM = """
import json
from js import Deno
from pyodide.code import run_js

told = json.load(open("trial.json"))
tries = {
    "Code could read a file of this machine.": lambda: Deno.readTextFileSync(told["canary"]),
    "Code could write a file.": lambda: Deno.writeTextFileSync(told["canary"], ""),
    "Code could see the environment.": lambda: Deno.env.toObject(),
    "Code could start a process.": lambda: run_js("new Deno.Command('/bin/true').outputSync()"),
    "Code could open a library.": lambda: run_js("Deno.dlopen('libc.so.6', {})"),
    "Code could ask the system.": lambda: Deno.hostname(),
    "Code could reach the network.": lambda: run_js("Deno.listen({ port: 0 })"),
}
could = []
for sentence, attempt in tries.items():
    try:
        attempt()
        could.append(sentence)
    except BaseException as stopped:
        if "NotCapable" not in repr(stopped) and "Requires" not in repr(stopped):
            could.append(f"{sentence} It was not Deno that stopped it: {stopped!r}"[:300])
print(json.dumps(could))
"""
