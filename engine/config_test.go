package engine

import (
	"errors"
	"fmt"
	"reflect"
	"strings"
	"testing"

	"millrace/codec"
	"millrace/internal/configtest"
)

func TestDefaultsFillInOnceAndOffStaysOff(t *testing.T) {
	configtest.Defaults(t, Config.WithDefaults)
	configtest.Defaults(t, PoolConfig.WithDefaults)
}

// A server of another one's Config is set as that one is, whatever was off; and so is one
// of a config that has been given its defaults before.
func TestAServersConfigMakesTheSameServer(t *testing.T) {
	base := Config{Addrs: []string{"tcp://127.0.0.1:0"}}
	try := func(field string, cfg Config) {
		first, err := New(cfg, plain{})
		if err != nil {
			t.Errorf("%s: %v", field, err)
			return
		}
		for from, cfg := range map[string]Config{"Server.Config": first.Config(), "WithDefaults": cfg.WithDefaults().WithDefaults()} {
			second, err := New(cfg, plain{})
			if err != nil {
				t.Errorf("%s, of %s: %v", field, from, err)
				continue
			}
			if !reflect.DeepEqual(first.cfg, second.cfg) || poolConfig(first.pool) != poolConfig(second.pool) {
				t.Errorf("%s, of %s: got %+v\nwant %+v", field, from, second.cfg, first.cfg)
			}
			if a, b := first.Config(), second.Config(); !reflect.DeepEqual(a, b) {
				t.Errorf("%s, of %s: Config gives %+v\nwant %+v", field, from, b, a)
			}
		}
		if v := reflect.ValueOf(first.cfg).FieldByName(field); v.IsValid() && v.Int() != 0 {
			t.Errorf("%s was Off, and the server has it at %d", field, v.Int())
		}
	}
	try("nothing", base)
	for _, field := range []string{"SpareWorkers", "MaxConnsPerIP", "Heartbeat", "FirstFrameTimeout", "FrameTimeout", "IdleTimeout", "KeepAlive", "UserTimeout"} {
		cfg := base
		reflect.ValueOf(&cfg).Elem().FieldByName(field).SetInt(Off)
		try(field, cfg)
	}
}

// poolConfig is what a pool goes by, as text.
func poolConfig(p *Pool) string {
	return fmt.Sprintf("%+v", reflect.ValueOf(p.sched).Elem().FieldByName("cfg"))
}

// Off is a setting of some fields; of every other field it is refused, not taken for a
// number.
func TestOffWhereThereIsNone(t *testing.T) {
	for _, field := range []string{"Loops", "Workers", "MaxConns", "MaxOutbound", "MaxGroups", "ReadBuffer", "Linger", "FinTimeout", "KeepAliveEvery"} {
		cfg := Config{Addrs: []string{"tcp://127.0.0.1:0"}}
		reflect.ValueOf(&cfg).Elem().FieldByName(field).SetInt(Off)
		var bad *ConfigError
		if _, err := New(cfg, plain{}); !errors.As(err, &bad) || bad.Field != field {
			t.Errorf("%s: got %v, want a ConfigError of it", field, err)
		}
	}
}

func TestConfiguredHandlesFitTheLayout(t *testing.T) {
	cfg := Config{Addrs: []string{"tcp://127.0.0.1:0"}, Layout: codec.Layout{Command: codec.MainSub8}, Handles: map[uint32]Dispatch{300<<16 | 1: Ordered}}
	var bad *ConfigError
	if _, err := New(cfg, plain{}); !errors.As(err, &bad) || bad.Field != "Handles" || !strings.Contains(err.Error(), "300/1") {
		t.Fatalf("got %v, want a ConfigError that names 300/1", err)
	}
	cfg.Handles = map[uint32]Dispatch{255<<16 | 255: Ordered}
	if _, err := New(cfg, plain{}); err != nil {
		t.Fatal(err)
	}
}
