#!/bin/sh
# Opens a report in a headless browser and fails unless every chart it should have shows its data, no
# script failed, and nothing was or would be loaded from elsewhere.
# usage: check_report.sh REPORT.html
set -eu

if [ $# -ne 1 ] || [ ! -f "$1" ]; then
  echo "usage: check_report.sh REPORT.html" >&2
  exit 2
fi
browser=$(command -v chromium || command -v chromium-browser || true)
if [ -z "$browser" ]; then
  echo "check_report: chromium is not installed; see packages.txt" >&2
  exit 1
fi

page=$(realpath "$1")
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
dom=$scratch/dom.html
if ! "$browser" --headless=new --no-sandbox --disable-gpu --disable-quic --disable-dev-shm-usage \
    --no-first-run --disable-background-networking --disable-component-update --disable-sync \
    --user-data-dir="$scratch/profile" --window-size=1280,1000 --virtual-time-budget=10000 \
    --dump-dom "file://$page" >"$dom" 2>"$scratch/log"; then
  echo "check_report: the browser failed on $page" >&2
  tail -n 20 "$scratch/log" >&2
  exit 1
fi

# The attributes that page.js leaves on <html>.
attribute() {
  sed -n "s/^.*<html[^>]* $1=\"\\([0-9]*\\)\".*\$/\\1/p" "$dom" | head -n 1
}
expected=$(attribute data-charts-expected)
drawn=$(attribute data-charts-drawn)
errors=$(attribute data-errors)
resources=$(attribute data-resources)

failed=0
fail() {
  echo "check_report: $page: $1" >&2
  failed=1
}
[ "${errors:-none}" = 0 ] || fail "script errors: ${errors:-the page reports no count}"
[ "${expected:-0}" -gt 0 ] || fail "the page names no charts to expect"
[ "${drawn:-none}" = "${expected:-0}" ] || fail "${drawn:-none} of ${expected:-unknown} charts drawn"
[ "${resources:-none}" = 0 ] || fail "resources loaded: ${resources:-the page reports no count}"
for file in "$page" "$dom"; do
  # Attributes of elements, not words in the text of a script: quoted directly, in markup.
  if grep -Eqi '<[a-z][^<>]* (src|href|action|data|srcset)="?(https?:)?//' "$file"; then
    fail "$(basename "$file") refers to another host"
  fi
  if grep -Eqi '@import|url\( *["'\'']?(https?:)?//' "$file"; then
    fail "$(basename "$file") has a style from another host"
  fi
done

[ "$failed" = 0 ] || exit 1
echo "check_report: $drawn of $expected charts drawn, no errors, nothing loaded"
