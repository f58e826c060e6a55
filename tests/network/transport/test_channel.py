"""Channels: frames by hand on a socket, and the parser without one."""

import asyncio
import contextlib
import errno
import json
import socket
import threading
import types

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import labnet as ln
from labnet.network.protocol.frames import Kind
from labnet.network.transport.channel import Channel
from tests.helpers.constants import SECONDS
from tests.helpers.network import raw_channel
from tests.helpers.network.raw_channel import (
    CANCEL,
    DATA,
    HELLO,
    PIECE,
    PING,
    PONG,
    REPLY,
    REQUEST,
    STOP,
    RawChannel,
    channel,
    frame,
    pieces,
    prelude,
    request,
    upgrade,
)
from tests.helpers.network.raw_http import (
    JSON,
    NATIVE,
    TOKEN,
    connection,
    forward_of,
    gradient_of,
    http,
    native,
    raw,
    read_reply,
)
from tests.helpers.threads import wait_until

MOST = 1 << 27
LARGE = np.arange(1 << 24, dtype="float32")  # 64 MB: more than all buffers on the way
ROUTES = {"echo": lambda x: x, "hello": lambda: "hi", "nothing": lambda: None, "large": lambda: LARGE}


@pytest.fixture
def server():
    with ln.network.serve(ROUTES, port=0, max_body=MOST) as server:
        yield server
        wait_until(lambda: listener(server).budget.bytes_held == 0)


def listener(server):
    return server._port._listener


def served(server):
    """Return whether a server still answers a call over a channel."""
    with channel(server) as other:
        head, body = other.call(1, "/hello")
        return (head["status"], body) == (200, b"hi")


# Calls


def test_a_channel_begins_with_the_protocol_and_the_epoch_of_the_server(server):
    with connection(server.port) as (sock, file):
        sock.sendall(upgrade(server))
        answer = read_reply(file)
        assert (answer.status, answer.headers["connection"].lower()) == (101, "upgrade")
        hello = RawChannel(sock, file).receive()
    epoch = http(server, "GET", "/health").headers["labnet-epoch"]
    assert (hello.kind, hello.number, hello.head) == (HELLO, 0, {"protocol": "1", "epoch": epoch})


def test_a_call_is_answered_under_its_number(server):
    with channel(server) as opened:
        head, body = opened.call(7, "/hello")
        assert (head["status"], head["content_type"], body) == (200, "text/plain; charset=utf-8", b"hi")
        head, body = opened.call(1 << 63, "/echo", b"[1.5]", content_type=JSON)
        assert (head["status"], json.loads(body)) == (200, [1.5])


def test_frames_right_behind_the_request_for_the_channel_are_read(server):
    with channel(server, behind=b"".join(request(1, "/hello"))) as opened:
        assert opened.reply(1)[1] == b"hi"


@pytest.mark.parametrize("cut", [100, 40_000, 200_000])
def test_a_body_that_begins_right_behind_the_request_for_the_channel_is_read_whole(server, cut):
    x = np.arange(125_000, dtype="int32")
    frames = b"".join(request(1, "/echo", native({"tensor": x}), content_type=NATIVE))
    with channel(server, behind=frames[:cut]) as opened:
        opened.send(frames[cut:])
        assert opened.reply(1)[1].endswith(x.tobytes())


def test_a_call_byte_by_byte(server):
    with channel(server) as opened:
        for byte in b"".join(request(1, "/echo", b"[1.5]", content_type=JSON)):
            opened.send(bytes([byte]))
        assert json.loads(opened.reply(1)[1]) == [1.5]


def test_many_calls_in_one_segment_are_all_answered(server):
    with channel(server) as opened:
        opened.send(b"".join(part for number in range(100) for part in request(number, "/hello")))
        assert sorted(opened.receive().number for _ in range(100)) == list(range(100))


@pytest.mark.parametrize("nbytes", [1 << 14, PIECE - 1, PIECE, PIECE + 1, 5 * PIECE + 3])
def test_bodies_pass_in_pieces_in_both_directions(server, nbytes):
    x = np.arange(nbytes, dtype="uint8")
    with channel(server) as opened:
        head, body = opened.call(1, "/echo", native({"tensor": x}), content_type=NATIVE)
        assert head["status"] == 200
        assert body.endswith(x.tobytes())


