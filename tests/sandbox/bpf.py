"""Runs a compiled filter as the kernel does: the few instructions of classic BPF that libseccomp makes use of."""

import struct
from collections.abc import Callable, Sequence

LOAD, RETURN, JUMP, AND = 0x20, 0x06, 0x05, 0x54
"""BPF_LD|W|ABS, BPF_RET|K, BPF_JMP|JA and BPF_ALU|AND|K, from linux/bpf_common.h."""

CONDITIONS: dict[int, Callable[[int, int], bool]] = {
    0x15: lambda accumulator, constant: accumulator == constant,
    0x25: lambda accumulator, constant: accumulator > constant,
    0x35: lambda accumulator, constant: accumulator >= constant,
    0x45: lambda accumulator, constant: bool(accumulator & constant),
}
"""BPF_JMP|K with JEQ, JGT, JGE and JSET."""


def decide(program: bytes, *, architecture: int, number: int, arguments: Sequence[int]) -> int:
    """Return the 32 bits that a filter returns for a call: SECCOMP_RET_..., see seccomp(2)."""
    instructions = list(struct.iter_unpack("<HBBI", program))
    # struct seccomp_data: number, architecture, address of the instruction, six arguments
    data = struct.pack("<IIQ6Q", number, architecture, 0, *(argument % 2**64 for argument in arguments))
    accumulator = position = 0
    while True:
        code, if_true, if_false, constant = instructions[position]
        position += 1
        if code == LOAD:
            (accumulator,) = struct.unpack_from("<I", data, constant)
        elif code == AND:
            accumulator &= constant
        elif code == JUMP:
            position += constant
        elif code == RETURN:
            return int(constant)
        else:
            position += if_true if CONDITIONS[code](accumulator, constant) else if_false
