"""An operator's client that knows nothing of the server but its contract: the door of --admin
is asked over plain sockets, and the server's own clients over their frames.

    operator.py PORT ADMIN_PORT LOOPS       a fresh server with --admin-write --drain-to elsewhere:7
    operator.py readonly ADMIN_PORT         one without --admin-write
    operator.py token ADMIN_PORT TOKEN      one with --admin-token-file and --admin-write
    operator.py secrets ADMIN_PORT SECRET…  one with passwords, whose database and cluster are away
"""
import json
import re
import shutil
import socket
import struct
import subprocess
import sys
import time

failures = []


def check(ok, what, *seen):
    if not ok:
        failures.append(f"{what}: {seen}")


def raw(port, text):
    """Sends a request as it stands and returns status, headers and body."""
    s = socket.create_connection(("127.0.0.1", port), 30)
    s.sendall(text.encode())
    head, _, rest = read_until(s, b"\r\n\r\n")
    lines = head.decode().split("\r\n")
    headers = {k.lower(): v for k, _, v in (x.partition(": ") for x in lines[1:])}
    status = int(lines[0].split()[1])
    if not text.startswith("HEAD"):
        if "content-length" in headers:
            while len(rest) < int(headers["content-length"]):
                b = s.recv(1 << 16)
                if not b:
                    break
                rest += b
        elif headers.get("transfer-encoding") == "chunked":
            while not rest.endswith(b"0\r\n\r\n"):
                rest += s.recv(1 << 16)
            body = b""
            while rest:
                size, _, rest = rest.partition(b"\r\n")
                body, rest = body + rest[: int(size, 16)], rest[int(size, 16) + 2 :]
            rest = body
    s.close()
    return status, headers, rest


def read_until(s, mark):
    data = b""
    while mark not in data:
        b = s.recv(1 << 16)
        if not b:
            raise EOFError(data)
        data += b
    head, _, rest = data.partition(mark)
    return head, mark, rest


def ask(port, method, path, headers="", host=None):
    host = f"127.0.0.1:{port}" if host is None else host
    length = "Content-Length: 0\r\n" if method == "POST" else ""
    return raw(port, f"{method} {path} HTTP/1.1\r\nHost: {host}\r\n{length}{headers}\r\n")


def get(port, path):
    status, headers, body = ask(port, "GET", path)
    check(status == 200 and headers["content-type"].startswith("application/json"), f"GET {path}", status, headers)
    return json.loads(body)


class Client:
    """A client of the server: frames of length, Main, Sub and body."""

    def __init__(self, port):
        self.s = socket.create_connection(("127.0.0.1", port), 30)
        self.f = self.s.makefile("rb")

    def send(self, main, sub, body=b""):
        self.s.sendall(struct.pack(">IHH", len(body) + 4, main, sub) + body)

    def recv(self):
        head = self.f.read(8)
        if len(head) < 8:
            return None
        n, main, sub = struct.unpack(">IHH", head)
        return main, sub, self.f.read(n - 4)

    def call(self, main, sub, body=b""):
        self.send(main, sub, body)
        got = self.recv()
        check(got and got[:2] == (main, sub), f"{main}/{sub}", got)
        return got[2]


def samples(port):
    status, headers, body = ask(port, "GET", "/metrics")
    check(status == 200 and headers["content-type"].startswith("text/plain"), "/metrics", status, headers)
    out = {}
    for line in body.decode().splitlines():
        m = re.fullmatch(r"([a-z_]+(?:\{[^}]*\})?) (\S+)", line)
        if m:
            out[m[1]] = float(m[2])
    if shutil.which("promtool"):
        p = subprocess.run(["promtool", "check", "metrics"], input=body, capture_output=True)
        check(p.returncode == 0 and not p.stdout and not p.stderr, "promtool check metrics", p.stdout, p.stderr)
    return out


def eventually(what, is_so):
    end = time.time() + 60
    while not is_so():
        if time.time() > end:
            check(False, "waited a minute for " + what)
            return
        time.sleep(0.01)


def families(port, loops):
    """Every family is there from the start, known reasons and all loops at 0."""
    m = samples(port)
    for name in ["connections", "accepts_total", "frames_received_total"]:
        for loop in range(loops):
            check(m.get(f'millrace_{name}{{loop="{loop}"}}') == 0, f"millrace_{name} of loop {loop}", m.get(f'millrace_{name}{{loop="{loop}"}}'))
        check(f'millrace_{name}{{loop="{loops}"}}' not in m, f"more loops than there are in millrace_{name}")
    for reason in ["peer_closed", "kicked", "bad_frame", "slow_consumer", "idle_timeout", "first_frame_timeout", "frame_timeout", "panic", "drain"]:
        check(m.get(f'millrace_closes_total{{reason="{reason}"}}') == 0, f"closes for {reason}", [k for k in m if "closes_total" in k])
    for reason in ["max_conns", "max_conns_per_ip", "draining"]:
        check(m.get(f'millrace_refused_total{{reason="{reason}"}}') == 0, f"refused for {reason}", [k for k in m if "refused_total" in k])
    for handle in ["1/1", "1/4", "5/5", "other"]:
        check(m.get(f'millrace_handle_requests_total{{handle="{handle}"}}') == 0, f"requests of {handle}")
        check(m.get(f'millrace_handle_seconds_count{{handle="{handle}"}}') == 0, f"seconds of {handle}")
    check(m.get("millrace_strand_wait_seconds_count") == 0, "strand waits")


