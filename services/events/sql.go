package events

// The statements of durable events. created distinguishes a row from a later one with the same key,
// attempts a claim from an earlier one.
const (
	insertEvent = `insert into millrace_events (key, handle, body, due)
		values ($1, $2, $3, clock_timestamp() + $4 * interval '1 microsecond') on conflict (key) do nothing`
	claimEvents = `update millrace_events set claimed = clock_timestamp() + $2 * interval '1 microsecond', attempts = greatest(attempts, 0) + 1
		where key in (select key from millrace_events
			where greatest(due, claimed) <= clock_timestamp() and attempts < $3 and key <> all($4::text[])
			order by greatest(due, claimed) limit $1 for update skip locked)
		returning key, handle, created, case when octet_length(body) <= 16384 then body end, attempts,
			case when isfinite(due) then least(extract(epoch from clock_timestamp() - due) * 1000000, 9e15)::bigint else 0 end`
	bodyOf    = `select body from millrace_events where key = $1 and attempts = $2 and created = $3`
	nextEvent = `select (extract(epoch from min(greatest(due, claimed)) - clock_timestamp()) * 1000000)::bigint
		from millrace_events where attempts < $1 and key <> all($2::text[])
			and greatest(due, claimed) > '-infinity' and greatest(due, claimed) < clock_timestamp() + interval '1 day'`
	endEvent    = `delete from millrace_events where key = $1 and attempts = $2 and created = $3`
	retryEvent  = `update millrace_events set claimed = clock_timestamp() + $4 * interval '1 microsecond' where key = $1 and attempts = $2 and created = $3`
	renewEvents = `update millrace_events e set claimed = clock_timestamp() + $1 * interval '1 microsecond'
		from unnest($2::text[], $3::int[], $4::timestamptz[]) h(key, attempts, created)
		where e.key = h.key and e.attempts = h.attempts and e.created = h.created returning e.key`
	intoGivenUp = ` insert into millrace_events_given_up (key, handle, body, due, attempts, created, reason)
		select key, handle, body, due, attempts, created, `
	giveUpEvent = `with gone as (delete from millrace_events where key = $1 and attempts = $2 and created = $3 returning *)` +
		intoGivenUp + `$4::text from gone`
	giveUpHung = `with gone as (delete from millrace_events where key in (select key from millrace_events
			where attempts >= $1 and (claimed is null or claimed <= clock_timestamp()) and key <> all($2::text[])
			limit 100 for update skip locked) returning *)` +
		intoGivenUp + `'the last attempt did not end' from gone returning key, handle, attempts`
	cancelEvent = `delete from millrace_events where key = $1 and (claimed is null or claimed < clock_timestamp())`
)
