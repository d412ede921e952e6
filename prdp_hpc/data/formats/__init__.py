"""Readers of public data formats, one per file; each is named by `data.format`.

A format consists of `Source`s, one per file, which read a part of one trajectory in the order in
which the file stores its axes. `FormatTrajectories` makes a data set of them: groups, the order of
the axes, channels, and checks.
"""
