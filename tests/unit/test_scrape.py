"""`web.scrape` against real servers on this machine that misbehave in every way known."""

from __future__ import annotations

import asyncio
import gzip
import ssl
import subprocess
import threading
import zlib
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from ipaddress import ip_address
from pathlib import Path
from shutil import which
from typing import Any

import httpx
import pytest

from services.tasks import page, page_fence
from services.tasks.address_guard import Address, AddressGuard, parse_allow, refusal
from services.tasks.charset import decode_page
from services.tasks.guarded_transport import GuardedTransport, resolve_with_system, single_use
from services.tasks.http_fetch import MAX_BODY, PageRefused, PageUnavailable, fetch
from services.tasks.page import clean, read_page
from services.tasks.page_fence import MarkupRefused, is_tame, summarise
from services.tasks.scrape import scrape
from taskq_core.errors import ConfigError, Permanent
from tests.support.loop import in_loop

type Answer = Callable[[str, asyncio.StreamWriter], Awaitable[None]]

ENOUGH_S = 20.0
HERE = AddressGuard(parse_allow("127.0.0.1/32"))


class Server:
    """A server on loopback that reads a request's head and then does what the test says."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.heads: list[str] = []

    def url(self, path: str = "/", host: str = "127.0.0.1", scheme: str = "http") -> str:
        return f"{scheme}://{host}:{self.port}{path}"


@asynccontextmanager
async def serving(answer: Answer, tls: ssl.SSLContext | None = None) -> AsyncGenerator[Server]:
    tasks: set[asyncio.Task[Any]] = set()
    server = Server(0)

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
            server.heads.append(head)
            await answer(head.split(" ")[1], writer)
            await writer.drain()
        except (OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass  # the client has had enough, or the test has
        finally:
            writer.close()
            tasks.discard(task)

    listener = await asyncio.start_server(handle, "127.0.0.1", 0, ssl=tls)
    server.port = listener.sockets[0].getsockname()[1]
    try:
        yield server
    finally:
        listener.close()
        for task in list(tasks):
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def reply(body: bytes = b"", status: str = "200 OK", **headers: str) -> Answer:
    lines = {"content_type": "text/html; charset=utf-8", "content_length": str(len(body)), **headers}

    async def answer(_: str, writer: asyncio.StreamWriter) -> None:
        head = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in lines.items())
        writer.write(f"HTTP/1.1 {status}\r\n{head}\r\n".encode() + body)

    return answer


def redirect(location: str) -> Answer:
    return reply(status="302 Found", location=location)


def by_path(**answers: Answer) -> Answer:
    async def answer(path: str, writer: asyncio.StreamWriter) -> None:
        await answers[path.strip("/") or "root"](path, writer)

    return answer


async def get(url: str, timeout: float = ENOUGH_S, guard: AddressGuard = HERE) -> Any:
    return await fetch(url, timeout, guard)


# --- the whole task

PAGE = b"""<!doctype html><html><head>
<title> The \x07quay &amp;\n more </title>
<meta name="Description" content="Boats &lt;today&gt;">
<base href="/town/"></head><body>
<script>var hidden = "not text"</script><style>p { color: red }</style>
<p>Eleven   boats.</p>
<a href="tides">Tides</a> <a href="tides#noon">Noon</a> <a href="HTTPS://example.org/a?b=1#c">out</a>
<a href="mailto:a@b.c">mail</a> <a href="javascript:x()">js</a> <a href="http://u:p@example.org/">pw</a>
<a href="//[broken/">x</a> <a>none</a> <a href="">self</a>
</body></html>"""


@in_loop
async def test_a_page_is_summarised() -> None:
    async with serving(reply(PAGE)) as server:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("TASKQ_SCRAPE_ALLOW", f"127.0.0.1:{server.port}")
            found = await scrape(server.url("/start#part"))
    assert found["url"] == server.url("/start")
    assert found["status"] == 200
    assert found["title"] == "The quay & more"
    assert found["description"] == "Boats <today>"
    assert found["links"] == [server.url("/town/tides"), "https://example.org/a?b=1", server.url("/town/")]
    assert found["text_length"] == len("Eleven boats. Tides Noon out mail js pw x none self")
    assert 0 < found["elapsed"] < ENOUGH_S
    assert f"host: 127.0.0.1:{server.port}\r\n" in server.heads[0].lower()


@in_loop
async def test_nothing_on_this_machine_is_reached_unless_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TASKQ_SCRAPE_ALLOW", raising=False)
    async with serving(reply(PAGE)) as server:
        with pytest.raises(Permanent, match="loopback"):
            await scrape(server.url())
        monkeypatch.setenv("TASKQ_SCRAPE_ALLOW", f"127.0.0.1:{server.port + 1}")
        with pytest.raises(Permanent, match="loopback"):
            await scrape(server.url())
    assert server.heads == []


@pytest.mark.parametrize(
    ("status", "raised"),
    [
        ("404 Not Found", Permanent),
        ("403 Forbidden", Permanent),
        ("410 Gone", Permanent),
        ("304 Not Modified", Permanent),
        ("429 Too Many Requests", PageUnavailable),
        ("408 Request Timeout", PageUnavailable),
        ("500 Internal Server Error", PageUnavailable),
        ("503 Service Unavailable", PageUnavailable),
    ],
)
@in_loop
async def test_only_what_may_pass_is_tried_again(
    status: str, raised: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TASKQ_SCRAPE_ALLOW", "127.0.0.0/8")
    async with serving(reply(b"", status)) as server:
        with pytest.raises(raised, match=status[:3]):
            await scrape(server.url())
    assert len(server.heads) == 1


@in_loop
async def test_a_picture_is_no_page(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TASKQ_SCRAPE_ALLOW", "127.0.0.0/8")
    async with serving(reply(b"\xff\xd8", content_type="image/jpeg")) as server:
        with pytest.raises(Permanent, match="image/jpeg"):
            await scrape(server.url())


# --- addresses

DENIED = [
    *("0.0.0.0", "10.0.0.1", "100.64.0.1", "100.127.255.255", "127.0.0.1", "127.255.255.254"),
    *("169.254.169.254", "168.63.129.16", "172.16.0.1", "172.31.255.255", "192.0.0.192", "192.0.2.1"),
    *("192.88.99.1", "192.168.1.1", "198.18.0.1", "198.19.255.255", "198.51.100.1", "203.0.113.1"),
    *("224.0.0.1", "239.255.255.250", "240.0.0.1", "255.255.255.255"),
    *("::", "::1", "::7f00:1", "::ffff:127.0.0.1", "::ffff:10.0.0.1", "::ffff:0:127.0.0.1"),
    *("64:ff9b::7f00:1", "64:ff9b::a9fe:a9fe", "64:ff9b:1::1", "100::1", "2001::1", "2001:0:7f00:1::"),
    *("2001:2::1", "2001:10::1", "2001:20::1", "2001:db8::1", "2002:7f00:1::", "2002:0808:0808::"),
    *("3fff::1", "5f00::1", "fc00::1", "fd00:ec2::254", "fe80::1", "fe80::1%1", "fec0::1", "ff02::1"),
    *("2606:4700::5efe:7f00:1", "2606:4700::200:5efe:10.0.0.1", "4000::1"),
]
PUBLIC = [
    *("1.1.1.1", "8.8.8.8", "100.63.255.255", "100.128.0.0", "172.15.0.1", "172.32.0.1", "192.167.0.1"),
    *("198.17.0.1", "223.255.255.255", "2606:4700:4700::1111", "2a00:1450::1", "::ffff:8.8.8.8"),
    "64:ff9b::808:808",
]


@pytest.mark.parametrize("address", DENIED)
def test_an_address_that_is_not_public_is_denied(address: str) -> None:
    assert refusal(ip_address(address))


@pytest.mark.parametrize("address", PUBLIC)
def test_a_public_address_is_fetched_from(address: str) -> None:
    assert refusal(ip_address(address)) is None


LOOPBACK_SPELLINGS = [
    *("127.0.0.1", "127.1", "2130706433", "0x7f000001", "0x7f.1", "0177.0.0.1", "017700000001"),
    *("127.000.000.001", "localhost", "LOCALHOST", "localhost.", "[::1]", "[::ffff:127.0.0.1]"),
    *("[::ffff:7f00:1]", "[0:0:0:0:0:ffff:127.0.0.1]", "[::127.0.0.1]", "[64:ff9b::7f00:1]"),
    *(
        "[2002:7f00:1::]",
        "①②⑦.⓪.⓪.①",
        "\uff11\uff12\uff17.0.0.1",
        "127\u30020\u30020\u30021",
        "0",
        "0.0.0.0",
        "[::]",
    ),
    *("169.254.169.254", "2852039166", "0xa9fea9fe", "[fe80::1%25lo]", "[fec0::1]", "224.0.0.1"),
]


@pytest.mark.parametrize("host", LOOPBACK_SPELLINGS)
@in_loop
async def test_no_spelling_of_an_inner_address_is_reached(host: str) -> None:
    async with serving(reply(PAGE)) as server:
        # A spelling that the resolver does not know leads nowhere either.
        with pytest.raises((PageRefused, PageUnavailable)) as caught:
            await get(server.url(host=host), guard=AddressGuard())
        if isinstance(caught.value, PageUnavailable):
            assert "could not be resolved" in str(caught.value)
    assert server.heads == []


@pytest.mark.parametrize(
    "url",
    [
        *("file:///etc/passwd", "ftp://127.0.0.1/", "gopher://127.0.0.1:6379/_x", "data:text/html,x"),
        *("javascript:x", "//example.org/", "example.org", "", "http://", "http:///x", "http://[::1"),
        *(
            "http://user@example.org/",
            "http://user:secret@example.org/",
            "http://a\nb/",
            "http://x:99999/",
            "http://x:0/",
        ),
        "http://example.org/" + "x" * 3000,
    ],
)
@in_loop
async def test_a_url_that_may_not_be_asked_for_is_refused(url: str) -> None:
    with pytest.raises(PageRefused) as caught:
        await get(url)
    assert "secret" not in str(caught.value)


def resolving(
    *answers: Sequence[str],
) -> tuple[Callable[[str, int], Awaitable[Sequence[Address]]], list[str]]:
    asked: list[str] = []

    async def resolve(host: str, _: int) -> Sequence[Address]:
        asked.append(host)
        return [ip_address(each) for each in answers[min(len(asked), len(answers)) - 1]]

    return resolve, asked


@in_loop
async def test_a_name_is_resolved_once_and_connected_to_where_it_was_judged() -> None:
    resolve, asked = resolving(["127.0.0.1"], ["10.0.0.1"])
    async with serving(reply(PAGE)) as server:
        guard = AddressGuard(parse_allow(f"127.0.0.1:{server.port}"))
        await fetch(server.url(host="quay.test"), ENOUGH_S, guard, resolve)
        assert asked == ["quay.test"]
        assert f"host: quay.test:{server.port}\r\n" in server.heads[0].lower()
        with pytest.raises(PageRefused, match="private"):
            await fetch(server.url(host="quay.test"), ENOUGH_S, guard, resolve)


@in_loop
async def test_of_several_addresses_only_the_allowed_are_used() -> None:
    resolve, _ = resolving(["10.0.0.1", "::1", "127.0.0.1"])
    async with serving(reply(PAGE)) as server:
        fetched = await fetch(server.url(host="quay.test"), ENOUGH_S, HERE, resolve)
    assert fetched.status == 200


@in_loop
async def test_a_dead_address_is_followed_by_the_next() -> None:
    resolve, _ = resolving(["127.0.0.2", "127.0.0.1"])
    async with serving(reply(PAGE)) as server:
        guard = AddressGuard(parse_allow("127.0.0.0/8"))
        assert (await fetch(server.url(host="quay.test"), ENOUGH_S, guard, resolve)).status == 200


@in_loop
async def test_host_and_tls_name_stay_those_of_the_url() -> None:
    seen: list[httpx.Request] = []

    def take(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        return httpx.Response(200)

    resolve, _ = resolving(["2606:4700::1111"])
    transport = GuardedTransport(AddressGuard(), resolve, httpx.MockTransport(take))
    async with httpx.AsyncClient(transport=transport) as client:
        await client.get("https://bücher.example/x?y=1")
    (request,) = seen
    assert str(request.url) == "https://[2606:4700::1111]/x?y=1"
    assert request.headers["host"] == "xn--bcher-kva.example"
    assert request.extensions["sni_hostname"] == "xn--bcher-kva.example"


@pytest.mark.skipif(which("openssl") is None, reason="makes a certificate with openssl")
@in_loop
async def test_the_certificate_is_checked_against_the_name(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    folder = tmp_path_factory.mktemp("tls")
    key, certificate = _certificate(folder, "quay.test")
    there = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    there.load_cert_chain(certificate, key)
    here = ssl.create_default_context(cafile=str(certificate))
    resolve, _ = resolving(["127.0.0.1"])

    async with serving(reply(PAGE), there) as server:
        transport = GuardedTransport(HERE, resolve, single_use(here))
        async with httpx.AsyncClient(transport=transport) as client:
            assert (await client.get(server.url(host="quay.test", scheme="https"))).status_code == 200
            with pytest.raises(httpx.ConnectError, match="mismatch"):
                await client.get(server.url(host="other.test", scheme="https"))


def _certificate(folder: Path, name: str) -> tuple[Path, Path]:
    key, certificate = folder / "key.pem", folder / "certificate.pem"
    made = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"]
    named = ["-subj", f"/CN={name}", "-addext", f"subjectAltName=DNS:{name}"]
    files = ["-keyout", str(key), "-out", str(certificate)]
    subprocess.run(["openssl", "req", "-x509", *made, *named, *files], check=True, capture_output=True)
    return key, certificate


@in_loop
async def test_no_proxy_of_the_environment_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    async with serving(reply(PAGE)) as server:
        assert (await get(server.url())).status == 200


@in_loop
async def test_a_name_that_does_not_exist_may_exist_later() -> None:
    async def resolve(host: str, _: int) -> Sequence[Address]:
        raise OSError(f"no {host}")

    with pytest.raises(PageUnavailable, match="could not be resolved"):
        await fetch("http://nowhere.test/", ENOUGH_S, HERE, resolve)


@in_loop
async def test_the_system_resolver_gives_numbers() -> None:
    assert ip_address("127.0.0.1") in await resolve_with_system("2130706433", 80)


@in_loop
async def test_a_closed_port_may_open_later() -> None:
    async with serving(reply(PAGE)) as server:
        pass
    with pytest.raises(PageUnavailable):
        await get(server.url())


@pytest.mark.parametrize("text", ["nonsense", "127.0.0.1:0", "127.0.0.1:70000", "10.0.0.0/99", "host:80"])
def test_an_exception_that_cannot_be_read_is_named(text: str) -> None:
    with pytest.raises(ConfigError, match="TASKQ_SCRAPE_ALLOW"):
        parse_allow(f"10.0.0.0/8, {text}")


def test_exceptions_hold_for_their_port_only() -> None:
    guard = AddressGuard(parse_allow("127.0.0.1:8080, [::1]:81, 10.1.0.0/16"))
    assert guard.refusal(ip_address("127.0.0.1"), 8080) is None
    assert guard.refusal(ip_address("::ffff:127.0.0.1"), 8080) is None
    assert guard.refusal(ip_address("127.0.0.1"), 8081)
    assert guard.refusal(ip_address("127.0.0.2"), 8080)
    assert guard.refusal(ip_address("::1"), 81) is None
    assert guard.refusal(ip_address("::1"), 80)
    assert guard.refusal(ip_address("10.1.2.3"), 1) is None
    assert guard.refusal(ip_address("10.2.2.3"), 1)


# --- redirects


@in_loop
async def test_redirects_are_followed_to_the_last_page() -> None:
    answers = by_path(root=redirect("/next"), next=redirect("end?x=1"), **{"end?x=1": reply(PAGE)})
    async with serving(answers) as server:
        assert (await get(server.url())).url == server.url("/end?x=1")


@pytest.mark.parametrize(
    "location",
    [
        *("http://169.254.169.254/latest/meta-data/", "http://127.0.0.2/", "http://[::1]/", "//10.0.0.1/"),
        *("http://2130706434/", "file:///etc/passwd", "ftp://127.0.0.1/", "http://u:p@127.0.0.1/"),
        *("http://[::ffff:10.0.0.1]/", "http://x:y:z/"),
    ],
)
@in_loop
async def test_every_hop_is_judged_anew(location: str) -> None:
    async with serving(redirect(location)) as server:
        with pytest.raises(PageRefused):
            await get(server.url())
    assert len(server.heads) == 1


@in_loop
async def test_redirects_without_end_are_given_up() -> None:
    async with serving(redirect("/")) as server:
        with pytest.raises(PageRefused, match="more than 5 redirects"):
            await get(server.url())
    assert len(server.heads) == 6


@in_loop
async def test_a_redirect_to_nowhere_is_refused() -> None:
    async with serving(reply(status="302 Found")) as server:
        with pytest.raises(PageRefused, match="without saying where"):
            await get(server.url())


# --- too much, too slow


def _streaming(head: str, piece: bytes) -> Answer:
    """An answer that never ends."""

    async def answer(_: str, writer: asyncio.StreamWriter) -> None:
        writer.write(head.encode())
        while True:
            writer.write(piece)
            await writer.drain()

    return answer


def _stalling(head: bytes) -> Answer:
    """An answer that begins and stays away."""

    async def answer(_: str, writer: asyncio.StreamWriter) -> None:
        writer.write(head)
        await writer.drain()
        await asyncio.Event().wait()

    return answer


@in_loop
async def test_a_body_without_end_is_cut_off() -> None:
    async with serving(_streaming("HTTP/1.1 200 OK\r\n\r\n", b"x" * 65536)) as server:
        with pytest.raises(PageRefused, match="larger than 2 MiB"):
            await get(server.url())


@pytest.mark.parametrize("size", [MAX_BODY, MAX_BODY + 1])
@pytest.mark.parametrize("packed", [False, True])
@in_loop
async def test_the_limit_holds_to_the_byte(size: int, packed: bool) -> None:
    body = bytes(size)
    answer = reply(gzip.compress(body), content_encoding="gzip") if packed else reply(body)
    async with serving(answer) as server:
        if size > MAX_BODY:
            with pytest.raises(PageRefused, match="larger"):
                await get(server.url())
        else:
            assert (await get(server.url())).body == body


@in_loop
async def test_a_gzip_bomb_is_not_unpacked() -> None:
    import tracemalloc

    bomb = gzip.compress(bytes(200_000_000), 9)
    async with serving(reply(bomb, content_encoding="gzip")) as server:
        tracemalloc.start()
        try:
            with pytest.raises(PageRefused, match="larger"):
                await get(server.url())
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    assert peak < 16 * 2**20


@in_loop
async def test_gzip_that_unpacks_to_nothing_without_end_is_cut_off() -> None:
    packer = zlib.compressobj(wbits=31)
    nothing = packer.compress(b"") + packer.flush(zlib.Z_FULL_FLUSH)
    blocks = zlib.compressobj(wbits=-15).flush(zlib.Z_FULL_FLUSH) * 10_000
    head = "HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\n\r\n"

    async def answer(_: str, writer: asyncio.StreamWriter) -> None:
        writer.write(head.encode() + nothing)
        while True:
            writer.write(blocks)
            await writer.drain()

    async with serving(answer) as server:
        with pytest.raises(PageRefused, match="larger"):
            await get(server.url())


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "GZIP", "x-gzip", "identity"])
@in_loop
async def test_what_was_asked_for_is_unpacked(encoding: str) -> None:
    pack = {"deflate": zlib.compress, "identity": bytes}.get(encoding, gzip.compress)
    async with serving(reply(pack(PAGE), content_encoding=encoding)) as server:
        assert (await get(server.url())).body == PAGE


@pytest.mark.parametrize(
    ("encoding", "body"), [("br", b"x"), ("gzip, gzip", b"x"), ("zstd", b"x"), ("gzip", b"not gzip at all")]
)
@in_loop
async def test_what_cannot_be_unpacked_within_bounds_is_refused(encoding: str, body: bytes) -> None:
    async with serving(reply(body, content_encoding=encoding)) as server:
        with pytest.raises(PageRefused, match="packed"):
            await get(server.url())


@pytest.mark.parametrize(
    "head",
    ["HTTP/1.1 200 OK\r\nx: ", "HTTP/1.1 200 OK\r\n", "HTTP/1.1 200 "],
    ids=["value", "lines", "reason"],
)
@in_loop
async def test_endless_header_lines_are_refused(head: str) -> None:
    piece = b"a: b\r\n" * 1000 if head.endswith("OK\r\n") else b"a" * 6000
    async with serving(_streaming(head, piece)) as server:
        with pytest.raises(PageRefused, match="header lines"):
            await get(server.url())


@pytest.mark.parametrize(
    "head",
    [b"", b"HTTP/1.1 200 OK\r\n", b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\n<p>"],
    ids=["silent", "head", "body"],
)
@in_loop
async def test_a_server_that_stalls_is_left(head: bytes) -> None:
    async with serving(_stalling(head)) as server:
        with pytest.raises(PageUnavailable, match=r"time|within"):
            await get(server.url(), timeout=0.2)


@in_loop
async def test_the_deadline_is_for_everything_together() -> None:
    """Bytes that keep coming, and redirects that keep coming, gain no time."""

    async def drip(_: str, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        while True:
            writer.write(b"x")
            await writer.drain()
            await asyncio.sleep(0.01)  # the pace is what is tested

    async def interim(_: str, writer: asyncio.StreamWriter) -> None:
        while True:
            writer.write(b"HTTP/1.1 103 Early Hints\r\n\r\n")
            await writer.drain()
            await asyncio.sleep(0.01)  # the pace is what is tested

    async with serving(by_path(drip=drip, interim=interim)) as server:
        for path in ("/drip", "/interim"):
            with pytest.raises(PageUnavailable, match=r"within 0\.3 s"):
                await get(server.url(path), timeout=0.3)


@pytest.mark.parametrize("junk", [b"\0\1\2\r\n\r\n", b"HTTP/9.9 huh\r\n\r\n", b"SSH-2.0-x\r\n\r\n", b""])
@in_loop
async def test_what_is_no_http_is_a_connection_error(junk: bytes) -> None:
    async def answer(_: str, writer: asyncio.StreamWriter) -> None:
        writer.write(junk)

    async with serving(answer) as server:
        with pytest.raises(PageUnavailable):
            await get(server.url())


# --- reading the page


def test_links_are_bounded_in_number_and_size() -> None:
    many = "".join(f"<a href='/{number}'>x</a>" for number in range(1000))
    assert len(read_page(many, "http://a.example/").links) == 200
    long = "".join(f"<a href='/{number}{'é' * 450}'>x</a>" for number in range(1000))
    links = read_page(long, "http://a.example/").links
    assert 0 < sum(len(link.encode()) for link in links) <= 64 * 1024
    assert read_page(f"<a href='/{'x' * 600}'>x</a>", "http://a.example/").links == []


def test_text_comes_out_plain() -> None:
    title = "<title>\x1b]52;c;x\x07 \u202eevil\u200b \x9b31m\ud800\t ok</title>"
    assert read_page(title.encode("utf-8", "replace").decode(), "http://a/").title == "]52;c;x evil 31m? ok"
    assert clean("x" * 1000, 10) == "xxxxxxxxx…"
    assert read_page("", "http://a/") == page.PageSummary(None, None, [], 0)
    assert read_page("<p>no head", "http://a/").text_length == len("no head")


def test_the_description_may_be_that_for_sharing() -> None:
    html = "<meta property='og:description' content='shared'>"
    assert read_page(html, "http://a/").description == "shared"


@pytest.mark.parametrize(
    ("body", "content_type", "text"),
    [
        ("ü".encode(), "text/html", "ü"),
        ("ü".encode("latin-1"), "text/html; charset=ISO-8859-1", "ü"),
        (b"\x80", "text/html; charset=latin1", "€"),
        ("ü".encode("utf-16"), "text/html; charset=utf-8", "ü"),
        ("<meta charset='koi8-r'>я".encode("koi8-r"), "text/html", "<meta charset='koi8-r'>я"),
        ("日本".encode("shift_jis"), "text/html; charset=Shift_JIS", "日本"),
        (b"abc-", "text/html; charset=punycode", "abc-"),
        (b"abc", "text/html; charset=hex", "abc"),
        (b"abc\xff", "text/html; charset=\0nonsense", "abc\ufffd"),
    ],
)
def test_the_encoding_is_found(body: bytes, content_type: str, text: str) -> None:
    assert decode_page(body, content_type) == text


HOSTILE = {
    "deep": "<div>" * 400_000,
    "attributes": "<p " + " ".join(f"a{number}" for number in range(250_000)) + ">",
    "reopened": "<div>"
    + "".join(f"<b a{number}>" for number in range(1000))
    + "</div>"
    + "<div>x</div>" * 150_000,
}


@pytest.mark.parametrize("kind", HOSTILE)
@in_loop
async def test_markup_that_eats_memory_or_time_ends_in_its_child(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(page_fence, "CHILD_WAIT_S", 0.8)  # the limits of the child itself take longer
    assert not is_tame(HOSTILE[kind])
    with pytest.raises(MarkupRefused, match="too much"):
        await summarise(HOSTILE[kind], "http://a.example/")


@pytest.mark.slow
@pytest.mark.parametrize("kind", HOSTILE)
@in_loop
async def test_the_child_ends_itself(kind: str) -> None:
    with pytest.raises(MarkupRefused, match="too much"):
        await summarise(HOSTILE[kind], "http://a.example/")


@in_loop
async def test_a_large_honest_page_is_read_in_the_child_to_the_same_end() -> None:
    html = "<title>Größe \udc80</title>" + "<p>hello <a href='/x'>y</a></p>" * 50_000
    assert not is_tame(html)
    honest = html.encode("utf-8", "replace").decode()
    assert await summarise(html, "http://a.example/") == read_page(honest, "http://a.example/")


def test_usual_pages_are_tame() -> None:
    assert is_tame(PAGE.decode())
    assert is_tame("<p>word <b>bold</b> <i>more</i></p>" * 40 + "<div></div>" * 1000)
    assert not is_tame("<b>" * 1000)


@in_loop
async def test_reading_a_page_leaves_the_loop_free(monkeypatch: pytest.MonkeyPatch) -> None:
    here = threading.get_ident()
    threads: list[int] = []

    def reader(html: str, url: str) -> page.PageSummary:
        threads.append(threading.get_ident())
        return read_page(html, url)

    monkeypatch.setattr(page_fence, "read_page", reader)
    await summarise("<p>x", "http://a.example/")
    assert threads
    assert here not in threads
