"""TLS from files: for clients, and mutual between nodes; loaded again when the files change.

Between nodes a certificate of the cluster's CA is asked of both sides, and the proof of the cluster key
goes on inside (rpc/handshake.py): a stolen certificate alone lets nobody in. Names in certificates of
nodes are not compared with addresses, because nodes move. What a reload changes holds for handshakes
from then on; a CA that was taken out of its file is trusted until the next start.
"""

from __future__ import annotations

import ssl
from pathlib import Path

from kvstore.errors import ConfigError


class Certificates:
    """`server` and `client` are the contexts for each side of a connection; `client` only with a CA.

    Raises ConfigError with the file that is wrong, and the remedy.
    """

    def __init__(self, certificate: Path, key: Path, ca: Path | None = None) -> None:
        self._certificate, self._key, self._ca = certificate, key, ca
        self.files = tuple(path for path in (certificate, key, ca) if path is not None)
        self.server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        self.server.minimum_version = self.client.minimum_version = ssl.TLSVersion.TLSv1_2
        if ca is not None:
            self.server.minimum_version = self.client.minimum_version = ssl.TLSVersion.TLSv1_3
            self.server.verify_mode = ssl.CERT_REQUIRED
            self.client.check_hostname = False
        self._load(self.server)
        self._load(self.client)

    def reload(self) -> None:
        """All of it, or on an error nothing. Connections there are go on as they are."""
        self._load(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER))
        self._load(self.server)
        self._load(self.client)

    def _load(self, context: ssl.SSLContext) -> None:
        for path in self.files:
            try:
                with path.open("rb"):
                    pass
            except OSError as error:
                raise ConfigError(
                    f"cannot read {path}: {error.strerror}", advice="name a file this user can read"
                ) from None
        try:
            context.load_cert_chain(self._certificate, self._key, password=_no_password)
        except (ssl.SSLError, ValueError) as error:
            raise ConfigError(
                f"{self._certificate} and {self._key} are no certificate with its key: {_reason(error)}",
                advice="both as PEM, the certificate first in its file, the key without a passphrase",
            ) from None
        if self._ca is not None:
            try:
                context.load_verify_locations(self._ca)
            except (ssl.SSLError, ValueError) as error:
                raise ConfigError(
                    f"{self._ca} holds no CA certificates: {_reason(error)}", advice="write them as PEM"
                ) from None


def _no_password() -> str:
    """Otherwise OpenSSL asks the terminal."""
    raise ValueError("the key has a passphrase")


def _reason(error: Exception) -> str:
    return (error.reason if isinstance(error, ssl.SSLError) else None) or str(error) or "not PEM"
