"""A client for Millrace servers, in the standard library alone.

    with Client("127.0.0.1", 7000) as c:
        c.on(1, 8, lambda body: print("pushed", body))
        print(c.call(1, 1, b"hello"))

The n-th answer of a handle is that of its n-th request, so no request numbers are needed. A handle is
called, or listened to, not both. Calls may be made by any number of threads; functions given to on run
on the thread that reads, and must not call.
"""

import collections
import socket
import struct
import threading
from concurrent.futures import Future

PING, PONG, ERROR, GOAWAY = 1, 2, 3, 4  # of Main 0
HEAD = struct.Struct(">IHH")  # length of what follows it, Main, Sub
MAX_FRAME = 64 << 10


class ServerError(Exception):
    """An ERROR frame: code as in the protocol, handle as Main << 16 | Sub."""

    def __init__(self, code, handle, text):
        super().__init__(f"error {code} about {handle >> 16}/{handle & 0xFFFF}: {text}")
        self.code, self.handle, self.text = code, handle, text


class Lost(Exception):
    """The connection ended; a call that was under way may have been executed."""


class Client:
    def __init__(self, host, port, timeout=10.0):
        self._timeout = timeout
        self._socket = socket.create_connection((host, port), timeout)
        self._socket.settimeout(None)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._lock = threading.Lock()  # guards what is written, and the order of what waits
        self._waiting = collections.defaultdict(collections.deque)  # by handle
        self._listeners = {}
        self._lost = None
        self.going = threading.Event()  # the server drains: finish, and connect anew
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def on(self, main, sub, function):
        """Has function called with the body of each frame of a handle that the server sends by itself."""
        self._listeners[main, sub] = function

    def call(self, main, sub, body=b"", timeout=None):
        """Sends a request and returns its answer's body; ServerError, Lost or TimeoutError."""
        return self.start(main, sub, body).result(self._timeout if timeout is None else timeout)

    def start(self, main, sub, body=b""):
        """As call, but returns a Future at once, so that many requests can be under way."""
        future = Future()
        with self._lock:  # answers come in the order in which requests are written
            if self._lost:
                raise Lost(self._lost)
            self._waiting[main, sub].append(future)
            self._write(main, sub, body)
        return future

    def send(self, main, sub, body=b""):
        """Sends a frame that has no answer."""
        with self._lock:
            if self._lost:
                raise Lost(self._lost)
            self._write(main, sub, body)

    def close(self):
        try:
            self._socket.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass
        self._reader.join()
        self._socket.close()

    def _write(self, main, sub, body):
        if len(body) > MAX_FRAME - 4:
            raise ValueError(f"a body of {len(body)} bytes: {MAX_FRAME - 4} at most")
        self._socket.sendall(HEAD.pack(4 + len(body), main, sub) + body)

    def _read(self):
        why = "closed"
        try:
            with self._socket.makefile("rb") as stream:
                while head := stream.read(HEAD.size):
                    length, main, sub = HEAD.unpack(head)
                    if not 4 <= length <= MAX_FRAME:
                        raise ValueError(f"a frame of {length} bytes")
                    body = stream.read(length - 4)
                    if len(body) < length - 4:
                        raise EOFError("in the middle of a frame")
                    self._take(main, sub, body)
        except Exception as e:  # whatever it is, nobody waits for ever
            why = str(e) or type(e).__name__
        with self._lock:
            self._lost = why
            left = [f for line in self._waiting.values() for f in line]
        for f in left:
            f.set_exception(Lost(why))

    def _take(self, main, sub, body):
        if (main, sub) == (0, PING):
            with self._lock:
                self._write(0, PONG, body)
        elif (main, sub) == (0, GOAWAY):
            self.going.set()
        elif (main, sub) == (0, ERROR):
            code, handle = struct.unpack_from(">HI", body)
            error = ServerError(code, handle, body[6:].decode(errors="replace"))
            line = self._waiting[handle >> 16, handle & 0xFFFF]
            if handle == 0 or not line:
                raise error  # about the connection
            line.popleft().set_exception(error)
        elif self._waiting.get((main, sub)):
            self._waiting[main, sub].popleft().set_result(body)
        elif function := self._listeners.get((main, sub)):
            function(body)
