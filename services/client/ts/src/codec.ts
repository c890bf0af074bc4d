// Encodes and decodes frames; independent of connections.

/** The layout of a frame, as in Go's codec.Layout. An empty one is the default frame. */
export interface Layout {
  /** Magic bytes before the length, verified when read. */
  prefix?: Uint8Array;
  /** Bytes of the length field: 4 (default) or 2. */
  lengthWidth?: 2 | 4;
  /** Length field + lengthAdjust = number of bytes after the length field. */
  lengthAdjust?: number;
  /** How Main and Sub are encoded: two 16-bit fields (default), two bytes, or one 32-bit handle. */
  command?: "mainsub16" | "mainsub8" | "handle32";
  /** A 32-bit sequence number follows Sub: answers are matched by it. */
  seq?: boolean;
  littleEndian?: boolean;
}

/** The content of a frame. The body of a packet that was read is a copy. */
export interface Packet {
  /** Main << 16 | Sub, as an unsigned number. */
  handle: number;
  seq: number;
  body: Uint8Array;
}

/** A header is not valid in this layout; the rest of the stream can't be decoded. */
export class FrameError extends Error {
  override name = "FrameError";
}

export class Codec {
  readonly layout: Layout;
  /** Whether the layout has sequence numbers. */
  readonly seq: boolean;
  readonly maxFrame: number;
  readonly #prefix: Uint8Array;
  readonly #width: number;
  readonly #command: number; // bytes of Main and Sub
  readonly #fields: number; // bytes of Main, Sub and Seq
  readonly #little: boolean;
  readonly #adjust: number;

  /** maxFrame is the largest number of bytes after the length field; 0 means 64 KiB, or the largest that the field can hold if that is less. */
  constructor(layout: Layout = {}, maxFrame = 0) {
    this.layout = layout;
    this.#prefix = layout.prefix ?? new Uint8Array(0);
    this.#width = layout.lengthWidth ?? 4;
    this.#adjust = layout.lengthAdjust ?? 0;
    this.#command = layout.command === "mainsub8" ? 2 : 4;
    this.seq = layout.seq ?? false;
    this.#fields = this.#command + (this.seq ? 4 : 0);
    this.#little = layout.littleEndian ?? false;
    const top = 256 ** this.#width - 1 + this.#adjust;
    this.maxFrame = maxFrame || Math.min(65536, top);
    if (this.maxFrame > top || this.maxFrame < this.#fields || this.#fields < this.#adjust || this.#prefix.length > 32) {
      throw new RangeError("millrace: no frame fits this layout and maxFrame " + this.maxFrame);
    }
  }

  /** Throws a RangeError if the layout has no room for the handle, the body or the sequence number. Copies body. */
  encode(handle: number, body: Uint8Array, seq = 0): Uint8Array {
    const n = this.#fields + body.length;
    if (n > this.maxFrame) {
      throw new RangeError(`millrace: a body of ${body.length} bytes, at most ${this.maxFrame - this.#fields}`);
    }
    const narrow = this.#command === 2;
    if (handle !== handle >>> 0 || (narrow && handle & 0xff00ff00) || (seq && !this.seq)) {
      throw new RangeError("millrace: the layout has no room for this handle or sequence number");
    }
    const head = this.#prefix.length + this.#width;
    const b = new Uint8Array(head + n);
    const v = view(b);
    const le = this.#little;
    b.set(this.#prefix);
    if (this.#width === 2) v.setUint16(head - 2, n - this.#adjust, le);
    else v.setUint32(head - 4, n - this.#adjust, le);
    if (narrow) v.setUint16(head, ((handle >>> 8) & 0xff00) | (handle & 0xff));
    else if (this.layout.command === "handle32") v.setUint32(head, handle, le);
    else {
      v.setUint16(head, handle >>> 16, le);
      v.setUint16(head + 2, handle, le);
    }
    if (this.seq) v.setUint32(head + this.#command, seq, le);
    b.set(body, head + this.#fields);
    return b;
  }

  /**
   * Returns the frame at the start of b and its size. If the frame is not complete, size is 0
   * and want is the number of bytes that it has at least. An invalid header throws a FrameError
   * as soon as it can be recognized.
   */
  decode(b: Uint8Array): { size: number; want: number; packet?: Packet } {
    for (let i = 0; i < this.#prefix.length && i < b.length; i++) {
      if (b[i] !== this.#prefix[i]) throw new FrameError("millrace: wrong prefix");
    }
    const head = this.#prefix.length + this.#width;
    if (b.length < head) return { size: 0, want: head };
    const v = view(b);
    const le = this.#little;
    const n = (this.#width === 2 ? v.getUint16(head - 2, le) : v.getUint32(head - 4, le)) + this.#adjust;
    if (n < this.#fields || n > this.maxFrame) {
      throw new FrameError(`millrace: a frame of length ${n}, accepted are ${this.#fields} to ${this.maxFrame}`);
    }
    const size = head + n;
    if (b.length < size) return { size: 0, want: size };
    let handle: number;
    if (this.#command === 2) handle = v.getUint8(head) * 65536 + v.getUint8(head + 1);
    else if (this.layout.command === "handle32") handle = v.getUint32(head, le);
    else handle = v.getUint16(head, le) * 65536 + v.getUint16(head + 2, le);
    const seq = this.seq ? v.getUint32(head + this.#command, le) : 0;
    return { size, want: size, packet: { handle, seq, body: b.slice(head + this.#fields, size) } };
  }
}

/** Splits a stream, received in chunks, into frames. Between chunks it holds less than one frame. */
export class Decoder {
  #rest = new Uint8Array(0); // grows with the bytes received, not to what a header claims
  #held = 0;
  constructor(readonly codec: Codec) {}

  /** Yields each complete frame, in order. A FrameError is thrown after the frames before it; nothing can be decoded after that. */
  *push(b: Uint8Array): Generator<Packet> {
    if (this.#held) {
      const n = this.#held + b.length;
      if (n > this.#rest.length) {
        const grown = new Uint8Array(Math.max(n, 2 * this.#rest.length));
        grown.set(this.#rest.subarray(0, this.#held));
        this.#rest = grown;
      }
      this.#rest.set(b, this.#held);
      b = this.#rest.subarray(0, n);
    }
    let at = 0;
    for (;;) {
      const { size, packet } = this.codec.decode(b.subarray(at));
      if (!packet) break;
      at += size;
      yield packet;
    }
    if (at || !this.#held) this.#rest = b.slice(at);
    this.#held = b.length - at;
  }
}

/** A view of exactly b. */
export const view = (b: Uint8Array): DataView => new DataView(b.buffer, b.byteOffset, b.byteLength);

export function concat(all: Uint8Array[]): Uint8Array {
  if (all.length === 1) return all[0]!;
  const b = new Uint8Array(all.reduce((n, x) => n + x.length, 0));
  let at = 0;
  for (const x of all) {
    b.set(x, at);
    at += x.length;
  }
  return b;
}
