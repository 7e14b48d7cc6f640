"""Asking a balancer's own checker about a file that is not live yet."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path

from mooring.core.errors import Retryable
from mooring.lb import files

_NOISE = ("Configuration file is valid", "Fatal errors found", "test failed")


class Checker:
    """Runs `command... file` and reports what it says."""

    def __init__(self, command: Sequence[str], timeout_s: float) -> None:
        self._command = tuple(command)
        self._timeout_s = timeout_s

    async def complaint(self, candidate: Path, text: str) -> str | None:
        """Write the text to `candidate` and check it: None if accepted, else the first complaint.

        Raises `Retryable` if the checker cannot be run or does not come to an end.
        """
        await asyncio.to_thread(files.write_durably, candidate, text)
        try:
            process = await asyncio.create_subprocess_exec(
                *self._command,
                str(candidate),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.STDOUT,
            )
        except OSError as error:
            raise Retryable(f"cannot run {self._command[0]}: {error}") from error
        try:
            async with asyncio.timeout(self._timeout_s):
                output, _ = await process.communicate()
        except TimeoutError as error:
            process.kill()
            await process.wait()
            raise Retryable(f"{' '.join(self._command)} took longer than {self._timeout_s:g} s") from error
        return None if process.returncode == 0 else _first_complaint(output.decode(errors="replace"))


def _first_complaint(output: str) -> str:
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    telling = [line for line in lines if "[ALERT]" in line or "[emerg]" in line]
    chosen = next((line for line in telling if not any(word in line for word in _NOISE)), None)
    return (chosen or (lines[0] if lines else "no reason given"))[:300]
