// What the test does to the server and to the networks in front of it.
import { spawn, type ChildProcess } from "node:child_process";
import { once } from "node:events";
import * as net from "node:net";
import { createInterface } from "node:readline";

/** How much later than all else what stood still goes on, in milliseconds. */
const LATE = 1500;

/** A chat server that comes back at the same addresses. */
export class Server {
  #process: ChildProcess | undefined;
  port = 0;
  page = "";

  constructor(readonly binary: string, readonly history: string, readonly flags: string[] = []) {}

  async start(): Promise<void> {
    const p = (this.#process = spawn(this.binary, [
      "-addr", `auto://127.0.0.1:${this.port}`, "-page", this.page ? new URL(this.page).host : "127.0.0.1:0", "-history", this.history, ...this.flags,
    ], { stdio: ["ignore", "pipe", "inherit"] }));
    const [line] = await Promise.race([
      once(createInterface(p.stdout!), "line"),
      once(p, "exit").then(([code]) => Promise.reject(new Error(`the server ended with ${code}`))),
    ]);
    const [, chat, page] = String(line).split(" ");
    this.port = Number(chat!.split(":").at(-1)!.replace("/", ""));
    this.page = page!;
  }

  /** Returns the exit code; null after a signal that ended it. */
  async end(signal: NodeJS.Signals): Promise<number | null> {
    const p = this.#process;
    if (!p || p.exitCode !== null || p.signalCode !== null) return p?.exitCode ?? null;
    p.kill(signal);
    const [code] = await once(p, "exit");
    return code as number | null;
  }
}

/**
 * A network between clients and a port. It stalls: connections stay, new ones are made, and
 * no byte goes either way until it goes on. What was sent meanwhile comes then, but late:
 * connections that are made afterwards are quicker. Or it is cut: connections break and none
 * is made.
 */
export class Network {
  #mode: "through" | "stall" | "cut" = "through";
  readonly #sockets = new Set<net.Socket>();
  readonly #server: net.Server;
  connections = 0;

  private constructor(to: () => number) {
    this.#server = net.createServer((c) => {
      if (this.#mode === "cut") return void c.destroy();
      this.connections++;
      const s = net.connect(to(), "127.0.0.1");
      for (const [a, b] of [[c, s], [s, c]] as const) {
        this.#sockets.add(a);
        a.setNoDelay(true);
        a.on("data", (x) => void b.write(x));
        a.on("end", () => b.end());
        a.on("error", () => {});
        a.on("close", () => {
          this.#sockets.delete(a);
          b.destroy();
        });
        if (this.#mode === "stall") a.pause();
      }
    });
  }
  static async to(port: () => number): Promise<Network> {
    const n = new Network(port);
    n.#server.listen(0, "127.0.0.1");
    await once(n.#server, "listening");
    return n;
  }

  get url(): string { return `ws://127.0.0.1:${(this.#server.address() as net.AddressInfo).port}/`; }

  set mode(m: "through" | "stall" | "cut") {
    this.#mode = m;
    for (const s of this.#sockets) {
      if (m === "cut") s.resetAndDestroy();
      else if (m === "stall") s.pause();
      else setTimeout(() => this.#mode !== "stall" && s.resume(), LATE);
    }
  }

  close(): void {
    this.#server.close();
    for (const s of this.#sockets) s.destroy();
  }
}

export async function until(what: string, ok: () => unknown | Promise<unknown>, ms = 60_000): Promise<void> {
  const end = performance.now() + ms;
  while (!(await ok())) {
    if (performance.now() > end) throw new Error("never saw " + what);
    await new Promise((r) => setTimeout(r, 50));
  }
}

export const pause = (ms: number): Promise<void> => new Promise((r) => setTimeout(r, ms));
