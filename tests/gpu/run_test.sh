#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# run_test.sh: tests/gpu/run and watch.py on a machine whose GPU, compiler and programs are made up:
# checks that hang, a row that hangs and one that dies, budgets that are kept, and what is on disk.
set -u
here=$(cd "$(dirname "$0")" && pwd)
command -v python3 > /dev/null || { echo "no python3 here"; exit 77; }
dir=$(mktemp -d) || exit 2
trap 'rm -rf "$dir"' EXIT
bad=0
fault() { echo "$1"; bad=1; }
has() { grep -q -- "$2" "$1" || { fault "no \"$2\" in $1:"; cat "$1"; }; }

sh "$here/run" --dry > "$dir/dry" || { fault "run --dry:"; cat "$dir/dry"; }
[ "$(grep -c ' together ' "$dir/dry")" = 3 ] || fault "run --dry does not add up three stages"
[ "$(grep -c 'its rows: [1-9][0-9][0-9] s of 290' "$dir/dry")" = 2 ] || fault "run --dry finds no rows"
sed 's/step build 130/step build 230/' "$here/run" > "$dir/run" # too much
cp "$here/bench.py" "$dir"
sh "$dir/run" --dry > "$dir/dry" && fault "a stage of 400 s passes --dry"

mkdir "$dir/bin"
real=$(python3 -c 'import sys; print(sys.executable)')
for name in nvidia-smi cmake compute-sanitizer; do printf '#!/bin/sh\nexit 0\n' > "$dir/bin/$name"; done
printf '#!/bin/sh\nsleep 100\n' > "$dir/bin/ctest" # hangs
cat > "$dir/bin/python3" <<EOF
#!/bin/sh
case "\$*" in
  *watch.py*) exec "$real" "\$@" ;;
  *--after\\ hangs*) echo '@ dies 5'; exit 3 ;;
  *--after\\ dies*) echo '@ last 5'; echo '{"row": "last", "us": 2}' ;;
  *bench.py*) echo '@ first 5'; echo '{"row": "first", "us": 1}'; echo '@ hangs 1'; sleep 100 ;;
  *) exit 1 ;;
esac
EOF
chmod +x "$dir"/bin/*

began=$(date +%s)
PATH="$dir/bin:$PATH" sh "$here/run" --seconds 16 --out "$dir/out" --build "$dir/build" > "$dir/said" 2>&1 &&
  fault "run ends well though a step was ended"
[ $(($(date +%s) - began)) -le 50 ] || fault "three stages of 16 s took $(($(date +%s) - began)) s"
has "$dir/out/steps.txt" 'checks: stopped after'
has "$dir/out/steps.txt" 'memcheck-prefill: passed'
has "$dir/out/steps.txt" 'program: left out'
for row in '"first", "us": 1' '"hangs", "error": "stopped: not done after 1 s"' \
  '"dies", "error": "the process ended with code 3"' '"last", "us": 2'; do
  has "$dir/out/results.jsonl" "$row"
done
has "$dir/out/table.txt" '| hangs | stopped'
has "$dir/out/shapes.txt" '| last | us 2'
[ -f "$dir/out/logs.tar" ] && [ ! -d "$dir/out/logs" ] || fault "logs are not in one file"
[ $bad = 0 ] || cat "$dir/said"
exit $bad
