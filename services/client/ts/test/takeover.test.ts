// A session that follows its client from node to node, of two real ones.
import assert from "node:assert/strict";
import { once } from "node:events";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { WebSocket } from "ws";
import { connect, type Client } from "../src/node.js";
import { Real, binary } from "./real.js";

const skip = binary ? false : "TEST_SERVER names no server's executable";
const until = async (what: string, is: () => boolean | Promise<boolean>, told = () => "") => {
  for (const end = Date.now() + 40_000; !(await is());) {
    assert.ok(Date.now() < end, `not in 40 s: ${what} ${told()}`);
    await new Promise((r) => setTimeout(r, 5));
  }
};
const ask = async (c: Client, handle: string, body = "") => JSON.parse(Buffer.from(await c.call(handle, body)).toString());

for (const door of ["tcp", "ws"]) {
  test(`${door}: a node drains: the session goes on at the node that GOAWAY names, with all that is its own`, { skip, timeout: 110_000 }, async (t) => {
    const dir = mkdtempSync(join(tmpdir(), "millrace-"));
    const node = (name: string, ...more: string[]) =>
      Real.start([door + "://127.0.0.1:0"], "--cluster=embedded", "--cluster-dir=" + dir, "--node=" + name, "--resume=1m", "--takeover-timeout=40s", "--handover=40s", ...more);
    const b = await node("b"); // it runs the bus
    const a = await node("a", "--drain-to=" + new URL(b.urls[0]!).host);
    const c = connect(a.urls[0]!, { WebSocket, timeout: 60_000, retry: { base: 1, max: 20 } });
    const says = connect(b.urls[0]!, { WebSocket, timeout: 60_000 });
    t.after(() => {
      c.close();
      says.close();
      for (const r of [a, b]) r.process.kill("SIGKILL");
      rmSync(dir, { recursive: true, force: true });
    });
    for (const x of [c, says]) await until("both nodes are known", async () => (await ask(x, "6/1")).nodes.length === 2);

    const sessions: boolean[] = []; // whether each is one that was
    c.onState((s) => s.state === "open" && sessions.push(s.resumed));
    const heard: string[] = [], told: string[] = [];
    c.subscribe<{ data: string }>("1/8", ({ data }) => heard.push(data));
    c.subscribe<{ data: string }>("6/6", ({ data }) => told.push(data));
    await c.call("1/5", '{"group":"g"}');
    const { epoch } = await ask(c, "6/3", '{"user":"ann"}');
    assert.ok(epoch > 0);
    assert.equal((await ask(c, "6/7")).node, "a");

    let on = true;
    const echoes = (async () => {
      let n = 0;
      for (; on; n++) assert.equal(Buffer.from(await c.call("1/1", `echo ${n}`)).toString(), `echo ${n}`);
      return n;
    })();
    const said = (async () => {
      let n = 0;
      for (; on; n++) await says.call("1/7", JSON.stringify({ group: "g", data: `said ${n}` }));
      return n;
    })();
    const so = () => `${heard.length} heard, up to ${heard.at(-1)}; ${JSON.stringify(c.state)}; sessions ${sessions}`;
    await until("20 pushes", () => heard.length >= 20, so);
    const exit = once(a.process, "exit");
    a.process.kill("SIGTERM");
    await until("the move", () => sessions.length > 0, so);
    const before = heard.length;
    await until("20 pushes more", () => heard.length >= before + 20, so);
    on = false;
    assert.ok((await echoes) > 20);
    const last = await said;
    await until(`the last of ${last} pushes`, () => heard.length >= last, so);
    assert.deepEqual(heard, Array.from({ length: last }, (_, n) => `said ${n}`));
    assert.deepEqual(sessions, [true], "a session was lost");
    assert.equal((await ask(c, "6/7")).node, "b");
    assert.deepEqual(await ask(says, "6/4", '{"user":"ann","data":"hello"}'), { sent: true });
    await until("what is sent to the user", () => told.length > 0);
    assert.deepEqual(told, ["hello"]);
    assert.deepEqual(await exit, [0, null], "the drain lost something");
  });
}
