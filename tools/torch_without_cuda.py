"""PyPI's torch for Linux on a machine without an NVIDIA GPU, without CUDA's libraries.

PyPI has one build of torch for Linux, which links CUDA's libraries: 3 GB that a machine without a
GPU never calls, but without which the dynamic linker does not load torch. Here torch is installed
without them, and each of these libraries is replaced by an empty one of the same name in
`torch/lib`, where torch's own run path finds it. They all load one library of some kilobytes that
has the functions torch links to, which return cudaErrorNoDevice (100): torch then has no GPU, and
`torch.cuda.is_available()` is False. The requirements of CUDA leave torch's metadata too, so that a
later `pip install` does not bring them back.

Only the standard library, and no compiler: the ELF files are written here (System V ABI, chapter
*Dynamic Linking*). The functions have no symbol versions, which glibc accepts only if they lie in
another file than the one that a versioned symbol names; hence the two levels.
"""

from __future__ import annotations

import ctypes
import mmap
import platform
import re
import struct
from collections.abc import Iterator
from pathlib import Path

from setup_steps import SetupError

FUNCTIONS = "libprdp_no_cuda.so"
CUDA_FUNCTION = re.compile(r"(cu|nccl|nv|__cuda)\w+")
CUDA_LIBRARY = re.compile(r"lib(cu|nccl|nv)[\w-]*\.so(\.\d+)+")
CUDA_REQUIREMENT = re.compile(r"Requires-Dist: (cuda-|nvidia-|triton)")
_TEXT = "CUDA is not installed"
_PAGE = 0x1000
# Return 100, and return the address of the text that lies 16 bytes after this function's start.
_CODE = {
    "x86_64": (b"\xb8\x64\0\0\0\xc3", b"\x48\x8d\x05\x09\0\0\0\xc3"),
    "aarch64": (b"\x80\x0c\x80\x52\xc0\x03\x5f\xd6", b"\x80\0\0\x10\xc0\x03\x5f\xd6"),
}
_MACHINES = {"x86_64": 62, "aarch64": 183}


def has_gpu() -> bool:
    """Whether this machine has NVIDIA's driver."""
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        return Path("/proc/driver/nvidia/version").exists()
    return True


def replace_cuda(site_packages: Path) -> None:
    """Write the libraries beside torch's own, and drop CUDA from torch's requirements."""
    if platform.machine() not in _CODE:
        raise SetupError(f"no replacement of CUDA's libraries is known for {platform.machine()}")
    folder = site_packages / "torch" / "lib"
    present = {file.name for file in folder.iterdir()}
    functions: set[str] = set()
    libraries: set[str] = set()
    for file in sorted(folder.glob("*.so")):
        undefined, needed = linked(file)
        functions.update(name for name in undefined if CUDA_FUNCTION.fullmatch(name))
        libraries.update(name for name in needed if CUDA_LIBRARY.fullmatch(name))
    (folder / FUNCTIONS).write_bytes(shared_library(FUNCTIONS, [], sorted(functions)))
    for name in libraries - present:
        (folder / name).write_bytes(shared_library(name, [FUNCTIONS], []))
    for metadata in site_packages.glob("torch-*.dist-info/METADATA"):
        lines = metadata.read_text(encoding="utf-8").splitlines(keepends=True)
        kept = [line for line in lines if not CUDA_REQUIREMENT.match(line)]
        metadata.write_text("".join(kept), encoding="utf-8")


def remove_replacements(site_packages: Path) -> bool:
    """Remove what `replace_cuda` has written; whether there was anything."""
    folder = site_packages / "torch" / "lib"
    if not (folder / FUNCTIONS).exists():
        return False
    for file in folder.iterdir():
        if file.name == FUNCTIONS or CUDA_LIBRARY.fullmatch(file.name):
            file.unlink()
    return True


def linked(file: Path) -> tuple[list[str], list[str]]:
    """The symbols that a library leaves to others, and the libraries that it needs."""
    with file.open("rb") as opened, mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as data:
        sections = dict(_sections(data))
        if 11 not in sections:  # SHT_DYNSYM
            return [], []
        texts, symbols, dynamic = sections[3], sections[11], sections[6]
        undefined = [
            _text(texts, name)
            for name, _, _, section, _, _ in struct.iter_unpack("<IBBHQQ", symbols)
            if section == 0 and name
        ]
        needed = [
            _text(texts, value) for tag, value in struct.iter_unpack("<QQ", dynamic) if tag == 1
        ]
    return undefined, needed


