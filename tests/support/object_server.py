"""An object server on localhost that speaks as much of Google Cloud Storage as the libraries use.

TensorStore is told its address. TensorFlow, behind etils.epath, knows no other address than
Google's: its client is given the server as a proxy, and a certificate for Google's names to trust.
So what runs here is the code that runs against a bucket. Every bucket exists, and starts
empty.
"""

import contextlib
import datetime
import http.server
import itertools
import json
import pathlib
import ssl
import subprocess
import sys
import threading
import urllib.parse
from collections.abc import Iterator, Mapping
from typing import Any

from msjoe_jax.runtime.platform import FRESH

NAMES = ("www.googleapis.com", "storage.googleapis.com")
NONE: Mapping[str, str] = {}
FORBIDDEN = "forbidden"  # the one bucket that nobody may use
PAGE = 100  # names in an answer to a listing, so that clients ask for further pages


class Store:
    """Objects by (bucket, name): their bytes, and metadata as the API has them."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.objects: dict[tuple[str, str], tuple[bytes, dict[str, Any]]] = {}
        self.sessions: dict[str, tuple[tuple[str, str], dict[str, str], bytearray]] = {}
        self.generations = itertools.count(1)

    def generation(self, key: tuple[str, str]) -> str:
        """Returns the generation of an object, "0" if there is none."""
        return self.objects[key][1]["generation"] if key in self.objects else "0"

    def put(self, key: tuple[str, str], data: bytes) -> dict[str, Any]:
        """Stores an object."""
        now = datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds")
        meta = {
            "kind": "storage#object",
            "bucket": key[0],
            "name": key[1],
            "size": str(len(data)),
            "generation": str(next(self.generations)),
            "metageneration": "1",
            "updated": now.replace("+00:00", "Z"),
        }
        self.objects[key] = data, meta
        return meta


class Handler(http.server.BaseHTTPRequestHandler):
    """Answers one client; `store` and `tls` are set by `serve`."""

    protocol_version = "HTTP/1.1"
    wbufsize = -1  # an answer in one packet: else each waits for the client's acknowledgement
    disable_nagle_algorithm = True
    store: Store
    tls: ssl.SSLContext

    def log_message(self, *_: Any) -> None:
        """Is quiet."""

    def handle_expect_100(self) -> bool:
        """Says at once that the body may come."""
        super().handle_expect_100()
        self.wfile.flush()
        return True

    def do_CONNECT(self) -> None:
        """Becomes the host that the client wants to be connected to."""
        self.send_response(200)
        self.end_headers()
        self.wfile.flush()
        self.connection = self.tls.wrap_socket(self.connection, server_side=True)
        self.rfile = self.connection.makefile("rb", -1)
        self.wfile = self.connection.makefile("wb", -1)
        self.close_connection = False

    def answer(
        self, status: int, body: bytes | dict[str, Any] = b"", headers: Mapping[str, str] = NONE
    ) -> None:
        """Sends an answer; a mapping as JSON."""
        if isinstance(body, dict):
            body = json.dumps(body).encode()
            headers = {**headers, "Content-Type": "application/json"}
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def handle_one(self) -> None:
        """Takes the request apart and answers it."""
        body = self._body()
        url = urllib.parse.urlsplit(self.path)
        query = dict(urllib.parse.parse_qsl(url.query))
        parts = url.path.strip("/").split("/")
        with self.store.lock:
            if FORBIDDEN in parts:
                self.answer(403, {"error": {"code": 403, "message": "no access"}})
            elif parts[0] == "session":
                self.upload_part(parts[1], body)
            elif parts[:3] == ["upload", "storage", "v1"]:
                self.upload(urllib.parse.unquote(parts[4]), query, body)
            elif parts[:3] == ["storage", "v1", "b"]:
                self.api(urllib.parse.unquote(parts[3]), parts[4:], query)
            else:  # https://storage.googleapis.com/BUCKET/OBJECT
                self.media((parts[0], urllib.parse.unquote("/".join(parts[1:]))), {})

    do_GET = do_POST = do_PUT = do_DELETE = do_HEAD = handle_one

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") == "chunked":
            data = b""
            while size := int(self.rfile.readline(), 16):
                data += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
            return data
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def api(self, bucket: str, rest: list[str], query: dict[str, str]) -> None:
        """Answers /storage/v1/b/BUCKET[/o[/OBJECT[/rewriteTo/b/BUCKET/o/OBJECT]]]."""
        rest = [urllib.parse.unquote(part) for part in rest]
        if not rest:
            self.answer(200, {"kind": "storage#bucket", "name": bucket, "location": "LOCAL"})
        elif rest == ["o"]:
            self.list(bucket, query)
        elif len(rest) > 2:  # o, OBJECT, rewriteTo, b, BUCKET, o, OBJECT
            if (bucket, rest[1]) not in self.store.objects:
                return self.answer(404, {"error": {"code": 404}})
            data, _ = self.store.objects[bucket, rest[1]]
            meta = self.store.put((rest[4], rest[6]), data)
            self.answer(200, {"done": True, "resource": meta, "objectSize": str(len(data))})
        elif self.command == "DELETE":
            key = (bucket, rest[1])
            if key not in self.store.objects:
                return self.answer(404, {"error": {"code": 404}})
            if not self._matches(key, query):
                return self.answer(412, {"error": {"code": 412}})
            del self.store.objects[key]
            self.answer(204)
        else:
            self.media((bucket, rest[1]), query)

    def list(self, bucket: str, query: dict[str, str]) -> None:
        """Answers a page of names, and of what they begin with up to the delimiter."""
        prefix, delimiter = query.get("prefix", ""), query.get("delimiter", "")
        found: dict[str, dict[str, Any] | None] = {}
        for (owner, name), (_, item) in sorted(self.store.objects.items()):
            if owner == bucket and name.startswith(prefix):
                rest = name[len(prefix) :]
                if delimiter and delimiter in rest:
                    found[prefix + rest.partition(delimiter)[0] + delimiter] = None
                else:
                    found[name] = item
        low = query.get("startOffset", "")
        high = query.get("endOffset", "")
        token = query.get("pageToken", "")
        names = [n for n in found if n >= low and n > token and (not high or n < high)]
        size = min(PAGE, int(query.get("maxResults", PAGE)))
        page = names[:size]
        body: dict[str, Any] = {
            "kind": "storage#objects",
            "items": [found[name] for name in page if found[name]],
            "prefixes": [name for name in page if found[name] is None],
        }
        if len(names) > size:
            body["nextPageToken"] = page[-1]
        self.answer(200, body)

    def media(self, key: tuple[str, str], query: dict[str, str]) -> None:
        """Answers an object's metadata, or its bytes or a range of them."""
        if key not in self.store.objects:
            return self.answer(404, {"error": {"code": 404, "message": f"no {key[1]}"}})
        data, meta = self.store.objects[key]
        if query and query.get("alt") != "media":
            return self.answer(200, meta)
        if query.get("ifGenerationNotMatch") == meta["generation"]:
            return self.answer(304)
        if not self._matches(key, query):
            return self.answer(412, {"error": {"code": 412}})
        status, headers = 200, {"x-goog-generation": meta["generation"]}
        if wanted := self.headers.get("Range"):
            first, _, last = wanted.removeprefix("bytes=").partition("-")
            start = int(first) if first else max(0, len(data) - int(last))
            end = min(int(last) + 1 if first and last else len(data), len(data))
            if start >= len(data):
                return self.answer(416, headers={"Content-Range": f"bytes */{len(data)}"})
            headers["Content-Range"] = f"bytes {start}-{end - 1}/{len(data)}"
            status, data = 206, data[start:end]
        self.answer(status, data, headers)

    def upload(self, bucket: str, query: dict[str, str], body: bytes) -> None:
        """Stores a whole object, or begins one in parts."""
        key = (bucket, query.get("name") or json.loads(body)["name"])
        if not self._matches(key, query):
            return self.answer(412, {"error": {"code": 412}})
        if query.get("uploadType") == "resumable":
            session = str(next(self.store.generations))
            self.store.sessions[session] = key, query, bytearray()
            return self.answer(200, headers={"Location": f"https://{NAMES[0]}/session/{session}"})
        self.answer(200, self.store.put(key, body))

    def upload_part(self, session: str, body: bytes) -> None:
        """Takes a part of an object, which is there when the last part is."""
        key, query, data = self.store.sessions[session]
        place, _, total = (
            self.headers.get("Content-Range", "").removeprefix("bytes ").partition("/")
        )
        if place and place != "*":
            data[int(place.partition("-")[0]) :] = body
        elif not place:
            data[:] = body
        if total in ("", str(len(data))):
            if not self._matches(key, query):
                return self.answer(412, {"error": {"code": 412}})
            self.answer(200, self.store.put(key, bytes(data)))
        else:
            self.answer(308, headers={"Range": f"bytes=0-{len(data) - 1}"} if data else NONE)

    def _matches(self, key: tuple[str, str], query: dict[str, str]) -> bool:
        return query.get("ifGenerationMatch") in (None, self.store.generation(key))


