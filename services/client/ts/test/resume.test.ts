import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { once } from "node:events";
import * as net from "node:net";
import { test } from "node:test";
import { WebSocket } from "ws";
import { connect, ServerError } from "../src/node.js";
import { Real, binary } from "./real.js";
import { scripted } from "./scripted.js";
import { ResumeServer, type Cuts } from "./server.js";
import * as sys from "../src/system.js";

// Runs one exchange. Returns what the caller saw and what the server ran, in order.
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
    // After a cut before the end of the first WELCOME the client has no token and starts a new session.
    assert.deepEqual({ ...got.result, sessions: 1 }, { ...whole.result, sessions: 1 }, JSON.stringify(cuts));
    breaks += got.connections - 1;
  };
  const runs: Cuts[] = [];
  for (let n = 1; n < whole.down; n++) runs.push([{ down: n }]);
  for (let n = 1; n < whole.up; n++) runs.push([{ up: n }]);
  // Then the connection that resumes breaks as well: within its HELLO, within its WELCOME and after it.
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

for (const how of ["ERROR 12", "end"] as const) {
  test(`${how} without a WELCOME: the other of two tokens is tried at once, then both in turn`, { timeout: 60_000 }, async () => {
    const server = await ResumeServer.start([{}, { down: 33 }]); // breaks after the second WELCOME
    // Waits are at least 100 ms after ERROR 12, and none after a close.
    const c = connect(server.url, { timeout: 0, heartbeat: false, retry: { base: 1, max: how === "end" ? 2 : 200 } });
    const resumed: boolean[] = [];
    c.onState((s) => s.state === "open" && resumed.push(s.resumed));
    await c.call("1/1");
    server.refuse = (known) => known ? undefined : how; // has room only for sessions that it knows
    const { token } = server.sessions[0]!;
    server.sessions[0]!.conn!.destroy();
    assert.equal(Buffer.from(await c.call("1/1", "x")).toString(), "x");
    const next = () => server.tried.splice(0).map((t) => t === token.toString("hex") ? "older" : "newer");
    server.tried.shift(); // the first HELLO has no token
    assert.deepEqual([next(), resumed], [["older", "newer", "older"], [false, true, true]]);

    // Again, and the older token is refused three times as well.
    const was = server.sessions[0]!;
    server.cuts[server.connections] = { down: 33 };
    let times = 7;
    server.refuse = () => server.tried.length > 1 && times-- > 0 ? how : undefined;
    const before = was.token.toString("hex");
    was.conn!.destroy();
    assert.equal(Buffer.from(await c.call("1/1", "y")).toString(), "y");
    const [a, b, ...rest] = server.tried;
    assert.deepEqual([a, rest.filter((t) => t === b).length, rest.filter((t) => t === before).length], [before, 3, 4]);
    assert.ok(!resumed.slice(1).includes(false), "the session was lost");
    c.close();
    server.close();
  });
}

test("a full server is asked twice at most before each wait", async () => {
  const server = await ResumeServer.start([{}, { down: 33 }]);
  const c = connect(server.url, { heartbeat: false, retry: { base: 1, max: 600_000 } });
  await c.call("1/1");
  server.refuse = () => server.tried.length > 2 ? "ERROR 12" : undefined;
  server.sessions[0]!.conn!.destroy();
  const ends = new Promise<void>((done) => c.onState((s) => s.state === "reconnecting" && server.tried.length === 4 && done()));
  await ends;
  await new Promise((r) => setTimeout(r, 100));
  assert.equal(server.connections, 4);
  c.close();
  server.close();
});

test("what has come is acknowledged after 64 frames or 64 KiB, before anything else is said", async () => {
  const loads = [[64, 1], [2, 32 << 10], [3, 30_000], [64, 0]] as const; // frames, bytes of each
  const acks: number[] = [];
  const known: (number | undefined)[] = []; // at each PONG
  let done = () => {};
  const all = new Promise<void>((r) => (done = r));
  const s = await scripted((h, b, send) => {
    if (h === sys.HELLO) send(sys.WELCOME, new Uint8Array(25));
    else if (h === sys.ACK) acks.push(sys.readCount(b));
    else if (h === sys.PONG && known.push(acks.at(-1)) === loads.length) done();
    else if (h === 0x20009) {
      for (const [frames, size] of loads) {
        for (let n = 0; n < frames; n++) send(0x20004, new Uint8Array(size));
        send(sys.PING, Buffer.from("here?"));
      }
    }
  });
  const c = connect(s.url, { heartbeat: false });
  c.send("2/9");
  await all;
  assert.deepEqual(known, [64, 66, 69, 133]);
  assert.ok(acks.length < 10, `${acks.length} ACKs of 133 frames`);
  c.close();
  s.close();
});

