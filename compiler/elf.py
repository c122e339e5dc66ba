"""What a linked shared object has to be: for its machine, without surprises for the loader."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from compiler.errors import CompileError

#: ELF's name of each machine that code is generated for.
MACHINES = {"x86_64": "EM_X86_64", "aarch64": "EM_AARCH64", "armv7l": "EM_ARM"}
#: Functions of the system that generated code may call: memory, mathematics, arithmetic that
#: the processor lacks; and what a C file beside it needs to ask the kernel for AMX.
_NAMES = (
    "memset memcpy memmove memcmp abort syscall __errno_location __stack_chk_fail "
    "acos acosh asin asinh atan atan2 atanh cbrt ceil copysign cos cosh erf erfc exp exp10 exp2 "
    "expm1 fabs floor fmod frexp hypot ldexp lgamma log log10 log1p log2 modf nearbyint nextafter "
    "pow remainder rint round roundeven sin sincos sinh sqrt tan tanh tgamma trunc"
)
_SYSTEM = frozenset(_NAMES.split())
_TVM = re.compile(r"TVM\w+|__tvm_\w+")
_COMPILER = re.compile(
    r"__(aeabi_\w+|gnu_[fh]2[fh]_ieee|extend\w+|trunc\w+|u?(div|mod)[dt]i[34]|fix\w+|float\w+|mul[dt]i3)"
)


@dataclass(frozen=True, slots=True)
class SharedObject:
    """What an ELF file says of itself.

    Attributes:
        machine: ELF's name, such as ``EM_AARCH64``.
        is_shared: Whether it is a shared object.
        executable_stack: Whether it wants one.
        text_relocations: Whether the loader would have to write into its code.
        undefined: Symbols that it takes from others, weak ones left out.
    """

    machine: str
    is_shared: bool
    executable_stack: bool
    text_relocations: bool
    undefined: tuple[str, ...]


def read_shared_object(path: Path) -> SharedObject:
    """Read the headers of an ELF file.

    Raises:
        CompileError: It cannot be read, or is no ELF file.
    """
    from elftools.common.exceptions import ELFError
    from elftools.elf.dynamic import DynamicSection
    from elftools.elf.elffile import ELFFile
    from elftools.elf.sections import SymbolTableSection

    try:
        with path.open("rb") as file:
            elf = ELFFile(file)
            stack = [s for s in elf.iter_segments() if s["p_type"] == "PT_GNU_STACK"]
            dynamic = next((s for s in elf.iter_sections() if isinstance(s, DynamicSection)), None)
            symbols = elf.get_section_by_name(".dynsym")
            tags = list(dynamic.iter_tags()) if dynamic is not None else []
            text = any(
                t.entry.d_tag == "DT_TEXTREL" or (t.entry.d_tag == "DT_FLAGS" and t.entry.d_val & 4)
                for t in tags
            )
            undefined = tuple(
                str(symbol.name)
                for symbol in (
                    symbols.iter_symbols() if isinstance(symbols, SymbolTableSection) else ()
                )
                if symbol.name
                and symbol["st_shndx"] == "SHN_UNDEF"
                and symbol["st_info"]["bind"] == "STB_GLOBAL"
            )
            return SharedObject(
                machine=str(elf["e_machine"]),
                is_shared=elf["e_type"] == "ET_DYN",
                # Without the header a loader takes the stack to be executable.
                executable_stack=not stack or bool(stack[0]["p_flags"] & 1),
                text_relocations=text,
                undefined=undefined,
            )
    except (OSError, ELFError) as error:
        raise CompileError(
            f"the linker's output cannot be read: {error}",
            stage="build",
            where=str(path),
            hint="check that the disk is not full",
        ) from error


def check_shared_object(path: Path, machine: str) -> SharedObject:
    """Check a linked module.

    Args:
        path: The file.
        machine: Machine that it was linked for, as ``uname -m`` prints it.

    Raises:
        CompileError: It is for another machine, wants an executable stack, has relocations in
            its code, or needs symbols that neither TVM's runtime nor the system's libraries
            have.
    """
    found = read_shared_object(path)
    wrong = []
    if found.machine != MACHINES.get(machine) or not found.is_shared:
        wrong.append(f"it is {found.machine}, no shared object for {machine}")
    if found.executable_stack:
        wrong.append("it wants an executable stack")
    if found.text_relocations:
        wrong.append("its code has relocations")
    unknown = [name for name in found.undefined if not is_expected(name)]
    if unknown:
        wrong.append(f"it needs unknown symbols: {', '.join(unknown[:5])}")
    if wrong:
        raise CompileError(
            f"the linked module is not fit to be loaded: {'; '.join(wrong)}",
            stage="build",
            where=str(path),
            hint="link with another linker (TILEWRIGHT_CROSS_LINKER=zig or gcc); if that does "
            "not help, this is a fault of Tilewright's: please report it with the model",
        )
    return found


def is_expected(symbol: str) -> bool:
    """Whether generated code may take a symbol from the process that loads it."""
    name = symbol.partition("@")[0]
    base = name[:-1] if name.endswith(("f", "l")) else name
    return bool(
        name in _SYSTEM or base in _SYSTEM or _TVM.fullmatch(name) or _COMPILER.fullmatch(name)
    )


__all__ = ["MACHINES", "SharedObject", "check_shared_object", "is_expected", "read_shared_object"]
