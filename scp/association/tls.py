"""DICOM over TLS: who we are, whom we trust, and connections that the upper layer uses like plain ones.

The profile is PS3.15 B.12 (BCP 195: RFC 8996, RFC 9325), which does not negotiate down: TLS 1.2 and 1.3, authenticated
encryption with ephemeral keys, both sides with certificates.
"""

from __future__ import annotations

import socket
import ssl
import time
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Final

from study.errors import ConfigError

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

_SUITES_OF_TLS_1_2: Final = (
    "ECDHE-ECDSA-AES256-GCM-SHA384",
    "ECDHE-RSA-AES256-GCM-SHA384",
    "ECDHE-ECDSA-AES128-GCM-SHA256",
    "ECDHE-RSA-AES128-GCM-SHA256",
)
_PIECE: Final = 16_384  # the longest TLS record [bytes]


@dataclass(frozen=True)
class Identity:
    """Who we are to peers, and whose word we take for who they are: PEM files.

    Parameters
    ----------
    certificate
        Ours, followed by those between it and its authority.
    key
        Its private key, without a password.
    authorities
        Certificates of those who issue peers' certificates.
    """

    certificate: Path
    key: Path
    authorities: Path


class TLSSocket(ssl.SSLSocket):
    """A TLS connection that can be peeked into, and filled from in one call, as a plain one can."""

    failure = ""
    """Why the handshake, or reading after it, failed; "" where it did not."""

    _ahead = b""  # decrypted, and not taken yet

    def do_handshake(self, block: bool = False) -> None:
        """Shake hands; remember in words why it failed."""
        try:
            super().do_handshake(block)
        except OSError as error:
            self.failure = in_words(error)
            raise

    def recv(self, buflen: int = 1024, flags: int = 0) -> bytes:
        """Return what came, at most `buflen` bytes; MSG_PEEK leaves it, and MSG_WAITALL waits for all with it."""
        if flags & socket.MSG_PEEK:
            while len(self._ahead) < buflen and (more := self._read()):
                self._ahead += more
                if not flags & socket.MSG_WAITALL:
                    break
            return self._ahead[:buflen]
        if self._ahead:
            taken, self._ahead = self._ahead[:buflen], self._ahead[buflen:]
            return taken
        return self._read(buflen)

    def recv_into(self, buffer: WriteableBuffer, nbytes: int | None = None, flags: int = 0) -> int:
        """Put what came into `buffer` and return its length; MSG_DONTWAIT does not wait for more."""
        view = memoryview(buffer)
        wanted = nbytes or len(view)
        if flags & socket.MSG_DONTWAIT and not self.readable():
            raise BlockingIOError
        if self._ahead:
            came = self.recv(wanted)
            view[: len(came)] = came
            return len(came)
        try:
            return super().recv_into(view, wanted)
        except ssl.SSLError as error:
            self.failure = in_words(error)
            raise

    def pending(self) -> int:
        """Return how many bytes are decrypted and not taken yet."""
        return len(self._ahead) + super().pending()

    def readable(self) -> bool:
        """Tell whether there is something to read: bytes, an end, or an error.

        What poll() says of the descriptor is not enough: decrypted bytes may wait, and bytes that wait may be no more
        than a message of TLS's own, such as the session tickets of TLS 1.3.
        """
        if self.pending():
            return True
        limit = self.gettimeout()
        self.settimeout(0)
        try:
            self._ahead = self._read()
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            return False
        except OSError:
            return True
        finally:
            self.settimeout(limit)
        return True

    def shutdown(self, how: int) -> None:
        """End the connection; another thread that reads just now sees the end, and never undecrypted bytes."""
        socket.socket.shutdown(self, how)

    def _read(self, length: int = _PIECE) -> bytes:
        try:
            return super().recv(length)
        except ssl.SSLWantReadError:
            raise
        except ssl.SSLError as error:
            self.failure = in_words(error)
            raise


def calling_context(identity: Identity) -> ssl.SSLContext:
    """Return how a peer is called: its chain is verified, and that its certificate is for the host that we call.

    Files that changed since the last call are read again.

    Raises
    ------
    ConfigError
        If the files can not be used; the words say which, and why.
    """
    return _context(identity, _state(identity), listening=False)


