"""The Ed25519 keys of the seals: a file with the private key, and public keys to verify with.

Both are PEM, as OpenSSL writes and reads them. The library is imported inside the functions: only what seals or
verifies needs the extra `encryption`.
"""

from __future__ import annotations

import base64
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from bindings import secret_files
from bindings.errors import InvalidRequest
from bindings.extras import require_extra
from bindings.sealing.encoding import sha256

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

EXTRA = "encryption"
KEY_ID_LENGTH = 16
MAX_FILE_BYTES = 1_000_000
_PUBLIC_PEM = re.compile(r"-----BEGIN PUBLIC KEY-----.*?-----END PUBLIC KEY-----\n?", re.DOTALL)


@dataclass(frozen=True, slots=True)
class SigningKey:
    """A private key; its text shows nothing of it."""

    _private: Ed25519PrivateKey

    def __repr__(self) -> str:
        return f"SigningKey({self.key_id})"

    @property
    def key_id(self) -> str:
        """Return the id of its public key."""
        return _key_id(self._private.public_key())

    @property
    def public_pem(self) -> str:
        """Return its public key as PEM."""
        from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

        public = self._private.public_key()
        return public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()

    def sign(self, text: str) -> str:
        """Return the signature of a text, in base64."""
        return base64.b64encode(self._private.sign(text.encode())).decode()

    def has_signed(self, text: str, signature: str) -> bool:
        """Return whether the signature of the text is that of this key: the algorithm gives a text only one."""
        return signature == self.sign(text)


class PublicKeys:
    """The public keys that signatures are compared with, by their ids."""

    def __init__(self, pem: str, field: str) -> None:
        with require_extra(EXTRA, field=field):
            from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
            from cryptography.hazmat.primitives.serialization import load_pem_public_key
        self._keys: dict[str, Ed25519PublicKey] = {}
        for block in _PUBLIC_PEM.findall(pem):
            try:
                key = load_pem_public_key(block.encode())
            except ValueError:
                key = None
            if not isinstance(key, Ed25519PublicKey):
                raise InvalidRequest.of_field(field, "must have Ed25519 public keys only, as PEM")
            self._keys[_key_id(key)] = key
        if not self._keys:
            raise InvalidRequest.of_field(field, "must have a public key: a PEM block PUBLIC KEY")

    def __contains__(self, key_id: str) -> bool:
        return key_id in self._keys

    def verify(self, key_id: str, text: str, signature: str) -> bool:
        """Return whether the signature of the text is that of the key with this id."""
        from cryptography.exceptions import InvalidSignature

        try:
            self._keys[key_id].verify(base64.b64decode(signature, validate=True), text.encode())
        except (InvalidSignature, ValueError, KeyError):
            return False
        return True


def create_key_file(path: str, field: str) -> SigningKey:
    """Create a file with a new private key, readable by its owner only, and return the key.

    Raises `InvalidRequest` if the file exists or cannot be written; nothing is overwritten. Not safe to repeat.
    """
    with require_extra(EXTRA, field=field):
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
        from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
    private = Ed25519PrivateKey.generate()
    pem = private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    try:
        secret_files.create(path, pem)
    except FileExistsError:
        raise InvalidRequest.of_field(field, "must name a new file: it exists, and was not changed") from None
    except OSError as error:
        raise InvalidRequest.of_field(field, f"must be writable: {error.strerror}") from None
    return SigningKey(private)


def load_signing_key(path: str, field: str) -> SigningKey:
    """Return the private key of a file. Raises `InvalidRequest` that names `field`, without the file's content.

    Other users must not be allowed to use the file; its group may, if another user owns it.
    """
    with require_extra(EXTRA, field=field):
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
        from cryptography.hazmat.primitives.serialization import load_pem_private_key
    content, mode = _read(path, field)
    if mode is not None:
        raise InvalidRequest.of_field(
            field, f"names a file that allows other users ({mode}); run `chmod 600` on it"
        )
    try:
        private = load_pem_private_key(content, password=None)
    except (ValueError, TypeError):
        private = None
    if not isinstance(private, Ed25519PrivateKey):
        message = "must name a file with an Ed25519 private key, as `bindings audit new-key` writes it"
        raise InvalidRequest.of_field(field, message)
    return SigningKey(private)


def load_public_keys(paths: Sequence[str], field: str) -> PublicKeys:
    """Return the public keys of the files. Raises `InvalidRequest` that names `field`."""
    return PublicKeys("\n".join(_read(path, field)[0].decode("ascii", "replace") for path in paths), field)


def _read(path: str, field: str) -> tuple[bytes, str | None]:
    """Return the content of a file, and its mode if other users may use it."""
    try:
        return secret_files.read(path, max_bytes=MAX_FILE_BYTES)
    except (OSError, ValueError) as error:
        cause = secret_files.cause(error)
        raise InvalidRequest.of_field(field, f"names a file that cannot be read: {cause}") from None


def _key_id(key: Ed25519PublicKey) -> str:
    return sha256(key.public_bytes_raw())[:KEY_ID_LENGTH]
