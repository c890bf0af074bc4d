// The framing of servers with --framing varint, and of protobuf's delimited streams with a
// handle: a varint with the number of bytes that follow, then Main, Sub and the body.
import { Codec, FrameError, view, type Packet } from "./codec.js";

/** For options.codec. maxFrame is as in Codec: the largest number of bytes after the length. */
export class Varint extends Codec {
  constructor(maxFrame = 0) {
    super({}, maxFrame);
    if (this.maxFrame >= 2 ** 28) throw new RangeError("millrace: maxFrame " + this.maxFrame + ": with varint it is below 2^28");
  }

  override encode(handle: number, body: Uint8Array, seq = 0): Uint8Array {
    const b = super.encode(handle, body, seq); // a four-byte length, and the rest
    const head: number[] = [];
    let n = b.length - 4;
    for (; n >= 0x80; n >>>= 7) head.push((n & 0x7f) | 0x80);
    head.push(n);
    b.set(head, 4 - head.length);
    return b.subarray(4 - head.length);
  }

  override decode(b: Uint8Array): { size: number; want: number; packet?: Packet } {
    let n = 0;
    for (let i = 0; i < 5; i++) {
      if (i === b.length) return { size: 0, want: i + 1 };
      n += (b[i]! & 0x7f) * 2 ** (7 * i); // lengths may be padded
      if (b[i]! >= 0x80) continue;
      if (n < 4 || n > this.maxFrame) throw new FrameError(`millrace: a frame of length ${n}, accepted are 4 to ${this.maxFrame}`);
      const size = i + 1 + n;
      if (b.length < size) return { size: 0, want: size };
      return { size, want: size, packet: { handle: view(b).getUint32(i + 1), seq: 0, body: b.slice(i + 5, size) } };
    }
    throw new FrameError("millrace: a length of more than five bytes");
  }
}
