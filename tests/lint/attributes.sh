#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# attributes.sh ROOT: what .gitattributes and .gitignore must say. Files of dist/ are source: neither generated nor
# vendored nor ignored, and in every archive. Files whose bytes count are never converted: those that are no
# text, and those with other line ends than LF. Nothing that is ignored is tracked. What names its interpreter can
# be started.
cd "$1" || exit 2
git rev-parse --is-inside-work-tree > /dev/null 2>&1 || { echo "no git checkout here"; exit 77; }
say() { [ -z "$2" ] || { echo "$1:"; echo "$2" | head -20; exit 1; }; }

# One that is not there yet, too.
dist=$(printf '%s\n' "$(git ls-files dist)" dist/new.c dist/new/new.c)
say "no source to some tool" "$(echo "$dist" |
  git check-attr --stdin linguist-generated linguist-vendored linguist-detectable export-ignore |
  grep -v -e 'linguist-\(generated\|vendored\): unset$' -e 'linguist-detectable: set$' -e 'export-ignore: unspecified$')"
excludes=$(mktemp)
trap 'rm -f "$excludes"' EXIT
echo 'dist/' > "$excludes"
say "ignored where a user ignores folders of that name" \
  "$(echo "$dist" | git -c core.excludesFile="$excludes" check-ignore --no-index --stdin)"

say "line ends of a file that is no text may be converted" "$(git ls-files --eol |
  grep -e '^i/-text' -e '^i/crlf' -e '^i/mixed' | grep -v 'attr/-text')"
say "ignored, and tracked" "$(git ls-files -c -i --exclude-standard)"
say "begins with #!, and cannot be executed" \
  "$(git ls-files -s | grep ^100644 | cut -f2 | while read -r f; do head -qn 1 "$f" | grep -aq '^#!/' && echo "$f"; done)"
