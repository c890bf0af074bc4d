// One connection, from dialling to its end: HELLO and WELCOME, heartbeats, acknowledgements.
// State that outlives a connection belongs to Client.
import { concat, Decoder, type Codec, type Packet } from "./codec.js";
import { Heartbeat } from "./heartbeat.js";
import type { Settings } from "./options.js";
import type { Ring } from "./session.js";
import * as sys from "./system.js";
import type { Dial, Link } from "./transport.js";

const now = () => performance.now();

/** Callbacks of a connection. None is called after lost, after again, or after Connection.end. */
export interface Events {
  /** Frames may be written. If resumed is false, the previous session and its unanswered requests are lost. */
  open(resumed: boolean): void;
  /** A frame for the program, or an ERROR. */
  packet(p: Packet, err: sys.ServerError | undefined): void;
  goAway(address: string): void;
  /** Received bytes were handled: there may be room to write, or nothing left to wait for. */
  idle(): void;
  lost(code: number, reason: string): void;
  /** The server broke the protocol; lost follows. */
  broken(e: Error): void;
  /** Connect again at once. */
  again(): void;
}

export class Connection {
  /** When frames could first be written; 0 if not yet. */
  opened = 0;
  /** Whether frames are counted, so that the session can be resumed. */
  resuming = false;
  #over = false;
  #hello = false; // a HELLO was sent and is not answered yet
  #link: Link | undefined;
  #held: Packet[] = []; // received before the answer to HELLO
  #batch: Uint8Array[] = [];
  #batched = 0; // bytes
  #beat: Heartbeat | undefined;
  #connecting: ReturnType<typeof setTimeout> | undefined;
  #acking: ReturnType<typeof setTimeout> | undefined;
  #ackSince = 0;
  #unacked = 0; // bytes of the bodies received since the last ACK

  readonly #o: Settings;
  readonly #codec: Codec;
  readonly #ring: Ring;
  readonly #up: Events;
  constructor(o: Settings, codec: Codec, ring: Ring, up: Events) {
    this.#o = o;
    this.#codec = codec;
    this.#ring = ring;
    this.#up = up;
  }

