"""Private keys in a TPM 2.0: made there, never leaving it; and its counter that only grows, as a
guard. Key store driver `tpm2`.

A key is a persistent object: it needs neither parent nor file when it signs, and outlives the card.
The TPM is opened for each call and left again, so nothing has to be mended once it is back. Looking
at a key takes no authorisation. A value that the TPM has refused is not given to it again.
"""

import os
import threading
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from hashlib import sha256
from pathlib import Path

from tpm2_pytss import (
    ESAPI,
    ESYS_TR,
    TPM2_ALG,
    TPM2_ECC,
    TPM2_NT,
    TPM2_RC,
    TPM2_RH,
    TPM2_ST,
    TPM2B_NV_PUBLIC,
    TPM2B_PUBLIC,
    TPM2B_SENSITIVE_CREATE,
    TPMA_NV,
    TPMA_OBJECT,
    TPMS_NV_PUBLIC,
    TPMS_SENSITIVE_CREATE,
    TPMT_SIG_SCHEME,
    TPMT_TK_HASHCHECK,
    TSS2_Exception,
)

from cryptometer.errors import ConfigurationError, Rejected
from cryptometer.keys import Algorithm, KeyLost, PublicKey, from_cose, low_s_raw
from hal.keyplace import TpmPlace, known_or_read
from hal.patience import Patience
from hal.secret import read_secret, secret_name

# A key of ours: bound to this TPM, made of its own randomness, for signatures alone. Without the
# protection against guessing: a TPM counts a power cut as a guess once such a key has been used,
# and locks after some; what is long cannot be guessed. Not `RESTRICTED`: such a key signs only what
# the TPM itself has hashed, in portions.
_OURS = (
    TPMA_OBJECT.FIXEDTPM
    | TPMA_OBJECT.FIXEDPARENT
    | TPMA_OBJECT.SENSITIVEDATAORIGIN
    | TPMA_OBJECT.USERWITHAUTH
    | TPMA_OBJECT.NODA
    | TPMA_OBJECT.SIGN_ENCRYPT
)
# A parent for the moment in which a key is made: the TPM keeps the key, and forgets the parent.
_PARENT = (
    TPMA_OBJECT.FIXEDTPM
    | TPMA_OBJECT.FIXEDPARENT
    | TPMA_OBJECT.SENSITIVEDATAORIGIN
    | TPMA_OBJECT.USERWITHAUTH
    | TPMA_OBJECT.NODA
    | TPMA_OBJECT.RESTRICTED
    | TPMA_OBJECT.DECRYPT
)
_KEY_FORM, _PARENT_FORM = "ecc256:ecdsa-sha256:null", "ecc256:null:aes128cfb"
_COUNTER = TPMA_NV.AUTHREAD | TPMA_NV.AUTHWRITE | TPMA_NV.NO_DA
_COUNTER_BYTES = 8
_COORDINATE_BYTES = 32
# No key without its protection against guessing is protected by less; and no longer than the hash
# of its name, which is all that a TPM takes.
AUTH_BYTES_MIN, AUTH_BYTES_MAX = 16, 32
_BUSY = (TPM2_RC.RETRY, TPM2_RC.YIELDED, TPM2_RC.TESTING, TPM2_RC.NV_RATE)
_AUTH_REFUSED = (TPM2_RC.BAD_AUTH, TPM2_RC.AUTH_FAIL)
_KIND_BITS = 0x00FF0000  # of a return code: the layer that it comes from; 0 for the TPM itself
_LOG = "TSS2_LOG"

# One call at a time for each TPM; and what each key's TPM has refused.
_locks: defaultdict[str, threading.RLock] = defaultdict(threading.RLock)
_refused: dict[tuple[str, int], bytes] = {}


