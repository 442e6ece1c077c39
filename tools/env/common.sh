# SPDX-License-Identifier: GPL-2.0
# shellcheck shell=bash
# What the scripts in this directory share: where things live, how they speak, and how a cache entry is made.
#
# A cache entry is a directory named after everything it is made from. It is built aside under a `.partial.` name and
# renamed in when complete, under a lock, so that an interruption leaves no half-made entry and two clones share one.
set -euo pipefail

# The output of programs is parsed, and sorted lists are compared, which must not depend on the user's locale.
export LC_ALL=C

# Where things really are: symbolic links are not there in the toolchain root file system.
top=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/../.." && pwd -P)
cache=${PVIRQ_CACHE:-${HOME:?neither PVIRQ_CACHE nor HOME is set}/.cache/pvirq}
suite=trixie

# Says what is being done, with the time since this script began.
say() {
	printf '[%3d s] %s\n' "$SECONDS" "$*" >&2
}

# Ends with a message that says what is wrong, and then lines that say what to do about it.
die() {
	printf 'error: %s\n' "$1" >&2
	shift
	[ $# -eq 0 ] || printf '       %s\n' "$@" >&2
	exit 1
}

case $cache in
/*) ;;
*) die "PVIRQ_CACHE=$cache is not an absolute path" ;;
esac
mkdir -p -- "$cache" || die "cannot make the cache's directory $cache" "PVIRQ_CACHE in the environment names another."
cache=$(cd -- "$cache" && pwd -P)
for directory in "$top" "$cache"; do
	case $directory in
	*[[:space:]\"\'\`\\\$\#\%:\;\&\|\<\>\(\)\{\}\[\]\*\?\!]*)
		die "make and Kbuild cannot work in a directory with such a name: $directory" \
			"Use one without spaces, colons, and what else has a meaning to shells and make." \
			"PVIRQ_CACHE in the environment names another cache."
		;;
	esac
done

# Runs a command as root. The only users are the installation of host packages and the making of the root file system.
# It has mounts of its own, which end with it: what an interrupted mmdebstrap had mounted must not be there any more
# when its directory is removed.
as_root() {
	if [ "$(id -u)" -eq 0 ]; then
		unshare --mount "$@"
	elif command -v sudo >/dev/null; then
		sudo unshare --mount "$@"
	else
		die "need root to run: $*" "Run as root, or install sudo."
	fi
}

# Twelve hex digits that identify the contents of the given files and of standard input.
digest() {
	cat -- "$@" - | sha256sum | cut -c1-12
}

# Makes the cache entry $1 by calling the function $2 with the directory to fill, unless it exists. What an interrupted
# call has left is thrown away, unless $3 is `resume`: then the function goes on from there.
cached() {
	local entry=$cache/$1 partial=$cache/.partial.$1 resume=${3-}

	[ ! -d "$entry" ] || return 0
	exec 9>"$cache/lock"
	flock -n 9 || { say "waiting for another clone that fills the cache"; flock 9; }
	# Descriptor 9 is closed in children, lest a stray one keep the lock.
	if [ ! -d "$entry" ]; then
		if [ "$resume" != resume ]; then
			as_root rm -rf --one-file-system -- "$partial"
			# shellcheck disable=SC2064 # The path is wanted as it is now.
			trap "as_root rm -rf --one-file-system -- '$partial'" EXIT
		fi
		mkdir -p -- "$partial"
		"$2" "$partial" 9>&-
		mv -T -- "$partial" "$entry"
		trap - EXIT
	fi
	exec 9>&-
}

# Passes on what a long command prints to the log $2, and says every few seconds how many lines of about $1 are done.
progress() {
	local expected=$1 log=$2 what=$3 lines=0 line last=$SECONDS

	while IFS= read -r line; do
		printf '%s\n' "$line" >>"$log"
		lines=$((lines + 1))
		if [ $((SECONDS - last)) -ge 10 ]; then
			last=$SECONDS
			say "$what: $lines of about $expected steps"
		fi
	done
}
