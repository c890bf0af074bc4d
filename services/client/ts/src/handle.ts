/** Main and Sub: 0x00040003, "4/3" or [4, 3]. */
export type Handle = number | string | readonly [number, number];

/** Throws a TypeError if h is not a handle, or has Main 0, which is reserved for the protocol. */
export function handleOf(h: Handle): number {
  const [main, sub] = typeof h === "number" ? [h / 65536 | 0, h & 65535] : typeof h === "string" ? h.split("/").map(Number) : h;
  const n = typeof h === "number" ? h : main! * 65536 + sub!;
  if (n !== n >>> 0 || main! > 65535 || sub! > 65535 || n < 65536) throw new TypeError(`millrace: handle ${h}: write it as MAIN/SUB, Main from 1`);
  return n;
}

export const name = (h: number) => `${h >>> 16}/${h & 65535}`;
