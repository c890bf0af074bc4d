// Makes the page: one file that has its style and its script within, and a policy that lets
// no other in. node build.mjs [FILE]; ../page.html if none is given.
import { createHash } from "node:crypto";
import { readFileSync, writeFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { build } from "esbuild";

const here = fileURLToPath(new URL(".", import.meta.url));

async function bundle(file) {
  const { outputFiles } = await build({
    absWorkingDir: here, entryPoints: [file], bundle: true, minify: true, format: "iife", target: "es2022", charset: "utf8",
    legalComments: "none", write: false,
  });
  return outputFiles[0].text.trim();
}

const hash = (s) => `'sha256-${createHash("sha256").update(s).digest("base64")}'`;
const script = await bundle("src/main.ts");
const style = await bundle("src/style.css");
if (/<\/(script|style)/i.test(script + style)) throw new Error("the bundle ends its own element");
const policy = `default-src 'none'; script-src ${hash(script)}; style-src ${hash(style)}; connect-src ws: wss:; img-src data:; base-uri 'none'; form-action 'none'`;
const page = readFileSync(here + "src/index.html", "utf8")
  .replace("<!--policy-->", () => `<meta http-equiv="Content-Security-Policy" content="${policy}">`)
  .replace("<!--style-->", () => `<style>${style}</style>`)
  .replace("<!--script-->", () => `<script>${script}</script>`);
writeFileSync(process.argv[2] ?? here + "../page.html", page);
