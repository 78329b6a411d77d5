#!/usr/bin/env bash
# The tables of reports/validation/end-to-end.md are what `foretoken validate` prints today.
# FORETOKEN_UPDATE_GOLDENS=1 rewrites them. Usage: validation_report.sh SOURCE_DIR PROGRAM
set -euo pipefail
report=$1/reports/validation/end-to-end.md
program=$2

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$1"
"$program" validate configs/measurements/end-to-end-decode.csv >"$work/expected"
if [ "${FORETOKEN_UPDATE_GOLDENS:-}" = 1 ]; then
  awk -v block="$work/expected" '
    /^```$/ && !open { print; while ((getline line < block) > 0) print line; open = 1; skip = 1; next }
    /^```$/ && open { skip = 0 }
    !skip { print }' "$report" >"$work/report"
  cp "$work/report" "$report"
fi
# shellcheck disable=SC2016  # backquotes, not expansions
sed -n '/^```$/,/^```$/p' "$report" | sed '1d;$d' >"$work/shown"
diff -u "$work/shown" "$work/expected"