class TpmKey:
    """A private key that a TPM holds and uses."""

    def __init__(self, place: TpmPlace, public: PublicKey) -> None:
        self.public = public
        self.where = f"TPM at {place.handle:#010x}"
        self._place = place

    def sign(self, data: bytes) -> bytes:
        place = self._place
        with _open(place) as tpm:
            key = _find(tpm, place)
            with _authorised(tpm, key, place, place.handle):
                made = tpm.sign(key, sha256(data).digest(), _SCHEME, _NOT_HASHED_THERE)
        halves = (made.signature.ecdsa.signatureR, made.signature.ecdsa.signatureS)
        r, s = (bytes(half).rjust(_COORDINATE_BYTES, b"\0") for half in halves)
        signature = low_s_raw(r + s)
        try:
            # A TPM that errs must not stop a chain for good, nor another key sign in this one's
            # name.
            self.public.verify(signature, data)
        except Rejected:
            raise KeyLost(f"the {self.where} holds another key, or signs wrongly") from None
        return signature

    def trouble(self) -> str:
        """What stands in the way of signing, as far as it shows without giving the authorisation
        value; empty if nothing does."""
        try:
            with _open(self._place) as tpm:
                if _public_of(tpm, self._place) != self.public:
                    return f"the {self.where} holds another key"
            _auth_of(self._place, self._place.handle)
        except KeyLost as lost:
            return str(lost)
        return ""


class TpmCounter:
    """A TPM's counter, that only grows: `hal.ports.Guard`."""

    def __init__(self, place: TpmPlace, index: int) -> None:
        self._place = place
        self._index = index

    def read(self) -> int | None:
        with _open(self._place) as tpm:
            counter = _find_counter(tpm, self._index)
            if not _attributes_of(tpm, counter) & TPMA_NV.WRITTEN:
                return None
            with _authorised(tpm, counter, self._place, self._index):
                return int.from_bytes(bytes(tpm.nv_read(counter, _COUNTER_BYTES)), "big")

    def advance(self) -> None:
        with _open(self._place) as tpm:
            counter = _find_counter(tpm, self._index)
            with _authorised(tpm, counter, self._place, self._index):
                tpm.nv_increment(counter)


def load_tpm_key(place: TpmPlace, known: PublicKey | None) -> TpmKey:
    """The key in a TPM.

    Args:
        place: where it is.
        known: its public half, where it is known; then the TPM may be away for now.

    Raises:
        KeyLost: it cannot be read, and is not known.
        ConfigurationError: the TPM holds another key there than the known one.
    """

    def read() -> PublicKey:
        with _open(place) as tpm:
            return _public_of(tpm, place)

    which = f"the key at {place.handle:#010x} in the TPM"
    advice = (
        "the card belongs to another board, or the handle is another meter's; else move the"
        " request away"
    )
    patience = Patience(f"TPM at {place.handle:#010x}")
    public = known_or_read(known, lambda: patience.within(read), which, advice)
    return TpmKey(place, public)


def has_tpm_key(place: TpmPlace) -> bool:
    """Whether something stands at the handle.

    Raises:
        KeyLost: the TPM is away.
    """
    with _open(place) as tpm:
        return _seek(tpm, place.handle) is not None


def create_tpm_key(place: TpmPlace) -> TpmKey:
    """Makes a key in a TPM: it stays there, and cannot be read from it. And its counter first, if
    the place names one.

    Raises:
        ConfigurationError: a key, or a counter that has counted, stands there already; it is left
            as it is. Or the TPM does not let its owner make one.
        KeyLost: the TPM is away.
    """
    auth = _auth_of(place, place.handle)
    with _open(place) as tpm:
        if _seek(tpm, place.handle) is not None:
            raise ConfigurationError(
                f"there is a key at {place.handle:#010x} in the TPM, and a key is never"
                " overwritten. To start anew, give the new one another handle"
            )
        with _as_owner():
            _make_counter(tpm, place, auth)
            _make_key(tpm, place, auth)
    key = load_tpm_key(place, None)
    key.sign(b"cryptometer: a key that was made must sign")
    return key


def create_tpm_counter(place: TpmPlace) -> bool:
    """Makes the counter of a key that stands already; False if there is one.

    Raises:
        ConfigurationError, KeyLost: as for a key.
    """
    if place.counter is None:
        return False
    auth = _auth_of(place, place.counter)
    with _open(place) as tpm:
        if _seek(tpm, place.counter) is not None:
            return False
        with _as_owner():
            _make_counter(tpm, place, auth)
    return True


