"""The client library: AsyncClient and Client over one pure protocol. Imports nothing of a node.

asynchronous.py, synchronous.py    what users hold: clients and buckets; twins, line by line
async_batch.py, sync_batch.py      batches, twins as well
async_runner.py, sync_runner.py    one operation, attempt after attempt
aiohttp_transport.py, urllib3_transport.py    one attempt over the network

Rules, without waiting, clock or chance:
call.py             one operation from its first attempt to its end
retry.py            whether to send again, and what may be said in the end
routing.py          which node to ask;  circuit_breaker.py  whether it is worth asking
protocol.py         requests, and whether an answer is one
answers.py          answers into records and receipts;  problems.py  problems into errors
bucket_rules.py     a bucket: arguments to requests, answers to values;  session.py  what it has seen
batch.py, scan.py   many keys at once
options.py, names.py, endpoints.py, settings.py    what callers pass, checked
records.py          Record, Sibling, Receipt, ScanItem
codecs.py, resolvers.py    values to bytes and back; several values to one
"""

from kvstore.client import codecs, resolvers
from kvstore.client.async_batch import AsyncBatch
from kvstore.client.async_runner import AsyncPorts
from kvstore.client.asynchronous import AsyncBucket, AsyncClient
from kvstore.client.batch import BatchGet, BatchWrite
from kvstore.client.codecs import Codec
from kvstore.client.options import ALL, ANY, ONE, QUORUM, Level
from kvstore.client.records import Outcome, Receipt, Record, ScanItem, Sibling
from kvstore.client.resolvers import Resolver
from kvstore.client.retry import Policy
from kvstore.client.sync_batch import Batch
from kvstore.client.sync_runner import SyncPorts
from kvstore.client.synchronous import Bucket, Client

__all__ = [
    "ALL",
    "ANY",
    "ONE",
    "QUORUM",
    "AsyncBatch",
    "AsyncBucket",
    "AsyncClient",
    "AsyncPorts",
    "Batch",
    "BatchGet",
    "BatchWrite",
    "Bucket",
    "Client",
    "Codec",
    "Level",
    "Outcome",
    "Policy",
    "Receipt",
    "Record",
    "Resolver",
    "ScanItem",
    "Sibling",
    "SyncPorts",
    "codecs",
    "resolvers",
]
