"""MATLAB v5 files as the official label files are written: numbers in the narrowest integer type that holds them,
small data elements, one zlib element per variable, no padding behind it.

Format: "MAT-File Format", The MathWorks, chapter 1. Only what the label files need is here.
"""

import struct
import zlib

INT8, UINT8, UINT16, INT32, UINT32, MATRIX, COMPRESSED, UTF8 = 1, 2, 4, 5, 6, 14, 15, 16
CELL, STRUCT, CHAR, DOUBLE = 1, 2, 4, 6


def element(kind, data, small=True):
    if small and 0 < len(data) <= 4:
        return struct.pack("<HH", kind, len(data)) + data.ljust(4, b"\0")
    return struct.pack("<II", kind, len(data)) + data + b"\0" * (-len(data) % 8)


def matrix(cls, dims, name, body):
    head = struct.pack("<IIII", UINT32, 8, cls, 0)
    head += element(INT32, struct.pack(f"<{len(dims)}i", *dims)) + element(INT8, name.encode())
    return struct.pack("<II", MATRIX, len(head + body)) + head + body


def numbers(values, name=""):
    largest = max(values)
    kind, code = (UINT8, "B") if largest < 256 else (UINT16, "H")
    return matrix(DOUBLE, (1, len(values)), name, element(kind, struct.pack(f"<{len(values)}{code}", *values)))


def text(value, name=""):
    data = value.encode()
    return matrix(CHAR, (1, len(data)), name, element(UTF8, data))


def cell(items, name=""):
    return matrix(CELL, (1, len(items)), name, b"".join(items))


def struct_array(rows, fields, name, slot=8):
    names = b"".join(field.encode().ljust(slot, b"\0") for field in fields)
    body = element(INT32, struct.pack("<i", slot)) + element(INT8, names, small=False)
    return matrix(STRUCT, (1, len(rows)), name, body + b"".join(value for row in rows for value in row))


def file(variables):
    out = b"MATLAB 5.0 MAT-file, Platform: GLNXA64, Created on: Thu Jan  1 00:00:00 1970".ljust(116) + b"\0" * 8
    out += b"\x00\x01IM"
    for variable in variables:
        packed = zlib.compress(variable, 9)
        out += struct.pack("<II", COMPRESSED, len(packed)) + packed
    return out
