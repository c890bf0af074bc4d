// Tests against the real server, over each of its transports.
import assert from "node:assert/strict";
import { once } from "node:events";
import { readFileSync } from "node:fs";
import * as net from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { WebSocket, WebSocketServer } from "ws";
import { BusyError, ClosedError, connect, LostError, ServerError, TimeoutError, type Client, type Options } from "../src/node.js";
import { Varint } from "../src/varint.js";
import { binary, Real } from "./real.js";
import { scripted } from "./scripted.js";

const skip = binary ? false : "TEST_SERVER names no server's executable";
const certs = process.env["TEST_CERTS"]; // ca.pem, and cert.pem and key.pem, signed by it for localhost
const text = (b: Uint8Array) => Buffer.from(b).toString();
const later = <T>(start: (done: (v: T) => void) => void) => new Promise<T>(start);

const serve = Real.start;

const ca = certs ? readFileSync(join(certs, "ca.pem")) : undefined;
/** The WebSocket of the package ws, which trusts the CA of the server's certificate. */
class Trusting extends WebSocket {
  constructor(url: string, protocols: string) { super(url, protocols, ca ? { ca } : {}); }
}

const doors: { door: string; addr: string; needs?: string }[] = [
  { door: "tcp", addr: "tcp://127.0.0.1:0" },
  { door: "unix", addr: "unix://" + join(tmpdir(), `millrace-client-${process.pid}.sock`) },
  { door: "ws", addr: "ws://127.0.0.1:0/chat" },
  { door: "tls", addr: "tls://127.0.0.1:0" },
  { door: "wss", addr: "wss://127.0.0.1:0/" },
];
const secure = (door: string) => door === "tls" || door === "wss";
const skips = (door: string) => skip || (secure(door) && !certs ? "TEST_CERTS names no folder of certificates" : false);
let server: Real;
before(async () => {
  if (skip) return;
  const there = doors.filter(({ door }) => !skips(door));
  server = await serve(there.map((d) => d.addr), ...(certs ? ["--tls-cert", join(certs, "cert.pem"), "--tls-key", join(certs, "key.pem")] : []));
  assert.equal(server.urls.length, there.length);
});
after(() => void server?.process.kill("SIGKILL"));

const urlOf = (door: string) => server.urls.find((u) => u.startsWith(door + ":"))!;

