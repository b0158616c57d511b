"""Renews the golden numbers on purpose: `python tests/golden/write.py`, and `git diff` shows what changed."""

import sys
from pathlib import Path

TESTS = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(TESTS))
sys.path.insert(0, str(TESTS.parent))

from golden.compare import FILE, GROUPS, read, text_of


def main() -> None:
    groups = {name: golden.compute() for name, golden in GROUPS.items()}
    FILE.write_text(text_of(groups))
    count = sum(len(values) for group in read().values() for values in group.values())
    print(f"{FILE}: {count} numbers in {len(groups)} groups")


if __name__ == "__main__":
    main()
