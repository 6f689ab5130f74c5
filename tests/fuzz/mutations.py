"""Mutations of texts, as by a user or a faulty disk: `mutated`.

Three in five are small and preserve the structure (a value replaced by one of another file, a
slightly larger number, a line removed, duplicated or moved), so that some of them parse and reach
the checks between values. The others cut, repeat, splice and swap bytes, words and lines anywhere.
"""

import random
import re
from collections.abc import Sequence

SCALAR = re.compile(rb'"(?:[^"\\\n]|\\.)*"|[-+]?\d+(?:\.\d+)?(?:e[-+]?\d+)?|[A-Za-z_][\w/-]*')
VALUE = re.compile(rb"(?:" + SCALAR.pattern + rb")(?![\w\"-]|\s*[:=]|\.\w)")  # not a key
VALUES = (
    b"null", b"0", b"1", b"-1", b"2", b"3", b"1000", b"1000000000", b"0.5", b"1e-9", b"1e999",
    b".nan", b"true", b"false", b"input", b"[]", b"{}", b"[3, 5]", b"[2, 1, 3]", b"same", b'"NaN"',
    b'"x"', b'"Infinity"', b'"-Infinity"', b"9" * 20, b"cifar10", b"imagenette", b"tie",
)  # fmt: skip
WORDS = (
    b"null", b"-1", b"0", b"1e999", b".nan", b".inf", b"[]", b"{}", b"true", b"~", b"010", b"0x1F",
    b"*a", b"&a ", b"<<: ", b"!!python/object:os.system ", b"!!binary ", b"---\n", b"...\n", b"\t",
    b"extends: ../../etc/passwd\n", b"extends: .\n", b"\xff", b"\x00", b"\xed\xa0\x80",
    b"\xef\xbb\xbf", b"99999999999999999999", b"9" * 5000, b"- " * 400, b"[" * 400,
    b"{a: " * 300, b"'", b'"', b": ",
    b"tie: conv1", b"inputs: [a, b]", b"op: conv", b"op: concat", b"seeds: 1000000000",
    b"kernel: 99", b'"NaN"', b'"Infinity"', b'"format_version": 4', b"\\ud800", b"\\u0000",
    b"2025-11-23T06:30:12Z",
)  # fmt: skip
LONGEST = 20_000


def mutated(rng: random.Random, corpus: Sequence[bytes], data: bytes | None = None) -> bytes:
    """A text, or one from the corpus, with one to six mutations."""
    text = rng.choice(corpus) if data is None else data
    if rng.random() < 0.6:
        for _ in range(rng.randint(1, 3)):
            text = edited(rng, corpus, text)
        return text[:LONGEST]
    content = bytearray(text)
    for _ in range(rng.randint(1, 6)):
        content = _broken(rng, corpus, content)
    return bytes(content[:LONGEST])


def edited(rng: random.Random, corpus: Sequence[bytes], text: bytes) -> bytes:
    """One value replaced, or one line removed, duplicated, moved or inserted."""
    found = list((VALUE if rng.random() < 0.9 else SCALAR).finditer(text))
    if found and rng.random() < 0.6:
        start, end = rng.choice(found).span()
        return text[:start] + _other(rng, corpus, text[start:end]) + text[end:]
    lines = text.split(b"\n")
    at, to = rng.randrange(len(lines)), rng.randint(0, len(lines))
    match rng.randrange(4):
        case 0:
            del lines[at]
        case 1:
            lines.insert(at, lines[at])
        case 2:
            lines.insert(to, lines.pop(at))
        case _:
            lines.insert(to, rng.choice(rng.choice(corpus).split(b"\n")))
    return b"\n".join(lines)


def _other(rng: random.Random, corpus: Sequence[bytes], value: bytes) -> bytes:
    """A random replacement for a value."""
    number = re.fullmatch(rb"[-+]?\d{1,9}", value)
    if number and rng.random() < 0.4:
        old = int(value)
        return str(rng.choice((old - 1, old + 1, 2 * old, -old, 10 * old, old // 2))).encode()
    if rng.random() < 0.3:
        return rng.choice(VALUES)
    others: list[bytes] = SCALAR.findall(rng.choice(corpus))
    alike = [other for other in others if _kind(other) == _kind(value)]
    return rng.choice(alike or others or [b"0"])


def _kind(value: bytes) -> int:
    """A quoted string, a word or a number."""
    return 0 if value.startswith(b'"') else 1 if value[:1].isalpha() else 2


def _broken(rng: random.Random, corpus: Sequence[bytes], data: bytearray) -> bytearray:
    """A mutation that ignores the structure."""
    at, to = sorted(rng.randint(0, len(data)) for _ in range(2))
    match rng.randrange(7):
        case 0:
            data[at:to] = b""
        case 1:
            data[at:at] = rng.choice(WORDS)
        case 2:
            data[at:to] = rng.choice(WORDS)
        case 3 if data:
            data[min(at, len(data) - 1)] = rng.randrange(256)
        case 4:
            data[at:at] = data[at:to] * rng.randint(1, 3)
        case 5:
            other = rng.choice(corpus)
            cut = rng.randint(0, len(other))
            data[at:to] = other[cut : cut + rng.randint(0, 200)]
        case _:
            lines = data.split(b"\n")
            rng.shuffle(lines)
            data = bytearray(b"\n".join(lines)) if rng.random() < 0.2 else data
    return data
