"""Private keys in PKCS#11 tokens: made there, never leaving them. Key store driver `pkcs11`.

Looking for a key, and reading its public half, takes no PIN; making a key and signing do. A PIN
that a token has refused is not given to it again: tokens lock after a few.
"""

import threading
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Protocol, cast

import pkcs11
from pkcs11 import Attribute, KeyType, Mechanism, MechanismFlag, ObjectClass, TokenFlag

from cryptometer.errors import ConfigurationError, Rejected
from cryptometer.keys import Algorithm, KeyLost, PublicKey, from_cose, low_s_raw
from hal.keyplace import TokenPlace, known_or_read
from hal.patience import Patience
from hal.secret import read_secret, secret_name

# CKA_EC_PARAMS: the curves' object identifiers in DER (RFC 8410 §3, RFC 5480 §2.1.1.1).
_CURVES = {
    Algorithm.EDDSA: bytes.fromhex("06032b6570"),
    Algorithm.ES256: bytes.fromhex("06082a8648ce3d030107"),
}
_KEY_TYPES = {Algorithm.EDDSA: KeyType.EC_EDWARDS, Algorithm.ES256: KeyType.EC}
_OCTET_STRING = 0x04  # DER's tag; also that of an uncompressed point of P-256
_PIN_REFUSED = (pkcs11.PinIncorrect, pkcs11.PinInvalid, pkcs11.PinLenRange, pkcs11.PinExpired)


class _Private(Protocol):
    """A key as `pkcs11` gives it, once it was found to be able to sign."""

    def sign(self, data: bytes, *, mechanism: Mechanism) -> bytes: ...


class _Tries:
    """What is known of the PIN for one token."""

    def __init__(self) -> None:
        self._pin: str | None = None  # the newest that was to be given
        self._why_refused = ""
        self._is_attended = False  # it is another than before: a person has been here

    def check(self, token: pkcs11.Token, pin: str) -> None:
        """Whether the PIN may be given.

        Raises:
            KeyLost: not this one, or not without a person.
        """
        if self._pin not in (None, pin):
            self._is_attended, self._why_refused = True, ""
        self._pin = pin
        if self._why_refused:
            raise KeyLost(self._why_refused)
        _check_flags(token, is_attended=self._is_attended)

    def refuse(self, why: str) -> None:
        """The token has refused the PIN."""
        self._why_refused, self._is_attended = why, False


class _Module:
    """A loaded module; a process has one of each. It is begun without locks of its own."""

    def __init__(self, path: str) -> None:
        self._path = path
        self.lock = threading.RLock()
        self.generation = 0  # sessions and objects of an earlier one are no more
        self.is_doubted = False  # what it says of its tokens may be of before
        self.tries: defaultdict[str, _Tries] = defaultdict(_Tries)

    def find(self, label: str) -> pkcs11.Token:
        """The token with this label.

        Raises:
            KeyLost: there is no such module or token, or there are several.
        """
        found = [] if self.is_doubted else self._look(label)
        if not found:
            # A module may know only what was there when it began, or be lost with its token.
            self._begin_anew()
            found = self._look(label)
        if len(found) > 1:
            raise KeyLost(f"there are {len(found)} tokens {label!r}: give each a label of its own")
        if not found:
            raise KeyLost(f"there is no token {label!r} at {self._path}")
        return found[0]

    def _look(self, label: str) -> list[pkcs11.Token]:
        if not Path(self._path).exists():
            raise KeyLost(f"there is no PKCS#11 module {self._path}: install the token's package")
        try:
            return list(pkcs11.lib(self._path).get_tokens(token_label=label))
        except (pkcs11.PKCS11Error, OSError):
            return []

    def _begin_anew(self) -> None:
        self.generation += 1
        self.is_doubted = False
        try:
            pkcs11.lib(self._path).reinitialize()
        except (pkcs11.PKCS11Error, OSError) as error:
            raise KeyLost(f"the module {self._path} cannot begin: {_why(error)}") from None


@cache
def _module(path: str) -> _Module:
    return _Module(path)


