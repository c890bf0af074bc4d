/** The connection broke and the session was lost; the request may have been handled. */
export class LostError extends Error { override name = "LostError"; }
/** No answer came in time; the request may have been handled. A late answer is discarded. */
export class TimeoutError extends Error { override name = "TimeoutError"; }
/** The queue is full, or too many calls are in progress; nothing was sent. */
export class BusyError extends Error { override name = "BusyError"; }
/** The client is closed. */
export class ClosedError extends Error { override name = "ClosedError"; }
