// System frames (Main 0) and their bodies. Counters have 64 bits on the wire and are exact up to 2^53 here.
import { view } from "./codec.js";

export const PING = 1, PONG = 2, ERROR = 3, GOAWAY = 4, HELLO = 5, WELCOME = 6, ACK = 7, BYE = 8;

/** An ERROR of the server: a request was refused or has failed. */
export class ServerError extends Error {
  override name = "ServerError";
  /** code is one of the protocol's, such as 4, overloaded; handle is the request's, or 0 if it is about none. */
  constructor(readonly code: number, readonly handle: number, text: string) {
    super(text);
  }
}

const text = new TextDecoder();

export function readError(b: Uint8Array, little = false): ServerError {
  if (b.length < 6) return new ServerError(0, 0, "an ERROR of " + b.length + " bytes");
  const v = view(b);
  return new ServerError(v.getUint16(0, little), v.getUint32(2, little), text.decode(b.subarray(6)));
}

/** Returns the grace period in milliseconds, and the address to connect to, or "". */
export function readGoAway(b: Uint8Array, little = false): { grace: number; address: string } {
  return { grace: b.length < 4 ? 0 : view(b).getUint32(0, little), address: text.decode(b.subarray(4)) };
}

export function hello(token?: Uint8Array, received = 0, little = false): Uint8Array {
  if (!token) return new Uint8Array([1, 0]);
  const b = new Uint8Array(26);
  b[0] = 1;
  b.set(token, 2);
  b.set(count(received, little), 18);
  return b;
}

export function readWelcome(b: Uint8Array, little = false): { resumed: boolean; token: Uint8Array; received: number } | undefined {
  if (b.length !== 25) return undefined;
  return { resumed: (b[0]! & 1) === 1, token: b.slice(1, 17), received: readCount(b.subarray(17), little) };
}

/** The body of an ACK. */
export function count(n: number, little = false): Uint8Array {
  const b = new Uint8Array(8);
  const v = view(b);
  v.setUint32(little ? 4 : 0, n / 2 ** 32, little);
  v.setUint32(little ? 0 : 4, n, little);
  return b;
}

/** Returns NaN if the body is not a count. */
export function readCount(b: Uint8Array, little = false): number {
  if (b.length !== 8) return NaN;
  const v = view(b);
  return v.getUint32(little ? 4 : 0, little) * 2 ** 32 + v.getUint32(little ? 0 : 4, little);
}
