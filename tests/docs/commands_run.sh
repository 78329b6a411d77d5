#!/usr/bin/env bash
# Runs every indented line that starts with "foretoken " in README.md and docs/*.md, in an empty folder
# beside links to configs and tests. Usage: commands_run.sh SOURCE_DIR PROGRAM
set -euo pipefail
source_dir=$1
program=$2

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
ln -s "$source_dir/configs" "$source_dir/tests" "$work"
mkdir "$work/bin"
ln -s "$program" "$work/bin/foretoken"
cd "$work"
PATH=$work/bin:$PATH

count=0
while read -r line; do
  count=$((count + 1))
  echo "\$ $line"
  bash -euo pipefail -c "$line" >"$work/stdout" 2>"$work/stderr" || {
    echo "failed: $line" >&2
    cat "$work/stderr" >&2
    exit 1
  }
  [ -s "$work/stdout" ] || [ -s "$work/stderr" ] || { echo "printed nothing: $line" >&2; exit 1; }
done < <(sed -n 's/^    \(foretoken .*\)$/\1/p' "$source_dir"/README.md "$source_dir"/docs/*.md)
[ "$count" -ge 8 ] || { echo "only $count commands found in the documents" >&2; exit 1; }
echo "$count commands run"
