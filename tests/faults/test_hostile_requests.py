"""What strangers may send to the two servers: each request is refused, and the server goes on."""

import json
import socket

import pytest

from alignbench.serve.server import ScoreServer
from evaluators import load
from tests.serving import at_work
from tests.studies import World
from tests.study.test_server import at_work_on

HOST = b"Host: 127.0.0.1\r\n"
TRAVERSALS = (
    b"/../../etc/passwd", b"/images/../../study.json", b"/images/..%2f..%2fstudy.json", b"//etc/passwd", b"/%00",
    b"/images/0-0-\xff", b"/images/\xd9\xa3-0-x", b"/page.js/../study.json",
    b"http://example.org/state", b"/?token=%ff",
)  # fmt: skip
HOSTILE = {
    "a long address": (b"GET /" + b"a" * 70_000 + b" HTTP/1.1\r\n" + HOST + b"\r\n", (414,)),
    "many headers": (b"GET /state HTTP/1.1\r\n" + HOST + b"X: y\r\n" * 200 + b"\r\n", (431,)),
    "a long header": (b"GET /state HTTP/1.1\r\n" + HOST + b"X: " + b"y" * 70_000 + b"\r\n\r\n", (431,)),
    "no words": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", (None,)),
    "a tunnel": (b"CONNECT example.org:443 HTTP/1.1\r\n" + HOST + b"\r\n", (501,)),
    "another version": (b"PRI * HTTP/2.0\r\n\r\n", (None,)),
    "an odd version": (b"GET / HTTP/1.x\r\n\r\n", (None,)),
    "parts": (b"POST /vote HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n", (411,)),
    "two lengths": (b"POST /vote HTTP/1.1\r\n" + HOST + b"Content-Length: 2\r\nContent-Length: 9\r\n\r\n{}", (411,)),
    "a length below zero": (b"POST /vote HTTP/1.1\r\n" + HOST + b"Content-Length: -1\r\n\r\n{}", (411,)),
    "a length of other digits": (b"POST /vote HTTP/1.1\r\n" + HOST + b"Content-Length: \xb2\r\n\r\n{}", (411,)),
    "a form": (
        b"POST /vote HTTP/1.1\r\n" + HOST + b"Content-Type: multipart/form-data\r\nContent-Length: 3\r\n\r\na=b",
        (404, 415),
    ),
    "a page of another site": (
        b"POST /vote HTTP/1.1\r\n" + HOST + b"Origin: https://example.org\r\nContent-Length: 2\r\n\r\n{}",
        (403,),
    ),
    "a page of another site, by a proxy": (
        b"POST /vote HTTP/1.1\r\n" + HOST + b"Sec-Fetch-Site: cross-site\r\nContent-Length: 2\r\n\r\n{}",
        (403,),
    ),
    "another name of this machine": (b"GET /info HTTP/1.1\r\nHost: example.org\r\n\r\n", (403,)),
    "no name of this machine": (b"GET /info HTTP/1.1\r\n\r\n", (403,)),
    **{
        f"the place {one!r}": (b"GET " + one + b" HTTP/1.1\r\n" + HOST + b"\r\n", (200, 400, 403, 404))
        for one in TRAVERSALS
    },
}  # fmt: skip


@pytest.fixture(scope="module", params=["study", "scores"])
def server(request, tmp_path_factory):
    """Each of the servers, and an address that it answers."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("os.fsync", lambda _: None)
        if request.param == "study":
            with at_work_on(World(tmp_path_factory.mktemp("study") / "results").study("base", "dpo")) as server:
                yield server, b"/state"
        else:
            with at_work(ScoreServer(load("shapes_oracle_agreement"), port=0, max_request_mb=1)) as server:
                yield server, b"/info"


def answer(server, request):
    """Return the status and the body that raw bytes get for an answer."""
    with socket.create_connection(server.server_address[:2], timeout=20) as connection:
        connection.sendall(request)
        connection.shutdown(socket.SHUT_WR)
        content = b""
        while part := connection.recv(65536):
            content += part
    if not content.startswith(b"HTTP/"):  # of a request without a version, the answer is a body alone
        return None, content
    head, _, body = content.partition(b"\r\n\r\n")
    return int(head.split()[1]), body


@pytest.mark.parametrize("name", HOSTILE)
def test_what_strangers_send_is_refused_and_the_server_goes_on(server, name, capfd):
    (served, address), (request, expected) = server, HOSTILE[name]
    status, body = answer(served, request)
    assert status in expected
    if status != 200:
        assert json.loads(body).keys() == {"error"}
    assert b"root:" not in body  # of /etc/passwd
    assert b"schema_version" not in body  # of study.json
    assert answer(served, b"GET " + address + b" HTTP/1.1\r\n" + HOST + b"\r\n")[0] == 200
    assert capfd.readouterr().err == ""  # nothing failed
