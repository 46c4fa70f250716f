"""Two folders of equal file names, linked from two class folders: what the data sources `pairs` and `domains` read.

  python experiments/pair_folders.py PATH/emoji64 blob noto FOLDER

links PATH/emoji64/SPLIT/blob/NAME to FOLDER/blob/SPLIT/NAME, and the same of noto, for every split and every name that
both classes have. Names of one class alone are left out, since a pair needs both.
"""

import pathlib
import sys


def link(root: pathlib.Path, classes: tuple[str, str], out: pathlib.Path) -> int:
    """The number of pairs. Links that are there already are kept."""
    count = 0
    for split in sorted(path for path in root.resolve().iterdir() if path.is_dir()):
        one, two = ({path.name for path in (split / name).glob("*")} for name in classes)
        for name in classes:
            (out / name / split.name).mkdir(parents=True, exist_ok=True)
            for file in one & two:
                place = out / name / split.name / file
                if not place.is_symlink():
                    place.symlink_to(split / name / file)
        count += len(one & two)
    return count


if __name__ == "__main__":
    if len(sys.argv) != 5:
        sys.exit(__doc__)
    root, *names, out = sys.argv[1:]
    print(f"{link(pathlib.Path(root), tuple(names), pathlib.Path(out))} pairs: {out}")
