/**
 * One Python program in Pyodide, under a Deno that may read its own folder and nothing else.
 *
 * The first line of stdin is the program: {"code", "files": {path: base64}, "limits"}. stdout is one JSON value a line:
 * {"output": text} while it runs, {"code", "files": {path: base64}, "left": [[path, why]]} at its end. Python runs in a
 * thread of its own, so that this one notices when the worker at the other end of stdin is gone.
 */
const decoder = new TextDecoder();
let given = "";
let python: Worker | undefined;

function start(line: string): void {
  python = new Worker(import.meta.resolve("./python.ts"), { type: "module" });
  python.onmessage = (message: MessageEvent<number>) => Deno.exit(message.data);
  python.onerror = (error) => {
    error.preventDefault();
    console.log(JSON.stringify({ output: `Pyodide broke: ${error.message}\n` }));
    Deno.exit(125);
  };
  python.postMessage(line);
}

for await (const chunk of Deno.stdin.readable) {
  if (python) continue;
  given += decoder.decode(chunk, { stream: true });
  const end = given.indexOf("\n");
  if (end >= 0) start(given.slice(0, end));
}
Deno.exit(137);
