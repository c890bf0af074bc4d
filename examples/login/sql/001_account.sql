create table account (
	name text primary key,
	hash text not null -- argon2id, its settings and salt included
);
