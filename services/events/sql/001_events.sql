create table millrace_events (
	key      text primary key,
	handle   bigint not null,
	body     bytea not null,
	due      timestamptz not null,
	claimed  timestamptz,
	attempts int not null default 0,
	created  timestamptz not null default now()
);
create index millrace_events_due on millrace_events (greatest(due, claimed));
