# SPDX-License-Identifier: GPL-2.0
# shellcheck shell=bash
# What the test VM's program is told of the toolchain. To be sourced, with $top set.

# Sets $options for a run with the given arguments. Bochs and its disk of the toolchain are made only for runs on Bochs.
choose_options() {
	local asked='' argument rootfs kernel emulator disk

	rootfs=$("$top/tools/env/rootfs")
	kernel=${TESTVM_KERNEL:-$("$top/tools/env/kernel")}
	options=(--rootfs "$rootfs" --kernel "$kernel")
	for argument; do
		[ "$argument" != -- ] || break
		asked+=" $argument "
	done
	case $asked in
	*" --ground  bochs "* | *" --ground=bochs "*)
		emulator=$("$top/tools/env/emulator")
		options+=(--bochs "$emulator")
		if [[ $asked == *" --toolchain "* ]]; then
			disk=$("$top/tools/env/toolchain-disk")
			options+=(--toolchain-disk "$disk/disk.iso")
		fi
		;;
	esac
}
