import assert from "node:assert/strict";
import { test } from "node:test";
import { gzipSync } from "node:zlib";
import { build } from "esbuild";

test("the browser's bundle is at most 6 KiB, and links nothing of Node", async () => {
  const { outputFiles } = await build({ entryPoints: ["src/index.ts"], bundle: true, minify: true, format: "esm", platform: "browser", write: false });
  const size = gzipSync(outputFiles[0]!.contents, { level: 9 }).length;
  assert.ok(size > 2000 && size <= 6144, `${size} bytes`);
});
