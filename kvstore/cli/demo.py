"""demo: the tour of a local cluster. Each step does what it says, and checks that it shows what it claims."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.client import HTTPConnection
from pathlib import Path
from secrets import token_hex
from typing import TYPE_CHECKING, Any

import click

from kvstore.cli import processes
from kvstore.cli.cluster import explained, explanation
from kvstore.cli.dev_cluster import DevCluster, DevNode, locked
from kvstore.cli.dev_logs import directory_option, the_cluster
from kvstore.cli.nodes import Target
from kvstore.cli.output import emit_json, output_option, say
from kvstore.errors import ConfigError, KVStoreError, Unavailable

if TYPE_CHECKING:
    from kvstore.client.synchronous import Bucket

BUCKET = "demo"
TOUR_S_MAX = 20.0
CALL_S = 5.0
START_S = 10.0
POLL_S = 0.05
NODES_MIN = 3


@click.command()
@directory_option
@output_option
def demo(directory: Path | None, output: str) -> None:
    """A tour of the cluster of `kvstore dev up`: siblings, a killed node, read repair. Under 20 seconds.

    Writes one key of the bucket "demo", kills one node and starts it again. Exit code 0 only if every
    step showed what it claims.

    \b
    Example:
      kvstore dev up && kvstore demo
    """
    cluster = the_cluster(directory)
    if len(cluster.nodes) < NODES_MIN:
        raise ConfigError(f"the tour needs {NODES_MIN} nodes, here are {len(cluster.nodes)}")
    for node in cluster.nodes:
        if not cluster.ready(node):
            raise Unavailable(f"{node.name} is not ready", advice="kvstore dev up")
    began_s = time.monotonic()
    tour = Tour(cluster, click.echo if output == "text" else say)
    for step in (tour.put, tour.explain, tour.diverge, tour.resolve, tour.lose_a_node, tour.repair):
        if time.monotonic() - began_s > TOUR_S_MAX:
            raise Unavailable(f"the tour takes longer than {TOUR_S_MAX:g} s: is this machine busy?")
        step()
    took_s = time.monotonic() - began_s
    tour.tell("")
    tour.tell(f"The tour took {took_s:.1f} s. The cluster is still up. Next:")
    for line in (
        f"  kvstore get {BUCKET} {tour.key} -o json",
        "  kvstore dev pause n2            and see what does not change",
        "  kvstore bucket set sessions conflict=last-write-wins ttl_s=60",
        "  kvstore status · kvstore dev logs -f · kvstore dev down",
        f"  curl -i {cluster.nodes[0].url}/v1/kv/{BUCKET}/{tour.key}",
    ):
        tour.tell(line)
    if output == "json":
        emit_json({"key": tour.key, "steps": tour.shown, "took_s": round(took_s, 3)})


class Tour:
    """The steps in order; each uses what the ones before it left. `tell` prints a line."""

    def __init__(self, cluster: DevCluster, tell: Callable[[str], Any]) -> None:
        self.cluster, self.tell = cluster, tell
        self.key = f"tour-{token_hex(3)}"
        self.shown: list[str] = []
        self._context = ""

    def put(self) -> None:
        """A put returns after W durable copies."""
        first, *_ = self.cluster.nodes
        self._begin("Store a value through one node, any node", f"kvstore put {BUCKET} {self.key} milk")
        with self._through(first) as bucket:
            receipt = bucket.put(self.key, "milk")
        self._context = receipt.context
        self.tell(
            f"  KV-Acks: {receipt.acks}/{receipt.n}: on disk at {receipt.acks} nodes before you were told"
        )
        self._check(receipt.acks >= receipt.required >= 2, "a majority has acknowledged")

    def explain(self) -> None:
        """A key lives on N nodes, in different zones."""
        self._begin("Where does it live?", f"kvstore explain {BUCKET} {self.key}")
        held = self._until(lambda found: bool(found["equal"]))
        for line in explained(held):
            self.tell(f"  {line}")
        zones = {home["zone"] for home in held["homes"]}
        self._check(len(zones) == len(held["homes"]) == 3, "three homes in three zones hold the same")

    def diverge(self) -> None:
        """Writes that do not know of each other are both kept."""
        one, other = self.cluster.nodes[0], self.cluster.nodes[1]
        self._begin(
            f"Two clients read the same and write, one through {one.name}, one through {other.name}",
            f"kvstore put {BUCKET} {self.key} … --context {self._context[:12]}…   (twice)",
        )
        for node, value in ((one, "milk, eggs"), (other, "milk, bread")):
            with self._through(node) as bucket:
                bucket.put(self.key, value, context=self._context)
        status, siblings = self._get_status(self.cluster.nodes[2])
        self.tell(f"  HTTP {status}, KV-Siblings: {siblings}: neither write is lost")
        with self._through(self.cluster.nodes[2]) as bucket:
            record = bucket.fetch(self.key)
        for sibling in record.siblings:
            self.tell(f"    {sibling.id}  {sibling.value}")
        self._context = record.context
        values = {sibling.value for sibling in record.siblings}
        self._check((status, values) == (300, {"milk, eggs", "milk, bread"}), "both values are there")

    def resolve(self) -> None:
        """Who has seen both replaces both."""
        merged = "milk, eggs, bread"
        command = f"kvstore put {BUCKET} {self.key} '{merged}' --context {self._context[:12]}…"
        self._begin("Somebody who has seen both resolves them", command)
        with self._through(self.cluster.nodes[1]) as bucket:
            bucket.put(self.key, merged, context=self._context)
        status, siblings = self._get_status(self.cluster.nodes[0])
        with self._through(self.cluster.nodes[0]) as bucket:
            value = bucket.get(self.key)
        self.tell(f"  HTTP {status}, KV-Siblings: {siblings}: {value}")
        self._check((status, value) == (200, merged), "one value is left")

    def lose_a_node(self) -> None:
        """One of three homes may be gone: W and R of 2 are still met."""
        victim = self.cluster.node(self._until(lambda found: bool(found["equal"]))["homes"][-1]["name"])
        self._victim = victim
        self._begin(f"Kill {victim.name}, a home of the key, with SIGKILL", f"kvstore dev kill {victim.name}")
        process = self.cluster.process(victim)
        self._check(process is not None and process.send(signal.SIGKILL), f"{victim.name} ran until now")
        assert process is not None
        self._check(not processes.wait_gone([process], CALL_S), f"{victim.name} is gone")
        try:
            self._write_without(victim)
        except BaseException:
            self.cluster.start(victim)  # the cluster is left as it was found
            raise

    def _write_without(self, victim: DevNode) -> None:
        others = [node for node in self.cluster.nodes if node is not victim]
        self.tell(f"  $ kvstore put {BUCKET} {self.key} 'written without {victim.name}'; kvstore get …")
        began_s = time.monotonic()
        with self._through(*others) as bucket:
            receipt = bucket.put(
                self.key, f"written without {victim.name}", context=bucket.fetch(self.key).context
            )
            value = bucket.get(self.key)
        took_ms = (time.monotonic() - began_s) * 1000
        self.tell(
            f"  KV-Acks: {receipt.acks}/{receipt.n}, read back: {value}   ({took_ms:.0f} ms for three calls)"
        )
        self._check(receipt.acks >= 2 and value == f"written without {victim.name}", "writes and reads go on")
        homes = {home["name"]: home for home in self._explanation(others[0])["homes"]}
        self._check(
            homes[victim.name]["answer"] not in ("state", "nothing"), f"{victim.name} does not answer"
        )

    def repair(self) -> None:
        """A read that asks all homes heals the one that missed a write."""
        victim = self._victim
        self._begin(f"Start {victim.name} again: it has missed a write", f"kvstore dev start {victim.name}")
        with locked(self.cluster.directory):
            self.cluster.start(victim)
        wait_until(
            lambda: self.cluster.ready(victim), START_S, f"{victim.name} is not ready after {START_S:g} s"
        )
        others = [node for node in self.cluster.nodes if node is not victim]
        missed = self._until(
            lambda found: all(home["answer"] in ("state", "nothing") for home in found["homes"]), others[0]
        )
        for line in explained(missed):
            self.tell(f"  {line}")
        if missed["equal"]:
            self.tell(f"  {victim.name} was brought up to date before we looked")
        self.tell(f"  $ kvstore get {BUCKET} {self.key} --r 3")
        with self._through(*others) as bucket:
            value = bucket.get(self.key, r=3)
        healed = self._until(lambda found: bool(found["equal"]), others[0])
        self.tell(f"  {value}")
        self.tell(f"  $ kvstore explain {BUCKET} {self.key}")
        for line in explained(healed):
            self.tell(f"  {line}")
        self._check(value == f"written without {victim.name}", "the write is there")
        self._check(healed["equal"], f"read repair has brought {victim.name} up to date")

    # --- means ------------------------------------------------------------------------------------

    def _begin(self, title: str, command: str) -> None:
        self.tell("")
        self.tell(click.style(f"{len(self.shown) + 1}. {title}", bold=True))
        self.tell(f"  $ {command}")
        self.shown.append(title)

    def _check(self, holds: bool, claim: str) -> None:
        """Raises KVStoreError if a step does not show what it claims."""
        if not holds:
            raise KVStoreError(
                f"step {len(self.shown)} ({self.shown[-1]}) did not show that {claim}",
                advice="kvstore dev status; kvstore dev logs",
            )

    @contextmanager
    def _through(self, *nodes: DevNode) -> Iterator[Bucket[str]]:
        """The demo's bucket, asked of these nodes and no others."""
        from kvstore.client.synchronous import Client

        with Client([node.url for node in nodes], follow_layout=False, timeout_s=CALL_S) as client:
            yield client.bucket(BUCKET, codec="text")

    def _get_status(self, node: DevNode) -> tuple[int, str]:
        """What curl would see: (status, KV-Siblings)."""
        connection = HTTPConnection(node.http, timeout=CALL_S)
        try:
            self.tell(f"  $ curl -i {node.url}/v1/kv/{BUCKET}/{self.key}")
            connection.request("GET", f"/v1/kv/{BUCKET}/{self.key}")
            answer = connection.getresponse()
            answer.read()
        except OSError as error:
            raise Unavailable(f"{node.name} broke off: {error}") from None
        finally:
            connection.close()
        return answer.status, answer.headers.get("KV-Siblings", "?")

    def _explanation(self, node: DevNode | None = None) -> dict[str, Any]:
        url = (node or self.cluster.nodes[0]).url
        return explanation(Target(url, str(self.cluster.directory), CALL_S), BUCKET, self.key.encode())

    def _until(self, holds: Callable[[dict[str, Any]], bool], node: DevNode | None = None) -> dict[str, Any]:
        """The first explanation of which it holds, or the last one that there was time for."""
        deadline_s = time.monotonic() + CALL_S
        while True:
            found = self._explanation(node)
            if holds(found) or time.monotonic() > deadline_s:
                return found
            time.sleep(POLL_S)


def wait_until(holds: Callable[[], bool], deadline_s: float, otherwise: str) -> None:
    """Raises Unavailable with `otherwise`."""
    end_s = time.monotonic() + deadline_s
    while not holds():
        if time.monotonic() > end_s:
            raise Unavailable(otherwise, advice="kvstore dev logs")
        time.sleep(POLL_S)
