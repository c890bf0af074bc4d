package cluster

// outcome is what became of a message to another process that was not answered.
type outcome struct{ text, kind string }

func (o *outcome) Error() string { return o.text }

// FailureKind has services.ErrorOf know the code.
func (o *outcome) FailureKind() string { return o.kind }

// Outcomes of what is sent to other processes. Each says whether it may have been done.
var (
	// ErrUnavailable: nobody is there to take it, or the servers are away. It has not been
	// done and won't be.
	ErrUnavailable error = &outcome{"cluster: unavailable; it has not been done", "unavailable"}
	// ErrLost: it was under way when the connection to the servers, or the other process,
	// went away. It may have been done.
	ErrLost error = &outcome{"cluster: the answer is lost; it may have been done", "unavailable"}
	// ErrNoAnswer: the time was up. It may have been done.
	ErrNoAnswer error = &outcome{"cluster: no answer in time; it may have been done", "timeout"}
	// ErrOverloaded: a limit is reached, here or there. It has not been done and won't be.
	ErrOverloaded error = &outcome{"cluster: too much waits; it has not been done", "overloaded"}
	// ErrTooLarge: the servers take no message of that size (their max_payload).
	ErrTooLarge error = &outcome{"cluster: larger than the servers take; it has not been done", "unavailable"}
)
