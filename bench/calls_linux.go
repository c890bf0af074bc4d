package bench

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"strconv"
	"time"
)

// callsOf returns the cycle of requests of a service workload, nil for other kinds.
func callsOf(spec genSpec) []call {
	switch spec.Kind {
	case Sleep:
		return []call{sleepCall(spec.Every)}
	case SetKill:
		return setKillCalls()
	case Database:
		return []call{queryCall()}
	case Services:
		return []call{sumCall(handleSum)}
	case Inline:
		return []call{sumCall(handleSumInline)}
	case Cache:
		return cacheCalls(spec.Body)
	case Locks:
		return lockCalls()
	case ClusterCall:
		return []call{callOnCall(spec.Names)}
	case ClusterBind:
		return []call{bindCall(spec.Depth)}
	case Room:
		return []call{roomCall(spec.Depth)}
	}
	return nil
}

func sumCall(handle uint32) call {
	terms := func(c *conn, seq uint64) (int64, int64) { return int64(seq % 1000003), int64(c.id) }
	return call{
		handle: handle,
		build: func(dst []byte, c *conn, seq uint64) []byte {
			a, b := terms(c, seq)
			dst = strconv.AppendInt(append(dst, `{"a":`...), a, 10)
			dst = strconv.AppendInt(append(dst, `,"b":`...), b, 10)
			return append(dst, '}')
		},
		check: func(body []byte, c *conn, seq uint64) bool {
			a, b := terms(c, seq)
			got, ok := jsonInt(body, "sum")
			return ok && got == a+b
		},
	}
}

func sleepCall(d time.Duration) call {
	ms := d.Milliseconds()
	request := fmt.Appendf(nil, `{"ms":%d}`, ms)
	return call{
		handle: handleSleep,
		build:  func(dst []byte, _ *conn, _ uint64) []byte { return append(dst, request...) },
		check: func(body []byte, _ *conn, _ uint64) bool {
			got, ok := jsonInt(body, "slept_ms")
			return ok && got >= ms
		},
	}
}

// setKillCalls set a timer with a distant deadline and kill it.
func setKillCalls() []call {
	id := func(seq uint64) int64 { return int64(seq/2%1000) + 1 }
	set := call{
		handle: handleTimerSet,
		build: func(dst []byte, _ *conn, seq uint64) []byte {
			dst = strconv.AppendInt(append(dst, `{"id":`...), id(seq), 10)
			return append(dst, `,"ms":60000,"repeat":1}`...)
		},
		check: func(body []byte, _ *conn, seq uint64) bool {
			got, ok := jsonInt(body, "id")
			return ok && got == id(seq)
		},
	}
	kill := call{
		handle: handleTimerKill,
		build: func(dst []byte, _ *conn, seq uint64) []byte {
			dst = strconv.AppendInt(append(dst, `{"id":`...), id(seq), 10)
			return append(dst, '}')
		},
		check: func(body []byte, _ *conn, seq uint64) bool {
			got, ok := jsonInt(body, "id")
			return ok && got == id(seq) && jsonIs(body, "killed", "true")
		},
	}
	return []call{set, kill}
}

// queryCall queries one row of world by a pseudo-random id.
func queryCall() call {
	row := func(c *conn, seq uint64) int64 {
		return int64((seq*2654435761+uint64(c.id)*40503)%10000) + 1
	}
	return call{
		handle: handleQuery,
		build: func(dst []byte, c *conn, seq uint64) []byte {
			dst = strconv.AppendInt(append(dst, `{"name":"world","args":[`...), row(c, seq), 10)
			return append(dst, `]}`...)
		},
		check: func(body []byte, c *conn, seq uint64) bool {
			var want [32]byte
			prefix := append(strconv.AppendInt(append(want[:0], "[["...), row(c, seq), 10), ',')
			return bytes.Contains(body, prefix) && bytes.Contains(body, []byte(`SELECT 1`)) || rowIs(body, row(c, seq))
		},
	}
}

// rowIs is the slow, complete check, for a reply in another notation.
func rowIs(body []byte, id int64) bool {
	var reply struct {
		Rows [][]int64 `json:"rows"`
		Tag  string    `json:"tag"`
	}
	return json.Unmarshal(body, &reply) == nil && reply.Tag == "SELECT 1" &&
		len(reply.Rows) == 1 && len(reply.Rows[0]) == 2 && reply.Rows[0][0] == id
}

