/** Adds fn to set and returns what takes it out again. */
export function subscribe<T>(set: Set<(v: T) => void>, fn: (v: T) => void): () => void {
  const each = (v: T) => fn(v);
  set.add(each);
  return () => void set.delete(each);
}

/** Calls each. One that throws harms no other, and is reported as an uncaught error is. */
export function emit<T>(set: Iterable<(v: T) => void> | undefined, v: T): void {
  for (const fn of [...(set ?? [])]) {
    try {
      fn(v);
    } catch (e) {
      queueMicrotask(() => {
        throw e;
      });
    }
  }
}
