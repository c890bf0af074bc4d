// Package strictjson reads the bodies of the reference server's requests: one JSON
// object, of which the caller lists the fields that it wants.
//
//	var group string
//	var ms int64
//	err := strictjson.Decode(body,
//		strictjson.String("group", &group),
//		strictjson.Int("ms", &ms, 1, math.MaxUint32))
//
// It is stricter than encoding/json where that guesses: keys are case-sensitive, every
// listed field must be there with its own type (null, true, 1.5 and 1.0 are no
// integers), nothing may follow the object, the whole body is valid UTF-8 with no lone
// surrogate in an escape, and nothing nests deeper than MaxDepth. A key that is not
// listed is ignored once its value has been checked; of a key that comes twice the last
// one counts.
//
// Nothing here blocks or keeps state; a body is only read.
package strictjson
