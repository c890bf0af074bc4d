create table visits (
	name  text primary key,
	count bigint not null
);
