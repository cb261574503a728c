"""A program that is started, paused and killed as a node is: `python stub_node.py serve --config FILE`.

Listens where the file says, answers /readyz, logs one line, and ends with SIGTERM. With a file
`stubborn` beside its settings it ignores SIGTERM; with `broken` it ends at once with a message.
"""

from __future__ import annotations

import signal
import sys
import tomllib
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path


class Ready(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


def main(settings: Path) -> None:
    if (settings.parent / "broken").exists():
        sys.exit("error: no cluster key")
    stubborn = (settings.parent / "stubborn").exists()
    signal.signal(signal.SIGTERM, signal.SIG_IGN if stubborn else lambda *_: sys.exit(0))
    values = tomllib.loads(settings.read_text())
    host, _, port = values["http_listen"].rpartition(":")
    server = HTTPServer((host, int(port)), Ready)
    print(f"{values['name']} listens", flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main(Path(sys.argv[sys.argv.index("--config") + 1]))
