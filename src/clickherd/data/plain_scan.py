"""The scan of text without quotes: as `scan`, but 64 bytes at a look, and it also notes where every cell ends."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from clickherd.data.machine_words import equal_bytes, jit, lowest_bit

# Slots of the state that is carried from block to block, see `scan`
MODE, CELLS, CONTENT, LINE, RECORD_LINE, BLANK_LINE, RECORDS, QUOTED_LINE, STRAY_LINE, FAULT, END_LINE = range(11)
SLOTS = 11
CELL_START, PLAIN, QUOTED, QUOTE_SEEN = 0, 1, 2, 3  # modes
CELL_COUNT, BLANK, AFTER_QUOTE, MIXED_QUOTES = 1, 2, 3, 4  # faults
NEWLINE, RETURN, QUOTE = 10, 13, 34

Bytes = npt.NDArray[np.uint8]
Bounds = npt.NDArray[np.int32]

_STEP = 64


def new_bounds(num_cells: int, rows: int) -> Bounds:
    """Room for the bounds of `rows` records: cell j of record r lies in text[bounds[j, r] + 1 : bounds[j + 1, r]]."""
    stride = rows + 16 - rows % 16 + 16  # an odd number of cache lines: columns must not meet in the same lines
    bounds = np.empty((num_cells + 1, stride if stride // 16 % 2 else stride + 16), np.int32)
    bounds[0, 0] = -1
    return bounds


@jit
def scan_plain(
    block: Bytes,  # begins with the first record that the bounds are of
    start: int,
    separator: int,
    num_cells: int,
    max_records: int,
    bounds: Bounds,  # has room for `max_records`, if that is not negative
    state: npt.NDArray[np.int64],
) -> tuple[int, int]:
    """Go on from `start` until the block ends, `max_records` are complete or a fault is met.

    Returns:
        Where it stopped, and the end of the last complete record in this call (-1: none ended).
    """
    cells, content, line = state[CELLS], state[CONTENT], state[LINE]
    records, record_line, end = state[RECORDS], state[RECORD_LINE], -1
    begin = int(start)  # of the record, or of the part of it that is scanned here
    mark, newline = np.uint8(separator), np.uint8(NEWLINE)
    fault = 0
    at = int(start)
    stop = len(block)
    done = False
    while at < stop and not done:
        found = np.uint64(0)
        if at + _STEP <= stop:
            found = equal_bytes(block, at, mark) | equal_bytes(block, at, newline)
        else:
            for i in range(stop - at):
                if block[at + i] == mark or block[at + i] == newline:
                    found |= np.uint64(1) << np.uint64(i)
        while found != 0:
            place = at + lowest_bit(found)
            found &= found - np.uint64(1)
            if block[place] == mark:
                cells += 1
                if cells <= num_cells:
                    bounds[cells, records] = place
                continue
            line += 1
            if cells == 0 and content == 0:
                content = _has_content(block, begin, place)
            if cells == 0 and content == 0:
                if state[BLANK_LINE] == 0:
                    state[BLANK_LINE] = record_line
            elif state[BLANK_LINE] > 0:
                fault = BLANK
            elif cells + 1 != num_cells:
                cells += 1
                fault = CELL_COUNT
            else:
                bounds[num_cells, records] = place
                records += 1
                if records != max_records:
                    bounds[0, records] = place
                end = place + 1
                state[END_LINE] = line
            if fault > 0:
                stop = place
                done = True
                break
            cells, content, record_line = 0, 0, line
            begin = place + 1
            if records == max_records:
                stop = begin
                done = True
                break
        at += _STEP
    if fault == 0:
        if cells > 0 or (content == 0 and _has_content(block, begin, stop) > 0):
            content = 1
        if stop > start:
            last = block[stop - 1]
            state[MODE] = CELL_START if last in (mark, newline) else PLAIN
    state[CELLS], state[CONTENT], state[LINE] = cells, content, line
    state[RECORDS], state[RECORD_LINE], state[FAULT] = records, record_line, fault
    return int(stop), int(end)


@jit
def _has_content(block: Bytes, start: int, stop: int) -> int:
    """1 if there is a byte beside carriage returns, else 0."""
    for i in range(start, stop):
        if block[i] != RETURN:
            return 1
    return 0
