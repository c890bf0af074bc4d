/** Adds fn to set and returns a function that removes it. */
export function subscribe<T>(set: Set<(v: T) => void>, fn: (v: T) => void): () => void {
  const each = (v: T) => fn(v);
  set.add(each);
  return () => void set.delete(each);
}

/** Calls each function of the set. If one throws, the others are still called, and the error is reported as uncaught. */
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
