"""Calls a server's 1/1 and, with its second argument, waits for what it pushes on 1/2."""

import sys
import threading

from millrace import Client, ServerError

host, port = sys.argv[1].rsplit(":", 1)
pushed = threading.Event()


def show(body):
    print("pushed", body.decode())
    pushed.set()


with Client(host, int(port)) as c:
    c.on(1, 2, show)
    print("answer", c.call(1, 1, b"hello").decode())
    many = [c.start(1, 1, b"%d" % i) for i in range(1000)]  # without waiting in between
    print("in order", [f.result(10) for f in many] == [b"%d" % i for i in range(1000)])
    try:
        c.call(1, 99)
    except ServerError as e:
        print("refused", e)
    if len(sys.argv) > 2:
        c.send(1, 3)
        pushed.wait(10)
