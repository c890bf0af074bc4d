create table millrace_events_given_up (
	key      text not null,
	handle   bigint not null,
	body     bytea not null,
	due      timestamptz not null,
	attempts int not null,
	created  timestamptz not null,
	given_up timestamptz not null default now(),
	reason   text not null
);
