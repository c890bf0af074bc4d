/** 0x00040003, "4/3" or [4, 3]. */
export type Handle = number | string | readonly [number, number];

/** Throws a TypeError for what is no handle, and for Main 0, which is the client's own. */
export function handleOf(h: Handle): number {
  const [main, sub] = typeof h === "number" ? [h / 65536 | 0, h & 65535] : typeof h === "string" ? h.split("/").map(Number) : h;
  const n = typeof h === "number" ? h : main! * 65536 + sub!;
  if (n !== n >>> 0 || main! > 65535 || sub! > 65535 || n < 65536) throw new TypeError(`millrace: handle ${h}: write it as MAIN/SUB, Main from 1`);
  return n;
}

export const name = (h: number) => `${h >>> 16}/${h & 65535}`;