for (const { door } of doors) {
  const skip = skips(door);
  const dial = (o: Options = {}): Client => connect(urlOf(door), { WebSocket: Trusting, ...(ca ? { tls: { ca } } : {}), retry: { base: 5, max: 20 }, ...o });

  test(`${door}: calls, typed calls, pushes and errors`, { skip }, async () => {
    const c = dial();
    const [a, b, empty, sum] = await Promise.all([
      c.call("1/1", "a"), c.call([1, 1], "b"), c.call(0x10001), c.method<{ a: number; b: number }, { sum: number }>("4/3")({ a: 20, b: 22 }),
    ]);
    assert.deepEqual([text(a), text(b), empty.length, sum], ["a", "b", 0, { sum: 42 }]);
    assert.equal(a.buffer.byteLength, 1, "a body keeps more than its bytes");
    await assert.rejects(c.call("4/3", "no JSON"), (e) => e instanceof ServerError && e.code === 3 && e.handle === 0x40003);
    await assert.rejects(c.call("9/9"), (e) => e instanceof ServerError && e.code === 2);

    const fired = later<unknown[]>((done) => {
      const all: unknown[] = [];
      c.subscribe("2/4", (v) => all.push(v) === 3 && done(all));
    });
    await c.call("2/1", JSON.stringify({ id: 7, ms: 5, repeat: 3 }));
    assert.deepEqual(await fired, [{ id: 7, n: 1, left: 2 }, { id: 7, n: 2, left: 1 }, { id: 7, n: 3, left: 0 }]);

    let heard = 0;
    const off = c.on("1/2", () => heard++);
    const other = later<string>((done) => c.on("1/2", (b) => done(text(b))));
    off();
    c.send("1/2", "all");
    assert.equal(await other, "all");
    assert.equal(heard, 0);
    assert.throws(() => c.on("1/1", () => {}), TypeError);
    await assert.rejects(c.call("1/2", "x"), TypeError);
    c.close();
    await assert.rejects(c.call("1/1"), ClosedError);
  });

  test(`${door}: a large body, and thousands of calls at once, each with its own answer`, { skip }, async () => {
    const c = dial();
    const big = new Uint8Array(65532).map((_, i) => i * 31);
    assert.deepEqual(await c.call("1/1", big), big);
    await assert.rejects(c.call("1/1", new Uint8Array(65533)), RangeError);
    const all = await Promise.all(Array.from({ length: 5000 }, (_, i) => c.call("1/1", "call " + i)));
    all.forEach((b, i) => assert.equal(text(b), "call " + i));
    c.close();
  });

  test(`${door}: a call that ends early leaves its answer to nobody`, { skip }, async () => {
    const c = dial();
    await c.ready();
    const stop = new AbortController();
    const slow = assert.rejects(c.call("1/4", '{"ms":300}', { timeout: 20 }), TimeoutError);
    const aborted = assert.rejects(c.call("1/4", '{"ms":1}', { signal: stop.signal }), /not wanted/);
    const third = c.call("1/4", '{"ms":2}');
    await new Promise(setImmediate); // all three are written
    assert.ok(c.writable);
    stop.abort(new Error("not wanted"));
    await Promise.all([slow, aborted]);
    assert.equal(text(await third), '{"slept_ms":2}');
    c.close();
  });

  test(`${door}: a restart of the server: waiting calls are served by the next, those under way are told`, { skip, timeout: 60_000 }, async () => {
    const addr = urlOf(door).replace(/:\d+(\/|$)/, ":0$1").replace(".sock", "-2.sock");
    const flags = secure(door) ? ["--tls-cert", join(certs!, "cert.pem"), "--tls-key", join(certs!, "key.pem")] : [];
    const first = await serve([addr], ...flags);
    const c = connect(first.urls[0]!, { WebSocket: Trusting, ...(ca ? { tls: { ca } } : {}), retry: { base: 20, max: 100 }, timeout: 30_000 });
    const states: string[] = [];
    c.onState((s) => states.at(-1) !== s.state && states.push(s.state));
    await c.ready();
    await c.call("5/4", '{"key":"k","ttl_ms":60000,"wait_ms":0}');
    const lost = assert.rejects(c.call("5/4", '{"key":"k","ttl_ms":60000,"wait_ms":30000}'), LostError);
    await c.call("1/1"); // its answer means that the server has read everything before it
    first.process.kill("SIGKILL");
    await lost;
    const waits = c.call("1/1", "for the next");
    const second = await serve(first.urls, ...flags);
    assert.equal(text(await waits), "for the next");
    assert.deepEqual(states, ["open", "reconnecting", "open"]);
    c.close();
    second.process.kill("SIGKILL");
  });

  test(`${door}: a drain: what is under way is finished, what comes meanwhile is served elsewhere`, { skip, timeout: 60_000 }, async () => {
    const addr = urlOf(door).replace(/:\d+(\/|$)/, ":0$1").replace(".sock", "-3.sock");
    const flags = secure(door) ? ["--tls-cert", join(certs!, "cert.pem"), "--tls-key", join(certs!, "key.pem")] : [];
    const a = await serve([addr], ...flags), b = await serve([addr.replace("-3.sock", "-4.sock")], ...flags);
    const c = connect([a.urls[0]!, b.urls[0]!], { WebSocket: Trusting, ...(ca ? { tls: { ca } } : {}), retry: { base: 20, max: 100 }, timeout: 30_000 });
    await c.ready();
    await c.call("5/4", '{"key":"k","ttl_ms":60000,"wait_ms":0}');
    const under = c.call("5/4", '{"key":"k","ttl_ms":60000,"wait_ms":700}');
    await c.call("1/1"); // its answer means that the server has read everything before it
    a.process.kill("SIGTERM");
    const moved = later<void>((done) => c.onState((s) => s.state === "open" && done()));
    assert.deepEqual(JSON.parse(text(await under)), { locked: false, token: 0 });
    await moved;
    assert.ok(JSON.parse(text(await c.call("1/3"))).connected_at);
    const [code] = a.process.exitCode === null ? await once(a.process, "exit") : [a.process.exitCode];
    assert.equal(code, 0, "the drain lost something");
    c.close();
    b.process.kill("SIGKILL");
  });
}