class TokenKey:
    """A private key that a token holds and uses."""

    def __init__(self, place: TokenPlace, public: PublicKey) -> None:
        self.public = public
        self.where = f"token {place.token!r}"
        self._place = place
        self._module = _module(str(place.module))
        self._private: _Private | None = None
        self._generation = -1  # of the module when `_private` was found

    def sign(self, data: bytes) -> bytes:
        with self._module.lock:
            try:
                return self._sign(data)
            except (pkcs11.PKCS11Error, Rejected):
                # The session went with the token, or with a logout: one more with a new one.
                self._private = None
            try:
                return self._sign(data)
            except Rejected:
                why = f"the {self.where} has another private key than public key, or signs wrongly"
            except pkcs11.PKCS11Error as error:
                why = f"the {self.where} does not sign: {_why(error)}"
            self._private, self._module.is_doubted = None, True
            raise KeyLost(why)

    def trouble(self) -> str:
        """What stands in the way of signing, as far as it shows without giving the PIN; empty if
        nothing does."""
        try:
            with self._module.lock:
                token = _token_of(self._place, self.public)
                _check_flags(token, is_attended=False)
            _read_pin(self._place)
        except KeyLost as lost:
            return str(lost)
        return ""

    def _sign(self, data: bytes) -> bytes:
        private = self._private
        if private is None or self._generation != self._module.generation:
            private = self._private = self._log_in()
            self._generation = self._module.generation
        if self.public.algorithm is Algorithm.EDDSA:
            signature = private.sign(data, mechanism=Mechanism.EDDSA)
        else:
            signature = low_s_raw(private.sign(sha256(data).digest(), mechanism=Mechanism.ECDSA))
        # A token that errs must not stop a chain for good, nor another key sign in this one's name.
        self.public.verify(signature, data)
        return signature

    def _log_in(self) -> _Private:
        """Gives the PIN, unless the token has refused it before, and finds the key."""
        place, tries = self._place, self._module.tries[self._place.token]
        token = _token_of(place, self.public)
        pin = _read_pin(place)
        tries.check(token, pin)
        try:
            session = _open(token, pin)
        except _PIN_REFUSED as error:
            why = (
                f"the {self.where} refuses the PIN in {_pin_name(place)} ({_why(error)}); it is not"
                " given again before it is another"
            )
            tries.refuse(why)
            raise KeyLost(why) from None
        found = _objects(session, ObjectClass.PRIVATE_KEY, place.label)
        if len(found) != 1:
            self._module.is_doubted = True
            raise KeyLost(f"the {self.where} has {len(found)} private keys {place.label!r}")
        return cast(_Private, found[0])


def load_token_key(place: TokenPlace, known: PublicKey | None) -> TokenKey:
    """The key in a token.

    Args:
        place: where it is.
        known: its public half, where it is known; then the token may be away for now.

    Raises:
        KeyLost: it cannot be read, and is not known.
        ConfigurationError: the token holds another key under this label than the known one.
    """

    def read() -> PublicKey:
        module = _module(str(place.module))
        with module.lock, _session(module.find(place.token)) as session:
            return _public_of(session, place)

    which = f"the key {place.label!r} in the token {place.token!r}"
    advice = "insert the right token, or move the request away"
    patience = Patience(f"token {place.token!r}")
    public = known_or_read(known, lambda: patience.within(read), which, advice)
    return TokenKey(place, public)


def has_token_key(place: TokenPlace) -> bool:
    """Whether a public key with this label stands in the token.

    Raises:
        KeyLost: the token is away.
    """
    module = _module(str(place.module))
    with module.lock, _session(module.find(place.token)) as session:
        return bool(_objects(session, ObjectClass.PUBLIC_KEY, place.label))


def create_token_key(place: TokenPlace, algorithm: Algorithm) -> TokenKey:
    """Makes a key in a token: it stays there, and cannot be read from it.

    Raises:
        ConfigurationError: a key with this label stands there already; it is left as it is. Or the
            token cannot make such a key.
        KeyLost: the token is away, or refuses the PIN.
    """
    module = _module(str(place.module))
    with module.lock:
        token = module.find(place.token)
        _check_flags(token, is_attended=True)
        try:
            session = _open(token, _read_pin(place), is_writing=True)
            for kind in (ObjectClass.PRIVATE_KEY, ObjectClass.PUBLIC_KEY):
                if _objects(session, kind, place.label):
                    raise ConfigurationError(
                        f"there is a key {place.label!r} in the token {place.token!r}, and a key is"
                        " never overwritten. To start anew, give the new one another label"
                    )
            _generate(session, place, algorithm)
            key = TokenKey(place, _public_of(session, place))
        except _PIN_REFUSED as error:
            raise KeyLost(
                f"the token {place.token!r} refuses the PIN in {_pin_name(place)} ({_why(error)})"
            ) from None
        except pkcs11.PKCS11Error as error:
            raise ConfigurationError(
                f"the token {place.token!r} cannot make such a key: {_why(error)}"
            ) from None
    key.sign(b"cryptometer: a key that was made must sign")
    return key


def _generate(session: pkcs11.Session, place: TokenPlace, algorithm: Algorithm) -> None:
    curve = session.create_domain_parameters(
        _KEY_TYPES[algorithm], {Attribute.EC_PARAMS: _CURVES[algorithm]}, local=True
    )
    pair = curve.generate_keypair(
        store=True,
        label=place.label,
        capabilities=MechanismFlag.SIGN | MechanismFlag.VERIFY,
        public_template={Attribute.PRIVATE: False},
        private_template={
            Attribute.PRIVATE: True,
            Attribute.SENSITIVE: True,
            Attribute.EXTRACTABLE: False,
        },
    )
    if pair[1][Attribute.EXTRACTABLE] or not pair[1][Attribute.SENSITIVE]:
        for one in pair:
            one.destroy()
        raise ConfigurationError(
            f"the token {place.token!r} makes only keys that can be read from it: it was removed"
        )


