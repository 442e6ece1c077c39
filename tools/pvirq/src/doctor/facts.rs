// SPDX-License-Identifier: GPL-2.0 OR MIT

//! What a host has.

use std::{
    fs::{self, File},
    io::{BufRead, BufReader},
    path::Path,
};

use crate::{
    bench::{accel, kernel_release},
    device::{Device, KVM, PVIRQ},
    error::Error,
    features::KvmFeatures,
    trace::ExitTrace,
};

/// Who made the CPU's virtualisation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Vendor {
    /// AMD's SVM.
    Svm,
    /// Intel's VMX.
    Vmx,
}

impl Vendor {
    /// The name of KVM's module for it.
    pub fn module(self) -> &'static str {
        match self {
            Vendor::Svm => "kvm_amd",
            Vendor::Vmx => "kvm_intel",
        }
    }
}

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
    /// What the host itself runs on, `none` if on hardware.
    pub accel: String,
    /// Whether KVM's module for the CPU is loaded.
    pub module_loaded: bool,
    /// Whether KVM's guests can run guests of their own, if it is loaded.
    pub nested: Option<bool>,
    /// Whether KVM uses the CPU's virtual interrupt controller (AVIC or APICv), if that can be told.
    pub virtual_apic: Option<bool>,
    /// Whether KVM lets the CPU send interrupts between vCPUs, if that can be told.
    pub virtual_ipi: Option<bool>,
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
        facts.accel = accel();
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
        let parameter = |name: &str| {
            switch(&read(
                root,
                &format!("sys/module/{}/parameters/{name}", module?),
            )?)
        };
        let (virtual_apic, virtual_ipi) = match processor.vendor {
            // AVIC sends interrupts as well.
            Some(Vendor::Svm) => (parameter("avic"), parameter("avic")),
            Some(Vendor::Vmx) => (parameter("enable_apicv"), parameter("enable_ipiv")),
            None => (None, None),
        };
        Facts {
            kernel: kernel.into(),
            rust: rust(root, kernel),
            accel: "none".into(),
            module_loaded: module
                .is_some_and(|module| root.join("sys/module").join(module).exists()),
            nested: parameter("nested"),
            virtual_apic,
            virtual_ipi,
            pvirq_version: root.join("sys/module/pvirq").exists().then(|| {
                read(root, "sys/module/pvirq/version")
                    .map_or("unknown".into(), |version| version.trim().into())
            }),
            kvm: Err("not looked at".into()),
            pvirq: Err("not looked at".into()),
            tracing: Err("not looked at".into()),
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

/// Reads a module parameter that is a switch.
fn switch(text: &str) -> Option<bool> {
    match text.trim() {
        "Y" | "1" => Some(true),
        "N" | "0" => Some(false),
        // Not a switch.
        _ => None,
    }
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
    let vendor = match (flags.contains(&"svm"), flags.contains(&"vmx")) {
        (true, _) => Some(Vendor::Svm),
        (_, true) => Some(Vendor::Vmx),
        _ => None,
    };
    Processor {
        model: field("model name").unwrap_or("unknown CPU").into(),
        vendor,
        avic: flags.contains(&"avic"),
    }
}

/// Whether the kernel has Rust: by its configuration, or else by its symbols.
fn rust(root: &Path, kernel: &str) -> Option<bool> {
    let configurations = [
        format!("boot/config-{kernel}"),
        format!("lib/modules/{kernel}/config"),
    ];
    if let Some(text) = configurations.iter().find_map(|path| read(root, path)) {
        return Some(text.lines().any(|line| line == "CONFIG_RUST=y"));
    }
    let symbols = BufReader::new(File::open(root.join("proc/kallsyms")).ok()?);
    // Symbols of the kernel come before those of modules, which have the module's name behind a tab.
    let mut own = symbols
        .lines()
        .map_while(Result::ok)
        .filter(|line| !line.contains('\t'))
        .peekable();
    own.peek()?;
    Some(own.any(|line| line.contains(" rust_helper_")))
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
        assert_eq!(
            (facts.virtual_apic, facts.virtual_ipi),
            (Some(false), Some(false))
        );
        assert_eq!(facts.nested, Some(true));
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
        assert_eq!(
            (facts.virtual_apic, facts.virtual_ipi),
            (Some(true), Some(false))
        );
        assert_eq!(facts.nested, None);
        assert_eq!(facts.pvirq_version, None);
        // A module's symbol says nothing about the kernel.
        assert_eq!(facts.rust, Some(false));
    }

    #[test]
    fn a_host_without_anything_is_not_guessed_at() {
        let root = tree(&[]);
        let facts = Facts::gather_files(root.path(), "7.3");
        assert_eq!(facts.processor.vendor, None);
        assert_eq!(facts.rust, None);
        assert!(!facts.module_loaded);
        assert_eq!(
            (facts.virtual_apic, facts.virtual_ipi, facts.nested),
            (None, None, None)
        );
    }
}
