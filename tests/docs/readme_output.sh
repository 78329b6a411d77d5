#!/usr/bin/env bash
# The README's block between the markers is the answer table of the main job. FORETOKEN_UPDATE_GOLDENS=1
# rewrites it. Usage: readme_output.sh SOURCE_DIR PROGRAM
set -euo pipefail
readme=$1/README.md
program=$2
configs=$1/configs

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"$program" --configs "$configs" run v4-context-length --out "$work/out" >"$work/printed" 2>/dev/null
# The first table: up to the first empty line.
sed '/^$/q' "$work/printed" | sed '/^$/d; s/^/    /' >"$work/expected"
[ "$(wc -l <"$work/expected")" -ge 20 ] || { echo "the main job printed no table" >&2; exit 1; }

start='<!-- output of the main job: start -->'
end='<!-- output of the main job: end -->'
if [ "${FORETOKEN_UPDATE_GOLDENS:-}" = 1 ]; then
  awk -v start="$start" -v end="$end" -v block="$work/expected" '
    $0 == start { print; print ""; while ((getline line < block) > 0) print line; print ""; skip = 1 }
    $0 == end { skip = 0 }
    !skip && $0 != start { print }' "$readme" >"$work/readme"
  cp "$work/readme" "$readme"
fi
sed -n "/^$start\$/,/^$end\$/p" "$readme" | sed '1d;$d' | sed '/^$/d' >"$work/shown"
diff -u "$work/shown" "$work/expected"
