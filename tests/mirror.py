"""A server of the data set's files, which behaves well or badly as its address says."""

import contextlib
import gzip
import http.server
import threading
from collections import Counter


class Mirror(http.server.ThreadingHTTPServer):
    """A mirror whose first path element says how it behaves."""

    daemon_threads = True
    block_on_close = False

    def __init__(self, packed):
        super().__init__(("127.0.0.1", 0), Handler)
        self.packed = packed
        self.requests: Counter[str] = Counter()
        self.stop = threading.Event()

    def url(self, behaviour):
        return f"http://127.0.0.1:{self.server_port}/{behaviour}/"


class Handler(http.server.BaseHTTPRequestHandler):
    server: Mirror

    def do_GET(self):
        _, behaviour, name = self.path.split("/")
        self.server.requests[behaviour] += 1
        content = self.server.packed[name.removesuffix(".gz")]
        getattr(self, behaviour)(content, name)

    def start(self, length):
        self.send_response(200)
        if length is not None:
            self.send_header("Content-Length", str(length))
        self.end_headers()

    def send(self, content, length=None):
        self.start(len(content) if length is None else length)
        self.wfile.write(content)

    def good(self, content, _name):
        self.send(content)

    def no_length(self, content, _name):
        self.start(None)
        self.wfile.write(content)

    def cut_off(self, content, _name):
        self.send(content[: len(content) // 2], length=len(content))

    def says_too_little(self, content, _name):
        self.send(content, length=len(content) // 2)

    def endless(self, _content, _name):
        self.start(None)
        zeros = gzip.compress(bytes(10**6))
        while not self.server.stop.is_set():
            self.wfile.write(zeros[:10] + zeros)

    def wrong_bytes(self, content, _name):
        whole = bytearray(gzip.decompress(content))
        whole[-1] ^= 1
        self.send(gzip.compress(bytes(whole)))

    def bomb(self, _content, _name):
        self.send(gzip.compress(bytes(5_000_000), 1))

    def page(self, _content, _name):
        self.send(b"<html>Please log in</html>")

    def broken(self, _content, _name):
        self.send_error(500)

    def absent(self, _content, _name):
        self.send_error(404)

    def redirect(self, _content, name):
        self.send_response(302)
        self.send_header("Location", f"/good/{name}")
        self.end_headers()

    def circle(self, _content, name):
        self.send_response(302)
        self.send_header("Location", f"/circle/{name}")
        self.end_headers()

    def hang(self, _content, _name):
        self.server.stop.wait(20)

    def stall(self, content, _name):
        self.send(content[:100], length=len(content))
        self.server.stop.wait(20)

    def trickle(self, content, _name):
        self.start(len(content))
        for byte in content:
            if self.server.stop.wait(0.05):
                break
            self.wfile.write(bytes([byte]))

    def log_message(self, *_arguments):
        pass

    def handle(self):
        with contextlib.suppress(ConnectionError):  # the client hangs up on a bad mirror
            super().handle()


def serve(packed):
    with Mirror(packed) as mirror:
        thread = threading.Thread(target=mirror.serve_forever, args=(0.02,))
        thread.start()
        yield mirror
        mirror.stop.set()
        mirror.shutdown()
        thread.join()
