"""Damaged copies of files: bytes changed at random, and values exchanged for others."""

import copy
import json
import math
import random
import sqlite3

# What a field never holds, or holds seldom.
NASTY = (
    None, True, -1, 0, 10**18, 2**63, 10**400, 1e308, -1e308, 5e-324, 1e999, math.nan, "",
    "x" * 5000, "\x1b[31mred\x1b[0m", "\u202egnp", "\ud800", "a\nb", "<script>", "$x$", "../../x",
    "#2166ac",
    "[/red]", [], {}, [[]], [1, "a"], {"type": "Nothing"}, {"type": []},
)  # fmt: skip


def bytes_changed(raw: bytes, rng: random.Random) -> bytes:
    """The bytes after one to three changes: flipped, cut, put in, exchanged, or zeroed."""
    changed = bytearray(raw)
    for _ in range(rng.randint(1, 3)):
        at = rng.randrange(len(changed) + 1)
        size = rng.choice((1, 1, 2, 8, 100))
        kind = rng.randrange(6)
        if kind == 0 and at < len(changed):
            changed[at] ^= 1 << rng.randrange(8)
        elif kind == 1:
            del changed[at:]
        elif kind == 2:
            changed[at:at] = rng.randbytes(size)
        elif kind == 3:
            changed[at : at + size] = rng.randbytes(min(size, len(changed) - at))
        elif kind == 4:
            changed[at : at + size] = bytes(min(size, len(changed) - at))
        else:
            del changed[at : at + size]
    return bytes(changed)


def value_changed(plain, rng):
    """JSON data with one value exchanged, removed, renamed or nested deeply."""
    plain = copy.deepcopy(plain)
    places = [(plain, key) for key in _keys(plain)]
    for parent, key in places:
        places += [(parent[key], below) for below in _keys(parent[key])]
    if not places:
        return rng.choice(NASTY)
    parent, key = rng.choice(places)
    kind = rng.randrange(8)
    if kind == 0:
        del parent[key]
    elif kind == 1 and isinstance(parent, dict):
        parent[rng.choice([one for one in NASTY if isinstance(one, str)])] = parent.pop(key)
    elif kind == 2:
        deep = parent[key]
        for _ in range(rng.choice((2, 70, 200))):
            deep = [deep] if rng.random() < 0.5 else {"type": deep}
        parent[key] = deep
    else:
        parent[key] = rng.choice(NASTY)
    return plain


def _keys(plain):
    if isinstance(plain, dict):
        return list(plain)
    return list(range(len(plain))) if isinstance(plain, list) else []


def json_changed(raw: bytes, rng: random.Random) -> bytes:
    """JSON text with a value changed, or its bytes."""
    if rng.random() < 0.3:
        return bytes_changed(raw, rng)
    return dumped(value_changed(json.loads(raw), rng))


def dumped(plain) -> bytes:
    """JSON text of values that have no end but for their depth."""
    return json.dumps(plain).encode()


def safetensors_changed(raw: bytes, rng: random.Random) -> bytes:
    """A safetensors file with a header that lies, or other bytes."""
    if rng.random() < 0.3:
        return bytes_changed(raw, rng)
    size = int.from_bytes(raw[:8], "little")
    header = json.loads(raw[8 : 8 + size])
    for _ in range(rng.randint(1, 2)):
        if rng.random() < 0.5 and isinstance(header, dict):
            name = rng.choice([name for name in header if name != "__metadata__"] or ["x"])
            entry = header.get(name)
            if isinstance(entry, dict):
                lies = {
                    "dtype": rng.choice(("F64", "F8_E4M3", "I64", "F4", "", 3)),
                    "shape": rng.choice(([10**10], [], [-1], [1] * 40, [2**62, 4], "x")),
                    "data_offsets": rng.choice(([0, 0], [0, 10**12], [5, 3], [-8, 8], [])),
                }
                field = rng.choice(list(lies))
                entry[field] = lies[field]
        else:
            header = value_changed(header, rng)
    text = dumped(header)
    return len(text).to_bytes(8, "little") + text + raw[8 + size :]


def ledger_changed(file, rng: random.Random) -> None:
    """Change a cell, a page or the schema of an SQLite file."""
    if rng.random() < 0.4:
        file.write_bytes(bytes_changed(file.read_bytes(), rng))
        return
    connection = sqlite3.connect(file)
    connection.execute("PRAGMA ignore_check_constraints = ON")
    query = "SELECT name FROM sqlite_master WHERE type = 'table'"
    table = rng.choice([name for (name,) in connection.execute(query)])
    columns = [row[1] for row in connection.execute(f'PRAGMA table_info("{table}")')]
    rows = connection.execute(f'SELECT * FROM "{table}"').fetchall()
    if rng.random() < 0.15 or not rows:
        _schema_changed(connection, table, rng)
    else:
        row, place = rng.choice(rows), rng.randrange(len(columns))
        old = row[place]
        new = rng.choice(NASTY)
        if isinstance(old, str) and old[:1] in ("{", "[") and rng.random() < 0.8:
            new = dumped(value_changed(json.loads(old), rng)).decode()
        elif rng.random() < 0.1:
            new = rng.randbytes(10)
        new = _storable(new)
        try:
            where = " AND ".join(f'"{name}" IS ?' for name in columns)
            connection.execute(
                f'UPDATE "{table}" SET "{columns[place]}" = ? WHERE {where}', (new, *row)
            )
        except sqlite3.Error:
            connection.execute(f'DELETE FROM "{table}"')
    connection.commit()
    connection.close()


def _storable(value):
    if isinstance(value, int | float | bytes) and not isinstance(value, bool):
        return value if not isinstance(value, int) or abs(value) < 2**63 else 2**62
    return value if value is None else str(value).encode("utf-8", "replace").decode()


def _schema_changed(connection, table, rng):
    endless = "WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c) SELECT"
    columns = [row[1] for row in connection.execute(f'PRAGMA table_info("{table}")')]
    named = ", ".join(f'x AS "{name}"' for name in columns)
    huge = ", ".join(f'zeroblob(900000000) AS "{name}"' for name in columns)
    kind = rng.randrange(4)
    if kind == 3:
        connection.execute(
            f'CREATE TRIGGER t AFTER UPDATE ON "{table}" BEGIN DELETE FROM meta; END'
        )
        return
    connection.execute("PRAGMA foreign_keys = OFF")
    connection.execute(f'DROP TABLE "{table}"')
    if kind == 0:
        connection.execute(f'CREATE VIEW "{table}" AS {endless} {named} FROM c')
    elif kind == 1:
        connection.execute(f'CREATE VIEW "{table}" AS SELECT {huge}')
