"""Chooses the inputs of a fuzz corpus: prints the 20 inputs that together cover the most edges, best first.

    python3 fuzz/choose.py CONTROL_FILE [COUNT]

libFuzzer writes CONTROL_FILE (`-set_cover_merge=1 -merge_control_file=CONTROL_FILE`). Its first line is the number of
inputs, the second the number of inputs that count as the initial corpus. The names of the inputs follow, then lines
`FT INDEX FEATURE...` with the features (edges) of the input INDEX.

The choice is greedy: each input adds the most features to those of the inputs before it.
"""

import sys

with open(sys.argv[1]) as control:
    count, _, *lines = control.read().splitlines()
names, lines = lines[: int(count)], lines[int(count) :]
features = [set() for _ in names]
for line in lines:
    kind, index, *numbers = line.split()
    if kind == "FT":
        features[int(index)].update(map(int, numbers))

covered, total = set(), len(set().union(*features))
for _ in range(int(sys.argv[2]) if len(sys.argv) > 2 else 20):
    best = max(range(len(names)), key=lambda index: len(features[index] - covered))
    added = features[best] - covered
    if not added:
        break
    covered |= added
    print(f"{names[best]}  +{len(added)}", flush=True)
print(f"{len(covered)} of {total} features covered", file=sys.stderr)
