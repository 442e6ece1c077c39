# SPDX-License-Identifier: GPL-2.0
# shellcheck shell=bash
# For the test VM's own tests: runs the VM, and reports in KTAP. To be sourced.

export LC_ALL=C
here=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd -P)
top=$(cd -- "$here/../.." && pwd -P)
runs=$top/build/vm
log=$(mktemp)
trap 'rm -f -- "$log"' EXIT
number=0 passed=0 failed=0 status=0

# Announces $1 tests.
plan() {
	echo "TAP version 13"
	echo "1..$1"
}

# Runs the VM with the arguments; keeps what it says in $log, and its exit status in $status.
vm() {
	status=0
	"$here/testvm" "$@" >"$log" 2>&1 || status=$?
}

# Whether the last run said $1.
says() {
	grep -qF -- "$1" "$log"
}

# Reports test $1 as passed if the rest, a command, succeeds.
report() {
	local name=$1
	shift
	number=$((number + 1))
	if "$@"; then
		passed=$((passed + 1))
		echo "ok $number $name"
	else
		failed=$((failed + 1))
		sed 's/^/# /' "$log"
		echo "not ok $number $name # status $status"
	fi
}

# Prints the sum, and fails if a test has.
finish() {
	echo "$passed passed, $failed failed, 0 skipped"
	[ "$failed" -eq 0 ]
}
