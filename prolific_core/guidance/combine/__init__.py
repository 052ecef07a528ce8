"""Methods that combine the prior's predictions for several texts into one score, with one file each.

Each module defines `guided(guide, noisy, t, cameras)`, which calls `guide.predict` once with all texts and returns the
guided eps. A module may also define `check(config)`, which raises InputError for unsupported options.
"""