SESSION = {"id": str, "index": int, "round": int, "addr": str, "transport": str, "connected_at": str, "frames_in": int, "frames_out": int,
           "bytes_in": int, "bytes_out": int, "unsent": int, "pending": int}


def sessions(port, admin):
    check(get(admin, "/sessions") == {"sessions": [], "total": 0}, "no sessions", get(admin, "/sessions"))
    clients = [Client(port) for _ in range(3)]
    for c in clients:
        check(c.call(1, 1, b"hello") == b"hello", "echo")
    me = clients[0]
    me.send(0, 1, b"ping")
    check(me.recv() == (0, 2, b"ping"), "PONG")
    who = json.loads(me.call(1, 3))
    me.send(6, 7)
    got = me.recv()
    where = json.loads(got[2]) if got[:2] == (6, 7) else None  # ERROR 2: the server is none of several
    addr = "127.0.0.1:%d" % me.s.getsockname()[1]

    def mine():
        return next((s for s in get(admin, "/sessions?limit=100")["sessions"] if s["addr"] == addr), None)

    eventually("the counts", lambda: (mine() or {}).get("frames_out") == 4)
    s = mine()
    for key, kind in SESSION.items():
        check(type(s.get(key)) is kind, f"/sessions: {key}", s.get(key))
    check((s["index"], s["round"]) == (who["index"], who["round"]), "index and round", s, who)
    check(s["id"] == where["id"] if where else s["id"].endswith(f"{s['index']}.{s['round']}"), "id is 6/7's", s["id"], where)
    check(s["frames_in"] == 4 and s["transport"] == "tcp", "frames count system frames too", s)
    listed = get(admin, "/sessions?limit=2")
    check(len(listed["sessions"]) == 2 and listed["total"] == 3, "limit", listed)
    path = f"/sessions/{s['index']}.{s['round']}"
    one = get(admin, path)
    check(all(type(one.get(k)) is t for k, t in SESSION.items()) and "events" in one, path, one)
    m = samples(admin)
    check(sum(v for k, v in m.items() if k.startswith("millrace_frames_received_total")) == 6, "frames received")
    check(m['millrace_handle_requests_total{handle="1/1"}'] == 3 and m['millrace_handle_seconds_count{handle="1/1"}'] <= 3, "requests of 1/1")
    check(sum(v for k, v in m.items() if k.startswith("millrace_connections")) == 3, "connections")
    clients[1].send(77, 7)
    check(clients[1].recv()[:2] == (0, 3), "ERROR 2")
    other = samples(admin)['millrace_handle_requests_total{handle="other"}']
    check(other == (1 if where else 2), "an unknown handle is other", other)

    check(ask(admin, "GET", path + "/kick")[0] == 405, "GET of kick")
    check(ask(admin, "POST", path + "/kick")[0] == 200, "kick")
    got = me.recv()
    check(got and got[:2] == (0, 3) and got[2][:6] == struct.pack(">HI", 8, 0), "a kicked client gets ERROR 8 about 0", got)
    check(me.recv() is None, "then FIN")
    me.s.close()
    eventually("the reason", lambda: samples(admin)['millrace_closes_total{reason="kicked"}'] == 1)
    for gone in [path, path + "/kick", "/sessions/0.0", "/sessions/x", "/sessions/4294967296.1"]:
        check(ask(admin, "POST" if gone.endswith("kick") else "GET", gone)[0] == 404, gone + " that there is not")
    return clients[1:]


def drain(port, admin, clients):
    check(get(admin, "/readyz") == {"ready": True, "reasons": []}, "ready", get(admin, "/readyz"))
    check(ask(admin, "POST", "/drain?rate=1000")[0] == 200, "drain")
    for c in clients:
        got = c.recv()
        check(got and got[:2] == (0, 4) and got[2][4:] == b"elsewhere:7", "GOAWAY with the address", got)
    status, _, body = ask(admin, "GET", "/readyz")
    check(status == 503 and json.loads(body) == {"ready": False, "reasons": ["draining"]}, "not ready", status, body)
    check(ask(admin, "GET", "/healthz")[0] == 200, "alive while it drains")
    check(ask(admin, "POST", "/drain")[0] == 200, "a second drain")
    for c in clients:
        check(c.recv() is None, "the second drain tells nobody again, and the sessions end")
    late = Client(port)
    check((late.recv() or (0, 3, b"\0\7"))[2][:2] == b"\0\7", "who comes late gets ERROR 7")
    check(ask(admin, "POST", "/undrain")[0] == 200 and get(admin, "/readyz")["ready"] is True, "undrain")
    check(Client(port).call(1, 1, b"again") == b"again", "taken in again")


