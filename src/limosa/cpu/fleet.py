"""The CPU flags of many hosts as rows of 64-bit words, equal hosts folded first. Pure; the agent never imports it.

A fleet of 100,000 machines has a few dozen kinds of them. So hosts that are the same are folded into one *class*
by a dictionary, and whatever is asked of the fleet is asked of its classes. The words of a mask are columns here:
`lacks[w]` holds word `w` of every class, inverted, so that one `&` of it with a guest's word leaves what is missing.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Words = NDArray[np.uint64]
Truth = NDArray[np.bool_]

WORD = np.dtype("<u8")
BLOCK_BYTES = 256 * 1024
"""Intermediate results of this size stay in a core's own cache."""


class Hard(NamedTuple):
    """What no mask can say: a guest stays with its vendor, and with at least the address bits it was told of.

    Empty and 0 mean that the source did not tell; a host that did not tell takes no guest of one that did.
    """

    vendor: str = ""
    address_bits: int = 0

    def within(self, other: Hard) -> bool:
        """Whether a guest that saw all this may run where `other` is true."""
        return self.vendor == other.vendor and self.address_bits <= other.address_bits


class Host(NamedTuple):
    """A host as the fleet's arithmetic sees it; `flags` has bit N for registry position N."""

    name: str
    flags: int
    hard: Hard = Hard()


@dataclass(frozen=True)
class Fleet:
    """Hosts folded into classes.

    Attributes:
        names: every host, in the order given.
        kinds: the mask and the hard facts of each class, in the order in which they were met.
        class_of: for each host the index of its class.
    """

    names: tuple[str, ...]
    kinds: tuple[tuple[int, Hard], ...]
    class_of: NDArray[np.intp]

    @cached_property
    def words(self) -> Words:
        """Masks of the classes as columns: shape (words, classes)."""
        return pack([flags for flags, _ in self.kinds])

    @cached_property
    def lacks(self) -> Words:
        """The same, inverted: what each class has not."""
        return np.invert(self.words)

    @cached_property
    def members(self) -> tuple[tuple[str, ...], ...]:
        """Names of the hosts of each class."""
        found: list[list[str]] = [[] for _ in self.kinds]
        for name, index in zip(self.names, self.class_of.tolist(), strict=True):
            found[index].append(name)
        return tuple(map(tuple, found))


def fold(hosts: Iterable[Host]) -> Fleet:
    """Put hosts with equal masks and equal hard facts into one class."""
    names, class_of = [], []
    classes: dict[tuple[int, Hard], int] = {}
    for name, flags, hard in hosts:
        names.append(name)
        class_of.append(classes.setdefault((flags, hard), len(classes)))
    return Fleet(tuple(names), tuple(classes), np.array(class_of, dtype=np.intp))


def pack(masks: Sequence[int], words: int | None = None) -> Words:
    """Masks as columns of 64-bit words, the lowest word first: shape (words, masks), as many words as the widest needs.

    Raises:
        OverflowError: a mask is negative, or wider than `words`.
    """
    count = words or max(1, -(-max((mask.bit_length() for mask in masks), default=1) // 64))
    rows = b"".join(mask.to_bytes(count * 8, "little") for mask in masks)
    return np.ascontiguousarray(np.frombuffer(rows, WORD).reshape(len(masks), count).T, dtype=np.uint64)


def takers(fleet: Fleet, guest: int, hard: Hard | None = None) -> Truth:
    """For each host: does it have every flag of this guest, and its hard facts, where they are given?"""
    fits = has_all(fleet.lacks, guest)
    if hard is not None:
        fits &= np.fromiter((hard.within(there) for _, there in fleet.kinds), np.bool_, len(fleet.kinds))
    return fits[fleet.class_of]


def has_all(lacks: Words, guest: int) -> Truth:
    """For each column of inverted words: does it have every flag of this mask?"""
    words, columns = lacks.shape
    if guest >> (64 * words):
        return np.zeros(columns, np.bool_)
    asked = [(word, bits) for word, (bits,) in enumerate(pack([guest], words)) if bits]
    fits = np.ones(columns, np.bool_)
    for part in _blocks(columns, bytes_each=8):
        missing = np.zeros(fits[part].shape, np.uint64)
        scratch = np.empty_like(missing)
        for word, bits in asked:
            missing |= np.bitwise_and(lacks[word, part], bits, out=scratch)
        np.equal(missing, 0, out=fits[part])
    return fits


def common(fleet: Fleet) -> int:
    """The flags that every host has.

    Raises:
        ValueError: the fleet is empty: every flag there is would be the answer.
    """
    if not fleet.kinds:
        raise ValueError("no hosts: there is nothing that they have in common")
    return int.from_bytes(np.bitwise_and.reduce(fleet.words, axis=1).astype(WORD).tobytes(), "little")


def flags_within(words: Words) -> Truth:
    """Row i, column j: does mask j have every flag of mask i? Shape (masks, masks)."""
    found = np.empty((words.shape[1], words.shape[1]), np.bool_)
    for part, rows in rows_within(words, np.invert(words)):
        found[part] = rows
    return found


def rows_within(inner: Words, lacks: Words) -> Iterator[tuple[slice, Truth]]:
    """The same for two sets of masks, some rows at a time: their slice, and which of `lacks` have all of each."""
    for part, missing in missing_words(inner, lacks):
        left = np.zeros((part.stop - part.start, lacks.shape[1]), np.uint64)
        for word in missing:
            left |= word
        yield part, left == 0


def within(fleet: Fleet) -> Truth:
    """Row i, column j: may a guest that saw all of class i run on class j? Masks and hard facts."""
    return flags_within(fleet.words) & hard_within([hard for _, hard in fleet.kinds])


def hard_within(facts: Sequence[Hard]) -> Truth:
    """The same for the hard facts alone: few are distinct, so each pair of those is asked once."""
    distinct = list(dict.fromkeys(facts))
    place = {hard: index for index, hard in enumerate(distinct)}
    which = np.array([place[hard] for hard in facts], np.intp)
    table = np.array([[one.within(other) for other in distinct] for one in distinct], np.bool_)
    return table.reshape(len(distinct), len(distinct))[np.ix_(which, which)]


def missing_counts(words: Words) -> NDArray[np.uint16]:
    """Row i, column j: how many flags of mask i does mask j lack? Shape (masks, masks)."""
    count = words.shape[1]
    found = np.zeros((count, count), np.uint16)
    for part, missing in missing_words(words, np.invert(words)):
        for word in missing:
            found[part] += np.bitwise_count(word)
    return found


def missing_words(inner: Words, lacks: Words) -> Iterator[tuple[slice, Iterator[Words]]]:
    """What columns of `lacks` miss of columns of `inner`, in blocks of the latter and word by word.

    Yields:
        A block's slice of `inner`, and its words: shape (block, columns of `lacks`). Each word lies where the one
        before it lay, and words in which nobody misses anything are left out.
    """
    asked = np.bitwise_or.reduce(inner, axis=1) & np.bitwise_or.reduce(lacks, axis=1)
    telling = np.flatnonzero(asked).tolist()
    columns = lacks.shape[1]
    for part in _blocks(inner.shape[1], bytes_each=8 * columns):
        scratch = np.empty((part.stop - part.start, columns), np.uint64)
        yield part, (np.bitwise_and(inner[word, part, None], lacks[word], out=scratch) for word in telling)


def _blocks(items: int, *, bytes_each: int) -> Iterator[slice]:
    size = max(1, BLOCK_BYTES // max(1, bytes_each))
    return (slice(start, min(start + size, items)) for start in range(0, items, size))
