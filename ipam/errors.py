"""What can go wrong with an address, in the two families of `core.errors`.

    Retryable
    └── PoolExhausted      nothing to give out now; a cooling address or a leaving instance may help
    Refused
    ├── PoolUnknown        no such pool, or no pool holds that address
    ├── PoolForbidden      the pool is not for this app
    ├── AddressRefused     the address may never be given out (outside, excluded, reserved, a gateway)
    ├── LeaseMismatch      the lease is not in a state from which this step is possible
    └── LeaseConflict      (core)
        └── AddressTaken   the address is in another hand

None of them names a label: a caller that knows which label asked for this can say so.
"""

from __future__ import annotations

from mooring.core.errors import LeaseConflict, Refused, Retryable


class PoolExhausted(Retryable):
    """No address to give out now. `after_s` is when the next cooling one may be taken, if any cools."""


class PoolUnknown(Refused):
    """No pool has that name, or none contains that address."""


class PoolForbidden(Refused):
    """The pool's groups do not include the app."""


class AddressRefused(Refused):
    """The address is outside its pool, excluded, reserved or otherwise never given out."""


class LeaseMismatch(Refused):
    """The address has no lease, or one in a state that does not allow the step."""


class AddressTaken(LeaseConflict):
    """The address is bound to another binding."""
