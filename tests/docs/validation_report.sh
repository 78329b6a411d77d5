#!/usr/bin/env bash
# The tables of reports/validation are what `foretoken validate` prints today.
# FORETOKEN_UPDATE_GOLDENS=1 rewrites them. Usage: validation_report.sh SOURCE_DIR PROGRAM
set -euo pipefail
export LC_ALL=C  # the order of the tables
program=$2

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$1"

# The first fenced block of a report is the output for the given tables.
check() {
  local report=$1
  shift
  "$program" validate "$@" >"$work/expected"
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
}

check reports/validation/end-to-end.md configs/measurements/end-to-end-decode.csv
check reports/validation/published-tables.md configs/measurements/*_*.csv
