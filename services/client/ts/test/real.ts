// Starts the real server.
import { spawn, type ChildProcess } from "node:child_process";
import { once } from "node:events";
import { createInterface } from "node:readline";

/** The path of its executable. */
export const binary = process.env["TEST_SERVER"];

export class Real {
  private constructor(readonly process: ChildProcess, readonly urls: string[]) {}

  /** urls are the addresses that it prints, in the order of addrs. */
  static async start(addrs = ["tcp://127.0.0.1:0"], ...flags: string[]): Promise<Real> {
    const p = spawn(binary!, ["serve", ...addrs.flatMap((a) => ["--addr", a]), ...flags], { stdio: ["ignore", "pipe", "ignore"] });
    const [line] = await Promise.race([
      once(createInterface(p.stdout!), "line"),
      once(p, "exit").then(([code]) => Promise.reject(new Error(`the server ended with ${code}`))),
    ]);
    return new Real(p, String(line).split(" ").slice(1));
  }
}
