create table score (
	player text primary key,
	points bigint not null,
	at     timestamptz not null default clock_timestamp() -- when they were reached: of two equals the earlier is in front
);
create index score_by_points on score (points desc, at);
