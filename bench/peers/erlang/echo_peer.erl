%% gen_tcp: a process for each connection, frames cut by {packet, 4}, broadcasts by pg. The
%% driver joins small answers ({delay_send, true}).
-module(echo_peer).
-export([main/0]).

-define(ECHO, 1:16, 1:16).
-define(CAST, 1:16, 2:16).

main() ->
    {ok, _} = pg:start_link(),
    {ok, Listener} = gen_tcp:listen(0, [binary, {ip, {127, 0, 0, 1}}, {packet, 4}, {packet_size, 16 bsl 20},
        {active, false}, {nodelay, true}, {delay_send, true}, {reuseaddr, true}, {backlog, 4096}, {buffer, 65536}]),
    {ok, Port} = inet:port(Listener),
    io:format("ready tcp://127.0.0.1:~b~n", [Port]),
    accept(Listener).

accept(Listener) ->
    {ok, Socket} = gen_tcp:accept(Listener),
    Pid = spawn(fun() -> receive go -> begin_serving(Socket) end end),
    ok = gen_tcp:controlling_process(Socket, Pid),
    Pid ! go,
    accept(Listener).

begin_serving(Socket) ->
    ok = pg:join(all, self()),
    ok = inet:setopts(Socket, [{active, 100}]),
    serve(Socket).

serve(Socket) ->
    receive
        {tcp, Socket, <<?ECHO, _/binary>> = Frame} ->
            send(Socket, Frame);
        {tcp, Socket, <<?CAST, _/binary>> = Frame} ->
            [Pid ! {cast, Frame} || Pid <- pg:get_local_members(all)],
            serve(Socket);
        {tcp, Socket, _} ->
            gen_tcp:close(Socket);
        {cast, Frame} ->
            send(Socket, Frame);
        {tcp_passive, Socket} ->
            ok = inet:setopts(Socket, [{active, 100}]),
            serve(Socket);
        {tcp_closed, Socket} ->
            ok;
        {tcp_error, Socket, _} ->
            ok
    end.

send(Socket, Frame) ->
    case gen_tcp:send(Socket, Frame) of
        ok -> serve(Socket);
        {error, _} -> gen_tcp:close(Socket)
    end.
