// Parses diagrams with Mermaid itself: one JSON string a line in, one JSON answer a line out.
// The folder that has node_modules is the first argument.
import { createRequire } from "node:module";
import { join, resolve } from "node:path";
import { createInterface } from "node:readline";
import { pathToFileURL } from "node:url";

const folder = resolve(process.argv[2]);
const { JSDOM } = createRequire(join(folder, "here.js"))("jsdom");
// Mermaid cleans texts with DOMPurify, which needs a page.
globalThis.window = new JSDOM("").window;
globalThis.document = window.document;
const core = join(folder, "node_modules", "mermaid", "dist", "mermaid.core.mjs");
const { default: mermaid } = await import(pathToFileURL(core));
mermaid.initialize({ startOnLoad: false, logLevel: "fatal" });

async function answer(text) {
  try {
    const { diagramType } = await mermaid.parse(text);
    const { db } = await mermaid.mermaidAPI.getDiagramFromText(text);
    const actors = Object.fromEntries([...db.getActors()].map(([id, actor]) => [id, actor.description]));
    const messages = db.getMessages().map(({ from, to, type, message }) => ({ from, to, type, message }));
    return { diagramType, actors, messages };
  } catch (error) {
    return { error: String(error?.message ?? error) };
  }
}

console.log(JSON.stringify({ ready: true }));
for await (const line of createInterface({ input: process.stdin })) {
  console.log(JSON.stringify(await answer(JSON.parse(line))));
}
