// Two browsers, one server, and what happens to both: nobody loses a line, none is there
// twice, and the order is the same for all.
import assert from "node:assert/strict";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { connect } from "millrace-client";
import { WebSocket } from "ws";
import { services, type Line } from "../src/wire.js";
import { Network, pause, Server, until } from "./net.js";
import { Person } from "./person.js";

const dir = process.env["TEST_DIR"]!;
const long = process.env["TEST_LONG"] === "1";
const shots = process.env["TEST_SHOTS"]; // a folder for pictures

let server: Server, networks: Network[], ann: Person, ben: Person;

before(async () => {
  server = new Server(process.env["TEST_CHAT"]!, join(dir, "chat.jsonl"), ["-lines", "2000"]);
  await server.start();
  networks = await Promise.all([Network.to(() => server.port), Network.to(() => server.port)]);
  [ann, ben] = await Promise.all([
    Person.enter("Ann", server, networks[0]!, { colorScheme: "light", viewport: { width: 1100, height: 700 } }),
    Person.enter("Ben", server, networks[1]!, { colorScheme: "dark", viewport: { width: 390, height: 700 } }),
  ]);
});
after(async () => {
  await Person.leave();
  await server?.end("SIGKILL");
  for (const n of networks ?? []) n.close();
});

/** What the server has, asked for by another client. */
async function history(): Promise<Line[]> {
  const c = connect(`ws://127.0.0.1:${server.port}/`, { WebSocket });
  const wire = services(c);
  const lines: Line[] = [];
  for (;;) {
    const p = await wire.history({ room: "lobby", log: "", after: lines.at(-1)?.seq ?? 0 });
    if (!p.lines.length) break;
    lines.push(...p.lines);
  }
  c.close();
  return lines;
}

/** Waits until nothing is under way, and compares what each has seen. */
async function check(others: string[] = []): Promise<void> {
  const all = [...ann.typed, ...ben.typed, ...others];
  for (const p of [ann, ben]) {
    await until(`${all.length} lines at ${p.name}'s, and none waiting`, async () => (await p.lines()).length >= all.length && !(await p.waiting()).length);
  }
  const [a, b, h] = [await ann.lines(), await ben.lines(), await history()];
  assert.deepEqual(a, b, "they have seen different lines, or in another order");
  assert.deepEqual(a, h.map((l) => l.text), "they have seen what the server has not, or in another order");
  assert.deepEqual([...a].sort(), [...all].sort(), "lines are lost or doubled");
  for (const p of [ann, ben]) {
    assert.deepEqual(h.filter((l) => l.name === p.name).map((l) => l.text), p.typed, `${p.name}'s order`);
    assert.deepEqual(p.errors, []);
  }
}

test("they talk, and see who is there", async () => {
  await until("both names", async () => (await ann.texts("#who .name")).join() === "Ann,Ben" && (await ben.texts("#who .name")).join() === "Ann,Ben");
  for (let i = 0; i < 3; i++) {
    await ann.type(`Ann says ${i}`);
    await ben.type(`Ben says ${i}`);
  }
  await check();
});

test("what people write is text, whatever they write", async () => {
  await ann.type(`<img src="x" onerror="document.title='hacked'"><script>document.title='hacked'</script>`);
  await ben.type("two lines:\nthe second &amp; last");
  await ann.page.evaluate(() => (location.hash = "#" + encodeURIComponent("<b>tea</b>")));
  await until("the other room", async () => (await ann.page.textContent("#title")) === "<b>tea</b>" && (await ann.lines()).length === 0);
  await ann.page.evaluate(() => (location.hash = "#lobby"));
  await check();
  assert.equal(await ann.page.title(), "lobby");
  assert.equal(await ann.page.$("#lines img, #lines script, h1 b, #rooms b"), null);
  if (shots) {
    await ann.page.screenshot({ path: join(shots, "light.png") });
    await ben.page.screenshot({ path: join(shots, "small.png") });
  }
});

