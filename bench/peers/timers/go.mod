module millrace/bench/peers/timers

go 1.26.8

require (
	github.com/aceld/zinx v1.2.8
	millrace v0.0.0
)

require (
	github.com/RussellLuo/timingwheel v0.0.0-20220218152713-54845bda3108 // indirect
	github.com/gorilla/websocket v1.5.0 // indirect
)

replace millrace => ../../..
