"""Arithmetic whose sums have one order at any number of ranks, so that K ranks equal one to the last bit.

The batch is cut into S equal pieces, S a power of two that the number of ranks divides; so are the units of every fully
connected layer, and the classes. Every library call works on pieces, of the same shape whatever the number of ranks,
and what it makes is added up pairwise: ((p0 + p1) + (p2 + p3)) + ... A rank holds S / K neighbouring pieces, a whole
branch of that tree, so it can add up its own before the ranks add up theirs: the sums, and with them all bits, are the
same. Three parts hold to that: `FixedOrderBackend` for the trunk and the loss, `FixedOrderArithmetic` for the head's
Linear layers, `FixedOrderCommunicator` between ranks.
"""
