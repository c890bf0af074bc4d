/** The connection ended with the session; the request may have been served. */
export class LostError extends Error { override name = "LostError"; }
/** No answer in time; the request may have been served. Its answer is thrown away. */
export class TimeoutError extends Error { override name = "TimeoutError"; }
/** A queue is full; nothing was sent. */
export class BusyError extends Error { override name = "BusyError"; }
export class ClosedError extends Error { override name = "ClosedError"; }
