"""Statements of scripts, proven to touch one tenant's rows alone before they are sent. Pure: asks no database.

    parameters.py   placeholders, and what may be bound to them
    reading.py      text to tree, for the kinds of statement that there are
    grammar.py      the nodes and functions that are known; everything else is refused
    tenancy.py      the tree rewritten: every table is read through its tenant's rows, every write is confined to them
    review.py       what was generated, parsed again and judged by other rules
    prover.py       all of these in order

Whatever is not proven is refused with words that say which part and why. What is sent is generated from the rewritten
tree, never a script's own text.
"""
