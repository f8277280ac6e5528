"""scripts/bench clone: how a Firecracker is told to save and to go on."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from scripts.benchmark.peers import Guest
from scripts.benchmark.restore import FIRECRACKER, jobs
from scripts.benchmark.rounds import Measured, run_rounds

LINUX = Guest(Path("/vmlinux"), 128, Path("/initrd"), "console=ttyS0")
# Prints a prompt if it boots, answers its API, and calculates when it has loaded.
FAKE = """\
import http.server, json, os, re, socketserver, sys

class Api(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    address_string = lambda self: ""
    def log_message(self, *_): pass
    def do_PUT(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.path in REFUSED:
            self.send_response(400)
            self.send_header("Content-Length", "4")
            self.end_headers()
            self.wfile.write(b"nope")
            return
        if self.path == "/snapshot/create":  # before it is told: we may be killed then
            open(body["snapshot_path"], "w")
            open(body["mem_file_path"], "w")
        self.send_response(204)
        self.end_headers()
        if self.path == "/snapshot/load":
            assert os.path.exists(body["snapshot_path"]) and body["resume_vm"]
            number = re.search(rb"[(]([0-9]+)[+]1", os.read(0, 99))[1]
            os.write(1, b"answer-%d-" % (int(number) + 1))
    do_PATCH = do_PUT

if "--version" in sys.argv:
    sys.exit("Firecracker v1.2.3")
if "--config-file" in sys.argv:
    os.write(1, b"/ # ")
class Server(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    daemon_threads = True
Server(sys.argv[sys.argv.index("--api-sock") + 1], Api).serve_forever()
"""


def measured(
    folder: Path, monkeypatch: pytest.MonkeyPatch, refused: tuple[str, ...] = ()
) -> Measured:
    program = folder / FIRECRACKER
    program.write_text(f"#!{sys.executable}\nREFUSED = {refused!r}\n{FAKE}")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    theirs = [job for job in jobs(LINUX) if job.variant == FIRECRACKER]
    return run_rounds(theirs, 1, lambda _: None)


def test_it_is_measured_from_its_start_to_the_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = measured(tmp_path, monkeypatch)
    assert found.reasons == {}
    (time,) = found.samples["restore-128", FIRECRACKER]
    assert 0 < time.value < 60_000
    assert found.samples["restore-memory", FIRECRACKER][0].value > 0


@pytest.mark.parametrize("path", ["/vm", "/snapshot/create", "/snapshot/load"])
def test_what_its_api_refuses_is_the_reason(
    path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (reason,) = measured(tmp_path, monkeypatch, (path,)).reasons.values()
    assert reason.endswith(f"{path}: nope")
