/**
 * Run once, when Pyodide is fetched: keeps Python's memory as it is after its start, so that no program waits for that.
 *
 * The two options are Pyodide's own and private; deno.lock pins the version that has them.
 */
import { loadPyodide, type PyodideAPI } from "pyodide";

type Snapshots = { makeMemorySnapshot(): Uint8Array };

const options = { _makeSnapshot: true, env: { HOME: "/tmp", LANG: "C.UTF-8" } };
const pyodide = await loadPyodide(options) as PyodideAPI & Snapshots;
pyodide.runPython("import os, runpy, sys, traceback");
Deno.writeFileSync(new URL("./snapshot.bin", import.meta.url), pyodide.makeMemorySnapshot());
Deno.exit(0);
