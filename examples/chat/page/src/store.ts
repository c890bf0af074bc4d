// What outlives the page: who one is, in the browser; what is still to be sent, in its tab.
import { MAX_PENDING, random, type Me, type Pending } from "./chat.js";

// A browser may refuse to keep anything: the page then forgets when it is closed.
function get(s: () => Storage, key: string): unknown {
  try {
    return JSON.parse(s().getItem(key) ?? "null");
  } catch {
    return null;
  }
}
function set(s: () => Storage, key: string, v: unknown): void {
  try {
    s().setItem(key, JSON.stringify(v));
  } catch {
    // as above
  }
}

const browser = () => localStorage, tab = () => sessionStorage;

export function loadMe(): Me {
  const m = get(browser, "me") as Partial<Me> | null;
  const me = { name: typeof m?.name === "string" ? m.name : "", id: typeof m?.id === "string" && m.id ? m.id : random() };
  saveMe(me);
  return me;
}
export const saveMe = (me: Me): void => set(browser, "me", me);

export function loadPending(): Pending[] {
  const all = get(tab, "pending");
  return Array.isArray(all) ? all.filter((p): p is Pending => typeof p?.key === "string" && typeof p.text === "string" && typeof p.room === "string").slice(0, MAX_PENDING) : [];
}
export const savePending = (all: readonly Pending[]): void => set(tab, "pending", all);

export const loadTheme = (): string => String(get(browser, "theme") ?? "");
export const saveTheme = (t: string): void => set(browser, "theme", t);