test("an answer acknowledges its request: what waits for room does not wait for an ACK too", { timeout: 30_000 }, async () => {
  const ran: string[] = [];
  const s = await scripted((h, b, send) => {
    if (h === sys.HELLO) send(sys.WELCOME, new Uint8Array(25));
    if (h >>> 16) ran.push(Buffer.from(b).toString()); // never sends an ACK
    if (h === 0x10001) send(h, b);
    else if (h === 0x30001) send(sys.ERROR, Buffer.from([0, 6, 0, 3, 0, 1]));
  });
  const c = connect(s.url, { heartbeat: false, resumeBytes: 1, timeout: 0 }); // one unacknowledged frame at a time
  const want = Array.from({ length: 50 }, (_, n) => "call " + n);
  const answers = await Promise.all(want.map((b, n) => c.call(n % 5 ? "1/1" : "3/1", b).catch((e) => e)));
  answers.forEach((a, n) => n % 5 ? assert.equal(Buffer.from(a).toString(), want[n]) : assert.equal(a.code, 6));
  assert.deepEqual(ran, want);
  c.send("2/9", "said");
  c.send("2/9", "waits"); // a frame without an answer waits for an ACK
  await new Promise((r) => setTimeout(r, 50));
  assert.deepEqual([ran.slice(50), c.writable], [["said"], false]);
  c.close();
  s.close();
});

const resumes = binary && spawnSync(binary, ["serve", "--help"]).stdout.toString().includes("--resume");
const skip = binary ? (resumes ? false : "the server has no --resume") : "TEST_SERVER names no server's executable";

for (const door of ["tcp", "ws"]) {
  test(`${door}: with the real server, cut again and again, nothing is lost, doubled or out of order`, { skip, timeout: 120_000 }, async () => {
    const real = await Real.start([door + "://127.0.0.1:0"], "--resume", "30s");
    const port = Number(new URL(real.urls[0]!).port);
    const live = new Set<net.Socket>();
    let room = Infinity; // bytes until the next cut
    const cutter = net.createServer((c) => {
      const s = net.connect(port, "127.0.0.1");
      for (const [a, b] of [[c, s], [s, c]] as const) {
        live.add(a);
        a.on("data", (x) => {
          const part = x.subarray(0, room);
          b.write(part);
          if ((room -= part.length) > 0) return;
          room = Infinity;
          for (const y of live) y.destroy();
        });
        a.on("error", () => {});
        a.on("close", () => {
          live.delete(a);
          b.destroy();
        });
      }
    });
    cutter.listen(0, "127.0.0.1");
    await once(cutter, "listening");
    const c = connect(`${door}://127.0.0.1:${(cutter.address() as net.AddressInfo).port}/`, { WebSocket, timeout: 60_000, retry: { base: 1, max: 5 } });
    const fresh: boolean[] = [];
    let opened = 0;
    c.onState((s) => {
      if (s.state !== "open") return;
      fresh.push(!s.resumed);
      opened++;
    });
    const fired: number[] = [];
    c.subscribe<{ n: number }>("2/4", ({ n }) => fired.push(n));
    const heard: string[] = [];
    c.subscribe<{ data: string }>("1/8", ({ data }) => heard.push(data));
    await c.call("1/5", '{"group":"g"}');
    const who = JSON.parse(Buffer.from(await c.call("1/3")).toString());
    await c.call("2/1", '{"id":1,"ms":5,"repeat":0}');
    const want: string[] = [];
    for (let round = 0; round < 40; round++) {
      const before = opened;
      room = 1 + ((round * 37) % 400);
      const calls = Array.from({ length: 10 }, (_, i) => c.call("1/1", `${round}.${i}`));
      const data = `said ${round}`;
      want.push(data);
      await c.call("1/7", JSON.stringify({ group: "g", data }));
      (await Promise.all(calls)).forEach((b, i) => assert.equal(Buffer.from(b).toString(), `${round}.${i}`));
      while (opened === before) await c.call("1/1", "until it is cut");
    }
    await c.call("2/2", '{"id":1}');
    const again = JSON.parse(Buffer.from(await c.call("1/3")).toString());
    await c.call("1/7", '{"group":"g","data":"last"}');
    while (heard.at(-1) !== "last") await c.call("1/1");
    assert.deepEqual(heard, [...want, "last"]);
    assert.deepEqual(fired, fired.map((_, i) => i + 1));
    assert.ok(fired.length > 0);
    assert.deepEqual([again.index, again.round, again.connected_at], [who.index, who.round, who.connected_at]);
    assert.equal(fresh.filter(Boolean).length, 1, "a session was lost");
    c.close();
    cutter.close();
    real.process.kill("SIGKILL");
  });
}

test("with the real server, 3 MB of pushes and 6 MB of answers come as fast as they are read", { skip, timeout: 60_000 }, async () => {
  const real = await Real.start(["tcp://127.0.0.1:0"], "--resume", "30s");
  const c = connect(real.urls[0]!, { timeout: 0, maxQueue: 1 << 25 });
  const says = connect(real.urls[0]!, { timeout: 0, resume: false });
  await c.call("1/5", '{"group":"g"}');
  const states: string[] = [];
  c.onState((s) => states.push(`${s.state} ${s.reason}`));
  const heard: number[] = [];
  const all = new Promise<void>((done) => c.subscribe<{ data: string }>("1/8", ({ data }) => heard.push(parseInt(data)) === 100 && done()));
  const ends = new Promise<void>((done) => c.onState(() => done()));
  const want = Array.from({ length: 100 }, (_, n) => n);
  for (const n of want) await says.call("1/7", JSON.stringify({ group: "g", data: `${n} ` + "x".repeat(30_000) }));
  await Promise.race([all, ends]);
  assert.deepEqual([heard, states], [want, []]);
  const body = new Uint8Array(50_000).fill(7);
  for (const b of await Promise.all(want.map(() => c.call("1/1", body)))) assert.deepEqual(b, body);
  c.close();
  says.close();
  real.process.kill("SIGKILL");
});