test("the server is killed and comes back, while they type", { timeout: 120_000 }, async () => {
  let on = true;
  const typing = [ann, ben].map(async (p) => {
    for (let i = 0; on || i < 8; i++) {
      await p.type(`${p.name} around the kill ${i}`);
      await pause(60);
    }
  });
  await until("some lines", async () => (await ann.texts("#lines .line")).length > 10);
  await server.end("SIGKILL");
  await until("that they wait", async () => (await ann.waiting()).length > 1 && (await ben.waiting()).length > 1);
  await server.start();
  await ann.page.waitForSelector("#state.open", { state: "attached" });
  on = false;
  await Promise.all(typing);
  await check();
});

test("for ten seconds one network stands still and the other is cut", { timeout: 120_000 }, async () => {
  const shell = connect(`ws://127.0.0.1:${server.port}/`, { WebSocket });
  const said: string[] = [];
  const over = performance.now() + 10_000;
  networks[0]!.mode = "stall";
  networks[1]!.mode = "cut";
  for (let i = 0; performance.now() < over; i++) {
    await ann.type(`Ann in the stall ${i}`);
    await ben.type(`Ben in the cut ${i}`);
    said.push(`said meanwhile ${i}`);
    await services(shell).say({ room: "lobby", text: said.at(-1)!, name: "shell", id: "", key: "", log: "", seen: 0 });
    if (i === 2) {
      // His session waits for him: he is still there for the others.
      const { who } = await services(shell).join({ room: "lobby", name: "shell", id: "", log: "", after: Number.MAX_SAFE_INTEGER });
      assert.deepEqual(who, ["Ann", "Ben", "shell"]);
    }
    if (i === 3) {
      await until("that Ben waits", async () => (await ben.waiting()).length > 3);
      await ben.page.reload(); // what waits outlives the page
      await until("that it still waits", async () => (await ben.waiting()).length > 3);
      if (shots) await ben.page.screenshot({ path: join(shots, "away.png") });
    }
    await pause(700);
  }
  shell.close();
  assert.ok(networks[0]!.connections > 0);
  networks[0]!.mode = networks[1]!.mode = "through";
  await check(said);
  others = said;
});
let others: string[] = [];

test("the server drains and another comes, while they type", { timeout: 120_000 }, async () => {
  const typing = [ann, ben].map(async (p) => {
    for (let i = 0; i < 12; i++) {
      await p.type(`${p.name} around the drain ${i}`);
      await pause(30);
    }
  });
  await until("some lines", async () => (await ann.lines()).some((l) => l.startsWith("Ann around the drain")));
  assert.equal(await server.end("SIGTERM"), 0, "the drain did not end well");
  await server.start();
  await Promise.all(typing);
  await check(others);
});

test("minutes of kills, drains, stalls and cuts, while they type", { skip: long ? false : "only the long run", timeout: 600_000 }, async (t) => {
  const over = performance.now() + 180_000;
  const random = (n: number) => Math.floor(Math.random() * n);
  const trouble = (async () => {
    while (performance.now() < over) {
      await pause(200 + random(2500));
      const what = random(4), n = networks[random(2)]!;
      t.diagnostic(["kill", "drain", "stall", "cut"][what]!);
      if (what < 2) {
        await server.end(what ? "SIGTERM" : "SIGKILL");
        await pause(random(1500));
        await server.start();
        continue;
      }
      n.mode = what === 2 ? "stall" : "cut";
      await pause([50, 500, 3000, 9000, 12_000][random(5)]!);
      n.mode = "through";
    }
  })();
  const typing = [ann, ben].map(async (p) => {
    for (let i = 0; performance.now() < over; i++) {
      await p.type(`${p.name} in trouble ${i}`);
      await pause(300 + random(400));
    }
  });
  await Promise.all([trouble, ...typing]);
  for (const n of networks) n.mode = "through";
  await check(others);
});
