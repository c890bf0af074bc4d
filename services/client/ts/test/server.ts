// A server with a part of the protocol, for what a real one does not do on demand: its
// connections break at a given byte. It counts, keeps and resends frames as a server with resume does.
import { randomBytes } from "node:crypto";
import * as net from "node:net";
import { Codec, Decoder, type Packet } from "../src/codec.js";
import * as sys from "../src/system.js";

const codec = new Codec();
const error = (code: number, handle: number) => {
  const b = Buffer.alloc(6);
  b.writeUInt16BE(code);
  b.writeUInt32BE(handle, 2);
  return b;
};

class Session {
  token: Buffer = randomBytes(16);
  next: Buffer | undefined; // the new token, until the client has confirmed it
  conn: net.Socket | undefined;
  received = 0;
  acked = 0;
  ring: Uint8Array[] = [];
  told = 0;
}

/** After how many bytes a connection breaks. */
export type Cuts = { up?: number; down?: number }[];

export class ResumeServer {
  readonly ran: string[] = []; // each request that it ran
  readonly sessions: Session[] = [];
  connections = 0;
  readonly tried: string[] = []; // the token in each HELLO
  /** Returns what a HELLO is answered with instead of a WELCOME, if anything. */
  refuse: (known: boolean) => "ERROR 12" | "end" | undefined = () => undefined;
  up: number[] = []; // bytes received on each connection
  down: number[] = [];
  #server: net.Server;

  private constructor(readonly cuts: Cuts, readonly resume: boolean) {
    this.#server = net.createServer((c) => this.#serve(c));
  }
  static async start(cuts: Cuts = [], resume = true): Promise<ResumeServer> {
    const s = new ResumeServer(cuts, resume);
    await new Promise<void>((r) => s.#server.listen(0, "127.0.0.1", r));
    return s;
  }
  get url(): string { return `tcp://127.0.0.1:${(this.#server.address() as net.AddressInfo).port}`; }
  close(): void {
    this.#server.close();
    for (const s of this.sessions) s.conn?.destroy();
  }

  #serve(c: net.Socket): void {
    const n = this.connections++;
    const cut = this.cuts[n] ?? {};
    this.up[n] = this.down[n] = 0;
    let session: Session | undefined;
    let broken = false;
    let frames = 0;
    const decoder = new Decoder(codec);
    c.setNoDelay(true);
    c.on("error", () => {});
    const over = () => {
      broken = true;
      if (session?.conn === c) session.conn = undefined;
    };
    c.on("close", over);
    const write = (frame: Uint8Array) => {
      if (broken) return;
      const room = (cut.down ?? Infinity) - this.down[n]!;
      c.write(frame.subarray(0, room));
      this.down[n]! += Math.min(room, frame.length);
      if (room <= frame.length) {
        over();
        c.end();
      }
    };
    const counted = (frame: Uint8Array) => {
      session!.ring.push(frame);
      write(frame);
    };
    const packet = (p: Packet): unknown => {
      if (session && frames++ === 0 && session.next) {
        session.token = session.next; // a frame after the HELLO confirms it
        session.next = undefined;
      }
      switch (p.handle) {
        case sys.HELLO: {
          if (!this.resume) return write(codec.encode(sys.ERROR, error(2, sys.HELLO)));
          const token = Buffer.from(p.body.subarray(2, 18));
          const old = p.body.length === 26 ? this.sessions.find((s) => s.token.equals(token)) : undefined;
          this.tried.push(token.toString("hex"));
          const refusal = this.refuse(!!old);
          if (refusal) {
            if (refusal === "ERROR 12") write(codec.encode(sys.ERROR, error(12, 0)));
            broken = true;
            return c.end();
          }
          if (old) {
            old.conn?.destroy();
            old.conn = c;
            old.next = randomBytes(16);
            session = old;
            const had = sys.readCount(p.body.subarray(18));
            old.ring.splice(0, had - old.acked);
            old.acked = had;
          } else this.sessions.push((session = new Session()));
          session.conn = c;
          write(codec.encode(sys.WELCOME, Buffer.concat([Buffer.from([old ? 1 : 0]), session.next ?? session.token, sys.count(session.received)])));
          for (const f of [...session.ring]) write(f);
          return;
        }
        case sys.PING: return write(codec.encode(sys.PONG, p.body));
        case sys.ACK: {
          const had = sys.readCount(p.body);
          session!.ring.splice(0, Math.max(0, had - session!.acked));
          session!.acked = Math.max(had, session!.acked);
          return;
        }
        case sys.BYE:
          if (session) this.sessions.splice(this.sessions.indexOf(session), 1);
          return;
      }
      if (!session) return write(codec.encode(p.handle, p.body));
      session.received++;
      const text = Buffer.from(p.body).toString();
      this.ran.push(text);
      if (p.handle === 0x30001) counted(codec.encode(sys.ERROR, error(6, p.handle)));
      else if (p.handle === 0x10001) {
        counted(codec.encode(p.handle, p.body));
        counted(codec.encode(0x20004, Buffer.from("push for " + text)));
      }
      if (session.received - session.told >= 2) {
        session.told = session.received;
        write(codec.encode(sys.ACK, sys.count(session.received)));
      }
    };
    c.on("data", (b) => {
      const room = (cut.up ?? Infinity) - this.up[n]!;
      const part = b.subarray(0, room);
      this.up[n]! += part.length;
      for (const p of decoder.push(part)) if (!broken) packet(p);
      if (room <= b.length && !broken) {
        over();
        c.destroy();
      }
    });
  }
}
