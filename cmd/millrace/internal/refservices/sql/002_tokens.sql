create table tokens (
	hash     bytea primary key,
	user_id  bigint not null references users,
	created  timestamptz not null default now(),
	expires  timestamptz not null
);
create index on tokens (user_id, created);
