"""What was found missing or changed, on its way to the worker of its instance.

A binding is written by one worker at a time, so whoever only looks must not write it.  It leaves a doubt
here and puts the key into the queue; the worker turns the doubt into a state that is not settled, and the
ordinary walk does the rest.  Doubts are not stored: what is still wrong is found again by the next look.
"""

from __future__ import annotations

from collections.abc import Callable

from mooring.core.model import Binding, BindingId, SinkName


class Doubts:
    """By instance and sink: the generation that was found not to be shown, and how it was found."""

    def __init__(self, repaired: Callable[[str, str], None] = lambda sink, kind: None) -> None:
        """`repaired` is told sink and kind of each doubt that leads to a repair."""
        self._repaired = repaired
        self._raised: dict[BindingId, dict[SinkName, tuple[int, str]]] = {}

    def cast(self, key: BindingId, sink: SinkName, generation: int, kind: str) -> None:
        """What the sink was known to show for the instance is not certain any more."""
        self._raised.setdefault(key, {})[sink] = (generation, kind)

    def forget(self, key: BindingId) -> None:
        """The instance is not on the books any more."""
        self._raised.pop(key, None)

    def take(self, binding: Binding) -> Binding:
        """The binding with its doubts in it; one that has changed since is left as it is."""
        for sink, (generation, kind) in self._raised.pop(binding.id, {}).items():
            state = binding.sink(sink)
            doubted = state.doubted()
            if state.generation == generation and doubted is not state:
                binding = binding.with_sink(sink, doubted)
                self._repaired(sink, kind)
        return binding
