package soak

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"millrace/services/client"
)

// dialOne connects a client that does not resume, by a door of its own choice.
func (v *visit) dialOne() *client.Client {
	c, err := client.Dial(v.shut, client.Config{Addrs: []string{v.door(doors[v.r.IntN(len(doors))])}, TLS: anyCert, NoReconnect: true,
		OnLost: func(err error) { v.end(endOf(err)) }})
	if err != nil {
		v.noService.Add(1)
		return nil
	}
	return c
}

// ask calls with a request and an answer in JSON.
func ask(ctx context.Context, c *client.Client, handle uint32, req, answer any) error {
	body, err := json.Marshal(req)
	if err != nil {
		return err
	}
	got, err := c.Do(ctx, handle, body)
	if err != nil {
		return err
	}
	return json.Unmarshal(got, answer)
}

type query struct {
	Name string `json:"name"`
	Args []int  `json:"args"`
}

// row is what is known of a row that one client alone increments.
type row struct {
	id      int
	value   int // of the last answer
	unsure  int // increments since then that may have run
	claimed bool
}

// takeRow gives a client a row, which is its own until giveRow.
func (s *soak) takeRow() *row {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, r := range s.rows {
		if !r.claimed {
			r.claimed = true
			return r
		}
	}
	r := &row{id: len(s.rows) + 1, claimed: true, value: -1}
	s.rows = append(s.rows, r)
	return r
}

func (s *soak) giveRow(r *row) {
	s.mu.Lock()
	defer s.mu.Unlock()
	r.claimed = false
}

// bumps increments a row. What each answer says must fit what was answered before: a statement
// that was answered has run once, one of which it is said that it has not run has not.
func (v *visit) bumps() {
	c := v.dialOne()
	if c == nil {
		return
	}
	defer c.Close()
	r := v.takeRow()
	defer v.giveRow(r)
	for n := 0; n < 500 && !v.over(); n++ {
		if !v.bump(c, r) {
			return
		}
		v.pause(v.some(10 * time.Millisecond))
	}
}

// bump increments once; false: the connection has ended.
func (v *visit) bump(c *client.Client, r *row) bool {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	v.requests.Add(1)
	var answer struct{ Rows [][]int }
	err := ask(ctx, c, client.Handle(3, 1), query{"bump", []int{r.id}}, &answer)
	e := (*client.Error)(nil)
	switch {
	case err == nil && len(answer.Rows) == 1 && len(answer.Rows[0]) == 2:
		now := answer.Rows[0][1]
		if r.value >= 0 && (now <= r.value || now > r.value+r.unsure+1) {
			v.violation("row %d is %d, was %d with %d increments that may have run since", r.id, now, r.value, r.unsure)
		}
		r.value, r.unsure = now, 0
		v.answers.Add(1)
	case errors.As(err, &e):
		if notRun(e) {
			v.refuse(e.Code)
		} else {
			v.unknown.Add(1)
			r.unsure++
		}
		return e.Handle != 0
	case errors.Is(err, client.ErrLost), errors.Is(err, client.ErrClosed):
		v.unknown.Add(1)
		r.unsure++
		return false
	default:
		v.unknown.Add(1)
		v.violation("bump: %v %v", answer, err)
		return false
	}
	return true
}

// notRun says whether an ERROR tells that the statement was not run.
func notRun(e *client.Error) bool {
	return e.Code == 4 || e.Code == 7 || e.Code == 11 && (strings.HasPrefix(e.Text, "not run") || e.Text == "the database is down")
}

// checkRows compares the books with the database itself.
func (s *soak) checkRows() {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	conn, err := pgx.Connect(ctx, s.db.URL())
	if err != nil {
		s.violation("the database at the end: %v", err)
		return
	}
	defer conn.Close(ctx)
	wrong, sure := 0, 0
	for _, r := range s.rows {
		if r.value < 0 {
			continue
		}
		var now int
		if err := conn.QueryRow(ctx, "select randomnumber from world where id = $1", r.id).Scan(&now); err != nil || now < r.value || now > r.value+r.unsure {
			wrong++
			s.violation("row %d is %d at the end, was %d with %d increments that may have run since: %v", r.id, now, r.value, r.unsure, err)
		}
		if r.unsure == 0 {
			sure++
		}
	}
	s.check("rows in the database", wrong == 0 && len(s.rows) > 0, fmt.Sprintf("%d rows, %d of them to the last increment", len(s.rows), sure))
}

type swap struct {
	Key    string `json:"key"`
	Expect *int   `json:"expect"`
	Val    int    `json:"val"`
}

// countsInAKey increments a key by compare and set, beside others. The key is of one life of
// the server, which keeps it in memory.
func (v *visit) countsInAKey() {
	c := v.dialOne()
	if c == nil {
		return
	}
	defer c.Close()
	key := "count of life " + strconv.Itoa(v.srv.n)
	var known *int
	for n := 0; n < 500 && !v.over(); n++ {
		val := 1
		if known != nil {
			val = *known + 1
		}
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		v.requests.Add(1)
		var answer struct {
			Swapped bool
			Val     *int
		}
		err := ask(ctx, c, client.Handle(5, 3), swap{key, known, val}, &answer)
		cancel()
		e := (*client.Error)(nil)
		switch {
		case errors.As(err, &e):
			if v.refuse(e.Code); e.Handle == 0 {
				return // the connection's end
			}
			continue
		case err != nil:
			v.unknown.Add(1)
			v.counted(key, 0, 1)
			return
		case answer.Swapped:
			v.counted(key, 1, 0)
		}
		v.answers.Add(1)
		if answer.Val == nil || known != nil && *answer.Val < *known {
			v.violation("key %q is %v behind %v", key, answer.Val, known)
			return
		}
		known = answer.Val
		v.pause(v.some(10 * time.Millisecond))
	}
}

// keyBook is how often a key was incremented.
type keyBook struct{ sure, unsure int }

func (s *soak) counted(key string, sure, unsure int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	b := s.keys[key]
	s.keys[key] = keyBook{b.sure + sure, b.unsure + unsure}
}

// checkKey compares the books with the key of a server that runs, when no client is there.
func (s *soak) checkKey(v *server) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	c, err := client.Dial(ctx, client.Config{Addrs: []string{s.door("tcp")}, NoReconnect: true})
	if err != nil {
		s.violation("the keys at the end: %v", err)
		return
	}
	defer c.Close()
	key := "count of life " + strconv.Itoa(v.n)
	var answer struct{ Val int }
	err = ask(ctx, c, client.Handle(5, 2), map[string]string{"key": key}, &answer)
	b := s.keys[key]
	s.check("key incremented by compare and set", err == nil && b.sure > 0 && answer.Val >= b.sure && answer.Val <= b.sure+b.unsure,
		fmt.Sprintf("is %d after %d increments, and %d that may have happened", answer.Val, b.sure, b.unsure))
}
