"""The client side of a node: HTTP in, calls of a Service, HTTP out. Nothing behind it knows HTTP.

service.py         what it needs of a node
server.py          the socket: start, drain, close
connection.py      one client's connection: slow headers, malformed HTTP, one connection too many
app.py             one request: id, credential, admission, dispatch, errors, metrics
admission.py       how many requests at once
route_table.py     every route with its options, headers and answers
routes.py          what a route is, and how a path finds it
target.py          path and query as bytes: bucket, key, options
body.py            request bodies within size and time
options.py         options and headers of one operation -> core.message
data_routes.py     get, put, delete of one key
representation.py  values and siblings in JSON, msgpack or multipart
listing.py         the keys of a bucket, page by page
batch.py           many operations in one request
batch_items.py     these operations: from bytes to calls
admin_routes.py    buckets, cluster, layout, explain, health, metrics
openapi.py         the description of the routes, made from the routes
status_codes.py    error class -> status and problem document: the one table
media.py           media types: which one is asked for, and a document in it
reply.py           status, headers and body on their way out
metrics.py         counters of this room, and the registry that other rooms add theirs to
"""

from kvstore.httpapi.metrics import Metrics
from kvstore.httpapi.server import HttpServer
from kvstore.httpapi.service import Service

__all__ = ["HttpServer", "Metrics", "Service"]
