// SPDX-License-Identifier: GPL-2.0 OR MIT

//! What a host has.

use std::{
    fs::{self, File},
    io::{BufRead, BufReader},
    path::Path,
};

use exit_count::{
    kvm_module::{Parameters, Vendor},
    trace::ExitTrace,
};
use memchr::memmem;
use pvirq::{
    device::{Device, KVM, PVIRQ},
    features::KvmFeatures,
};
use pvirq_bench::{environment::kernel_release, ground::Ground};
use vmm::error::Error;

/// The CPU.
#[derive(Clone, Debug, Default)]
pub struct Processor {
    /// Its name.
    pub model: String,
    /// Its virtualisation, if it has any.
    pub vendor: Option<Vendor>,
    /// Whether it has AMD's AVIC.
    pub avic: bool,
}

/// What a host has.
#[derive(Clone, Debug)]
pub struct Facts {
    /// The kernel's release.
    pub kernel: String,
    /// Whether the kernel can load modules that are written in Rust, if that can be told.
    pub rust: Option<bool>,
    /// The CPU.
    pub processor: Processor,
    /// What runs the host's CPUs.
    pub ground: Ground,
    /// Whether KVM's module for the CPU is loaded.
    pub module_loaded: bool,
    /// What the parameters of KVM's module say.
    pub parameters: Parameters,
    /// The version of the pvirq module, if it is loaded.
    pub pvirq_version: Option<String>,
    /// KVM's device, or why it cannot be used.
    pub kvm: Result<KvmFeatures, String>,
    /// pvirq's device, or why it cannot be used.
    pub pvirq: Result<KvmFeatures, String>,
    /// Whether exits can be counted, or why not.
    pub tracing: Result<(), String>,
}

impl Facts {
    /// Looks at this host.
    pub fn gather() -> Result<Self, Error> {
        let kernel = kernel_release()?;
        let mut facts = Facts::gather_files(Path::new("/"), &kernel);
        facts.ground = Ground::detect();
        facts.kvm = probe(KVM);
        facts.pvirq = probe(PVIRQ);
        facts.tracing = ExitTrace::start()
            .map(drop)
            .map_err(|error| error.to_string());
        Ok(facts)
    }

    /// What the files below `root` say about the kernel `kernel`.
    fn gather_files(root: &Path, kernel: &str) -> Self {
        let processor = processor(&read(root, "proc/cpuinfo").unwrap_or_default());
        let module = processor.vendor.map(Vendor::module);
        Facts {
            kernel: kernel.into(),
            rust: rust(root, kernel),
            ground: Ground::Hardware,
            module_loaded: module
                .is_some_and(|module| root.join("sys/module").join(module).exists()),
            parameters: processor
                .vendor
                .map(|vendor| Parameters::read(root, vendor))
                .unwrap_or_default(),
            pvirq_version: root.join("sys/module/pvirq").exists().then(|| {
                read(root, "sys/module/pvirq/version")
                    .map_or("unknown".into(), |version| version.trim().into())
            }),
            kvm: Err("not checked".into()),
            pvirq: Err("not checked".into()),
            tracing: Err("not checked".into()),
            processor,
        }
    }
}

fn read(root: &Path, path: &str) -> Option<String> {
    fs::read_to_string(root.join(path)).ok()
}

/// Opens a device and asks what it offers.
fn probe(path: &str) -> Result<KvmFeatures, String> {
    Device::open(Path::new(path))
        .and_then(|device| device.features())
        .map_err(|error| error.to_string())
}

fn processor(cpuinfo: &str) -> Processor {
    let field = |name: &str| {
        cpuinfo.lines().find_map(|line| {
            let (key, value) = line.split_once(':')?;
            (key.trim() == name).then(|| value.trim())
        })
    };
    let flags: Vec<&str> = field("flags")
        .unwrap_or_default()
        .split_whitespace()
        .collect();
    Processor {
        model: field("model name").unwrap_or("unknown CPU").into(),
        vendor: Vendor::find(cpuinfo),
        avic: flags.contains(&"avic"),
    }
}

/// A symbol of every kernel with Rust, and of none without, begins with this.
const RUST_HELPER: &str = "rust_helper_";

/// Whether the kernel has Rust, from what is cheapest to read: its configuration, a module of ours that it has loaded, its
/// type information, which is one large read, and its symbols, each of which the kernel has to put together anew.
fn rust(root: &Path, kernel: &str) -> Option<bool> {
    let configurations = [
        format!("boot/config-{kernel}"),
        format!("lib/modules/{kernel}/config"),
    ];
    if let Some(text) = configurations.iter().find_map(|path| read(root, path)) {
        return Some(text.lines().any(|line| line == "CONFIG_RUST=y"));
    }
    if ["pvirq", "pvirq_guest"]
        .iter()
        .any(|module| root.join("sys/module").join(module).exists())
    {
        return Some(true);
    }
    // Its absence there proves nothing: helpers can be inline functions, which have no types of their own.
    let types = fs::read(root.join("sys/kernel/btf/vmlinux")).unwrap_or_default();
    if memmem::find(&types, RUST_HELPER.as_bytes()).is_some() {
        return Some(true);
    }
    rust_symbols(root)
}