def _make_key(tpm: ESAPI, place: TpmPlace, auth: bytes) -> None:
    # Not a primary key: the owner could derive that anew, with another authorisation value.
    parent = tpm.create_primary(None, TPM2B_PUBLIC.parse(_PARENT_FORM, _PARENT))[0]
    try:
        secret = TPM2B_SENSITIVE_CREATE(TPMS_SENSITIVE_CREATE(userAuth=auth))
        wrapped, public, *_ = tpm.create(parent, secret, TPM2B_PUBLIC.parse(_KEY_FORM, _OURS))
        made = tpm.load(parent, wrapped, public)
    finally:
        tpm.flush_context(parent)
    try:
        tpm.evict_control(ESYS_TR.OWNER, made, place.handle)
    finally:
        tpm.flush_context(made)


def _make_counter(tpm: ESAPI, place: TpmPlace, auth: bytes) -> None:
    """Makes it unwritten, which says that nothing was signed under it. One that stands there so,
    an earlier attempt has left."""
    if place.counter is None:
        return
    if _seek(tpm, place.counter) is not None:
        if _attributes_of(tpm, _find_counter(tpm, place.counter)) & TPMA_NV.WRITTEN:
            raise ConfigurationError(
                f"the counter at {place.counter:#010x} in the TPM has counted for another key:"
                " name another index"
            )
        return
    public = TPMS_NV_PUBLIC(
        nvIndex=place.counter,
        nameAlg=TPM2_ALG.SHA256,
        attributes=_COUNTER | (TPM2_NT.COUNTER << TPMA_NV.TPM2_NT_SHIFT),
        dataSize=_COUNTER_BYTES,
    )
    tpm.nv_define_space(auth, TPM2B_NV_PUBLIC(public))


@contextmanager
def _as_owner() -> Iterator[None]:
    try:
        yield
    except TSS2_Exception as error:
        if error.error in _AUTH_REFUSED:
            raise ConfigurationError(
                "the TPM's owner has an authorisation value, and init has none to give: clear it"
                " for the time of init (tpm2_changeauth -c owner -p OLD)"
            ) from None
        raise ConfigurationError(f"the TPM cannot make such a key: {error}") from None


@contextmanager
def _open(place: TpmPlace) -> Iterator[ESAPI]:
    """The TPM, for one call.

    Raises:
        KeyLost: it is away, busy, or refuses.
    """
    # tpm2-tss would write each refusal to standard error, at each try.
    os.environ.setdefault(_LOG, "all+none")
    with _locks[place.tcti]:
        _look_at_device(place.tcti)
        try:
            tpm = ESAPI(place.tcti)
        except (TSS2_Exception, RuntimeError) as error:
            raise KeyLost(f"the TPM at {place.tcti} does not answer: {error}") from None
        try:
            yield tpm
        except TSS2_Exception as error:
            raise KeyLost(f"the TPM {_meaning(error)}") from None
        finally:
            with suppress(TSS2_Exception, RuntimeError):
                tpm.close()


def _look_at_device(tcti: str) -> None:
    """Says of a device file what the library would not."""
    driver, _, path = tcti.partition(":")
    if driver != "device" or not path:
        return
    if not Path(path).exists():
        raise KeyLost(f"there is no TPM at {path}: does the kernel know it (dmesg, its overlay)?")
    if not os.access(path, os.R_OK | os.W_OK):
        raise KeyLost(f"{path}: permission denied; the user must be in the group tss")


def _meaning(error: TSS2_Exception) -> str:
    if error.rc & _KIND_BITS:
        return f"does not answer: {error}"
    if error.error in _BUSY:
        return f"is busy: {error}"
    if error.error == TPM2_RC.LOCKOUT:
        return (
            "is locked after wrong authorisations: wait, or tpm2_dictionarylockout --clear-lockout"
        )
    return f"refuses: {error}"


def _seek(tpm: ESAPI, handle: int) -> ESYS_TR | None:
    """What stands at a handle or an index; None if nothing does."""
    try:
        return tpm.tr_from_tpmpublic(handle)
    except TSS2_Exception as error:
        if error.error == TPM2_RC.HANDLE:
            return None
        raise


