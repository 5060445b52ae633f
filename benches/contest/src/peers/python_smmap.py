"""Python's smmap as a reader: runs the laps requested on standard input, and prints the time of each.

    READER OFFSETS LEN  ->  NANOSECONDS SUM

READER is `smmap`, `mmap` or `pread`. OFFSETS is a file of offsets, 8 bytes each. LEN is the length of a read. SUM is
the sum of the first word of each read, modulo 2**64.
"""

import array
import mmap
import os
import struct
import sys
import time

import smmap

PATH, WINDOW, BUDGET = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
word = struct.Struct("<Q").unpack_from

manager = smmap.SlidingWindowMapManager(window_size=WINDOW, max_memory_size=BUDGET)
cursor = manager.make_cursor(PATH)
descriptor = os.open(PATH, os.O_RDONLY)
whole = mmap.mmap(descriptor, 0, access=mmap.ACCESS_READ)


def by_smmap(offsets, size):
    total = 0
    for offset in offsets:
        total += word(cursor.use_region(offset, size).buffer())[0]
    return total


def by_mmap(offsets, size):
    total = 0
    for offset in offsets:
        total += word(whole, offset)[0]
    return total


def by_pread(offsets, size):
    total = 0
    for offset in offsets:
        total += word(os.pread(descriptor, size, offset))[0]
    return total


LAPS = {"smmap": by_smmap, "mmap": by_mmap, "pread": by_pread}
print("ready", ".".join(map(str, smmap.version_info)) if hasattr(smmap, "version_info") else smmap.__version__, flush=True)
for line in sys.stdin:
    reader, path, size = line.rstrip("\n").split("\t")
    offsets = array.array("Q")
    with open(path, "rb") as file:
        offsets.frombytes(file.read())
    start = time.perf_counter_ns()
    total = LAPS[reader](offsets, int(size))
    took = time.perf_counter_ns() - start
    print(took, total % 2**64, flush=True)
