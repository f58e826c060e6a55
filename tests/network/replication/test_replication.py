"""What a primary takes of its replicas, over plain HTTP: each gradient once, and none of a call that was given up."""

import secrets
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

import labnet as ln
from labnet.errors import RemoteTimeout
from labnet.network.client.options import ClientOptions
from labnet.network.client.session import Caller
from labnet.network.model.calls import call_prefix
from labnet.network.model.staleness import Policy
from labnet.network.protocol.digest import digest_of
from labnet.network.replication.messages import new_lineage
from labnet.network.replication.primary import Primary
from labnet.network.replication.replica import Replica
from labnet.network.serve import Given, Place, serve_part
from labnet.network.transport.address import Address
from tests.helpers.constants import SECONDS
from tests.helpers.network.raw_http import NATIVE, http, native
from tests.helpers.threads import wait_until

GRADIENT = native({"tensor": np.ones((1, 1), np.float32)})  # what the client sends
REPLY = native({"tensor": np.full((1, 2), 3.0, np.float32)}, form="dict", applied="yes")  # and is to get


@pytest.fixture(params=["stored", "in memory"])
def primary(request, tmp_path):
    model = ln.nn.Linear(2, 1, bias=False)
    model.weight.assign([[1.0, 2.0]])
    store = tmp_path / "store" if request.param == "stored" else None
    given = Given(model, ln.optim.SGD(lr=0.5), {}, Policy(), store)
    role = Primary(new_lineage())
    with serve_part(given, Place(0, "127.0.0.1", "model", "auto"), role) as server:
        yield server, model, role.lineage


def epoch(server):
    return server.statistics()["server"]["epoch"]


def call_of(lineage, version=0):
    return call_prefix(lineage, version) + secrets.token_hex(8)


def apply(server, call, key, *, of=None, name="weight", gradient=((1.0, 0.0),), **headers):
    """Hand a gradient to the primary as a replica does."""
    body = native(
        {f"gradient/{name}": np.asarray(gradient, np.float32), "reply": np.frombuffer(REPLY, np.uint8)}, form="dict"
    )
    fields = {
        "Content_Type": NATIVE,
        "Labnet_Call": call,
        "Idempotency_Key": f'"{key}"',
        "Labnet_Version": "0",
        "Labnet_Primary": epoch(server) if of is None else of,
        "Labnet_For": f"{len(GRADIENT)} {digest_of([GRADIENT]).hex()}",
    }
    return http(server, "POST", "/apply", body, **fields | headers)


def optimize(server, call, key):
    """Ask as the client does whose replica has died."""
    return http(
        server, "POST", "/optimize", GRADIENT, Content_Type=NATIVE, Labnet_Call=call, Idempotency_Key=f'"{key}"'
    )


def test_a_gradient_is_applied_once_and_the_client_gets_its_reply_from_the_primary(primary):
    server, model, lineage = primary
    assert epoch(server).startswith(lineage)
    call = call_of(lineage)
    for _ in range(3):
        reply = apply(server, call, "ana:1")
        assert (reply.status, reply.body, reply.headers["labnet-version"]) == (200, REPLY, "1")
    asked = optimize(server, call, "ana:1")
    assert (asked.status, asked.body, asked.headers["labnet-replayed"]) == (200, REPLY, "1")
    assert model.weight.tolist() == [[0.5, 2.0]]


def test_a_call_that_was_given_up_is_not_applied_any_more(primary):
    server, model, lineage = primary
    call = call_of(lineage)
    told = optimize(server, call, "ana:1")
    assert (told.status, told.json()["error"], told.json()["applied"]) == (410, "GraphExpired", "no")
    late = apply(server, call, "ana:2")
    assert (late.status, late.json()["applied"]) == (410, "no")
    assert model.weight.tolist() == [[1.0, 2.0]]


def test_a_call_is_applied_under_one_key_only(primary):
    server, model, lineage = primary
    call = call_of(lineage)
    assert apply(server, call, "ana:1").status == 200
    again = apply(server, call, "ana:2")
    assert (again.status, again.json()["applied"]) == (410, "yes")
    assert optimize(server, call, "ana:3").json()["applied"] == "yes"
    assert model.weight.tolist() == [[0.5, 2.0]]


def test_a_gradient_for_an_earlier_incarnation_is_applied_where_nothing_of_that_is_forgotten(primary):
    server, model, lineage = primary
    other = apply(server, call_of(lineage), "ana:1", of=secrets.token_hex(12))
    assert (other.status, other.json()["applied"]) == (410, "unknown")
    round_ = f"{secrets.token_hex(8)} 1 0"  # the others of a round are
    alone = apply(server, call_of(lineage), "ana:2", of=lineage + "00000000", Labnet_Round=round_)
    assert (alone.status, alone.json()["applied"]) == (410, "no")
    assert model.weight.tolist() == [[1.0, 2.0]]
    assert apply(server, call_of(lineage), "ana:3", of=lineage + "00000000").status == 200
    assert model.weight.tolist() == [[0.5, 2.0]]


