#!/usr/bin/env bash
# Installs the peers from Debian's packages where they are missing, builds rlstore,
# and measures all side by side. Arguments are those of the program here, such as
# -rounds 3 or -growth. Debian may start what it installs as services; they are not used.
set -euo pipefail
cd "$(dirname "$0")/../.."

missing=()
for pair in redis-server:redis-server etcd:etcd-server wrk:wrk; do
	command -v "${pair%:*}" >/dev/null || missing+=("${pair#*:}")
done
if ((${#missing[@]})); then
	echo "installing ${missing[*]}" >&2
	sudo=()
	((EUID == 0)) || sudo=(sudo)
	"${sudo[@]}" apt-get update -q >&2
	"${sudo[@]}" apt-get install -q -y --no-install-recommends "${missing[@]}" >&2
fi

go build -o bin/rlstore ./cmd/rlstore
go build -o bin/compare ./bench/compare
exec bin/compare "$@"
