# SPDX-License-Identifier: GPL-2.0
# One command to a running module: `make run`. `make help` lists the rest.
#
# Everything is built in the toolchain root file system that tools/env makes, and runs in the test VM of tools/testvm.

# Kbuild says so, too, but not before all else is made.
ifneq ($(words $(subst :, ,$(CURDIR))),1)
$(error make and Kbuild cannot work in a directory with spaces or colons in its name: $(CURDIR))
endif

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help

export KERNEL

enter := tools/env/enter
testvm := tools/testvm/testvm
# In its workspace, whose configuration makes programs static: the test VM's plain flavour has no libraries.
cargo := cd tools && ../$(enter) cargo
cargo_flags := --quiet --locked --target-dir ../build/target
module := build/module/pvirq.ko
guest_module := build/module/pvirq_guest.ko
jobs := $(shell nproc)

# The prepared kernel's cache entry, made at the first use.
kernel = $(eval kernel := $$(shell tools/env/kernel))$(or $(kernel),$(error the kernel could not be prepared))
debug_kernel = $(eval debug_kernel := $$(shell tools/env/debug-kernel))$(or $(debug_kernel),$(error no debug kernel))
# Builds the directory $2 against the kernel's cache entry $1 into build/$3.
kbuild = mkdir -p build/$3 && $(enter) $(MAKE) --no-print-directory -C $1/linux M=$(abspath $2) \
	MO=$(CURDIR)/build/$3 -j$(jobs) $(shell cat $1/make-flags)

.PHONY: help
help: ## This list
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 18

.PHONY: run
run: module tools guest ## Load pvirq in the test VM, print what IPIs cost, boot a Linux guest through it
	$(testvm) --name bench --timeout 420 -- tools/testvm/scripts/bench
	$(testvm) --name qemu --toolchain --timeout 300 -- tools/testvm/scripts/qemu

.PHONY: measure-guest
measure-guest: guest-perf ## Measure loads in a Linux guest by how its CPUs wait; PARTS chooses, ROUNDS is how often
	$(testvm) --name measure-guest --toolchain --timeout 14400 -- tools/testvm/scripts/measure-guest $(PARTS) \
		$(ROUNDS:%=-- --rounds %)

.PHONY: soak-guest
soak-guest: guest-perf ## Run everything at once in a Linux guest, for MINUTES (30)
	minutes=$(or $(MINUTES),30) && $(testvm) --name soak-guest --toolchain --timeout $$((minutes * 60 + 900)) -- \
		tools/testvm/scripts/soak-guest --seconds $$((minutes * 60))

.PHONY: survive
survive: guest ## Save, restore, migrate, reset and plug Linux guests at work; PARTS chooses, ROUNDS is how often
	$(testvm) --name survive --toolchain --memory 3G --timeout 86400 -- tools/testvm/scripts/survive-guest \
		$(ROUNDS:%=--rounds %) $(PARTS)

.PHONY: measure
measure: module tools ## Measure in one boot what the documentation tells; PARTS chooses, STORM is how many of the many
	$(testvm) --name measure --timeout 14400 -- $(STORM:%=STORM=%) tools/testvm/scripts/measure $(PARTS)

.PHONY: test
test: module tools selftests guest ## Run the tests of the test VM, the kselftests, the tool's own, and those of Linux guests
	tools/testvm/parts --jobs 2 \
		"kselftests-1=$(testvm) --name kselftests-1 --timeout 2400 --ktap -- selftests/run --shard 1/2" \
		"kselftests-2=$(testvm) --name kselftests-2 --timeout 2400 --ktap -- selftests/run --shard 2/2" \
		"testvm=tools/testvm/test" \
		--jobs 1 \
		"tool=$(testvm) --name tool --timeout 1800 --ktap -- tools/testvm/scripts/test-tool" \
		"guest=$(testvm) --name guest --toolchain --timeout 2400 --ktap -- tools/testvm/scripts/test-guest --shorter 4"