/// Whether the kernel's symbols are those of one with Rust, if they can be read.
fn rust_symbols(root: &Path) -> Option<bool> {
    let symbols = BufReader::new(File::open(root.join("proc/kallsyms")).ok()?);
    // Symbols of the kernel come before those of modules, which have the module's name behind a tab.
    let mut own = symbols
        .lines()
        .map_while(Result::ok)
        .take_while(|line| !line.contains('\t'))
        .peekable();
    own.peek()?;
    Some(own.any(|line| line.contains(&format!(" {RUST_HELPER}"))))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree(files: &[(&str, &str)]) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        root
    }

    #[test]
    fn an_amd_host_is_seen() {
        let root = tree(&[
            (
                "proc/cpuinfo",
                "processor\t: 0\nmodel name\t: AMD EPYC 7\nflags\t\t: fpu svm avic x2avic\n",
            ),
            ("sys/module/kvm_amd/parameters/avic", "N\n"),
            ("sys/module/kvm_amd/parameters/nested", "1\n"),
            ("sys/module/pvirq/version", "0.1.0\n"),
            (
                "boot/config-7.3",
                "# CONFIG_FOO is not set\nCONFIG_RUST=y\n",
            ),
        ]);
        let facts = Facts::gather_files(root.path(), "7.3");
        assert_eq!(facts.processor.model, "AMD EPYC 7");
        assert_eq!(facts.processor.vendor, Some(Vendor::Svm));
        assert!(facts.processor.avic && facts.module_loaded);
        assert_eq!(facts.parameters.virtual_apic, Some(false));
        assert_eq!(facts.parameters.nested, Some(true));
        assert_eq!(facts.pvirq_version.as_deref(), Some("0.1.0"));
        assert_eq!(facts.rust, Some(true));
    }

    #[test]
    fn an_intel_host_is_seen() {
        let root = tree(&[
            ("proc/cpuinfo", "model name\t: Xeon\nflags\t\t: fpu vmx\n"),
            ("sys/module/kvm_intel/parameters/enable_apicv", "Y\n"),
            ("sys/module/kvm_intel/parameters/enable_ipiv", "N\n"),
            (
                "proc/kallsyms",
                "0000 T start\n0000 t rust_helper_foo\t[rust_module]\n",
            ),
        ]);
        let facts = Facts::gather_files(root.path(), "7.3");
        assert_eq!(facts.processor.vendor, Some(Vendor::Vmx));
        assert_eq!(facts.parameters.virtual_apic, Some(true));
        assert_eq!(facts.parameters.nested, None);
        assert_eq!(facts.pvirq_version, None);
        // A module's symbol says nothing about the kernel.
        assert_eq!(facts.rust, Some(false));
    }

    #[test]
    fn rust_is_told_from_what_is_cheapest_to_read() {
        let found = |files: &[(&str, &str)]| rust(tree(files).path(), "7.3");
        const SYMBOLS: (&str, &str) = ("proc/kallsyms", "0 T start\n0 T rust_helper_foo\n");
        const NO_SYMBOLS: (&str, &str) = ("proc/kallsyms", "0 T start\n0 T trust_helper\n");
        const TYPES: (&str, &str) = ("sys/kernel/btf/vmlinux", "\0int\0rust_helper_foo\0");

        assert_eq!(found(&[SYMBOLS]), Some(true));
        assert_eq!(found(&[NO_SYMBOLS]), Some(false));
        assert_eq!(found(&[TYPES]), Some(true));
        assert_eq!(
            found(&[("sys/kernel/btf/vmlinux", "\0int\0"), SYMBOLS]),
            Some(true)
        );
        assert_eq!(
            found(&[("sys/module/pvirq/version", "1"), NO_SYMBOLS]),
            Some(true)
        );
        assert_eq!(
            found(&[("boot/config-7.3", "CONFIG_RUST=n\n"), TYPES]),
            Some(false)
        );
    }

    #[test]
    fn a_host_without_anything_is_not_guessed_at() {
        let root = tree(&[]);
        let facts = Facts::gather_files(root.path(), "7.3");
        assert_eq!(facts.processor.vendor, None);
        assert_eq!(facts.rust, None);
        assert!(!facts.module_loaded);
        assert_eq!(facts.parameters, Parameters::default());
    }
}
