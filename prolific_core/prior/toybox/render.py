"""Render the training images: python -m prolific_core.prior.toybox.render"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

from .params import DATA, ROOT
from .shards import render_shard


def main(argv=None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--root", type=Path, default=ROOT)
    parser.add_argument("--images", type=int, default=DATA.images)
    parser.add_argument("--seed", type=int, default=DATA.seed)
    args = parser.parse_args(argv)
    for number in range(-(-args.images // DATA.shard)):
        start = time.time()
        render_shard(args.root, number, args.seed)
        print(f"shard {number} {time.time() - start:.1f} s", flush=True)


if __name__ == "__main__":
    main()