def listening_context(identity: Identity) -> ssl.SSLContext:
    """Return how callers are let in: only with a certificate of the authorities.

    Files that changed since the last call are read again.

    Raises
    ------
    ConfigError
        As `calling_context` does.
    """
    return _context(identity, _state(identity), listening=True)


def let_in(connection: socket.socket, context: ssl.SSLContext, seconds: float) -> TLSSocket:
    """Return the connection of a caller once both have shaken hands; after `seconds` at the latest it fails.

    Raises
    ------
    OSError
        If the caller did not shake hands, or not in time; the connection is closed then.
    """
    try:
        connection.settimeout(seconds)
        secured = context.wrap_socket(connection, server_side=True, do_handshake_on_connect=False)
    except (OSError, ValueError) as error:
        connection.close()
        raise ConnectionError(str(error)) from error
    try:
        secured.do_handshake()
    except OSError:
        secured.close()
        raise
    assert isinstance(secured, TLSSocket)  # the context's class
    return secured


def days_left(identity: Identity) -> float:
    """Return for how many days our certificate is still valid.

    Raises
    ------
    ConfigError
        If the files can not be used, or the certificate is not valid now.
    """
    caller = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    caller.check_hostname = False
    caller.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    listener = listening_context(identity)
    caller.load_verify_locations(identity.certificate)
    try:
        caller.load_cert_chain(identity.certificate, identity.key)
        valid_until = _shown_to(caller, listener)
    except ssl.SSLError as error:
        raise ConfigError(f"tls.certificate: {identity.certificate}: {in_words(error)}; have it issued again") from None
    return (ssl.cert_time_to_seconds(valid_until) - time.time()) / 86_400


def _shown_to(caller_context: ssl.SSLContext, listener_context: ssl.SSLContext) -> str:
    """Return until when the certificate is valid that a listener shows, in a handshake without a network."""
    up, down = ssl.MemoryBIO(), ssl.MemoryBIO()
    caller = caller_context.wrap_bio(down, up, server_side=False)
    listener = listener_context.wrap_bio(up, down, server_side=True)
    for side in (caller, listener, caller):
        try:
            side.do_handshake()
        except ssl.SSLWantReadError:
            continue
    shown = caller.getpeercert()
    assert shown is not None
    return str(shown["notAfter"])


def _state(identity: Identity) -> tuple[int, ...]:
    """Return what tells one content of the files from another."""
    found = []
    for name in ("certificate", "key", "authorities"):
        path: Path = getattr(identity, name)
        try:
            status = path.stat()
        except OSError as error:
            raise ConfigError(f"tls.{name}: {path}: {error.strerror}; name a PEM file") from None
        found += [status.st_mtime_ns, status.st_ino, status.st_size]
    return tuple(found)


@lru_cache(maxsize=4)
def _context(identity: Identity, _state: tuple[int, ...], *, listening: bool) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER if listening else ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(":".join(_SUITES_OF_TLS_1_2))  # those of TLS 1.3 are all of the kind that is asked for
    context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION | ssl.OP_CIPHER_SERVER_PREFERENCE
    context.verify_mode = ssl.CERT_REQUIRED
    context.sslsocket_class = TLSSocket
    try:
        context.load_cert_chain(identity.certificate, identity.key, password=_no_password)
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"tls.certificate, tls.key: {identity.certificate} and {identity.key}: {in_words(error)}; "
            "give PEM files of a certificate and its own key, without a password"
        ) from None
    try:
        context.load_verify_locations(identity.authorities)
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"tls.authorities: {identity.authorities}: {in_words(error)}; give a PEM file of certificates"
        ) from None
    return context


def _no_password() -> str:
    """Answer for the person whom OpenSSL would ask at the terminal."""
    return ""


def in_words(error: Exception) -> str:
    """Return what failed in TLS, as OpenSSL names it."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"certificate verification failed: {error.verify_message}"
    if isinstance(error, ssl.SSLError) and error.reason:
        return error.reason.lower().replace("_", " ")
    if isinstance(error, TimeoutError):
        return "the other side did not finish the handshake in time"
    return (error.strerror or str(error)) if isinstance(error, OSError) else str(error)