for (const door of ["tcp", "tls", "ws", "wss"]) {
  test(`${door}: a drain to HOST:PORT goes on through the same kind of door, to a URL through that one, and never in the clear`, { skip: skips(door), timeout: 60_000 }, async () => {
    const addr = door + "://127.0.0.1:0" + (door.startsWith("ws") ? "/chat" : "");
    const start = (...to: string[]) => serve([addr], ...to, ...(secure(door) ? ["--tls-cert", join(certs!, "cert.pem"), "--tls-key", join(certs!, "key.pem")] : []));
    let clear = 0;
    const plain = net.createServer((s) => { clear++; s.destroy(); }).listen(0, "127.0.0.1");
    await once(plain, "listening");
    const b = await start();
    const { host } = new URL(b.urls[0]!);
    const away = `${door === "wss" ? "ws" : "tcp"}://127.0.0.1:${(plain.address() as net.AddressInfo).port}`;
    for (const to of [host, b.urls[0]!, ...(secure(door) ? [away] : [])]) {
      const a = await start("--drain-to", to);
      const urls = to === away ? [a.urls[0]!, b.urls[0]!] : a.urls;
      const c = connect(urls, { WebSocket: Trusting, ...(ca ? { tls: { ca } } : {}), retry: { base: 5, max: 20 }, timeout: 30_000 });
      await c.call("1/1");
      const moved = later<void>((done) => c.onState((s) => s.state === "open" && done()));
      a.process.kill("SIGTERM");
      await moved;
      assert.equal(text(await c.call("1/1", to)), to);
      c.close();
    }
    assert.equal(clear, 0, "what was encrypted went on in the clear");
    plain.close();
    b.process.kill("SIGKILL");
  });
}

for (const door of ["tls", "wss"]) {
  test(`${door}: a server whose certificate nobody vouches for is told nothing`, { skip: skips(door) }, async () => {
    const c = connect(urlOf(door), { WebSocket, retry: { base: 5, max: 10, attempts: 2 } });
    const reasons: string[] = [];
    c.onState((s) => s.reason && reasons.push(s.reason));
    await assert.rejects(c.call("1/1", "secret"), ClosedError);
    assert.ok(reasons.length >= 2);
    for (const r of reasons) assert.match(r, /certificate/);
  });
}

test("ws: a path that is not served, and a page of elsewhere, are refused", { skip }, async () => {
  class Elsewhere extends WebSocket {
    constructor(url: string, protocols: string) { super(url, protocols, { origin: "https://elsewhere.example" }); }
  }
  for (const [url, socket, status] of [[urlOf("ws").replace("/chat", "/none"), WebSocket, 404], [urlOf("ws"), Elsewhere, 403]] as const) {
    const c = connect(url, { WebSocket: socket, retry: { base: 5, max: 10, attempts: 1 } });
    const reasons: string[] = [];
    c.onState((s) => s.reason && reasons.push(s.reason));
    await assert.rejects(c.ready(), ClosedError);
    assert.match(reasons[0]!, new RegExp(String(status)));
  }
});

test("ws: what the server closes with its own code is told", { skip }, async () => {
  const one = await serve(["ws://127.0.0.1:0/"], "--max-conns", "1");
  const a = connect(one.urls[0]!, { WebSocket });
  await a.ready();
  const b = connect(one.urls[0]!, { WebSocket, resume: false, retry: { base: 1, max: 60_000 } });
  const reason = await later<string>((done) => b.onState((s) => s.reason && done(s.reason)));
  assert.match(reason, /1013|connections/);
  a.close();
  b.close();
  one.process.kill("SIGKILL");
});