# Intel CPUs of Bochs's: one without APICv, as clouds rent them, and one with it. PARTS chooses what runs on them; with
# SHORT=yes the kselftests repeat less, as on the debug kernel.
intel_cpus := corei7_haswell_4770 corei7_skylake_x
intel_kselftests := --ktap -- $(SHORT:%=KSFT_MACHINE_SLOW=%) selftests/run
intel_tool := --ktap -- tools/testvm/scripts/test-tool
intel_guest := --toolchain --ktap -- tools/testvm/scripts/test-guest --shorter 8
intel_part = "$1-$2=$(testvm) --ground bochs --cpu $2 --name $1-$2 --timeout 9000 $(intel_$1)"

intel_parts := guest kselftests tool
# Before anything is built.
ifneq ($(filter test-intel,$(MAKECMDGOALS)),)
ifneq ($(filter-out $(intel_parts),$(PARTS)),)
$(error test-intel has no part $(filter-out $(intel_parts),$(PARTS)), only $(intel_parts))
endif
endif

.PHONY: test-intel
test-intel: module tools selftests guest ## Run the tests on Intel CPUs with and without APICv, on Bochs; PARTS chooses
	tools/testvm/parts --jobs 2 \
		$(foreach part,$(or $(PARTS),$(intel_parts)),$(foreach cpu,$(intel_cpus),$(call intel_part,$(part),$(cpu)))) \
		$(if $(PARTS),,"testvm-bochs=tools/testvm/test bochs")

.PHONY: test-all
test-all: ## Everything that can be tested here, in hours
	$(MAKE) check
	$(MAKE) conformance
	$(MAKE) conformance CONFORMANCE="--ground bochs --subset"
	tools/testvm/parts "test=$(MAKE) test" "test-debug=$(MAKE) test-debug" "test-intel=$(MAKE) test-intel"

# The checkers make everything slower by far, so tests repeat less: what they are to find, one time is enough for. And
# kmemleak looks through all memory.
debug_selftests = $(testvm) --memory 1G --timeout 3600 --ktap --name $1 -- \
	KSFT_MACHINE_SLOW=yes PVIRQ_MODULE=/pvirq/build/module-debug/pvirq.ko selftests/run

.PHONY: test-debug
test-debug: module-debug selftests ## Prove the debug kernel's checkers, and run the kselftests under them
	TESTVM_KERNEL=$(debug_kernel) tools/testvm/parts --jobs 2 \
		"debug-1=$(call debug_selftests,debug-1) --shard 1/2" \
		"debug-2=$(call debug_selftests,debug-2) --shard 2/2" \
		--jobs 1 \
		"checkers=tools/testvm/test-debug"

.PHONY: check
check: tools/Cargo.lock ## Formatting, the order of modules, lints and host tests
	git ls-files --cached --others --exclude-standard | $(enter) tools/house/check -
	$(enter) rustfmt --check --config-path .rustfmt.toml $$(git ls-files 'rust/*.rs')
	$(cargo) fmt --all --check
	$(call kbuild,$(kernel),.,module-clippy) CLIPPY=1 KRUSTFLAGS=-Dwarnings modules
	$(cargo) clippy $(cargo_flags) --workspace --all-targets -- -D warnings
	$(cargo) test $(cargo_flags) --workspace
	$(enter) env PYTHONDONTWRITEBYTECODE=1 python3 -m unittest discover --quiet --start-directory tools/qemu-guest
	cd tools && ../$(enter) env RUSTFLAGS="--cfg loom" cargo test --quiet --locked --target-dir ../build/target-loom \
		--release --lib --package pvirq-protocol

.PHONY: conformance
conformance: module ## Run KVM's own selftests on both devices and compare
	tools/conformance/run $(CONFORMANCE)

.PHONY: module
module: ## Build pvirq.ko and pvirq_guest.ko, and check that they fit the kernel
	$(call kbuild,$(kernel),.,module) modules
	tools/env/check-module $(module)
	tools/env/check-module $(guest_module)

.PHONY: debug-kernel
debug-kernel: ## Build the kernel that has all checkers on, once
	@tools/env/debug-kernel