def test_a_call_of_another_lineage_is_not_known(primary):
    server, _, _ = primary
    assert apply(server, call_of(new_lineage()), "ana:1").json()["applied"] == "unknown"


@pytest.mark.parametrize(
    ("given", "status"),
    [
        ({"name": "bias"}, 422),
        ({"gradient": [[1.0]]}, 422),
        ({"gradient": [[np.inf, 0.0]]}, 422),
        ({"Labnet_Version": "x"}, 400),
        ({"Labnet_For": "x"}, 400),
        ({"Labnet_Round": "x"}, 400),
        ({"Content_Type": "application/json"}, 415),
        ({"token": None}, 401),
    ],
)
def test_what_is_not_right_changes_nothing_and_the_call_stays_open(primary, given, status):
    server, model, lineage = primary
    call = call_of(lineage)
    assert apply(server, call, "ana:1", **given).status == status
    assert model.weight.tolist() == [[1.0, 2.0]]
    assert apply(server, call, "ana:2").status == 200


def test_weights_are_given_at_once_where_the_replica_has_others(primary):
    server, _, _ = primary
    for known in ({}, {"Labnet_Epoch": "another", "Labnet_Version": "0"}, {"Labnet_Epoch": epoch(server)}):
        reply = http(server, "GET", "/follow", **known)
        assert (reply.status, reply.headers["labnet-version"]) == (200, "0")
    assert http(server, "GET", "/follow", token=None).status == 401


def test_a_replica_follows_its_primary_again_whatever_went_wrong(primary):
    server, model, lineage = primary
    caller = Caller(Address.parse(server.url), ClientOptions(timeout=SECONDS, token=server.token))
    plain, failing = caller.call, []

    async def call(*arguments, **options):
        if failing:
            raise failing.pop()
        return await plain(*arguments, **options)

    caller.call = call
    copy = ln.nn.Linear(2, 1, bias=False)
    with serve_part(
        Given(copy, None, {}, Policy()), Place(0, "127.0.0.1", "copy", "auto"), Replica(caller, epoch(server))
    ):
        assert copy.weight.tolist() == [[1.0, 2.0]]
        failing.append(KeyError("nothing that anybody has thought of"))
        for number in (1, 2):
            assert apply(server, call_of(lineage), f"ana:{number}", Labnet_Version="0").status == 200
            wait_until(lambda: copy.weight.tolist() == model.weight.tolist())
    assert not failing


@pytest.mark.parametrize("given_up", [True, False])
@pytest.mark.parametrize("end", ["stopped", "killed"])
def test_after_a_restart_a_late_gradient_is_applied_unless_its_call_was_given_up(tmp_path, given_up, end):
    """ForwardedGradients on by a replica that was taken for dead, and follows the primary again by then."""
    model = ln.nn.Linear(2, 1, bias=False)
    model.weight.assign([[1.0, 2.0]])

    def started(port):
        given = Given(model, ln.optim.SGD(lr=0.5), {}, Policy(), tmp_path / "store")
        return serve_part(given, Place(port, "127.0.0.1", "model", "s" * 32), Primary(new_lineage()))

    first = started(0)
    try:
        caller = Caller(Address.parse(first.url), ClientOptions(timeout=SECONDS, token=first.token))
        role = Replica(caller, epoch(first))
        copy = Given(ln.nn.Linear(2, 1, bias=False), None, {}, Policy())
        with serve_part(copy, Place(0, "127.0.0.1", "copy", "auto"), role) as replica:
            x = native({"tensor": np.ones((1, 2), np.float32)})
            forward = http(replica, "POST", "/forward", x, Content_Type=NATIVE, Idempotency_Key='"ana:0"')
            call, before = forward.headers["labnet-call"], role.epoch
            if given_up:
                told = optimize(first, call, "ana:1")
                assert (told.status, told.json()["applied"]) == (410, "no")
            port = int(first.url.rpartition(":")[2].rstrip("/"))
            if end == "killed":  # what is not on the disk by now never gets there
                first._model.store.abandon()
            first.stop()
            first = started(port)
            wait_until(lambda: role.epoch != before)
            late = optimize(replica, call, "ana:2")
            if given_up:
                assert (late.status, late.json()["applied"]) == (410, "no")
            else:
                assert (late.status, late.headers["labnet-version"]) == (200, "1")
            assert first.statistics()["server"]["version"] == (0 if given_up else 1)
            assert optimize(first, call, "ana:3").json()["applied"] == ("no" if given_up else "yes")
    finally:
        first.stop()
    assert model.weight.tolist() == ([[1.0, 2.0]] if given_up else [[0.5, 1.5]])