def make_certificate(folder: pathlib.Path) -> pathlib.Path:
    """Makes a key and a certificate of Google's names in a file, which is good for a day."""
    file = folder / "object_server.pem"
    names = ",".join(f"DNS:{name}" for name in NAMES)
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-nodes", "-days", "1"]
    command += ["-pkeyopt", "ec_paramgen_curve:prime256v1"]
    command += ["-subj", "/CN=localhost", "-addext", f"subjectAltName={names}"]
    command += ["-keyout", "-", "-out", "-"]
    made = subprocess.run(command, capture_output=True, check=True)
    file.write_bytes(made.stdout)
    return file


def serve(certificate: str) -> None:
    """Serves until standard input ends; prints the port."""
    Handler.store = Store()
    Handler.tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    Handler.tls.load_cert_chain(certificate)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    print(server.server_address[1], flush=True)
    sys.stdin.read()


@contextlib.contextmanager
def object_server(folder: pathlib.Path) -> Iterator[dict[str, str]]:
    """Runs a server; yields the environment in which the libraries find it and trust it."""
    certificate = str(make_certificate(folder))
    command = [sys.executable, __file__, certificate]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) as process:
        assert process.stdin and process.stdout
        try:
            address = f"http://127.0.0.1:{int(process.stdout.readline())}"
            yield {
                "https_proxy": address,
                "CURL_CA_BUNDLE": certificate,
                "GOOGLE_AUTH_TOKEN_FOR_TESTING": "none",
                "TENSORSTORE_GCS_HTTP_URL": address,
                **FRESH,
                "STORAGE_EMULATOR_HOST": address,  # of google-cloud-storage, which Orbax asks
            }
        finally:
            process.stdin.close()


if __name__ == "__main__":
    serve(sys.argv[1])
