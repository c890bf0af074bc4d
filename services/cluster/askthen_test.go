package cluster_test

import (
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"millrace/internal/faultproxy"
	"millrace/services/cluster"
)

// outcome is what then was told.
type outcome struct {
	text string
	err  error
}

// answers has what is asked of the subject answered, but for silence.
func answers(t *testing.T, b *cluster.Bus, subject string) (heard *atomic.Int64) {
	t.Helper()
	heard = new(atomic.Int64)
	in := b.Inbox(1<<15, func(m cluster.Message) {
		if string(m.Data) != "silence" {
			_ = m.AnswerLater(append([]byte("re: "), m.Data...))
		}
		heard.Add(1)
	})
	_, err := in.Subscribe(subject, "")
	if err == nil {
		err = b.Flush(background)
	}
	if err != nil {
		t.Fatal(err)
	}
	return heard
}

func TestWhoDoesNotWaitIsToldOnce(t *testing.T) {
	srv := embedded(t)
	host := srv.URL()[strings.Index(srv.URL(), "@")+1:]
	proxy := faultproxy.New(t, host)
	a, _ := bus(t, strings.Replace(srv.URL(), host, proxy.Addr(), 1), cluster.BusConfig{MaxAsks: 1})
	b, _ := bus(t, srv.URL(), cluster.BusConfig{})
	heard := answers(t, b, "q")
	told := make(chan outcome, 16)
	ask := func(subject, text string, d time.Duration) error {
		return a.AskThen(time.Now().Add(d), subject, []byte(text), func(answer []byte, err error) { told <- outcome{string(answer), err} })
	}
	want := func(what string, text string, err error) {
		t.Helper()
		select {
		case got := <-told:
			if got.text != text || !errors.Is(got.err, err) {
				t.Errorf("%s: got %q, %v, want %q, %v", what, got.text, got.err, text, err)
			}
		case <-time.After(time.Minute):
			t.Fatalf("%s: nothing was told", what)
		}
	}
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(ask("nobody", "1", time.Hour))
	want("nobody there", "", cluster.ErrUnavailable)
	must(ask("q", "2", time.Hour))
	want("an answer", "re: 2", nil)
	at := time.Now()
	must(ask("q", "silence", 50*time.Millisecond))
	want("silence", "", cluster.ErrNoAnswer)
	if took := time.Since(at); took < 50*time.Millisecond {
		t.Errorf("the time was up after %v", took)
	}
	before := heard.Load()
	must(ask("q", "silence", time.Hour))
	if err := ask("q", "one too many", time.Hour); !errors.Is(err, cluster.ErrOverloaded) {
		t.Errorf("past MaxAsks: got %v", err)
	}
	soon(t, "it has been heard", func() bool { return heard.Load() > before })
	a.Lose(func(subject string) bool { return subject == "q" })
	want("the one who was asked has died", "", cluster.ErrLost)
	before = heard.Load()
	must(ask("q", "silence", time.Hour))
	soon(t, "it has been heard", func() bool { return heard.Load() > before })
	proxy.Cut()
	want("the connection goes", "", cluster.ErrLost)
	soon(t, "the bus is down", func() bool { return !a.Up() })
	if err := ask("q", "3", time.Hour); !errors.Is(err, cluster.ErrUnavailable) {
		t.Errorf("while it is down: got %v", err)
	}
	proxy.Heal()
	soon(t, "the bus is up", a.Up)
	before = heard.Load()
	must(ask("q", "silence", time.Hour))
	soon(t, "it has been heard", func() bool { return heard.Load() > before })
	must(a.Stop(background))
	want("the bus stops", "", cluster.ErrLost)
	if n := a.Stats().Asks; n != 0 || len(told) > 0 {
		t.Errorf("%d questions are under way, %d were told twice", n, len(told))
	}
}

// Deadlines that expire while answers arrive: questions are reused, and the timer of an earlier one
// must not end a later one.
func TestOneQuestionsTimeDoesNotEndAnother(t *testing.T) {
	url := embedded(t).URL()
	a, _ := bus(t, url, cluster.BusConfig{})
	b, _ := bus(t, url, cluster.BusConfig{})
	answers(t, b, "q")
	const total, flying = 20_000, 64
	places := make(chan struct{}, flying)
	var all sync.WaitGroup
	var answered, late atomic.Int64
	for i := range total {
		places <- struct{}{}
		all.Add(1)
		text, until := fmt.Sprint(i), time.Now().Add(time.Duration(200+i%2800)*time.Microsecond)
		var calls atomic.Int32
		err := a.AskThen(until, "q", []byte(text), func(answer []byte, err error) {
			switch early := time.Now().Before(until); {
			case calls.Add(1) > 1:
				t.Errorf("question %s was told twice", text)
				return
			case err == nil && string(answer) == "re: "+text:
				answered.Add(1)
			case err == nil || early:
				t.Errorf("question %s: got %q, %v; early: %v", text, answer, err, early)
			default:
				late.Add(1)
			}
			<-places
			all.Done()
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	all.Wait()
	if a.Stats().Asks != 0 {
		t.Error("questions are still under way")
	}
	t.Logf("%d were answered, %d were late", answered.Load(), late.Load())
}
