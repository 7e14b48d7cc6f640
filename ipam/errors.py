"""What can go wrong with an address, in the two families of `core.errors`.

    Retryable
    └── PoolExhausted       nothing to give out now; a cooling address or a leaving instance may help
    Refused
    ├── PoolUnknown         no such pool, or no pool holds that address
    ├── PoolForbidden       the pool is not for this app
    ├── PoolClash           another pool has that name, that network or a part of it
    ├── PoolInUse           leases stand in the way of the change
    ├── SupernetExhausted   no subnet or no VLAN is left to make a pool from
    ├── AddressRefused      the address may never be given out (outside, excluded, reserved, a gateway)
    ├── LeaseMismatch       the lease is not in a state from which this step is possible
    └── LeaseConflict       (core)
        └── AddressTaken    the address is in another hand

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


class PoolClash(Refused):
    """A pool of that name, or one that shares addresses with it, exists."""


class PoolInUse(Refused):
    """The change would leave leases without a place; the message names the first few and the remedy."""


class SupernetExhausted(Refused):
    """Every subnet of the supernet is in a pool, or every VLAN it may use is in use."""


class AddressRefused(Refused):
    """The address is outside its pool, excluded, reserved or otherwise never given out."""


class LeaseMismatch(Refused):
    """The address has no lease, or one in a state that does not allow the step."""


class AddressTaken(LeaseConflict):
    """The address is bound to another binding."""
