// The page in headless Chromium, before a real server under load: what it shows is what the
// server says, it stays small, and it survives what happens to the server.
import assert from "node:assert/strict";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { chromium } from "playwright-core";

const url = process.env.TEST_URL; // of the page
const control = process.env.TEST_CONTROL; // stops and starts the server
const shots = process.env.TEST_SHOTS; // a folder for pictures; none are taken without
const seconds = Number(process.env.TEST_SECONDS); // to watch it for
const churn = Number(process.env.TEST_CHURN); // sessions that come in a second meanwhile, at least
const secret = "a-token-of-one-word";

let browser, wide, phone, cdp;
const errors = [];
let allowed = /$^/; // what the console may say for a while

const pause = (ms) => new Promise((done) => setTimeout(done, ms));

async function until(what, ok, patience = 60_000) {
  let last;
  for (const end = Date.now() + patience; Date.now() < end; await pause(50)) {
    try {
      last = await ok();
      if (last) return last;
    } catch (e) {
      last = e;
    }
  }
  assert.fail(`never saw ${what}: ${last}`);
}

async function open(options) {
  const page = await browser.newPage(options);
  page.on("pageerror", (e) => errors.push(String(e)));
  page.on("console", (m) => m.type() === "error" && !allowed.test(m.text()) && errors.push(m.text()));
  page.on("request", (r) => !r.url().startsWith(url) && !r.url().startsWith("data:") && errors.push("asks for " + r.url()));
  await page.goto(url);
  await page.waitForSelector("#ready.good");
  return page;
}

const get = async (path) => (await fetch(new URL(path, url))).json();
const text = (page, selector) => page.textContent(selector);
const rows = (page, table) => page.$$eval(`#${table} tbody tr`, (all) => all.map((tr) => [...tr.children].map((td) => td.textContent)));
const findings = (page) => page.$$eval("#findings li", (all) => all.map((li) => [...li.children].map((e) => e.textContent).join(" | ")));
const read = (s) => {
  const [n, unit] = s.replace("/s", "").trim().split(" ");
  return Number(n) * ({ k: 1e3, M: 1e6, G: 1e9, KiB: 1024, MiB: 1024 ** 2 }[unit] ?? 1);
};

before(async () => {
  browser = await chromium.launch({ executablePath: process.env.TEST_BROWSER, args: ["--no-sandbox", "--enable-precise-memory-info"] });
  [wide, phone] = await Promise.all([
    open({ colorScheme: "light", viewport: { width: 1280, height: 1000 } }),
    open({ colorScheme: "dark", viewport: { width: 390, height: 844 }, hasTouch: true }),
  ]);
  cdp = await wide.context().newCDPSession(wide);
});
after(() => browser?.close());

async function heap() {
  await cdp.send("HeapProfiler.collectGarbage");
  return (await cdp.send("Runtime.getHeapUsage")).usedSize;
}

test("what is slow, full, paused, refused and failing stands on top", async () => {
  for (const [kind, what] of [["refused", "max_conns"], ["full", "max-conns"], ["paused", "reading"], ["failing", "slow_consumer"], ["slow", "handle 1/4"]]) {
    await until(`${kind} ${what}`, async () => (await findings(wide)).some((f) => f.startsWith(`${kind} | ${what} | `)) || void console.log("# still", await findings(wide)));
  }
  const all = await findings(wide);
  assert.match(all.find((f) => f.startsWith("refused | max_conns")), /\d+ (a second|in \d+ s).*--max-conns.*for \d/);
  assert.match(all.find((f) => f.startsWith("full | max-conns")), /\d+ of \d+/);
});

test("the numbers are the server's", async () => {
  await until("a thousand sessions", async () => read(await text(wide, "#total")) >= 1000);
  await until("as many on the page as at the server", async () => {
    const [shown, { total }] = [read(await text(wide, "#total")), await get("/sessions?limit=1")];
    return Math.abs(shown - total) <= 20 + total / 50;
  });
  const { loops } = await get("/loops");
  await until("all loops at work", async () => {
    const list = await rows(wide, "loops");
    return list.length === loops.length && list.every((l) => read(l[1]) > 0 && read(l[3]) > 0);
  });
  const { handles } = await get("/handles");
  await until("the handles' requests", async () => {
    const list = await rows(wide, "handles");
    return ["1/1", "1/4"].every((h) => {
      const shown = list.find((r) => r[0] === h), there = handles.find((x) => x.handle === h);
      return shown && read(shown[1]) > 0 && read(shown[6]) >= 0.95 * there.requests;
    });
  });
  const slow = (await rows(wide, "handles")).find((r) => r[0] === "1/4");
  assert.ok(parseFloat(slow[3]) >= 100 && / m?s$/.test(slow[3]), `1/4 sleeps for 150 ms, its p99 is said to be ${slow[3]}`);
  await until("reasons", async () => {
    const list = (await rows(wide, "reasons")).map((r) => r.slice(0, 2).join(" "));
    return ["refused max_conns", "closed peer_closed", "closed slow_consumer"].every((r) => list.includes(r));
  });
  await until("who is stuck, by unsent and by what is not read", async () => {
    const list = await rows(wide, "sessions");
    return read(list[0][3]) > 0 && list.some((r) => /paused/.test(r.join(" ")));
  });
});