for (const door of ["tcp", "ws"]) {
  test(`${door}: a server with --framing varint: calls, pushes, errors, and a session that goes on`, { skip }, async () => {
    const s = await serve([door + "://127.0.0.1:0"], "--framing", "varint", "--resume", "1m");
    const url = new URL(s.urls[0]!);
    const to = Number(url.port);
    let sockets: net.Socket[] = [];
    const between = net.createServer((a) => {
      const b = net.connect(to, "127.0.0.1");
      for (const x of [a, b]) x.on("error", () => {});
      a.pipe(b).pipe(a);
      sockets.push(a, b);
    });
    between.listen(0, "127.0.0.1");
    await once(between, "listening");
    url.port = String((between.address() as net.AddressInfo).port);
    const c = connect(url.href, { WebSocket, codec: new Varint(), retry: { base: 5, max: 20 } });
    const resumed: boolean[] = [];
    c.onState((x) => x.state === "open" && resumed.push(x.resumed));
    const heard: string[] = [];
    let all = () => {};
    const told = later<void>((done) => (all = done));
    c.subscribe<{ data: string }>("1/8", (m) => heard.push(m.data) === 3 && all());
    await c.call("1/5", '{"group":"g"}');
    for (const n of [0, 1, 123, 124, 16379, 16380, 65532]) {
      const body = new Uint8Array(n).map((_, i) => i * 31);
      assert.deepEqual(await c.call("1/1", body), body);
    }
    await assert.rejects(c.call("9/9"), (e) => e instanceof ServerError && e.code === 2 && e.handle === 0x90009);
    for (const data of ["one", "two", "three"]) {
      for (const x of sockets) x.destroy();
      sockets = [];
      assert.equal(text(await c.call("1/7", JSON.stringify({ group: "g", data }))), '{"sent":1}');
    }
    await told;
    assert.deepEqual([heard, resumed], [["one", "two", "three"], [false, true, true, true]]);
    c.close();
    between.close();
    s.process.kill("SIGKILL");
  });
}

test("GOAWAY: calls under way are finished, then the address that it tells is gone to", async () => {
  const there = await scripted((h, _b, send) => h === 0x10001 && send(h, Buffer.from("there")));
  let here: Awaited<ReturnType<typeof scripted>>;
  let finish = () => {};
  here = await scripted((h, b, send) => {
    if (h !== 0x10001) return;
    if (text(b) !== "go") return send(h, Buffer.from("here"));
    send(4, Buffer.concat([Buffer.from([0, 0, 9, 9]), Buffer.from(there.url)]));
    finish = () => send(h, Buffer.from("finished"));
    send(0x20004, Buffer.from("told"));
  });
  const c = connect(here.url, { resume: false, retry: { base: 5, max: 10 } });
  assert.equal(text(await c.call("1/1")), "here");
  const told = later<void>((done) => c.on("2/4", () => done()));
  let reconnects = 0;
  c.onState((s) => s.state === "reconnecting" && reconnects++);
  const under = c.call("1/1", "go");
  await told;
  const next = c.call("1/1", "next"); // not written to the draining server
  await new Promise((r) => setTimeout(r, 50));
  assert.equal(reconnects, 0, "left with a call under way");
  finish();
  assert.equal(text(await under), "finished");
  assert.equal(text(await next), "there");
  assert.equal(reconnects, 1);
  c.close();
  here.close();
  there.close();
});

test("an answer to nothing ends the connection: no later call gets it", async () => {
  const s = await scripted((h, b, send) => {
    if (h === 0x10001) {
      send(h, b);
      if (text(b) === "one") send(h, Buffer.from("one too many"));
    }
  });
  const c = connect(s.url, { resume: false, retry: { base: 5, max: 10 } });
  const error = later<Error>((done) => c.onError(done));
  assert.equal(text(await c.call("1/1", "one")), "one");
  assert.match((await error).message, /1\/1 answers what was not asked/);
  assert.equal(text(await c.call("1/1", "two")), "two");
  c.close();
  s.close();
});

