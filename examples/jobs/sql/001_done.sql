create table done (
	key    text primary key, -- of the job: a second run changes nothing
	result text not null,
	node   text not null,
	at     timestamptz not null default now()
);