test("who costs what, by session, handle and tag", async () => {
  await until("who took the time", async () => (await rows(wide, "cost-handles")).some((r) => r[0] === "1/1") && (await rows(wide, "cost-sessions")).length >= 5);
  assert.match(await text(wide, "#busy"), /^[\d.]+ (µs|ms|s) of [\d.]+ (ms|s) a second/);
  const ms = (s) => parseFloat(s) * { "µs": 1e-3, ms: 1, s: 1e3, min: 6e4 }[s.split(" ")[1]];
  for (const [table, column] of [["cost-sessions", 3], ["cost-handles", 1], ["cost-tags", 1]]) {
    const times = (await rows(wide, table)).map((r) => ms(r[column]));
    assert.ok(times.length <= 10 && times.every((t, i) => t > 0 && (!i || t <= 1.1 * times[i - 1])), `${table}: ${times}`);
  }
  assert.ok((await rows(wide, "cost-tags")).some((r) => r[0] === "without"), "nobody has a tag here");
  await wide.click('#sorts [data-sort="cpu"]');
  await until("the sessions that took most CPU", async () => {
    const list = (await rows(wide, "sessions")).map((r) => r[11]);
    return list.length > 5 && list.every((t, i) => t && (!i || ms(t) <= 1.1 * ms(list[i - 1])));
  });
  await wide.click('#sorts [data-sort="unsent"]');
});

test("stalls and near misses stand in the log one by one, with who it was, and leave room for the rest", async () => {
  const lines = (of) => of.$$eval("#log li", (all) => all.map((li) => [...li.children].map((e) => e.textContent)));
  const [stall, near] = [/^1\/4 blocked a worker for [\d.]+m?s, of \d+\.\d+ of 127\.0\.0\.1:\d+/, /^max-outbound: \d.* of 64\.0 KiB, \d+\.\d+ of 127\.0\.0\.1:\d+$/];
  await until("both", async () => {
    const log = await lines(wide);
    return [["stall", stall], ["near", near]].every(([kind, form]) => log.some(([at, k, t]) => /^\d\d:\d\d:\d\d$/.test(at) && k === kind && form.test(t)));
  });
  const { events } = await get("/live"), many = events.filter((e) => e.kind === "stall" || e.kind === "near");
  assert.ok(events.length <= 200 && many.length <= 100, `${many.length} of ${events.length} events are stalls and near misses`);
  const { stalls, total } = await get("/stalls"), { near: list, total: counts } = await get("/near");
  assert.ok(stalls.length <= 64 && total >= stalls.length && stalls.some((s) => s.handle === "1/4" && s.seconds >= 0.1 && s.addr.startsWith("127.0.0.1:")), JSON.stringify(stalls[0]));
  assert.ok(list.length <= 64 && counts["max-outbound"] > 0 && list.some((n) => n.limit === "max-outbound" && n.session && n.used >= 0.9 * n.max), JSON.stringify(list[0]));
});

test("colours are the reader's, and nothing is wider than a phone", async () => {
  const back = (page) => page.evaluate(() => getComputedStyle(document.body).backgroundColor);
  assert.equal(await back(wide), "rgb(247, 247, 244)");
  assert.equal(await back(phone), "rgb(18, 20, 22)");
  for (const page of [wide, phone]) {
    const [inner, all] = await page.evaluate(() => [innerWidth, document.scrollingElement.scrollWidth]);
    assert.ok(all <= inner, `${all} pixels in a window of ${inner}`);
  }
  if (shots) {
    await pause(3000);
    await wide.evaluate(() => scrollTo(0, 0));
    await wide.screenshot({ path: join(shots, "live-light.png"), fullPage: true });
    await wide.emulateMedia({ colorScheme: "dark" });
    await wide.screenshot({ path: join(shots, "live-dark.png"), fullPage: true });
    await wide.emulateMedia({ colorScheme: "light" });
    await phone.screenshot({ path: join(shots, "live-phone.png") });
  }
});

