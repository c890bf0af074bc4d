// Somebody at a browser.
import assert from "node:assert/strict";
import { once } from "node:events";
import * as http from "node:http";
import type * as net from "node:net";
import { chromium, type Browser, type Page } from "playwright-core";
import type { Network, Server } from "./net.js";

// The page as the server serves it, but for the network that it is to find the chat through.
// (A browser takes no answer of the test's own for a page of this machine.)
async function front(server: Server, network: Network): Promise<string> {
  const s = http.createServer(async (_, answer) => {
    const page = await fetch(server.page);
    const body = (await page.text()).replace(`content=":${server.port}/"`, `content="${network.url}"`);
    assert.ok(body.includes(network.url));
    answer.writeHead(200, Object.fromEntries(["content-type", "content-security-policy"].map((h) => [h, page.headers.get(h)!]))).end(body);
  });
  s.listen(0, "127.0.0.1");
  await once(s, "listening");
  fronts.push(s);
  return `http://127.0.0.1:${(s.address() as net.AddressInfo).port}/`;
}
const fronts: http.Server[] = [];

export class Person {
  /** What was typed, in order. */
  readonly typed: string[] = [];
  /** What the page threw or was forbidden. */
  readonly errors: string[] = [];
  static readonly #browsers: Browser[] = [];

  private constructor(readonly name: string, readonly page: Page) {}

  static async enter(name: string, server: Server, network: Network, options: Parameters<Browser["newPage"]>[0] = {}): Promise<Person> {
    const browser = await chromium.launch({ executablePath: process.env["TEST_BROWSER"]!, args: ["--no-sandbox"] });
    Person.#browsers.push(browser);
    const page = await browser.newPage(options);
    const p = new Person(name, page);
    page.on("pageerror", (e) => p.errors.push(String(e)));
    page.on("console", (m) => m.type() === "error" && /Security Policy/.test(m.text()) && p.errors.push(m.text()));
    await page.goto(await front(server, network));
    await page.fill("#name", name);
    await page.press("#name", "Enter");
    await page.waitForSelector("#state.open", { state: "attached" });
    return p;
  }

  /** Closes the browsers of all. */
  static async leave(): Promise<void> {
    await Promise.all(Person.#browsers.map((b) => b.close()));
    for (const s of fronts) s.close();
  }

  async type(text: string): Promise<void> {
    this.typed.push(text);
    await this.page.fill("#text", text);
    await this.page.press("#text", "Enter");
  }

  texts(selector: string): Promise<string[]> {
    return this.page.$$eval(selector, (all) => all.map((e) => e.textContent ?? ""));
  }
  lines(): Promise<string[]> { return this.texts("#lines .line .text"); }
  waiting(): Promise<string[]> { return this.texts("#pending .line .text"); }
}