def _find(tpm: ESAPI, place: TpmPlace) -> ESYS_TR:
    found = _seek(tpm, place.handle)
    if found is None:
        raise KeyLost(
            f"there is no key at {place.handle:#010x} in the TPM; cryptometer-firmware init makes"
            " one"
        )
    return found


def _find_counter(tpm: ESAPI, index: int) -> ESYS_TR:
    found = _seek(tpm, index)
    if found is None:
        raise KeyLost(
            f"there is no counter at {index:#010x} in the TPM; cryptometer-firmware init makes one"
        )
    attributes = _attributes_of(tpm, found)
    if attributes.nt != TPM2_NT.COUNTER or attributes & TPMA_NV.ORDERLY:
        raise KeyLost(f"what stands at {index:#010x} in the TPM is no counter of ours")
    return found


def _attributes_of(tpm: ESAPI, counter: ESYS_TR) -> TPMA_NV:
    return TPMA_NV(tpm.nv_read_public(counter)[0].nvPublic.attributes)


def _public_of(tpm: ESAPI, place: TpmPlace) -> PublicKey:
    public = tpm.read_public(_find(tpm, place))[0].publicArea
    is_p256 = (
        public.type == TPM2_ALG.ECC and public.parameters.eccDetail.curveID == TPM2_ECC.NIST_P256
    )
    if not is_p256 or public.objectAttributes != _OURS:
        raise KeyLost(
            f"the key at {place.handle:#010x} in the TPM is not as init makes it: ECDSA P-256, for"
            " signatures alone, made in this TPM and bound to it"
        )
    x, y = (
        bytes(half).rjust(_COORDINATE_BYTES, b"\0")
        for half in (public.unique.ecc.x, public.unique.ecc.y)
    )
    try:
        return from_cose(PublicKey(Algorithm.ES256, x + y).to_cose())
    except Rejected as refused:
        raise KeyLost(f"the key at {place.handle:#010x} in the TPM: {refused.detail}") from None


@contextmanager
def _authorised(tpm: ESAPI, handle: ESYS_TR, place: TpmPlace, number: int) -> Iterator[None]:
    """Gives the authorisation value, unless the TPM has refused it before."""
    auth = _auth_of(place, number)
    tpm.tr_set_auth(handle, auth)
    try:
        yield
    except TSS2_Exception as error:
        if error.error not in _AUTH_REFUSED:
            raise
        _refused[place.tcti, number] = auth
        raise KeyLost(_refusal(place, number)) from None


def _auth_of(place: TpmPlace, number: int) -> bytes:
    """The authorisation value that may be given for a key or a counter.

    Raises:
        KeyLost: it cannot be read, is none, or has been refused.
    """
    auth = b""
    if place.auth is not None:
        what = "authorisation value"
        auth = read_secret(place.auth, what, is_credential=place.is_credential).encode()
        if not AUTH_BYTES_MIN <= len(auth) <= AUTH_BYTES_MAX:
            name = secret_name(place.auth, is_credential=place.is_credential)
            raise KeyLost(
                f"the {what} in {name} has {len(auth)} bytes, and must have {AUTH_BYTES_MIN} to"
                f" {AUTH_BYTES_MAX}: openssl rand -hex 16 makes one"
            )
    if _refused.get((place.tcti, number)) == auth:
        raise KeyLost(_refusal(place, number))
    return auth


def _refusal(place: TpmPlace, number: int) -> str:
    if place.auth is None:
        return f"the TPM wants an authorisation value for {number:#010x}: name its auth-source"
    name = secret_name(place.auth, is_credential=place.is_credential)
    return (
        f"the TPM refuses the authorisation value in {name} for {number:#010x}; it is not given"
        " again before it is another"
    )


_SCHEME = TPMT_SIG_SCHEME(scheme=TPM2_ALG.ECDSA)
_SCHEME.details.any.hashAlg = TPM2_ALG.SHA256
_NOT_HASHED_THERE = TPMT_TK_HASHCHECK(tag=TPM2_ST.HASHCHECK, hierarchy=TPM2_RH.NULL)
