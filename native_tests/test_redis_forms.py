"""Every way to reach Redis carries events, or fails with a clear reason."""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import trustme

from native_tests.processes import Processes, wait_until
from native_tests.redis_forms import Cluster, Replicated, Wire, ending
from native_tests.test_queue import ALL, EPOCH, add, ids
from rudderpipe import settings as settings_module
from rudderpipe.errors import QueueUnavailable
from rudderpipe.process.clock import Clock
from rudderpipe.queue.queue import Queue
from rudderpipe.settings.redis_url import from_url
from rudderpipe.testing.redis_server import RedisServer


def queue_at(redis: Any, **settings: Any) -> Queue:
    """Return a queue at this address, which may be a URL or a mapping."""
    return Queue(settings_module.load({"redis": redis, **settings}, environment={}), Clock())


def documented_rights() -> list[str]:
    """Return the rights that docs/settings.md lists for a user of Redis."""
    lines = (Path(__file__).parent.parent / "docs" / "settings.md").read_text().splitlines()
    start = next(number for number, line in enumerate(lines) if line.startswith("    ~{rudder}:*"))
    return " ".join(lines[start : lines.index("", start)]).split()


def carries(processes: Processes, redis: Any) -> None:
    """Send events through a flusher and a sender to the data plane, and check that the counts balance."""
    processes.explicit["redis"] = redis
    client = processes.client()
    for number in range(50):
        assert client.track(f"u{number}", "e")
    assert processes.delivered(50)
    wait_until(lambda: processes.status().events.delivered == 50)
    assert processes.status().events.balanced
    client.shutdown()