def test_the_pieces_of_two_requests_may_alternate(server):
    arrays = {number: np.full(3 * PIECE, number, "uint8") for number in (1, 2)}
    bodies = {number: native({"tensor": array}, form="tensor") for number, array in arrays.items()}
    frames = {number: request(number, "/echo", body, content_type=NATIVE) for number, body in bodies.items()}
    with channel(server) as opened:
        for one, other in zip(frames[1], frames[2], strict=True):
            opened.send(one, other)
        found, left = {1: bytearray(), 2: bytearray()}, {}
        while len(left) < 2 or any(left.values()):
            more = opened.receive()
            left[more.number] = left.get(more.number, more.length) - len(more.body)
            found[more.number] += more.body
    assert all(found[number].endswith(array.tobytes()) for number, array in arrays.items())


def test_a_short_call_overtakes_a_long_request(server):
    first, *others = request(1, "/echo", native({"tensor": LARGE}), content_type=NATIVE)
    with channel(server) as opened:
        opened.send(first, *others[: len(others) // 2])
        assert opened.call(2, "/hello")[1] == b"hi"
        sending = threading.Thread(target=opened.send, args=others[len(others) // 2 :])
        sending.start()
        assert opened.reply(1)[1].endswith(LARGE.tobytes())
        sending.join(SECONDS)


@pytest.mark.parametrize("path", ["/hello", "/nothing"])
def test_a_short_call_overtakes_a_long_reply(server, path):
    with channel(server) as opened:
        opened.send(*request(1, "/large", accept=NATIVE))
        first = opened.receive()
        opened.send(*request(2, path))
        received, order = len(first.body), []
        while received < first.length or 2 not in order:
            more = opened.receive()
            order.append(more.number)
            received += len(more.body) if more.number == 1 else 0
    assert received == first.length
    assert order.index(2) < len(order) - 1


def test_a_model_is_trained_over_a_channel():
    model = ln.nn.Linear(2, 1)
    with ln.network.serve_model(model, ln.optim.SGD(lr=0.1), port=0) as server, channel(server) as opened:
        x = np.ones((1, 2), "float32")
        head, _ = opened.call(1, "/forward", native({"tensor": x}), content_type=NATIVE)
        gradient = native({"tensor": np.ones((1, 1), "float32")})
        for number in (2, 3):  # the second is a repetition, carried out once
            key = {"idempotency_key": '"c0ffee:1"', "call": head["call"]}
            after, body = opened.call(number, "/optimize", gradient, content_type=NATIVE, **key)
            assert (after["status"], after["version"]) == (200, "1")
        assert after["replayed"] == "1"
        assert len(body) > 8
        assert server.statistics()["server"]["version"] == 1


def test_a_reply_is_the_same_over_http_and_over_a_channel():
    with ln.network.serve_model(ln.nn.Linear(2, 1), ln.optim.SGD(lr=0.1), port=0) as server, channel(server) as opened:
        x = np.ones((1, 2), "float32")
        head, body = opened.call(1, "/forward", native({"tensor": x}), content_type=NATIVE)
        reply = forward_of(server, x)
        assert body == reply.body
        assert gradient_of(server, head["call"], np.ones((1, 1), "float32")).status == 200


@pytest.mark.parametrize("path", ["/hello?x=1", "/%68ello"])
def test_a_path_means_the_same_over_http_and_over_a_channel(server, path):
    with channel(server) as opened:
        assert opened.call(1, path)[0]["status"] == http(server, "GET", path).status == 200


# Cancelled calls, pings, and the announcement of the end


def test_a_cancelled_request_is_dropped_and_its_number_free_again(server):
    first, second, *_ = request(1, "/echo", native({"tensor": np.ones(3 * PIECE, "uint8")}), content_type=NATIVE)
    with channel(server) as opened:
        opened.send(first, second, frame(PING))
        assert opened.receive().kind == PONG
        assert listener(server).budget.bytes_held > 3 * PIECE
        opened.send(frame(CANCEL, 1), frame(PING))
        assert opened.receive().kind == PONG
        assert listener(server).budget.bytes_held == 0
        assert opened.call(1, "/hello")[1] == b"hi"


def test_cancelling_an_unknown_or_an_answered_call_does_nothing(server):
    with channel(server) as opened:
        assert opened.call(1, "/hello")[1] == b"hi"
        opened.send(frame(CANCEL, 1), frame(CANCEL, 2))
        assert opened.call(3, "/hello")[1] == b"hi"


def test_a_ping_is_answered_and_a_pong_ignored(server):
    with channel(server) as opened:
        opened.send(frame(PONG), frame(PING), frame(PING, 5))
        assert [opened.receive().kind for _ in range(2)] == [PONG, PONG]
        assert opened.call(1, "/hello")[1] == b"hi"


def test_a_ping_is_answered_while_a_call_is_running(server):
    release = threading.Event()
    with ln.network.serve({"wait": lambda: release.wait(SECONDS)}, port=0) as other, channel(other) as opened:
        opened.send(*request(1, "/wait"), frame(PING))
        assert opened.receive().kind == PONG
        release.set()
        assert opened.reply(1)[0]["status"] == 200


def test_a_stopping_server_says_so_and_answers_the_calls_that_it_has():
    entered, release = threading.Event(), threading.Event()

    def wait():
        entered.set()
        return release.wait(SECONDS)

    with ln.network.serve({"wait": wait}, port=0) as server, channel(server) as opened:
        opened.send(*request(1, "/wait"))
        assert entered.wait(SECONDS)
        stopping = threading.Thread(target=server.stop)
        stopping.start()
        stop = opened.receive()
        assert (stop.kind, stop.head.get("returns", False)) == (STOP, False)
        opened.send(*request(2, "/wait"))
        late = opened.reply(2)
        assert (late[0]["status"], json.loads(late[1])["error"]) == (503, "ServerStopped")
        release.set()
        assert opened.reply(1)[0]["status"] == 200
        assert opened.is_closed
        stopping.join(SECONDS)


# Malformed frames


def announced(number=1, length=PIECE + 10):
    """Return the first frame of a request whose rest is still to come."""
    return frame(
        REQUEST, number, bytes(min(length, PIECE)), length=length, method="POST", path="/echo", content_type=JSON
    )


MALFORMED = {
    "kind 0": prelude(0),
    "unknown kind": prelude(9, 1),
    "last kind": prelude(255),
    "too long head": prelude(REQUEST, 1, head_bytes=(1 << 16) + 1),
    "longest head": prelude(REQUEST, 1, head_bytes=(1 << 32) - 1),
    "too long body": prelude(REQUEST, 1, length=(1 << 40) + 1),
    "longest body": prelude(REQUEST, 1, length=(1 << 64) - 1),
    "no head": prelude(REQUEST, 1),
    "no JSON": prelude(REQUEST, 1, head_bytes=1) + b"{",
    "no object": prelude(REQUEST, 1, head_bytes=2) + b"[]",
    "no UTF-8": prelude(REQUEST, 1, head_bytes=13) + b'{"path":"\xff\xfe"}',
    "a field of another type": frame(REQUEST, 1, method=1),
    "other headers of another type": frame(REQUEST, 1, method="GET", path="/hello", others={"x": 1}),
    "deep JSON": prelude(REQUEST, 1, head_bytes=60_000) + b'{"x":' + b"[" * 59_995,
    "a piece without a call": frame(DATA, 1, b"x"),
    "a piece of a complete call": b"".join(request(1, "/hello")) + frame(DATA, 1, b"x"),
    "a piece too long for its body": announced() + frame(DATA, 1, bytes(11)),
    "a piece longer than pieces may be": announced(length=3 * PIECE) + prelude(DATA, 1, length=PIECE + 1),
    "an empty piece": announced() + frame(DATA, 1),
    "a piece with a head": announced() + frame(DATA, 1, b"x", path="/echo"),
    "a number in use": announced() + b"".join(request(1, "/hello")),
    "a ping with a body": frame(PING, 0, b"hello"),
    "a pong with a body": frame(PONG, 0, b"hello"),
    "a cancellation with a body": frame(CANCEL, 1, b"hello"),
    "a reply": frame(REPLY, 1, status=200),
    "a hello": frame(HELLO, protocol="1", epoch="0"),
    "a stop": frame(STOP),
}


@pytest.mark.parametrize("name", MALFORMED)
def test_a_malformed_frame_closes_its_connection_and_nothing_else(server, name, caplog):
    with channel(server) as bystander, channel(server) as opened:
        bystander.send(announced(length=PIECE + 2))
        opened.send(MALFORMED[name])
        while (left := opened.receive()) is not None:
            assert left.kind == REPLY  # of a call before the malformed frame
        bystander.send(frame(DATA, 1, b"[]"))
        assert bystander.reply(1)[0]["status"] in (200, 400)
    assert served(server)
    assert not [record for record in caplog.records if record.levelname in ("ERROR", "CRITICAL")]


@pytest.mark.parametrize("cut", [1, 23, 24, 30, 60, PIECE // 2])
def test_a_connection_that_ends_in_a_frame_leaves_nothing(server, cut):
    with channel(server) as opened:
        opened.send(announced()[:cut])
    wait_until(lambda: not len(listener(server).connections) and not listener(server).budget.bytes_held)
    assert served(server)


# Refused requests


def test_a_request_for_a_channel_needs_the_token(server):
    for token in (None, "wrong"):
        reply = raw(server.port, upgrade(server, **{TOKEN: token}))
        assert (reply.status, reply.json()["error"]) == (401, "Unauthorized")


def test_an_open_server_opens_no_channel_for_web_pages_of_others():
    with ln.network.serve({"hello": lambda: "hi"}, port=0, token=None) as server:
        for headers in ({"Origin": "https://evil.example"}, {"Host": "evil.example"}, {"Sec_Fetch_Site": "cross-site"}):
            reply = raw(server.port, upgrade(server, **{TOKEN: None}, **headers))
            assert (reply.status, reply.json()["error"]) == (403, "Unauthorized")
        with channel(server, **{TOKEN: None}) as opened:
            assert opened.call(1, "/hello")[1] == b"hi"


def test_another_version_of_the_protocol_gets_no_channel(server):
    reply = raw(server.port, upgrade(server, Labnet_Protocol="2"))
    assert (reply.status, reply.json()["error"]) == (400, "ProtocolMismatch")


@pytest.mark.parametrize("upgrading", [None, "websocket", "h2c"])
def test_a_request_without_the_upgrade_says_what_to_send(server, upgrading):
    with connection(server.port) as (sock, file):
        sock.sendall(upgrade(server, Upgrade=upgrading))
        reply = read_reply(file)
        assert (reply.status, reply.headers["upgrade"]) == (426, "labnet-channel")
        assert "Upgrade: labnet-channel" in reply.json()["message"]
        sock.sendall(upgrade(server))
        assert read_reply(file).status == 101


REFUSED = {
    404: ("/missing", b"[1]", {"content_type": JSON}),
    405: ("/hello", b"", {"method": "PUT"}),
    415: ("/echo", b"<p>", {"content_type": "text/html"}),
    400: ("/echo", b"[1", {"content_type": JSON}),
}


@pytest.mark.parametrize("status", REFUSED)
def test_a_refused_request_is_answered_as_in_http(server, status):
    path, body, fields = REFUSED[status]
    method = fields.get("method") or ("POST" if body else "GET")
    headers = {"Content_Type": fields["content_type"]} if "content_type" in fields else {}
    reply = http(server, method, path, body or None, **headers)
    with channel(server) as opened:
        head, document = opened.call(1, path, body, **fields)
        assert head["status"] == reply.status == status
        assert json.loads(document) == reply.json()
        assert head.get("others", {}).get("Allow") == reply.headers.get("allow")
        assert opened.call(2, "/hello")[1] == b"hi"


def test_a_request_of_another_version_is_refused(server):
    with channel(server) as opened:
        head, body = opened.call(1, "/hello", protocol="2")
        assert (head["status"], json.loads(body)["error"]) == (400, "ProtocolMismatch")


def test_a_body_over_the_limit_is_refused_before_it_has_come(server):
    body = bytes(PIECE)
    with channel(server) as opened:
        length = MOST + 1
        opened.send(frame(REQUEST, 1, body, length=length, method="POST", path="/echo", content_type=JSON))
        head, document = opened.reply(1)
        assert (head["status"], json.loads(document)["error"]) == (413, "TooLarge")
        assert listener(server).budget.bytes_held == 0
        opened.send(frame(DATA, 1, body))  # sent before the reply was read
        opened.send(frame(CANCEL, 1))
        assert opened.call(2, "/hello")[1] == b"hi"


def test_the_rest_of_a_refused_body_is_discarded(server):
    with channel(server) as opened:
        opened.send(*request(1, "/missing", bytes(4 * PIECE), content_type=JSON), *request(2, "/hello"))
        assert [opened.reply(number)[0]["status"] for number in (1, 2)] == [404, 200]


def test_a_channel_opened_with_an_old_token_is_refused_with_the_new_one(server):
    with channel(server) as opened, ln.network.serve(ROUTES, port=server.port, token="another"):
        head, body = opened.call(1, "/hello")
        assert (head["status"], json.loads(body)["error"]) == (401, "Unauthorized")
        head, body = opened.call(2, "/hello", others={TOKEN: "another"})
        assert (head["status"], body) == (200, b"hi")


def test_a_channel_opened_with_a_token_is_served_once_none_is_needed():
    with (
        ln.network.serve({"hello": lambda: "hi"}, port=0) as server,
        channel(server) as opened,
        ln.network.serve({"hello": lambda: "open"}, port=server.port, token=None),
    ):
        assert opened.call(1, "/hello")[1] == b"open"


# Limits


@pytest.fixture
def impatient(server):
    listener(server).budget.body_seconds, listener(server).budget.slowest = 0.05, 1e12
    return server


def test_a_client_that_does_not_read_a_long_reply_is_given_up(impatient):
    with channel(impatient) as opened:
        assert len(listener(impatient).connections) == 1
        opened.send(*request(1, "/large", accept=NATIVE))
        wait_until(lambda: not len(listener(impatient).connections))


def test_a_client_that_does_not_read_its_short_replies_is_given_up(impatient):
    body = native({"tensor": np.zeros(1 << 13, "float32")})
    stream = b"".join(part for number in range(64) for part in request(number, "/echo", body, content_type=NATIVE))
    with channel(impatient) as opened, contextlib.suppress(ConnectionError):
        while True:
            opened.send(stream)
    wait_until(lambda: not len(listener(impatient).connections))


def test_a_client_that_does_not_send_the_rest_of_a_long_body_is_given_up(impatient):
    with channel(impatient) as opened:
        opened.send(announced())
        assert opened.is_closed


def test_a_client_that_does_not_send_the_rest_of_a_short_body_is_given_up(impatient, monkeypatch):
    from labnet.network.server import channel_requests

    monkeypatch.setattr(channel_requests, "_LOOK_SECONDS", 0.01)
    monkeypatch.setattr(channel_requests, "IDLE_SECONDS", 0.05)
    with channel(impatient) as opened:
        opened.send(announced(length=100)[:-1])
        assert opened.is_closed


def test_a_channel_is_served_without_a_further_file_descriptor(server, monkeypatch):
    def refuse(self):
        raise OSError(errno.EMFILE, "no file descriptor is left")

    monkeypatch.setattr(socket.socket, "dup", refuse)
    with channel(server) as opened:
        for number in range(1, 4):
            assert opened.call(number, "/hello")[1] == b"hi"
        assert opened.call(4, "/large", accept=NATIVE)[1].endswith(LARGE.tobytes())


def test_calls_that_come_together_are_all_answered(server):
    with channel(server) as opened:
        opened.send(b"".join(frame for number in range(1, 201) for frame in request(number, "/hello")))
        assert {opened.receive().number for _ in range(200)} == set(range(1, 201))


def test_an_idle_channel_is_closed(server, monkeypatch):
    from labnet.network.server import channel_requests

    monkeypatch.setattr(channel_requests, "_LOOK_SECONDS", 0.01)
    monkeypatch.setattr(channel_requests, "IDLE_SECONDS", 0.05)
    with channel(server) as opened:
        assert opened.is_closed


def test_unread_pongs_are_bounded(server):
    with channel(server) as opened:
        opened.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
        wait_until(lambda: list(listener(server).connections))
        (served,) = listener(server).connections
        wait_until(lambda: hasattr(served._connection, "_transport"))  # Tornado's stream keeps what has bytes already
        for _ in range(10):  # in all 24 MB: more than all buffers on the way
            opened.send(frame(PING) * 100_000)
        assert served._connection._transport.get_write_buffer_size() < PIECE


def test_channels_count_as_connections_and_the_longest_idle_one_makes_room(server):
    listener(server).connections._limit = 3
    with contextlib.ExitStack() as stack:
        busy = stack.enter_context(channel(server))
        busy.send(announced())
        wait_until(lambda: listener(server).connections._asking)
        first, second, third = (stack.enter_context(channel(server)) for _ in range(3))
        assert first.is_closed
        assert [opened.call(1, "/hello")[1] for opened in (second, third)] == [b"hi", b"hi"]
        busy.send(frame(CANCEL, 1))
        assert busy.call(2, "/hello")[1] == b"hi"


def test_memory_is_returned_whatever_becomes_of_a_request(server):
    body = native({"tensor": np.ones(2 * PIECE, "uint8")})
    with channel(server) as opened:
        assert opened.call(1, "/echo", body, content_type=NATIVE)[0]["status"] == 200
        assert opened.call(2, "/missing", body, content_type=NATIVE)[0]["status"] == 404
        assert opened.call(3, "/echo", body[:-1], content_type=NATIVE)[0]["status"] == 400
        opened.send(*request(4, "/echo", body, content_type=NATIVE)[:-1], frame(CANCEL, 4))
        opened.send(*request(5, "/echo", body, content_type=NATIVE)[:-1])
        opened.socket.shutdown(socket.SHUT_WR)
        assert opened.is_closed
    wait_until(lambda: listener(server).budget.bytes_held == 0)


# The parser


class Sink:
    """Collects what a channel sends."""

    def __init__(self):
        self.sent, self.closed = [], False

    def write(self, data):
        self.sent.append(bytes(data))

    async def flushed(self):
        return None

    def writing(self):
        return False

    def close(self):
        self.closed = True


class Messages:
    """Collects what a channel receives."""

    def __init__(self):
        self.log, self.error = [], None

    def begin(self, kind, number, head, length):
        if length > 1 << 22:
            raise MemoryError("too much for a test")
        body = bytearray(length)

        def finish():
            self.log.append((int(kind), number, head.path, head.status, bytes(body)))

        def leave():
            self.log.append((CANCEL, number))

        view = memoryview(body) if number % 2 else None  # those with even numbers are discarded
        return types.SimpleNamespace(body=view, finish=finish, leave=leave)

    def notice(self, kind, head):
        self.log.append((int(kind), head))

    def closed(self, error):
        self.error = error


def parsed(chunks):
    """Give bytes to a fresh channel; return what it received, sent, and why it was closed."""
    sink, messages = Sink(), Messages()
    made = Channel(sink, messages)
    for chunk in chunks:
        made.feed(chunk)
    return messages.log, b"".join(sink.sent), messages.error


def split(data, cuts):
    cuts = sorted(cut % (len(data) + 1) for cut in cuts)
    return [data[begin:end] for begin, end in zip([0, *cuts], [*cuts, len(data)], strict=True)]


def content(size):
    return (bytes(range(251)) * (size // 251 + 1))[:size]


def message(kind, number, size, name):
    first, *others = pieces(content(size))
    fields = {"path": name} if kind == REQUEST else {"status": 200, "path": name}
    return [frame(kind, number, first, length=size, **fields)] + [frame(DATA, number, piece) for piece in others]


SIZES = st.sampled_from([0, 1, 100, 1 << 14, (1 << 14) + 1, PIECE, PIECE + 1, 2 * PIECE + 7]) | st.integers(0, 3000)
NAMES = st.text(max_size=30) | st.just("x" * 40_000)
MESSAGES = st.tuples(st.sampled_from([REQUEST, REPLY]), SIZES, NAMES)
NOTICES = st.sampled_from(
    [frame(PING), frame(PONG), frame(STOP, returns=True), frame(HELLO, epoch="1"), frame(CANCEL, 99)]
)


@given(data=st.data())
def test_a_stream_of_frames_gives_the_same_messages_in_any_pieces(data):
    drawn = data.draw(st.lists(MESSAGES | NOTICES, min_size=1, max_size=6))
    queues = [[x] if isinstance(x, bytes) else message(x[0], number, *x[1:]) for number, x in enumerate(drawn)]
    order = data.draw(st.permutations([place for place, queue in enumerate(queues) for _ in queue]))
    stream = b"".join(queues[place].pop(0) for place in order)
    whole = parsed([stream])
    assert whole[2] is None
    received = [entry for entry in whole[0] if entry[0] in (REQUEST, REPLY)]
    assert len(received) == sum(not isinstance(x, bytes) for x in drawn)
    assert {(kind, number, name) for kind, number, name, *_ in received} == {
        (x[0], number, x[2]) for number, x in enumerate(drawn) if not isinstance(x, bytes)
    }
    assert whole[1] == frame(PONG) * drawn.count(frame(PING))
    assert parsed(split(stream, data.draw(st.lists(st.integers(0, 1 << 30), max_size=20)))) == whole
    if len(stream) < 5000:
        assert parsed([stream[i : i + 1] for i in range(len(stream))]) == whole


@given(number=st.sampled_from([1, 3]), size=SIZES, cuts=st.lists(st.integers(0, 1 << 30), max_size=5))
def test_a_body_arrives_as_it_was_sent(number, size, cuts):
    stream = b"".join(message(REQUEST, number, size, "/echo"))
    assert parsed(split(stream, cuts))[0] == [(REQUEST, number, "/echo", None, content(size))]


KINDS = st.sampled_from([*range(1, 9)]) | st.integers(0, 255)
SMALL = st.integers(0, 40)
HEADS = st.binary(max_size=40) | st.sampled_from([b"{}", b'{"path":"/x"}', b'{"others":{}}', b"null", b"[" * 40])
FRAMES = st.builds(
    lambda kind, number, head, length, body: prelude(kind, number, head_bytes=len(head), length=length) + head + body,
    KINDS,
    st.integers(0, 2),
    HEADS,
    SMALL | st.integers(0, (1 << 64) - 1),
    st.binary(max_size=40),
)


@given(stream=st.lists(FRAMES | st.binary(max_size=60)), cuts=st.lists(st.integers(0, 1 << 30), max_size=10))
def test_any_bytes_are_used_or_close_the_channel_and_never_raise(stream, cuts):
    data = b"".join(stream)
    whole, pieced = parsed([data]), parsed(split(data, cuts))
    assert (whole[0], whole[1]) == (pieced[0], pieced[1])
    assert (whole[2] is None) == (pieced[2] is None)
    assert whole[2] is None or isinstance(whole[2], ValueError | MemoryError)


@given(data=st.binary(max_size=100))
def test_a_closed_channel_uses_no_more_bytes(data):
    messages = Messages()
    made = Channel(Sink(), messages)
    made.close(ConnectionResetError("closed"))
    made.feed(data)
    made.send_notice(Kind.PING)
    assert messages.log == []


def test_the_kinds_of_frames_are_those_of_the_page():
    named = {name: getattr(raw_channel, name) for name in Kind.__members__}
    assert named == {name: int(kind) for name, kind in Kind.__members__.items()}


@pytest.mark.parametrize("blocks", [False, True], ids=["awaits", "blocks"])
@pytest.mark.parametrize("elements", [1, 1 << 14, 1 << 18, 3 << 18, 5 << 20])
def test_bodies_of_any_size_come_back_as_they_were_sent(elements, blocks):
    x = ln.asarray(np.arange(elements, dtype="float32"))
    with ln.network.serve({"echo": lambda x: x}, port=0) as server:

        async def awaited():
            return [await ln.network.tfetch(server.url + "/echo", x) for _ in range(4)]

        if blocks:
            found = [ln.network.tfetch(server.url + "/echo", x, blocking=True) for _ in range(4)]
        else:
            found = asyncio.run(awaited())
        for y in found:
            assert np.array_equal(y.numpy(), x.numpy())
