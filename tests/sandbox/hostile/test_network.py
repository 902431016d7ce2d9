"""Ways out of a jail that has one: where it leads, who one is there, and what a flood of it costs."""

from __future__ import annotations

import pytest

from sandbox.job import Limits
from tests.sandbox.hostile.arena import Arena, Case, cases
from tests.sandbox.support import Ran

ASK = """
const ask = (head, wait = 5000) => new Promise((done) => {
  let text = '';
  const socket = real('net').connect({ path: '/run/egress.sock' });
  socket.on('data', (chunk) => { text += chunk.toString('latin1'); });
  socket.on('error', (error) => done(text || error.code));
  socket.on('close', () => done(text));
  setTimeout(() => done(text), wait).unref();
  socket.write(head);
});
const status = async (head) => Number((await ask(head)).split(' ')[1] ?? 0);
"""
PRIVATE = (
    "127.0.0.1:1", "127.0.0.1:6379", "[::1]:80", "[::ffff:127.0.0.1]:80", "169.254.169.254:80", "[fd00:ec2::254]:80",
    "10.0.0.1:80", "172.16.0.1:80", "192.168.0.1:443", "100.64.0.1:80", "0.0.0.0:80", "[::]:80", "224.0.0.1:80",
    "255.255.255.255:80", "168.63.129.16:80", "[64:ff9b::7f00:1]:80", "[2002:7f00:1::]:80", "localhost:80",
    "metadata.google.internal:80", "2130706433:80", "0x7f.1:80", "0177.0.0.1:80", "127.1:80", "127.0.0.1.:80",
)  # fmt: skip


def refused_all(ran: Ran) -> bool:
    return set(ran.result) <= {400, 403, 502} and 0 < len(ran.outcome.refused) <= 100