def _sections(data: mmap.mmap) -> Iterator[tuple[int, bytes]]:
    """Type and bytes of the dynamic section, its symbols and its strings."""
    start, size, count = *struct.unpack_from("<Q", data, 40), *struct.unpack_from("<HH", data, 58)
    headers = [struct.unpack_from("<IIQQQQIIQQ", data, start + i * size) for i in range(count)]
    for header in headers:
        kind, offset, length, link = header[1], header[4], header[5], header[6]
        if kind in (6, 11):
            yield kind, data[offset : offset + length]
        if kind == 11:
            yield 3, data[headers[link][4] : headers[link][4] + headers[link][5]]


def _text(texts: bytes, start: int) -> str:
    return texts[start : texts.index(b"\0", start)].decode()


def shared_library(name: str, needed: list[str], functions: list[str]) -> bytes:
    """An ELF shared library that defines `functions` and loads `needed`."""
    texts = _Texts()
    entries = [(1, texts.add(library)) for library in needed] + [(14, texts.add(name))]
    fails, describes = _CODE[platform.machine()]
    code = fails.ljust(16, b"\0") + describes.ljust(16, b"\0") + _TEXT.encode() + b"\0"
    symbols = struct.pack("<IBBHQQ", 0, 0, 0, 0, 0, 0)
    for function in functions:
        place = _PAGE + (16 if re.search(r"String|ErrorName", function) else 0)
        symbols += struct.pack("<IBBHQQ", texts.add(function), 0x12, 0, 1, place, 16)
    table = _hash_table(functions)
    layout = {4: table.ljust(-len(table) % 8 + len(table), b"\0"), 6: symbols, 5: bytes(texts)}
    data_at = 2 * _PAGE  # after the headers and the code, each on a separate page
    places, body = {}, b""
    for tag, content in layout.items():
        places[tag] = data_at + len(body)
        body += content.ljust(-len(content) % 8 + len(content), b"\0")
    entries += [*places.items(), (10, len(bytes(texts))), (11, 24), (0, 0)]
    dynamic_at = data_at + len(body)
    dynamic = b"".join(struct.pack("<QQ", *entry) for entry in entries)
    body += dynamic
    header = b"\x7fELF\x02\x01\x01".ljust(16, b"\0") + struct.pack(
        "<HHIQQQIHHHHHH", 3, _MACHINES[platform.machine()], 1, 0, 64, 0, 0, 64, 56, 4, 64, 0, 0
    )
    header += _segment(1, 4, 0, 64 + 4 * 56) + _segment(1, 5, _PAGE, len(code))
    header += _segment(1, 6, data_at, len(body)) + _segment(2, 6, dynamic_at, len(dynamic), 8)
    return header.ljust(_PAGE, b"\0") + code.ljust(_PAGE, b"\0") + body


def _hash_table(names: list[str]) -> bytes:
    """DT_HASH for symbols 1, 2, ...: the linker asks every library for every name."""
    buckets, chain = [0] * (len(names) or 1), [0] * (len(names) + 1)
    for symbol, name in enumerate(names, start=1):
        bucket = _hash(name) % len(buckets)
        chain[symbol], buckets[bucket] = buckets[bucket], symbol
    return struct.pack(
        f"<{2 + len(buckets) + len(chain)}I", len(buckets), len(chain), *buckets, *chain
    )


def _hash(name: str) -> int:
    value = 0
    for byte in name.encode():
        value = (value << 4) + byte
        high = value & 0xF0000000
        value = (value ^ (high >> 24)) & ~high
    return value


def _segment(kind: int, flags: int, place: int, size: int, alignment: int = _PAGE) -> bytes:
    return struct.pack("<IIQQQQQQ", kind, flags, place, place, place, size, size, alignment)


class _Texts:
    """A string table."""

    def __init__(self) -> None:
        self._bytes = b"\0"

    def add(self, text: str) -> int:
        place = len(self._bytes)
        self._bytes += text.encode() + b"\0"
        return place

    def __bytes__(self) -> bytes:
        return self._bytes