// cacheCalls set, get, and compare and set a key of the connection.
func cacheCalls(size int) []call {
	fill := bytes.Repeat([]byte{'v'}, size)
	val := func(dst []byte, c *conn, n uint64) []byte { // a string that identifies its writer
		dst = strconv.AppendUint(append(dst, '"'), n, 10)
		dst = strconv.AppendUint(append(dst, '.'), uint64(c.id), 10)
		return append(append(dst, fill...), '"')
	}
	key := func(dst []byte, c *conn) []byte {
		dst = strconv.AppendUint(append(dst, `{"key":"bench-`...), uint64(c.id), 10)
		return append(dst, '"')
	}
	holds := func(body []byte, c *conn, n uint64) bool {
		return string(jsonField(body, "val")) == string(val(nil, c, n))
	}
	return []call{
		{handleCacheSet,
			func(dst []byte, c *conn, n uint64) []byte {
				return append(val(append(key(dst, c), `,"val":`...), c, n), '}')
			},
			func(body []byte, _ *conn, _ uint64) bool { return jsonIs(body, "ok", "true") }},
		{handleCacheGet,
			func(dst []byte, c *conn, _ uint64) []byte { return append(key(dst, c), '}') },
			func(body []byte, c *conn, n uint64) bool {
				return jsonIs(body, "found", "true") && holds(body, c, n-1)
			}},
		{handleCacheCAS,
			func(dst []byte, c *conn, n uint64) []byte {
				dst = val(append(key(dst, c), `,"expect":`...), c, n-2)
				return append(val(append(dst, `,"val":`...), c, n), '}')
			},
			func(body []byte, c *conn, n uint64) bool {
				return jsonIs(body, "swapped", "true") && holds(body, c, n)
			}},
	}
}

// lockCalls lock a key of the connection, and unlock it with the token of the reply.
func lockCalls() []call {
	key := func(dst []byte, c *conn) []byte {
		dst = strconv.AppendUint(append(dst, `{"key":"bench-lock-`...), uint64(c.id), 10)
		return append(dst, '"')
	}
	return []call{
		{handleLock,
			func(dst []byte, c *conn, _ uint64) []byte {
				return append(key(dst, c), `,"ttl_ms":60000,"wait_ms":0}`...)
			},
			func(body []byte, c *conn, _ uint64) bool {
				n, ok := jsonInt(body, "token")
				grew := ok && uint64(n) > c.token
				c.token = uint64(n)
				return grew && jsonIs(body, "locked", "true")
			}},
		{handleUnlock,
			func(dst []byte, c *conn, _ uint64) []byte {
				dst = strconv.AppendUint(append(key(dst, c), `,"token":`...), c.token, 10)
				return append(dst, '}')
			},
			func(body []byte, _ *conn, _ uint64) bool { return jsonIs(body, "unlocked", "true") }},
	}
}

// callOnCall calls the nodes other than the connection's, in turn.
func callOnCall(names []string) call {
	terms := func(c *conn, seq uint64) (int64, int64) { return int64(seq % 1000003), int64(c.id) }
	node := func(c *conn, seq uint64) string {
		own := int(c.id-1) % len(names)
		if len(names) == 1 {
			return names[own]
		}
		return names[(own+1+int(seq%uint64(len(names)-1)))%len(names)]
	}
	return call{
		handle: handleCallOn,
		build: func(dst []byte, c *conn, seq uint64) []byte {
			a, b := terms(c, seq)
			return fmt.Appendf(dst, `{"node":%q,"a":%d,"b":%d}`, node(c, seq), a, b)
		},
		check: func(body []byte, c *conn, seq uint64) bool {
			a, b := terms(c, seq)
			got, ok := jsonInt(body, "sum")
			return ok && got == a+b && jsonIs(body, "node", `"`+node(c, seq)+`"`)
		},
	}
}

// bindCall binds users of the connection in turn, enough that none is bound twice at the same time.
func bindCall(users int) call {
	users = max(1, users)
	epochs := map[string]int64{}
	user := func(c *conn, seq uint64) string { return fmt.Sprintf("bench-%d-%d", c.id, seq%uint64(users)) }
	return call{
		handle: handleBind,
		build: func(dst []byte, c *conn, seq uint64) []byte {
			return fmt.Appendf(dst, `{"user":%q}`, user(c, seq))
		},
		check: func(body []byte, c *conn, seq uint64) bool {
			epoch, ok := jsonInt(body, "epoch")
			of := user(c, seq)
			grew := ok && epoch > epochs[of]
			epochs[of] = epoch
			return grew
		},
	}
}

// roomCall adds 1 to a room of the connection. A connection's requests are processed concurrently:
// each value occurs once, in any order of replies.
func roomCall(depth int) call {
	mine := strconv.Itoa(os.Getpid())
	values := map[uint32]*once{}
	return call{
		handle: handleRoom,
		build: func(dst []byte, c *conn, _ uint64) []byte {
			return fmt.Appendf(dst, `{"room":"bench-%s-%d","add":1}`, mine, c.id)
		},
		check: func(body []byte, c *conn, _ uint64) bool {
			of := values[c.id]
			if of == nil {
				of = newOnce(2*depth + 2)
				values[c.id] = of
			}
			value, ok := jsonInt(body, "value")
			token, given := jsonInt(body, "token")
			return ok && value > 0 && given && token > 0 && of.take(uint64(value-1))
		},
	}
}
