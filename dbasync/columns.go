package dbasync

import (
	"slices"
	"strings"

	"github.com/jackc/pgx/v5/pgconn"
)

// This file handles descriptions: those that were requested, and those found stale.

// planChanged reports whether the server refused a Bind because the statement's columns have
// changed. It has not run.
func planChanged(pg *pgconn.PgError) bool {
	return pg.Code == codeUnsupport && pg.Routine == "RevalidateCachedQuery" ||
		pg.Code == codeProtocol && pg.Routine == "PortalSetResultFormat"
}

// descriptionFailed reports whether the server could not use the statement as it was described: a
// type was dropped, or a parameter's type doesn't fit any more. Describing it again may help.
func descriptionFailed(pg *pgconn.PgError) bool {
	switch pg.Code {
	case codeUnsupport, codeProtocol, codeInternal, codeBinary, codeText, codeDate:
		return true
	case codePrivilege:
		return false
	}
	return strings.HasPrefix(pg.Code, "42")
}

// columns handles the RowDescription that follows a Parse in a burst. If the table has changed
// since the shape was described, results of this lane that were requested with the old description
// get these columns.
func (a *answers) columns(e entry, body []byte) error {
	if e.req == nil || a.bound || a.phase != phQuery {
		return brokenf("RowDescription for %v", e.kind)
	}
	fields, err := parseFields(body)
	if err != nil {
		return err
	}
	d := e.req.desc
	if sameFields(fields, d.fields) {
		delete(a.override, d)
		return nil
	}
	if d.formatAll >= 0 && len(d.fields) > 0 {
		for i := range fields {
			fields[i].Format = d.formatAll
		}
	} else {
		for i := range fields[:min(len(fields), len(d.fields))] {
			fields[i].Format = d.fields[i].Format
		}
	}
	if a.override == nil || len(a.override) > 64 {
		a.override = make(map[*description][]pgconn.FieldDescription)
	}
	a.override[d] = fields
	a.replan = append(a.replan, staleShape{e.req.shape, d})
	return nil
}

func sameFields(a, b []pgconn.FieldDescription) bool {
	return slices.EqualFunc(a, b, func(x, y pgconn.FieldDescription) bool {
		return x.DataTypeOID == y.DataTypeOID && x.Name == y.Name
	})
}

func (a *answers) fieldsOf(d *description) []pgconn.FieldDescription {
	if a.override != nil {
		if f, ok := a.override[d]; ok {
			return f
		}
	}
	return d.fields
}

func (a *answers) describeMessage(e entry, typ byte, body []byte) (err error) {
	d := &a.desc
	switch {
	case typ == 'Z':
		return a.describeReady(e, body)
	case a.phase == phSettled:
		return brokenf("message %q after a describe's error", typ)
	case typ == '1':
	case typ == 't' && !d.params:
		d.params = true
		d.oids, err = parseParams(body)
	case typ == 'T' && d.params && !d.done:
		d.done = true
		d.fields, err = parseFields(body)
	case typ == 'n' && d.params:
		d.done = true
	default:
		return brokenf("message %q for describe", typ)
	}
	return err
}

func (a *answers) describeReady(e entry, body []byte) error {
	if len(body) != 1 || body[0] != 'I' && body[0] != 'E' {
		return brokenf("ReadyForQuery %q on a lane", body)
	}
	d := a.desc
	a.desc = describing{}
	switch {
	case d.err != nil && d.err.Code == codeAborted && a.aborted:
		a.redescribe = append(a.redescribe, e.shape)
	case d.err != nil:
		a.failed = append(a.failed, failedShape{e.shape, d.err})
	case !d.done:
		return brokenf("a describe without its description")
	default:
		a.newDescription(e.shape, d)
		a.shapes.prepared(e.shape, a.index)
		a.described = append(a.described, e.shape)
	}
	a.syncPoint(body[0])
	a.pop()
	return nil
}

func (a *answers) newDescription(s *shape, d describing) {
	a.shapes.encs.learn(d)
	enc := a.shapes.encs.get()
	s.desc.Store(newDescription(d.oids, d.fields, enc.m, a.limits.rows))
	a.shapes.encs.put(enc)
}
