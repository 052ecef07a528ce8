"""How the prior's answers to several texts become one score: a file each, found by its name.

Each has `guided(guide, noisy, t, cameras) -> eps (B, C, h, w)`, which asks `guide.predict` once with all
its texts, and may have `check(config)`, which raises InputError for options it cannot serve.
"""
