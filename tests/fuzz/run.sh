#!/usr/bin/env bash
# Runs one fuzz target from its seeds, for a minute or FORETOKEN_FUZZ_SECONDS; an input that breaks it
# is kept beside the program. Usage: run.sh PROGRAM NAME [PROBLEM...], NAME a folder of corpus/.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
program=$1
name=$2
shift 2

if [ $# -gt 0 ]; then
  echo "the fuzz targets were not built: $*; the Debian packages clang and libclang-rt-14-dev have" \
    "what they need; configure again with them installed" >&2
  exit 1
fi
seconds=${FORETOKEN_FUZZ_SECONDS:-60}
case "$seconds" in
  '' | *[!0-9]*) echo "FORETOKEN_FUZZ_SECONDS is '$seconds', not a number of seconds" >&2; exit 1 ;;
esac

found=$(mktemp -d)
trap 'rm -rf "$found" "$found.log"' EXIT
options=(-max_total_time="$seconds" -rss_limit_mb=2048 -timeout=10 -print_final_stats=1)
[ -f "$here/$name.dict" ] && options+=(-dict="$here/$name.dict")
# libFuzzer takes 0 seconds for "without end"; here it means the seeds alone.
[ "$seconds" -eq 0 ] && options+=(-runs=0)
# What is found goes to the first folder, so the seeds stay as they are.
if ! "$program" "${options[@]}" -artifact_prefix="$program-" "$found" "$here/corpus/$name" \
  >"$found.log" 2>&1; then
  grep -vE '^#[0-9]+' "$found.log" | tail -n 60 >&2
  echo "$name: an input breaks the parser; it is kept as $(ls -t "$program"-* 2>/dev/null | head -n 1)" >&2
  exit 1
fi
grep -E '^stat::(number_of_executed_units|average_exec_per_sec|peak_rss_mb)' "$found.log" || true
