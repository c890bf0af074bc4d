// State that survives a connection: calls that wait for answers, and the counters of resume.

export interface Call {
  handle: number;
  seq: number;
  /** Its caller has a result. It keeps its place in the order if its answer has not arrived yet. */
  over: boolean;
  /** With resume: how many frames the session had sent with this one. */
  pos: number;
  finish(body: Uint8Array | undefined, err?: unknown): void;
}

/** Calls that were written, by handle or sequence number, each in the order of their answers. */
export class Calls {
  readonly #queues = new Map<number, Call[]>();
  size = 0;

  add(key: number, c: Call): void {
    const q = this.#queues.get(key);
    if (q) q.push(c);
    else this.#queues.set(key, [c]);
    this.size++;
  }

  /** Removes and returns the call that the next answer belongs to, if any. */
  next(key: number): Call | undefined {
    const q = this.#queues.get(key);
    const c = q?.shift();
    if (c) this.size--;
    if (q?.length === 0) this.#queues.delete(key);
    return c;
  }

  fail(err: Error): void {
    const all = [...this.#queues.values()].flat();
    this.#queues.clear();
    this.size = 0;
    for (const c of all) c.finish(undefined, err);
  }
}

/**
 * The state of resume. Both ends count frames; a frame is kept until the server has
 * acknowledged it.
 */
export class Ring {
  readonly frames: Uint8Array[] = [];
  bytes = 0;
  acked = 0; // frames that the server has received
  received = 0; // frames received from the server
  told = 0; // the count in our last ACK
  /**
   * Tokens that may find the session, the likelier one first. There are two while it is not
   * known whether the server has received a frame after the last HELLO: until then it accepts
   * the old one, afterwards the new one.
   */
  tokens: Uint8Array[] = [];
  turned = false;

  /** Puts the other token first. Returns true if it should be tried at once: the one before has failed and this one was not tried since. */
  turn(): boolean {
    this.tokens.reverse();
    return (this.turned = !this.turned && this.tokens.length > 1);
  }

  /** Forgets the session, which is gone. */
  reset(): void {
    this.frames.length = this.bytes = this.acked = this.received = this.told = 0;
    this.tokens = [];
  }

  /** The number of frames sent since the session began. */
  get sent(): number { return this.acked + this.frames.length; }

  push(frame: Uint8Array): void {
    this.frames.push(frame);
    this.bytes += frame.length;
  }

  /** Returns false if the server counts more frames than were sent. A lower count than before is ignored. */
  ack(n: number): boolean {
    if (!(n <= this.sent)) return false;
    for (const f of this.frames.splice(0, Math.max(0, n - this.acked))) this.bytes -= f.length;
    this.acked = Math.max(this.acked, n);
    return true;
  }
}
