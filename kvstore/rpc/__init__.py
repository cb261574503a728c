"""Calls between nodes: framed msgpack over long-lived TCP, authenticated by the cluster key.

In reading order:

    wire.py, decoding.py        the bytes of a message
    identity.py, handshake.py   who is there; a key per direction
    frames.py                   length, MAC, sequence number
    outbox.py                   what waits to be sent, by class
    connection.py               one socket
    calls.py, link.py           one peer as seen by who calls: deadlines, reconnecting
    peer_client.py              all of them: `ports.Peers`
    session.py, peer_server.py  the side that answers
    reporting.py                trouble, told at a bounded rate

What a frame carries is authenticated, not encrypted: whoever can read the network can read values.
"""
