/** The thread that Python runs in: files in, the program, changed files out. */
import { loadPyodide, type PyodideAPI } from "pyodide";

type Limits = { files: number; file_bytes: number; bytes: number; count: number };
type Program = { code: string; files: Record<string, string>; limits: Limits };
type Kept = { files: Record<string, string>; left: [string, string][] };

const FOLDER = "/workspace";
const MAX_DEPTH = 40;
const encoder = new TextEncoder();
const thread = self as unknown as Worker;

/** A whole line, however often the pipe takes only a part. */
function say(value: unknown): void {
  let rest = encoder.encode(JSON.stringify(value) + "\n");
  while (rest.length) rest = rest.subarray(Deno.stdout.writeSync(rest));
}

function output(): (bytes: Uint8Array) => number {
  const decoder = new TextDecoder();
  return (bytes) => {
    say({ output: decoder.decode(bytes, { stream: true }) });
    return bytes.length;
  };
}

function bytesOf(base64: string): Uint8Array {
  return Uint8Array.from(atob(base64), (letter) => letter.charCodeAt(0));
}

function base64Of(bytes: Uint8Array): string {
  let text = "";
  for (let at = 0; at < bytes.length; at += 32_768) text += String.fromCharCode(...bytes.subarray(at, at + 32_768));
  return btoa(text);
}

function copyIn(fs: PyodideAPI["FS"], files: Record<string, string>): void {
  for (const [path, content] of Object.entries(files)) {
    const parts = path.split("/").slice(0, -1);
    parts.forEach((_, n) => {
      const folder = `${FOLDER}/${parts.slice(0, n + 1).join("/")}`;
      if (!fs.analyzePath(folder, false).exists) fs.mkdir(folder);
    });
    fs.writeFile(`${FOLDER}/${path}`, bytesOf(content));
  }
}

/** Regular files that are not as they were given, within the limits; links are never followed. */
function copyOut(fs: PyodideAPI["FS"], given: Record<string, string>, limits: Limits): Kept {
  const kept: Kept = { files: {}, left: [] };
  const waiting: [string, number][] = [["", 0]];
  let seen = 0, total = 0;
  while (waiting.length && seen <= limits.files) {
    const [prefix, depth] = waiting.pop()!;
    for (const name of fs.readdir(`${FOLDER}/${prefix}`) as string[]) {
      if (name === "." || name === "..") continue;
      const path = prefix + name;
      const { mode, size } = fs.lstat(`${FOLDER}/${path}`) as { mode: number; size: number };
      seen += 1;
      if (fs.isDir(mode)) {
        if (depth < MAX_DEPTH) waiting.push([`${path}/`, depth + 1]);
        else kept.left.push([path, `deeper than ${MAX_DEPTH} folders`]);
      } else if (!fs.isFile(mode)) kept.left.push([path, "it is no regular file"]);
      else if (size > limits.file_bytes) {
        kept.left.push([path, `it has ${size} bytes, and ${limits.file_bytes} is the most`]);
      } else {
        const content = base64Of(fs.readFile(`${FOLDER}/${path}`) as Uint8Array);
        if (given[path] === content) continue;
        total += size;
        if (Object.keys(kept.files).length >= limits.count || total > limits.bytes) {
          kept.left.push([path, `more than ${limits.count} files or ${limits.bytes} bytes come back from one call`]);
          return kept;
        }
        kept.files[path] = content;
      }
    }
  }
  return kept;
}

thread.onmessage = async (message: MessageEvent<string>) => {
  const program = JSON.parse(message.data) as Program;
  const options = {
    _loadSnapshot: Deno.readFileSync(new URL("./snapshot.bin", import.meta.url)),
    env: { HOME: "/tmp", LANG: "C.UTF-8" },
  };
  const pyodide = await loadPyodide(options);
  for (const set of [pyodide.setStdout, pyodide.setStderr]) {
    set.call(pyodide, { write: output(), isatty: false });
  }
  pyodide.FS.mkdir(FOLDER);
  copyIn(pyodide.FS, program.files);
  pyodide.FS.writeFile("/main.py", program.code);
  const code = (await pyodide.runPythonAsync(`
import os, random, runpy, sys, traceback
random.seed()
os.chdir("${FOLDER}")
sys.path.insert(0, "${FOLDER}")
sys.argv = ["/main.py"]
sys.dont_write_bytecode = True
def run():
    try:
        runpy.run_path("/main.py", run_name="__main__")
    except SystemExit as end:
        if isinstance(end.code, str):
            print(end.code, file=sys.stderr)
        return end.code if isinstance(end.code, int) else 0 if end.code is None else 1
    except BaseException:
        traceback.print_exc()
        return 1
    return 0
code = run()
sys.stdout.flush(); sys.stderr.flush()
code`)) as number;
  say({ code: code & 255, ...copyOut(pyodide.FS, program.files, program.limits) });
  thread.postMessage(0);
};
