"""Compositions of the prior's predictions for several texts into one score, with one file for each.

Each module defines `guided(guide, noisy, t, cameras)`, which returns the guided eps and calls `guide.predict` once with
all of its texts. It may define `check(config)`, which raises InputError for options that it does not support.
"""