@cases(
    Case(
        "no private address answers, in whatever spelling",
        f"return Promise.all({list(PRIVATE)!r}.map((at) => status("
        "`CONNECT ${at} HTTP/1.1\\r\\nHost: ${at}\\r\\n\\r\\n`)))",
        top=ASK,
        shows=refused_all,
    ),
    Case(
        "plain requests meet the same rules",
        f"return Promise.all({list(PRIVATE)!r}.map((at) => status("
        "`GET http://${at}/ HTTP/1.1\\r\\nHost: example.com\\r\\n\\r\\n`)))",
        top=ASK,
        shows=refused_all,
    ),
    Case(
        "fetch meets the same rules, and says so",
        "return fetch('http://169.254.169.254/latest/meta-data/').catch((error) => error.cause.code)",
        result="EGRESS_REFUSED",
        shows=lambda ran: ran.outcome.refused[0].host == "169.254.169.254",
    ),
    Case(
        "a script without hosts reaches none, not even what the operator allows",
        "return status('CONNECT 127.0.0.1:' + payload + ' HTTP/1.1\\r\\n\\r\\n')",
        top=ASK,
        result=403,
        fields={"egress_hosts": ()},
    ),
    Case(
        "nobody is somebody else by saying so",
        """
        const head = (extra) => `CONNECT 10.0.0.1:80 HTTP/1.1\\r\\n${extra}\\r\\n\\r\\n`;
        return Promise.all(['X-Slot: s1', 'X-Forwarded-For: 8.8.8.8', 'Proxy-Authorization: Basic YTpi',
          'Host: example.com',
          'X-Egress-Slot: s0', 'Forwarded: for=127.0.0.1'].map((line) => status(head(line))));
        """,
        top=ASK,
        result=[403] * 6,
    ),
    Case(
        "what is no request is refused, and costs the connection",
        """
        const heads = ['\\r\\n\\r\\n', 'GET / HTTP/1.1\\r\\n\\r\\n', 'CONNECT\\r\\n\\r\\n',
          'CONNECT a b c\\r\\n\\r\\n', '\\0\\0\\0\\r\\n\\r\\n',
          'CONNECT user@example.com:80 HTTP/1.1\\r\\n\\r\\n', 'CONNECT example.com HTTP/1.1\\r\\n\\r\\n',
            'CONNECT example.com:99999 HTTP/1.1\\r\\n\\r\\n',
          'CONNECT example.com:80 HTTP/2\\r\\n\\r\\n', 'CONNECT ex\\tample.com:80 HTTP/1.1\\r\\n\\r\\n',
            'GET ftp://a/ HTTP/1.1\\r\\n\\r\\n',
          'GET file:///etc/passwd HTTP/1.1\\r\\n\\r\\n', '{"op":"assign","slot":"s0","policy":{}}\\n\\r\\n\\r\\n'];
        return Promise.all(heads.map(status));
        """,
        top=ASK,
        shows=lambda ran: set(ran.result) <= {400, 403},
    ),
    Case(
        "a head without an end is cut off",
        "const text = await ask('CONNECT a:1 HTTP/1.1\\r\\n' + 'X-A: b\\r\\n'.repeat(200000));"
        " return text.length < 1000",
        top=ASK,
        result=True,
    ),
    Case(
        "hundreds of silent connections are the script's own descriptors",
        """
        const net = real('net'); const open = []; let failed = 0;
        for (let i = 0; i < 400; i++) { const s = net.connect({ path: '/run/egress.sock' }); s.on('error', () => {
          failed++; }); open.push(s); }
        await later(300);
        return failed > 100;
        """,
        result=True,
    ),
    Case(
        "a flood of names that do not exist ends with its run",
        "for (let i = 0; ; i++) { fetch(`http://n${i}.invalid/`).catch(() => {}); if (i % 50 === 0) await later(5); }",
        kind=("timeout", "memory", "crash"),
        limits=Limits(timeout_ms=1500),
    ),
    Case(
        "descriptors that are sent to the proxy are nobody's",
        """
        const { Pipe, constants, PipeConnectWrap } = process.binding('pipe_wrap');
        const { WriteWrap } = process.binding('stream_wrap');
        let sent = 0;
        for (let i = 0; i < 20; i++) {
          const pipe = new Pipe(constants.IPC);
          await new Promise((done) => { const ask = new PipeConnectWrap(); ask.oncomplete = done; pipe.connect(ask,
            '/run/egress.sock'); });
          const gift = new Pipe(constants.SOCKET); gift.bind('\\0gift' + i);
          const note = new WriteWrap();
          await new Promise((done) => { note.oncomplete = done; if (pipe.writeUtf8String(note, 'CONNECT ',
            gift) !== 0) done(); sent++; setTimeout(done, 50); });
          pipe.close(); gift.close();
        }
        return sent;
        """,
        result=20,
    ),
    Case(
        "no other socket of the host's is there",
        """
        const net = real('net');
        const paths = ['/var/run/docker.sock', '/run/docker.sock', '/run/../run/launcher.sock',
          '/run/systemd/private', '/tmp/.X11-unix/X0',
          '\\0/org/freedesktop/systemd1/notify', '/run/dbus/system_bus_socket', '/dev/log'];
        return Promise.all(paths.map((path) => new Promise((done) => net.connect({ path }).on('error',
          (e) => done(e.code)).on('connect', () => done('in')))));
        """,
        shows=lambda ran: set(ran.result) <= {"ENOENT", "ECONNREFUSED", "EACCES"},
    ),
    Case(
        "the door itself cannot be taken away or replaced",
        "return [code(() => fs.unlinkSync('/run/egress.sock')), code(() => fs.renameSync('/run/egress.sock',"
        " '/run/x')),"
        " code(() => fs.chmodSync('/run/egress.sock', 0)), code(() => fs.symlinkSync('/tmp/x', '/run/y'))]",
        result=["EROFS", "EROFS", "EROFS", "EROFS"],
    ),
    Case(
        "there is no network socket",
        """
        const { TCP, constants } = process.binding('tcp_wrap');
        const udp = real('dgram').createSocket('udp4');
        const refused = await new Promise((done) => { udp.on('error', (e) => done(e.code)); udp.bind(0); });
        const tcp = new TCP(constants.SOCKET).bind('127.0.0.1', 0);
        return [tcp, refused, code(() => fs.readFileSync('/proc/net/dev'))];
        """,
        result=[-97, "EAFNOSUPPORT", "ENOENT"],
    ),
    Case(
        "names are not resolved inside",
        "const dns = real('dns'); return Promise.all([new Promise((done) => dns.lookup('localhost',"
        " (e) => done(e.code))),"
        " dns.promises.resolve4('example.com').catch((e) => e.code)])",
        shows=lambda ran: ran.result[0] == "ENOTFOUND" and ran.result[1][0] == "E",
    ),
)  # fmt: skip
def test_network(arena: Arena, outside: int, case: Case) -> None:
    arena.face(case)


@pytest.mark.parametrize("hosts", [None, ("127.0.0.1",)])
def test_what_the_operator_allows_is_reached_and_its_neighbours_are_not(
    arena: Arena, outside: int, hosts: tuple[str, ...] | None
) -> None:
    body = """
        const reach = (port) => fetch(`http://127.0.0.1:${port}/`).then((r) => r.status, (e) => e.cause?.code);
        return [await reach(payload), await reach(payload + 1), await reach(payload - 1)];
    """
    ran = arena.run.body(body, outside, egress_hosts=hosts)
    assert ran.result == [200, "EGRESS_REFUSED", "EGRESS_REFUSED"]
    assert [refusal.port for refusal in ran.outcome.refused] == [outside + 1, outside - 1]
    arena.check_next_run()
