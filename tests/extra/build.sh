#!/bin/sh
# build.sh SOURCE BUILD CMAKE: builds banyan with one more row of each table, runs the unit tests there,
# and looks for the rows in `banyan list` and in the help of verbs.
set -eu
source=$1 build=$2 cmake=$3
"$cmake" -S "$source" -B "$build" -G Ninja -DCMAKE_BUILD_TYPE=Release -DBANYAN_CUDA=OFF \
    -DBANYAN_EXTRA_ROWS="$source/tests/extra" > "$build.log" 2>&1 ||
    { cat "$build.log"; exit 1; }
"$cmake" --build "$build" -- --quiet > "$build.log" 2>&1 || { tail -n 40 "$build.log"; exit 1; }
ctest --test-dir "$build" -L '^unit$' -LE full --output-on-failure > "$build.log" 2>&1 ||
    { tail -n 60 "$build.log"; exit 1; }

banyan=$build/banyan
[ -x "$banyan" ] || { echo "the program is not in this build"; exit 77; }
expect() { # WORDS COMMAND..: the command prints a line with them
    words=$1
    shift
    "$@" | grep -q -- "$words" || { echo "\"$words\" is not in: $*"; exit 1; }
}
expect 'levels  *ever sparser blocks' "$banyan" list
expect 'levels=3' "$banyan" list
expect 'again  *the scalar kernel under' "$banyan" list
expect 'nodes  *whole heads, dealt' "$banyan" list
expect 'chain  *from holder to holder' "$banyan" list
expect 'alone  *one rank, as self' "$banyan" list
for verb in run plan; do
    expect '--placement .*line, .*nodes' "$banyan" "$verb" --help
    expect '--merge .*direct, .*chain' "$banyan" "$verb" --help
    expect '[ ,]levels[, ]' "$banyan" "$verb" --help
done
expect 'merge  *chain' "$banyan" plan --config "$source/configs/laptop.txtpb" --ranks 3 \
    --merge chain --placement spread