# With debug information, so that a report names files and lines.
.PHONY: module-debug
module-debug: ## Build pvirq.ko, and a broken module, for the debug kernel
	$(call kbuild,$(debug_kernel),.,module-debug) KRUSTFLAGS=-Cdebuginfo=2 modules
	$(call kbuild,$(debug_kernel),tools/testvm/broken,module-debug/broken) KRUSTFLAGS=-Cdebuginfo=2 modules

.PHONY: tools
tools: ## Build the pvirq command
	$(cargo) build $(cargo_flags) --release -p pvirq-cli

.PHONY: selftests
selftests: ## Build the kselftests
	$(enter) $(MAKE) --no-print-directory -C selftests -j$(jobs) LINUX=$(kernel)/linux install

guest_files := $(guest_module) build/qemu-guest/ipi-bench/ipi_bench.ko \
	$(addprefix build/qemu-guest/,loads keep-going) \
	$(addprefix build/qemu-guest/test-modules/,spoil.ko smp_stack.ko softirq_load.ko)

.PHONY: guest
guest: module ## Make the Linux guest that QEMU boots
	@mkdir -p build/qemu-guest
	$(call kbuild,$(kernel),tools/qemu-guest/ipi-bench,qemu-guest/ipi-bench) modules
	$(call kbuild,$(kernel),tools/qemu-guest/test-modules,qemu-guest/test-modules) modules
	for program in loads keep-going; do \
		$(enter) gcc -std=gnu11 -O2 -Wall -Wextra -Werror -Wno-unused-parameter -static -pthread \
			tools/qemu-guest/$$program.c -o build/qemu-guest/$$program || exit; \
	done
	$(enter) gcc -std=gnu11 -O2 -Wall -Wextra -Werror -static tools/qemu-guest/kexec.c -o build/qemu-guest/kexec
	$(enter) tools/qemu-guest/build build/qemu-guest/initramfs.cpio $(guest_files)
	@cp $(kernel)/vmlinuz build/qemu-guest/vmlinuz
	$(enter) tools/qemu-guest/extract-vmlinux build/qemu-guest/vmlinuz build/qemu-guest/vmlinux
	$(enter) tools/qemu-guest/build build/qemu-guest/initramfs-kexec.cpio $(guest_files) \
		$(addprefix build/qemu-guest/,kexec vmlinuz initramfs.cpio)

.PHONY: guest-perf
guest-perf: guest ## Make the same guest with perf in it
	$(enter) tools/qemu-guest/build build/qemu-guest/initramfs-perf.cpio $(guest_files) $$(tools/qemu-guest/perf)

# Any warning of Sphinx is an error. The modules' crates are documented by their sources only: rustdoc would need the
# kernel's crates.
.PHONY: docs
docs: tools/Cargo.lock ## Build the documentation into build/docs and build/target/*/doc
	ROOTFS=$$(tools/env/docs-rootfs) $(enter) sphinx-build -b html -W --keep-going -q -d build/docs/doctrees Documentation build/docs/html
	$(cargo) doc $(cargo_flags) --workspace --no-deps --lib
	@echo "build/docs/html/index.html build/target/x86_64-unknown-linux-gnu/doc/pvirq/index.html"

.PHONY: rust-analyzer
rust-analyzer: module ## Write rust-project.json, by which rust-analyzer understands the modules; the tools have tools/Cargo.toml
	mkdir -p build/rust-analyzer && touch build/rust-analyzer/Kbuild
	$(call kbuild,$(kernel),build/rust-analyzer,rust-analyzer) rust-analyzer
	tools/house/rust-analyzer build/rust-analyzer/rust-project.json $$(tools/env/rootfs) >rust-project.json

.PHONY: shell
shell: module tools ## A shell in the test VM; the source tree is /pvirq there
	$(testvm) --name shell --timeout 86400

.PHONY: update-kernel
update-kernel: ## Take the newest kernel of trixie-backports from now on
	tools/env/kernel --update

.PHONY: clean
clean: ## Remove what was built here; the cache stays
	rm -rf build