@pytest.fixture(name="authority", scope="module")
def _authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(name="secure")
def _secure(redis_server: RedisServer, authority: trustme.CA, directory: Path) -> Iterator[dict[str, Any]]:
    """Yield the settings for a Redis behind TLS that asks for a client's certificate."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    authority.configure_trust(context)
    context.verify_mode = ssl.CERT_REQUIRED
    authority.cert_pem.write_to_path(directory / "ca.pem")
    authority.issue_cert("client.example").private_key_and_cert_chain_pem.write_to_path(directory / "client.pem")
    wire = Wire(redis_server, context)
    yield {
        "host": "127.0.0.1",
        "port": wire.port,
        "ssl": True,
        "ssl_ca_file": str(directory / "ca.pem"),
        "ssl_cert_file": str(directory / "client.pem"),
    }
    wire.close()


def test_a_socket_with_a_database_number_carries_events(processes: Processes, redis_server: RedisServer) -> None:
    """URL and mapping mean the same, and no key is written into another database."""
    carries(processes, f"{redis_server.url}?db=3")

    assert queue_at({"unix_socket_path": str(redis_server.socket), "db": 3}).counts().events_delivered == 50
    assert redis_server.text_client().info("keyspace").keys() == {"db3"}


def test_a_redis_user_with_the_documented_rights_carries_events(
    processes: Processes, redis_server: RedisServer
) -> None:
    """A wrong password or a missing right is reported without the secret."""
    redis_server.text_client().execute_command("ACL", "SETUSER", "pipe", "on", ">pa@ss/word", *documented_rights())
    wire = Wire(redis_server)
    carries(processes, f"redis://pipe:pa%40ss%2Fword@127.0.0.1:{wire.port}")

    redis_server.text_client().execute_command("ACL", "SETUSER", "pipe", "-evalsha")
    for url, reason in (
        (f"redis://pipe:wrong-secret@127.0.0.1:{wire.port}", "user or password is missing or was refused"),
        (f"redis://pipe:pa%40ss%2Fword@127.0.0.1:{wire.port}", "permission"),
    ):
        with pytest.raises(QueueUnavailable) as caught:
            queue_at(url).counts()
        assert reason in str(caught.value)
        assert "secret" not in str(caught.value)
        assert "pa@ss" not in str(caught.value)
    wire.close()


def test_tls_with_a_private_authority_and_a_client_certificate_carries_events(
    processes: Processes, secure: dict[str, Any]
) -> None:
    """URL and mapping mean the same."""
    processes.explicit["data_plane_url"] += "/"  # the settings of Redis must not depend on the data plane's URL
    query = "&".join(f"{name}={secure[name]}" for name in ("ssl_ca_file", "ssl_cert_file"))
    carries(processes, f"rediss://127.0.0.1:{secure['port']}/1?{query}")

    assert queue_at({**secure, "db": 1}).counts().events_delivered == 50


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"ssl_ca_file": None}, "CERTIFICATE_VERIFY_FAILED"),
        ({"ssl_cert_file": None}, None),
        ({"ssl_cert_file": "/nowhere.pem"}, "No such file"),
        ({"ssl": False, "ssl_ca_file": None, "ssl_cert_file": None}, None),
    ],
)
def test_wrong_tls_settings_raise_queue_unavailable(
    secure: dict[str, Any], changed: dict[str, Any], reason: str | None
) -> None:
    """Either side may refuse the connection, and no call may hang."""
    queue = queue_at({**secure, **changed})

    with pytest.raises(QueueUnavailable, match=reason):
        queue.counts()
    queue.close()


def test_sentinels_name_the_master_and_its_successor(processes: Processes, directory: Path) -> None:
    """The master is killed. Events wait in the ring until there is a new one, and none is lost."""
    with ending(Replicated(directory)) as redis:
        processes.explicit["redis"] = redis.url
        client = processes.client()
        for number in range(100):
            assert client.track(f"u{number}", "e")
        assert processes.delivered(100)

        redis.servers[0].kill()
        for number in range(100, 200):
            assert client.track(f"u{number}", "e")

        assert processes.delivered(200)
        wait_until(lambda: redis.servers[1].text_client().info("replication")["role"] == "master")
        assert redis.servers[1].text_client().info("keyspace").keys() == {"db2"}


def test_a_queue_leaves_a_master_that_has_become_a_replica(directory: Path) -> None:
    """The old master refuses writes, so the next call asks the sentinels again."""
    with ending(Replicated(directory)) as redis:
        queue = queue_at(redis.url)
        add(queue, 1)
        wait_until(lambda: redis.servers[1].text_client(2).exists(queue.keys.wait))
        sentinel = redis.sentinel()
        sentinel.execute_command("SENTINEL", "FAILOVER", "main")
        wait_until(lambda: redis.servers[0].text_client().info("replication")["role"] == "slave")

        def added() -> bool:
            try:
                add(queue, 1, 1)
            except QueueUnavailable:
                return False
            return True

        wait_until(added)
        assert ids(queue.take(*ALL)) == ["1", "2"]
        queue.close()


def test_a_cluster_keeps_the_queue_in_one_slot(processes: Processes, directory: Path) -> None:
    """All keys, ours included, are on one node, because a script may use keys of one slot only."""
    with ending(Cluster(directory)) as redis:
        carries(processes, redis.url)

        used = [server.text_client().dbsize() for server in redis.servers]
        assert sorted(used)[:2] == [0, 0]
        assert sorted(used)[2] > 0

        other = queue_at(f"redis://127.0.0.1:{redis.ports[used.index(0)]}")
        with pytest.raises(QueueUnavailable, match=r"MOVED \d+ 127.0.0.1:\d+: this is a node of a cluster"):
            add(other, 1)


def test_a_queue_follows_a_slot_that_moves(directory: Path) -> None:
    """Jobs stay, and new jobs go to the new node. A call during the move is refused and can be repeated."""
    with ending(Cluster(directory)) as redis:
        queue = queue_at(redis.url)
        add(queue, 1)
        slot = redis.ask(0, "CLUSTER", "KEYSLOT", queue.keys.wait)

        redis.move(slot, (redis.holder(slot) + 1) % 3)
        with pytest.raises(QueueUnavailable, match=str(slot)):
            add(queue, 1, 1)
        add(queue, 1, 1)

        assert ids(queue.take(*ALL)) == ["1", "2"]
        assert queue.counts(EPOCH).events_queued == 4
        queue.close()


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("redis+cluster://:secret@127.0.0.1:1,127.0.0.1:2", r"127\.0\.0\.1:1,127\.0\.0\.1:2"),
        ("redis+sentinel://:secret@127.0.0.1:1/main", "none of the sentinels that answer knows a master named main"),
    ],
)
def test_unreachable_nodes_are_named_without_a_password(url: str, reason: str) -> None:
    """An operator must see which address is wrong."""
    queue = queue_at(url)

    with pytest.raises(QueueUnavailable, match=reason) as caught:
        queue.counts()

    assert "secret" not in str(caught.value)
    assert "<" not in str(caught.value)
    assert from_url("redis+cluster://a:1").cluster_nodes == ("a:1",)
