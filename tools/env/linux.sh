# SPDX-License-Identifier: GPL-2.0
# shellcheck shell=bash
# Debian's kernel packages, for the scripts that make kernels of them. To be sourced after common.sh.

flavour=cloud-amd64
record=$cache/kernel-release

# Runs apt in the toolchain root file system; its lists and packages stay in the cache.
apt() {
	local tool=$1
	shift
	mkdir -p -- "$cache/apt/lists/partial" "$cache/apt/archives/partial"
	"$top/tools/env/enter" "$tool" -qq -o APT::Sandbox::User=root \
		-o Dir::State::Lists="$cache/apt/lists" -o Dir::Cache="$cache/apt" "$@"
}

apt_update() {
	apt apt-get update >&2 || die "apt-get update failed" "Is the Debian mirror within reach?"
}

# Prints the newest kernel release of trixie-backports: what the flavour's meta-package depends on.
newest_release() {
	apt_update
	apt apt-cache show "linux-image-$flavour/$suite-backports" |
		sed -n 's/^Depends:.*linux-image-\([^ ,]*\).*/\1/p' | head -n 1
}

# Sets $release to the kernel that is wanted: $KERNEL, or the recorded one, or the newest, which is recorded.
choose_release() {
	release=${KERNEL:-$(cat -- "$record" 2>/dev/null || true)}
	if [ -z "$release" ]; then
		release=$(newest_release)
		[ -n "$release" ] || die "cannot tell the newest $flavour kernel of $suite-backports"
		say "newest $flavour kernel of $suite-backports: $release"
		printf '%s\n' "$release" >"$record.partial.$$"
		mv -- "$record.partial.$$" "$record"
	fi
	case $release in
	*[!a-z0-9.+-]* | [!0-9]*) die "KERNEL=$release is not a kernel release" "Example: KERNEL=7.3.4+deb13-$flavour" ;;
	*+*-"$flavour") ;;
	*) die "KERNEL=$release is not a $flavour kernel" "Example: KERNEL=7.3.4+deb13-$flavour" ;;
	esac
}

# Sets $version to the version of the packages of kernel $release.
choose_version() {
	ls "$cache"/apt/lists/*Packages* >/dev/null 2>&1 || apt_update
	version=$(apt apt-cache show "linux-headers-$release" 2>/dev/null | sed -n 's/^Version: //p' | head -n 1)
	[ -n "$version" ] || die "$suite-backports has no kernel $release" \
		"Choose one that it has: make KERNEL=…, or 'make update-kernel' for the newest."
}

# Downloads the package $1 of kernel $release, unless it is there, and unpacks it into the directory $2.
unpack() {
	local package=$1 into=$2 deb

	say "  $package"
	(cd -- "$cache/apt/archives" && apt apt-get download "$package=$version") >&2 ||
		die "cannot download $package $version" "Run 'make update-kernel' if Debian has replaced this version."
	deb=$(echo "$cache/apt/archives/${package}_${version/:/%3a}"_*.deb)
	"$top/tools/env/enter" dpkg-deb -x "$deb" "$into"
}

# Unpacks Debian's source of kernel $release into the directory $1.
unpack_source() {
	local tree=$1 debs=$1.debs

	rm -rf -- "$debs"
	unpack "linux-source-$(echo "$release" | cut -d. -f1,2)" "$debs"
	say "unpacking the kernel source (about 20 s)"
	mkdir -p -- "$tree"
	"$top/tools/env/enter" sh -c 'xz -T0 -dc "$1" | tar -x -C "$2" --strip-components=1' - \
		"$debs"/usr/src/linux-source-*.tar.xz "$tree"
	rm -rf -- "$debs"
}

# Runs make in the kernel tree $1 for target $2, which prints about $3 lines, with further arguments. Its output goes to
# the file make.log beside the tree.
kernel_make() {
	local tree=$1 target=$2 lines=$3 log
	shift 3
	log=$(dirname -- "$tree")/make.log
	"$top/tools/env/enter" make -C "$tree" -j"$(nproc)" "$@" "$target" 2>&1 | progress "$lines" "$log" "$target" ||
		die "make $target failed; the first error of $log:" "$(grep -B 3 -m 1 -E 'rror[: ]|\*\*\*' "$log")"
}