  dial(dial: Dial, url: URL): void {
    const decoder = new Decoder(this.#codec);
    this.#connecting = setTimeout(() => this.#lost(0, "no answer in time"), this.#o.connectTimeout);
    try {
      this.#link = dial(url, {
        open: () => {
          if (this.#over) return;
          if (!this.#o.resume || !this.#o.systemFrames) return this.#open(false);
          this.#hello = true;
          this.control(sys.HELLO, sys.hello(this.#ring.tokens[0], this.#ring.received, this.#codec.layout.littleEndian));
        },
        data: (b) => {
          if (this.#over) return;
          this.#beat?.heard();
          try {
            for (const p of decoder.push(b)) {
              this.#packet(p);
              if (this.#over) return;
            }
          } catch (e) {
            return this.broken(e as Error);
          }
          this.#up.idle();
        },
        end: (code, why) => this.#lost(code, why || (code ? "close code " + code : "the connection has ended")),
      });
    } catch (e) {
      this.#lost(0, String(e));
    }
  }

  /** The network holds highWater bytes or more. */
  get congested(): boolean { return this.#batched + (this.#link?.buffered ?? 0) >= this.#o.highWater; }
  /** No frame may be added with put. */
  get full(): boolean { return this.congested || (this.resuming && this.#ring.bytes >= this.#o.resumeBytes); }

  /** Adds a frame to the next flush. */
  put(frame: Uint8Array): void {
    this.#batch.push(frame);
    this.#batched += frame.length;
    if (this.resuming) this.#ring.push(frame);
  }

  flush(): void {
    if (this.#batch.length) this.#link?.send(concat(this.#batch));
    this.#batch = [];
    this.#batched = 0;
  }

  /** Sends a system frame (Main 0). */
  control(sub: number, body: Uint8Array = new Uint8Array(0)): void {
    this.#link?.send(this.#codec.encode(sub, body));
  }

  /** Asks whether the server is still there. */
  probe(): void { this.#beat?.probe(); }

  /** The protocol was broken, so the rest of the stream can't be trusted: ends the connection. */
  broken(e: Error): void {
    this.end("abort");
    this.#up.broken(e);
    this.#up.lost(0, e.message);
  }

  /** Ends the connection. No callback is called after it. */
  end(how: "close" | "abort"): void {
    if (this.#over) return;
    this.#over = true;
    clearTimeout(this.#connecting);
    clearTimeout(this.#acking);
    this.#beat?.stop();
    this.#link?.[how]();
    this.#link = undefined;
  }

  #lost(code: number, reason: string): void {
    if (this.#over) return;
    this.end("abort");
    // The other token may still find the session: a server that is full accepts a session that it
    // knows. Close code 1012 asks for a wait.
    if (this.#hello && this.#ring.turn() && code !== 1012) this.#up.again();
    else this.#up.lost(code, reason);
  }

  #open(resumed: boolean): void {
    clearTimeout(this.#connecting);
    this.#hello = false;
    this.opened = now();
    const { heartbeat } = this.#o;
    if (heartbeat) this.#beat = new Heartbeat(heartbeat.interval, heartbeat.timeout, () => this.control(sys.PING), () => this.#lost(0, "no sign of life"));
    this.#up.open(resumed);
    const held = this.#held;
    this.#held = [];
    for (const p of held) if (!this.#over) this.#packet(p);
    if (!this.#over) this.#up.idle();
  }

  #welcome(b: Uint8Array): void {
    const ring = this.#ring;
    const w = sys.readWelcome(b, this.#codec.layout.littleEndian);
    if (!w || !this.#hello || this.#held.length) return this.broken(new Error("millrace: a WELCOME that can't be"));
    const tried = ring.tokens[0];
    if (tried && !w.resumed && ring.tokens.length > 1) {
      ring.tokens.shift(); // no session has this token: try the other one
      this.control(sys.BYE);
      this.end("close");
      return this.#up.again();
    }
    this.resuming = true;
    ring.turned = false;
    const resumed = !!tried && w.resumed;
    if (resumed) {
      if (w.received < ring.acked || !ring.ack(w.received)) {
        this.control(sys.BYE);
        ring.tokens = [];
        return this.broken(new Error("millrace: the server counts what was not sent"));
      }
      ring.tokens = [w.token, tried];
      ring.told = ring.received;
    } else {
      ring.reset();
      ring.tokens = [w.token];
    }
    this.control(sys.PING); // its PONG means that the older token is no longer valid
    if (ring.frames.length) this.#link?.send(concat(ring.frames));
    this.#open(resumed);
  }

  #packet(p: Packet): void {
    const ring = this.#ring;
    const little = this.#codec.layout.littleEndian;
    switch (this.#o.systemFrames ? p.handle : -1) {
      case sys.PING:
        if (this.#link!.buffered <= 2 * this.#o.highWater) this.control(sys.PONG, p.body);
        return;
      case sys.PONG:
        ring.tokens.length = Math.min(1, ring.tokens.length);
        return;
      case sys.WELCOME:
        return this.#welcome(p.body);
      case sys.ACK:
        if (this.resuming && !ring.ack(sys.readCount(p.body, little))) this.broken(new Error("millrace: the server counts what was not sent"));
        return;
      case sys.GOAWAY:
        return this.#up.goAway(sys.readGoAway(p.body, little).address);
    }
    const err = p.handle === sys.ERROR ? sys.readError(p.body, little) : undefined;
    if (this.#hello) {
      if (err?.handle === sys.HELLO) {
        ring.reset(); // the server does not support resume
        return this.#open(false);
      }
      if (err?.handle !== 0) {
        if (this.#held.push(p) > 1024) this.broken(new Error("millrace: no answer to HELLO"));
        return;
      }
    }
    if (this.resuming) this.#count(p.body.length);
    this.#up.packet(p, err);
  }

  // Acknowledges after 64 frames, 64 KiB or a second: a server stops sending when its buffer of
  // unacknowledged frames is full. The clock is read as well, since timers may be throttled.
  #count(bytes: number): void {
    const r = this.#ring;
    if (r.received++ === r.told) this.#ackSince = now();
    const ack = () => {
      this.#acking = clearTimeout(this.#acking) as undefined;
      r.told = r.received;
      this.#unacked = 0;
      this.control(sys.ACK, sys.count(r.received, this.#codec.layout.littleEndian));
    };
    if ((this.#unacked += bytes) >= 65536 || r.received - r.told >= 64 || now() - this.#ackSince >= 1000) ack();
    else this.#acking ??= setTimeout(ack, 1000);
  }
}
