create table world (
	id           int primary key,
	randomnumber int not null
);
insert into world select i, 1 + (i::bigint * 7919) % 10000 from generate_series(1, 10000) i;
