import assert from "node:assert/strict";
import { test } from "node:test";
import { connect, ServerError } from "../src/node.js";
import { ResumeServer, type Cuts } from "./server.js";

// One exchange; what the caller saw and what the server ran, in order.
async function exchange(cuts: Cuts) {
  const server = await ResumeServer.start(cuts);
  const c = connect(server.url, { timeout: 20_000, retry: { base: 1, max: 2 } });
  const resumed: boolean[] = [];
  c.onState((s) => s.state === "open" && resumed.push(s.resumed));
  const seen: string[] = [];
  const pushed = new Promise<void>((done) => {
    c.on("2/4", (b) => {
      seen.push(Buffer.from(b).toString());
      if (seen.length === 4) done();
    });
  });
  const answers = await Promise.all([
    c.call("1/1", "one"), c.call("3/1", "bad").catch((e) => e), c.call("1/1", "two"), c.call("1/1", "three"),
  ].map(async (p) => { const v = await p; return v instanceof ServerError ? "error " + v.code : v instanceof Error ? String(v) : Buffer.from(v).toString(); }));
  c.send("2/9", "said");
  answers.push(Buffer.from(await c.call("1/1", "four")).toString());
  await pushed;
  const { ran, up, down, connections, sessions } = server;
  const result = { answers, seen, ran, sessions: sessions.length };
  c.close();
  server.close();
  return { result, up: up[0]!, down: down[0]!, connections, resumed };
}

test("cut at every byte, the exchange is that of an unbroken run", { timeout: 120_000 }, async () => {
  const whole = await exchange([]);
  assert.deepEqual(whole.result.answers, ["one", "error 6", "two", "three", "four"]);
  assert.equal(whole.result.ran.length, 6);
  let breaks = 0;
  const check = async (cuts: Cuts) => {
    const got = await exchange(cuts);
    // A cut in front of the first WELCOME's end begins the session anew: the first is nobody's.
    assert.deepEqual({ ...got.result, sessions: 1 }, { ...whole.result, sessions: 1 }, JSON.stringify(cuts));
    breaks += got.connections - 1;
  };
  const runs: Cuts[] = [];
  for (let n = 1; n < whole.down; n++) runs.push([{ down: n }]);
  for (let n = 1; n < whole.up; n++) runs.push([{ up: n }]);
  // And then the connection that resumes breaks too: inside its HELLO, its WELCOME and behind.
  for (let n = 1; n < 100; n++) runs.push([{ down: 80 }, { down: n }], [{ down: 80 }, { up: n }]);
  for (let n = 30; n < 60; n++) runs.push([{ down: 80 }, { up: 43 }, { down: n }, { up: n }]);
  for (let i = 0; i < runs.length; i += 8) await Promise.all(runs.slice(i, i + 8).map(check));
  assert.ok(breaks >= runs.length, `${breaks} breaks in ${runs.length} runs`);
});

test("a session that the server has lost ends what was asked, and only that", async () => {
  const server = await ResumeServer.start();
  const c = connect(server.url, { retry: { base: 1, max: 2 } });
  await c.ready();
  const silent = c.call("2/9", "never answered");
  const lost = assert.rejects(silent, { name: "LostError" });
  await c.call("1/1", "x");
  server.sessions.splice(0)[0]!.conn!.destroy();
  await lost;
  assert.equal(Buffer.from(await c.call("1/1", "y")).toString(), "y");
  c.close();
  server.close();
});

test("a server without resume is served without", async () => {
  const server = await ResumeServer.start([], false);
  const c = connect(server.url);
  assert.equal(Buffer.from(await c.call("1/1", "y")).toString(), "y");
  c.close();
  server.close();
});