test("a client that is closed while it hears of a broken stream stays so", async () => {
  const s = await scripted((_h, _b, send) => send(0x10001, Buffer.from("nobody asked")));
  const c = connect(s.url, { resume: false, retry: { base: 1, max: 2 } });
  await c.ready();
  let states = 0;
  const closed = later<void>((done) => c.onError(() => {
    c.close();
    c.onState(() => states++);
    done();
  }));
  await c.call("1/1").catch(() => {});
  c.call("1/2").catch(() => {});
  await closed;
  await new Promise((r) => setTimeout(r, 50));
  assert.deepEqual([c.state, states], ["closed", 0]);
  s.close();
});

test("a server that says nothing is left, one that is only late to a sleeper is not", async () => {
  let silent = true;
  let connections = 0;
  let freeze = 0;
  const s = await scripted((h, b, send) => {
    if (h !== 1 || silent) return;
    const until = performance.now() + (freeze ? 300 : 0);
    while (performance.now() < until);
    if (freeze) freeze--;
    send(2, b);
  });
  const c = connect(s.url, { resume: false, heartbeat: { interval: 40, timeout: 60 }, retry: { base: 5, max: 10 } });
  c.onState((x) => x.state === "open" && connections++);
  const reason = await later<string>((done) => c.onState((x) => x.state === "reconnecting" && done(x.reason)));
  assert.equal(reason, "no sign of life");
  silent = false;
  await c.ready();
  // The program blocks with a PING unanswered, as a frozen tab does, for longer than the heartbeat
  // allows. Its timers are then due before it reads the PONG, which has arrived meanwhile.
  const before = connections;
  freeze = 3;
  while (freeze) await new Promise((r) => setTimeout(r, 20));
  await new Promise((r) => setTimeout(r, 100));
  assert.equal(connections, before);
  assert.equal(c.state, "open");
  c.close();
  s.close();
});

test("what may wait is bounded", async () => {
  const c = connect("tcp://127.0.0.1:1", { maxQueue: 1000, timeout: 50 });
  const waits = assert.rejects(c.call("1/1", new Uint8Array(900)), TimeoutError);
  assert.throws(() => c.send("1/2", new Uint8Array(200)), BusyError);
  assert.equal(c.writable, false);
  await waits;
  await c.drained(); // a call that has ended no longer waits
  assert.equal(c.send("1/2", new Uint8Array(200)), false);
  c.close();
  await assert.rejects(c.ready(), ClosedError);
});

test("close codes 1012 and 1013 are waited for, others are not; a page that is seen again tries at once", { timeout: 30_000 }, async () => {
  let code = 1012;
  const wss = new WebSocketServer({ port: 0, host: "127.0.0.1" });
  await once(wss, "listening");
  let seen = 0;
  wss.on("connection", (s) => {
    seen++;
    if (code) s.close(code);
  });
  const page = new EventTarget();
  Object.assign(globalThis, { document: page });
  const url = `ws://127.0.0.1:${(wss.address() as net.AddressInfo).port}`;
  for (code of [1012, 1013, 1001]) {
    const c = connect(url, { WebSocket, resume: false, retry: { base: 1, max: code === 1001 ? 2 : 60_000 } });
    const start = seen;
    let ends = 0;
    const twice = later<void>((done) => c.onState((s) => s.reason && ++ends === 2 && done()));
    if (code === 1001) await twice;
    else {
      await later<void>((done) => c.onState((s) => s.reason && done()));
      page.dispatchEvent(new Event("visibilitychange")); // must not shorten a wait that the server asked for
      await new Promise((r) => setTimeout(r, 150));
      assert.equal(seen, start + 1, "code " + code);
    }
    c.close();
  }
  code = 0;
  for (const s of wss.clients) s.terminate();
  // A long wait that the server did not ask for is shortened.
  const c = connect("ws://127.0.0.1:1", { WebSocket, resume: false, retry: { base: 1e6, max: 1e6 } });
  let tries = 0;
  c.onState((s) => s.reason && tries++);
  await later<void>((done) => c.onState((s) => s.reason && done()));
  page.dispatchEvent(new Event("visibilitychange"));
  await later<void>((done) => c.onState((s) => s.reason && done()));
  assert.equal(tries, 2);
  c.close();
  wss.close();
});
