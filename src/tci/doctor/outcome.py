"""Carries out one attack in a running sandbox and reads how it ended."""

from dataclasses import dataclass

from tci.doctor.attacks import Attack
from tci.doctor.attacks.toolkit import Target
from tci.errors import InvalidFile
from tci.kernel.client import KernelClient
from tci.kernel.output_buffer import OutputBuffer

OUTPUT_BYTES = 64 * 1024

UPLOADED = b"uploaded"


@dataclass(frozen=True, slots=True)
class Outcome:
    """How an attack ended."""

    attack: Attack
    is_held: bool
    detail: str
    """What stopped it, or what it reached."""


async def try_attack(kernel: KernelClient, attack: Attack, target: Target) -> Outcome:
    """Carry out an attack. Waits for ever: set a deadline.

    Anything but a clear word that it was held counts as open.
    """
    if preparation := attack.preparation(target):
        await run(kernel, preparation)
        for name in attack.uploads:
            try:
                await kernel.put({name: UPLOADED})
            except InvalidFile:  # a name that leads elsewhere may be refused
                continue
    printed = await run(kernel, attack.code(target))
    last = (printed.strip().splitlines() or ["open: it said nothing"])[-1]
    verdict, _, detail = last.partition(": ")
    if verdict not in {"held", "open"}:
        return Outcome(attack, is_held=False, detail=f"it said {last[:500]}")
    return Outcome(attack, is_held=verdict == "held", detail=detail)


async def run(kernel: KernelClient, code: str) -> str:
    """Run code and return all that it showed."""
    outputs = OutputBuffer(limit=OUTPUT_BYTES)
    await kernel.execute(code, outputs)
    return "".join(str(output.data) for output in outputs.outputs().items())