def refusals(admin, write, token=""):
    """401, 403 for Host and Origin, 404, 405, 403 for --admin-write, in this order."""
    good = f"Authorization: Bearer {token}\r\n" if token else ""
    origin = "Origin: http://evil.example\r\n"
    rows = [
        ("GET", "/none", good + origin, "evil.example", 403), ("GET", "/none", good + origin, None, 403), ("POST", "/drain", good, "evil.example", 403),
        ("GET", "/none", good, None, 404), ("POST", "/none", good, None, 404), ("DELETE", "/none", good, None, 404),
        ("DELETE", "/healthz", good, None, 405), ("POST", "/metrics", good, None, 405), ("GET", "/drain", good, None, 405), ("PUT", "/drain", good, None, 405),
        ("GET", "/healthz", good, None, 200), ("GET", "/", good, None, 200),
    ]
    if not write:
        rows += [("POST", "/drain", good, None, 403), ("POST", "/undrain", good, None, 403), ("POST", "/config", good, None, 403), ("POST", "/sessions/0.1/kick", good, None, 404)]
    if token:
        for bad in ["", f"Authorization: Bearer {token}x\r\n", f"Authorization: Basic {token}\r\n", "Authorization: Bearer \r\n"]:
            rows += [("GET", p, bad + origin, "evil.example", 401) for p in ["/healthz", "/none", "/metrics", "/"]] + [("POST", "/drain", bad, None, 401)]
    for method, path, headers, host, want in rows:
        got = ask(admin, method, path, headers, host)
        check(got[0] == want, f"{method} {path} with {headers!r}, Host {host}: want {want}", got[0], got[2][:200])
    for host, want in [(f"localhost:{admin}", 200), (f"127.3.2.1:{admin}", 200), (f"[::1]:{admin}", 200), ("localhost", 403), (f"localhost:{admin + 1}", 403), (f"10.0.0.1:{admin}", 403)]:
        check(ask(admin, "GET", "/healthz", good, host)[0] == want, f"Host {host}: want {want}", ask(admin, "GET", "/healthz", good, host)[0])
    line = f"Host: localhost:{admin}\r\n"
    check(raw(admin, f"GET /healthz HTTP/1.1\r\n{good}\r\n")[0] == 400, "no Host")
    check(raw(admin, f"GET /healthz HTTP/1.1\r\n{line}{line}{good}\r\n")[0] == 400, "two Hosts")
    for path in ["/healthz", "/readyz", "/metrics", "/sessions", "/config", "/"]:
        status, headers, body = ask(admin, "HEAD", path, good)
        want = ask(admin, "GET", path, good)
        check(status == want[0] and body == b"" and headers["content-type"] == want[1]["content-type"], f"HEAD {path}", status, headers, body)


def secrets(admin, words):
    status, _, body = ask(admin, "GET", "/config")
    config = json.loads(body)
    check(status == 200 and {"addr", "max-conns", "admin", "drain-rate", "db", "cluster"} <= set(config), "/config has the flags' names", status, sorted(config))
    check("***" in config["db"] and "***" in config["cluster"] and config["db"].startswith("postgres://app:***@"), "secrets are ***", config["db"], config["cluster"])
    status, _, body = ask(admin, "GET", "/readyz")
    said = json.loads(body)
    check(status == 503 and said["ready"] is False and len(said["reasons"]) == 2 and "database" in " ".join(said["reasons"]), "away", status, said)
    check(ask(admin, "GET", "/healthz")[0] == 200, "a database that is away is no reason to be killed")
    for path in ["/config", "/live", "/metrics", "/db", "/cluster", "/stats"]:
        text = ask(admin, "GET", path)[2].decode()
        for w in words:
            check(w not in text, f"a secret in {path}")


what = sys.argv[1]
if what == "readonly":
    refusals(int(sys.argv[2]), False)
elif what == "token":
    refusals(int(sys.argv[2]), True, sys.argv[3])
elif what == "secrets":
    secrets(int(sys.argv[2]), sys.argv[3:])
else:
    port, admin, loops = map(int, sys.argv[1:4])
    families(admin, loops)
    drain(port, admin, sessions(port, admin))
    refusals(admin, True)
print("\n".join(failures) or "ok")
sys.exit(bool(failures))