test("it asks once a second, and stays as large as it is", async () => {
  await phone.close();
  let asked = 0;
  wide.on("request", () => asked++);
  await until("two minutes of history or enough of it", () => true);
  const size = () => wide.evaluate(() => document.getElementsByTagName("*").length);
  const [heapBefore, sizeBefore, began] = [await heap(), await size(), Date.now()];
  asked = 0;
  await pause(seconds * 1000);
  const took = (Date.now() - began) / 1000;
  assert.ok(asked <= took + 2, `${asked} requests in ${took} s`);
  assert.ok(asked >= took / 4, `${asked} requests in ${took} s`);
  const [heapAfter, sizeAfter] = [await heap(), await size()];
  console.log(`# ${await text(wide, "#sparks figure:nth-child(2) .now")} accepted, heap ${heapBefore} to ${heapAfter} bytes, ${sizeBefore} to ${sizeAfter} elements in ${took} s, ${asked} requests`);
  const { history } = await get("/live"), came = history.slice(-Math.round(took)).map((p) => p.accepts).sort((a, b) => a - b);
  assert.ok(came[came.length >> 1] >= churn, `half of the time ${came[came.length >> 1]} sessions came in a second, or fewer: want ${churn}`);
  assert.ok(heapAfter < heapBefore + 700_000, `the heap grew from ${heapBefore} to ${heapAfter} bytes`);
  assert.ok(sizeAfter < 2500 && sizeAfter < sizeBefore + 900, `${sizeBefore} elements became ${sizeAfter}`);
});

test("nobody looks: nothing is asked", async () => {
  const look = (state) => wide.evaluate((s) => {
    Object.defineProperty(document, "visibilityState", { value: s, configurable: true });
    document.dispatchEvent(new Event("visibilitychange"));
  }, state);
  await look("hidden");
  let asked = 0;
  const count = () => asked++;
  wide.on("request", count);
  await pause(1500);
  assert.equal(asked, 0);
  await look("visible");
  await until("that it asks again", () => asked > 0);
  wide.off("request", count);
});

test("by keyboard: search, one session, kick", async () => {
  await wide.keyboard.press("/");
  const victim = await (await fetch(control + "victim", { method: "POST" })).json(); // {"addr"}
  await wide.keyboard.type(victim.addr);
  await until("the one that was searched for", async () => (await rows(wide, "sessions")).length === 1 && (await rows(wide, "sessions"))[0][1] === victim.addr);
  await until("the first session in focus", async () => {
    await wide.keyboard.press("Tab");
    return wide.evaluate(() => document.activeElement.className === "id");
  });
  const id = await wide.evaluate(() => document.activeElement.textContent);
  await wide.keyboard.press("Enter");
  await until("its details", async () => (await text(wide, "#facts")).includes(victim.addr));
  assert.equal(await text(wide, "#h-one"), "Session " + id);
  await wide.fill("#why", `<img src=x onerror="document.title='hacked'">`);
  await wide.focus("#kick");
  await wide.keyboard.press("Enter");
  assert.equal(await text(wide, "#kick"), "Really kick?");
  assert.equal(await (await fetch(control + "kicked")).text(), "false");
  await wide.keyboard.press("Enter");
  await until("that it has gone", async () => (await wide.isVisible("#gone")) && (await (await fetch(control + "kicked")).text()) === "true");
  await wide.keyboard.press("Escape");
  assert.equal(await wide.evaluate(() => document.getElementById("one").open), false);
  await until("the kick in the log", async () => (await text(wide, "#log")).includes("<img src=x"));
  assert.equal(await wide.$("#log img"), null);
  await wide.fill("#q", "");
});

test("the server goes away and comes back, asking for a token", async () => {
  allowed = /Failed to load resource/;
  await fetch(control + "kill", { method: "POST" });
  await until("that it says so", async () => (await wide.isVisible("#away")) && /can't be reached.*of \d\d:\d\d:\d\d.*[Tt]rying again in/.test(await text(wide, "#away")));
  assert.ok(await wide.evaluate(() => document.body.classList.contains("stale")));
  await fetch(control + "start", { method: "POST", body: secret });
  await until("that it asks for the token", () => wide.isVisible("#secret"));
  await wide.fill("#secret", "wrong");
  await wide.keyboard.press("Enter");
  await until("that it asks again", async () => (await wide.inputValue("#secret")) === "" && (await wide.isVisible("#secret")));
  await wide.fill("#secret", secret);
  await wide.keyboard.press("Enter");
  await until("that it is live", async () => !(await wide.isVisible("#token")) && !(await wide.isVisible("#away")) && (await text(wide, "#link")).startsWith("live"));
  assert.equal(await wide.evaluate(() => document.body.classList.contains("stale")), false);

  const fresh = await browser.newPage();
  assert.equal((await fresh.goto(url)).status(), 401);
  await fresh.fill("#secret", secret);
  await fresh.keyboard.press("Enter");
  await fresh.waitForSelector("#ready.good");
  assert.ok(!(await fresh.evaluate(() => JSON.stringify([localStorage, sessionStorage, location.href, document.cookie]))).includes(secret));
});

test("no error in the console", () => assert.deepEqual(errors, []));
