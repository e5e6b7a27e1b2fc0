"""Ingest on a Ray cluster: ``sss ingest --engine ray``.

    driver     scan → plan → feed                                 results → counts, and the embedded store
    workers                   └▶ decode → embed (→ a server) ──▶ ┘        one actor per GPU, or per few CPUs

Scan and plan stay in one place, the driver: they are cheap (20,000 files a second), and moved files, labels and
the order of things are then settled exactly as in one process. What travels to a worker is paths, never pixels. Into a
server's store each worker writes by itself; an embedded store has one holder, the driver, to which vectors return.
"""
