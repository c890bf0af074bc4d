package dbasync

import (
	"sync"
	"sync/atomic"

	"github.com/jackc/pgx/v5/pgtype"
)

// typeRegistry copies the types that Config.AfterConnect registered on a connection's type map to
// the maps of the encoders, which belong to no connection.
//
// Only types that statements use are copied: the types of a map can't be listed, but every
// parameter and column of a statement is named in its description.
type typeRegistry struct {
	version atomic.Int64 // incremented by each change; 0: nothing is registered

	mu       sync.Mutex
	ref      *pgtype.Map             // of the connection made last; not changed any more; guarded by mu
	pristine *pgtype.Map             // pgx's own types; guarded by mu
	types    map[uint32]*pgtype.Type // by OID; guarded by mu
}

// adopt takes over the map of a connection on which AfterConnect has run. The caller must not use
// it afterwards.
func (t *typeRegistry) adopt(m *pgtype.Map) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.types == nil {
		t.pristine, t.types = pgtype.NewMap(), make(map[uint32]*pgtype.Type)
	}
	t.ref = m
	for oid := range t.types {
		t.add(oid)
	}
	t.version.Add(1)
}

// learn copies the types of a statement that was just described.
func (t *typeRegistry) learn(oids []uint32) {
	if t.version.Load() == 0 {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, oid := range oids {
		if t.add(oid) {
			t.version.Add(1)
		}
	}
}

// add copies oid unless it is one of pgx's own types. Caller holds mu.
func (t *typeRegistry) add(oid uint32) bool {
	typ, ok := t.ref.TypeForOID(oid)
	if !ok {
		return false
	}
	if own, _ := t.pristine.TypeForOID(oid); typ == own || t.types[oid] == typ {
		return false
	}
	t.types[oid] = typ
	return true
}

// sync updates e's map; the caller owns e.
func (t *typeRegistry) sync(e *encoder) {
	t.mu.Lock()
	defer t.mu.Unlock()
	e.types = t.version.Load()
	made := make(map[*pgtype.Type]*pgtype.Type)
	for _, typ := range t.types {
		e.m.RegisterType(cloneType(typ, made))
	}
	for _, typ := range made { // the parts of composites and arrays too
		e.m.RegisterType(typ)
	}
	e.m.TryWrapEncodePlanFuncs = t.ref.TryWrapEncodePlanFuncs
	e.m.TryWrapScanPlanFuncs = t.ref.TryWrapScanPlanFuncs
}

// cloneType copies t as far as its codec has state: an enum's codec caches what it has decoded,
// without a lock, and each map is used by one goroutine at a time.
func cloneType(t *pgtype.Type, made map[*pgtype.Type]*pgtype.Type) *pgtype.Type {
	if t == nil {
		return nil
	}
	if c := made[t]; c != nil {
		return c
	}
	n := *t
	made[t] = &n
	switch c := t.Codec.(type) {
	case *pgtype.EnumCodec:
		n.Codec = &pgtype.EnumCodec{}
	case *pgtype.CompositeCodec:
		fields := make([]pgtype.CompositeCodecField, len(c.Fields))
		for i, f := range c.Fields {
			fields[i] = pgtype.CompositeCodecField{Name: f.Name, Type: cloneType(f.Type, made)}
		}
		n.Codec = &pgtype.CompositeCodec{Fields: fields}
	case *pgtype.ArrayCodec:
		a := *c
		a.ElementType = cloneType(c.ElementType, made)
		n.Codec = &a
	case *pgtype.RangeCodec:
		n.Codec = &pgtype.RangeCodec{ElementType: cloneType(c.ElementType, made)}
	case *pgtype.MultirangeCodec:
		n.Codec = &pgtype.MultirangeCodec{ElementType: cloneType(c.ElementType, made)}
	}
	return &n
}

// learn copies the types of a description that has just arrived.
func (p *encoders) learn(d describing) {
	if p.types.version.Load() == 0 {
		return
	}
	oids := append([]uint32(nil), d.oids...)
	for i := range d.fields {
		oids = append(oids, d.fields[i].DataTypeOID)
	}
	p.types.learn(oids)
}
