// The chat's services, as the server has them.
import type { Client } from "millrace-client";

export interface Line {
  room: string;
  /** From 1 in each room, without a gap. */
  seq: number;
  /** Unix milliseconds. */
  at: number;
  name: string;
  text: string;
  key?: string;
}

export interface Past {
  /** Names the history that the numbers are of. */
  log: string;
  /** The first line that the room still has. */
  first: number;
  last: number;
  /** Those behind what was asked for, as many as fit one answer. */
  lines: Line[];
}

export interface Who { room: string; names: string[]; count: number }
export interface RoomInfo { name: string; here: number; last: number }

export const LINE = "1/6", WHO = "1/7";

/** Codes of ERRORs after which the same request would fail again. */
export const final = new Set([3, 8, 9]);
export const CONFLICT = 9;

export const services = (c: Client) => ({
  join: c.method<{ room: string; name: string; id: string; log: string; after: number }, Past & { who: string[]; count: number }>("1/1"),
  say: c.method<{ room: string; text: string; name: string; id: string; key: string; log: string; seen: number }, { seq: number }>("1/2"),
  history: c.method<{ room: string; log: string; after: number }, Past>("1/3"),
  leave: c.method<{ room: string }, unknown>("1/4"),
  rooms: c.method<Record<string, never>, { rooms: RoomInfo[] }>("1/5"),
});