@pytest.mark.parametrize("primary", ["stored"], indirect=True)
def test_nobody_is_told_that_a_call_is_given_up_before_that_is_written(primary, monkeypatch):
    server, model, lineage = primary
    store, call = server._model.store, call_of(lineage)

    def full(*arguments, **options):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(store._journal, "append", full)
        told = optimize(server, call, "ana:1")
        assert (told.status, told.json()["error"], told.json()["applied"]) == (503, "StorageUnavailable", "unknown")
        assert "No space left on device" in told.json()["message"]
        late = apply(server, call, "ana:1")  # nor is the replica, whose answer the client may get
        assert (late.status, late.json()["applied"]) == (503, "unknown")
    late = apply(server, call, "ana:1")
    assert (late.status, late.json()["applied"], call in store.refusals) == (410, "no", True)
    told = optimize(server, call, "ana:1")
    assert (told.status, told.json()["applied"]) == (410, "no")
    assert model.weight.tolist() == [[1.0, 2.0]]


def test_more_steps_than_are_remembered_are_taken_and_none_twice(primary):
    server, _, lineage = primary
    for known in (server._model.calls._gone, server._model.calls._keys, server._model.calls._refused):
        known.count = 5
    calls = [call_of(lineage, version) for version in range(12)]
    for version, call in enumerate(calls):
        assert apply(server, call, f"ana:{version}", Labnet_Version=str(version)).status == 200
    assert optimize(server, call_of(lineage, 12), "ben:1").json()["applied"] == "no"
    told = [apply(server, call, f"eve:{version}").json()["applied"] for version, call in enumerate(calls)]
    assert told == ["unknown"] * 8 + ["yes"] * 4
    assert server.statistics()["server"]["version"] == 12


@pytest.mark.parametrize("tail", ["", "0" * 27, "0" * 29, "g" * 28, "0" * 30_000, "_" * 28, " " * 28])
def test_ids_that_this_server_does_not_give_are_not_known_to_it(primary, tail):
    server, model, lineage = primary
    assert optimize(server, lineage + tail, "ana:1").json()["applied"] == "unknown"
    assert apply(server, lineage + tail, "ana:2").json()["applied"] == "unknown"
    assert model.weight.tolist() == [[1.0, 2.0]]


@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_replica_s_gradient_may_be_too_stale_for_the_primary(accumulate):
    model = ln.nn.Linear(2, 1, bias=False)
    role = Primary(new_lineage())
    given = Given(model, ln.optim.SGD(lr=0.5), {}, Policy(max_staleness=0, accumulate=accumulate))
    with serve_part(given, Place(0, "127.0.0.1", "model", "auto"), role) as server, ThreadPoolExecutor(2) as several:
        for version, status in ((0, 200), (0, 412), (1, 200)):
            replies = [
                several.submit(
                    apply, server, call_of(role.lineage), secrets.token_hex(4) + ":1", Labnet_Version=str(version)
                )
                for _ in range(accumulate)
            ]
            assert [reply.result().status for reply in replies] == [status] * accumulate
        assert server.statistics()["server"]["version"] == 2


def test_a_gradient_that_was_applied_is_never_called_too_stale_to_be(primary):
    server, _, lineage = primary
    server._model.updates._policy = Policy(max_staleness=0)
    call = call_of(lineage)
    assert apply(server, call, "ana:1").status == 200
    again = apply(server, call, "ana:2")  # the weights have changed since, by this very gradient
    assert (again.status, again.json()["applied"]) == (410, "yes")


@pytest.fixture
def replica(primary):
    """Give a replica of the primary, and its tie."""
    server, _, _ = primary
    role = Replica(Caller(Address.parse(server.url), ClientOptions(timeout=SECONDS, token=server.token)), epoch(server))
    copy = Given(ln.nn.Linear(2, 1, bias=False), None, {}, Policy())
    with serve_part(copy, Place(0, "127.0.0.1", "copy", "auto"), role) as running:
        yield running, role


def forward(server, key):
    x = native({"tensor": np.ones((1, 2), np.float32)})
    reply = http(server, "POST", "/forward", x, Content_Type=NATIVE, Idempotency_Key=f'"{key}"')
    return reply.headers["labnet-call"]


def test_a_replica_that_had_no_answer_never_says_that_a_call_is_not_applied(primary, replica):
    server, _, _ = primary
    copy, role = replica
    call, plain = forward(copy, "ana:0"), role._caller.call

    async def lost(method, route, *arguments, **options):
        await plain(method, route, *arguments, **options)
        raise RemoteTimeout("no answer", applied="unknown")

    role._caller.call = lost
    told = optimize(copy, call, "ana:1")
    assert (told.status, told.json()["applied"]) == (503, "unknown")
    assert server.statistics()["server"]["version"] == 1
    role._caller.call = plain
    copy._model.calls._kept.count = 1
    forward(copy, "ana:2")  # in the place of the other one
    told = optimize(copy, call, "ana:1")
    assert (told.status, told.json()["applied"]) == (410, "unknown")


def test_a_replica_goes_on_at_once_where_a_call_was_given_up(primary, replica):
    server, _, _ = primary
    copy, role = replica
    call = forward(copy, "ana:0")
    assert optimize(server, call, "ana:1").status == 410
    assert optimize(copy, call, "ana:2").status == 410
    assert role._heard > 0  # the next forward does not wait for the primary to be heard of
