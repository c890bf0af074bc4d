package cluster

// outcome is the error of a message to another process that was not answered.
type outcome struct{ text, kind string }

func (o *outcome) Error() string { return o.text }

// FailureKind makes services.ErrorOf return the right code.
func (o *outcome) FailureKind() string { return o.kind }

// Errors of messages to other processes. Each says whether the operation may have been done.
var (
	// ErrUnavailable: no process was there to receive it, or the servers are unreachable. It has
	// not been done and will not be.
	ErrUnavailable error = &outcome{"cluster: unavailable; it has not been done", "unavailable"}
	// ErrLost: it was in progress when the connection to the servers, or the other process, failed.
	// It may have been done.
	ErrLost error = &outcome{"cluster: the answer is lost; it may have been done", "unavailable"}
	// ErrNoAnswer: the time expired. It may have been done.
	ErrNoAnswer error = &outcome{"cluster: no answer in time; it may have been done", "timeout"}
	// ErrOverloaded: a limit was reached, here or in the other process. It has not been done and
	// will not be.
	ErrOverloaded error = &outcome{"cluster: too many messages are waiting; it has not been done", "overloaded"}
	// ErrTooLarge: the servers do not accept messages of that size (their max_payload).
	ErrTooLarge error = &outcome{"cluster: larger than the servers' max_payload; it has not been done", "limit"}
)