@contextmanager
def _session(token: pkcs11.Token) -> Iterator[pkcs11.Session]:
    """A session without a login, for what everybody may see."""
    try:
        session = token.open()
    except pkcs11.PKCS11Error as error:
        raise KeyLost(f"the token {token.label!r} does not answer: {_why(error)}") from None
    try:
        yield session
    except pkcs11.PKCS11Error as error:
        raise KeyLost(f"the token {token.label!r} does not answer: {_why(error)}") from None
    finally:
        with suppress(pkcs11.PKCS11Error):
            session.close()


def _token_of(place: TokenPlace, public: PublicKey) -> pkcs11.Token:
    """The token, if it holds this key."""
    token = _module(str(place.module)).find(place.token)
    with _session(token) as session:
        if _public_of(session, place) != public:
            raise KeyLost(f"the token {place.token!r} holds another key {place.label!r}")
    return token


def _open(token: pkcs11.Token, pin: str, *, is_writing: bool = False) -> pkcs11.Session:
    """A session that may sign."""
    try:
        return token.open(rw=is_writing, user_pin=pin)
    except pkcs11.UserAlreadyLoggedIn:
        return token.open(rw=is_writing)  # by another meter of this program
    except pkcs11.PinLocked:
        raise KeyLost(_locked(token.label)) from None


def _check_flags(token: pkcs11.Token, *, is_attended: bool) -> None:
    """Lets no start without a person use up the tries that a token has."""
    flags = token.flags
    if flags & TokenFlag.USER_PIN_LOCKED:
        raise KeyLost(_locked(token.label))
    is_low = flags & TokenFlag.USER_PIN_COUNT_LOW and not is_attended
    if is_low or flags & TokenFlag.USER_PIN_FINAL_TRY:
        raise KeyLost(
            f"the token {token.label!r} was given a wrong PIN, and locks after a few: log in once"
            " by hand (docs/operations.md, section 7)"
        )


def _locked(label: str) -> str:
    return f"the token {label!r} is locked after wrong PINs: unlock it with its SO PIN"


def _public_of(session: pkcs11.Session, place: TokenPlace) -> PublicKey:
    found = _objects(session, ObjectClass.PUBLIC_KEY, place.label)
    if not found:
        raise KeyLost(
            f"there is no public key {place.label!r} in the token {place.token!r};"
            " cryptometer-firmware init makes one"
        )
    if len(found) > 1:
        raise KeyLost(f"there are {len(found)} keys {place.label!r} in the token {place.token!r}")
    public = _as_public(found[0])
    if public is None:
        raise KeyLost(f"the key {place.label!r} is neither Ed25519 nor ECDSA P-256")
    try:
        return from_cose(public.to_cose())
    except Rejected as refused:
        raise KeyLost(f"the key {place.label!r}: {refused.detail}") from None


def _as_public(key: pkcs11.Object) -> PublicKey | None:
    """A public key as its attributes tell it; None if it is of another kind."""
    kind = key[Attribute.KEY_TYPE]
    if kind not in _KEY_TYPES.values():
        return None
    point, curve = _bare(bytes(key[Attribute.EC_POINT])), bytes(key[Attribute.EC_PARAMS])
    # A token may name the curve of Edwards by a text: the length tells it from the other one.
    if kind == KeyType.EC_EDWARDS and len(point) == 32:
        return PublicKey(Algorithm.EDDSA, point)
    if kind == KeyType.EC and curve == _CURVES[Algorithm.ES256] and len(point) == 65:
        return PublicKey(Algorithm.ES256, point[1:])
    return None


def _objects(session: pkcs11.Session, kind: ObjectClass, label: str) -> list[pkcs11.Object]:
    return list(session.get_objects({Attribute.CLASS: kind, Attribute.LABEL: label}))


def _bare(point: bytes) -> bytes:
    """A CKA_EC_POINT without the DER octet string around it, which some tokens leave out."""
    if len(point) in (34, 67) and point[0] == _OCTET_STRING and point[1] == len(point) - 2:
        return point[2:]
    return point


def _pin_name(place: TokenPlace) -> str:
    return secret_name(place.pin, is_credential=place.is_credential)


def _read_pin(place: TokenPlace) -> str:
    return read_secret(place.pin, "PIN", is_credential=place.is_credential)


def _why(error: Exception) -> str:
    """The return code's name, as in the standard without its CKR_; else what the library says."""
    return str(error) or type(error).__name__
