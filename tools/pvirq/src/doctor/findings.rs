// SPDX-License-Identifier: GPL-2.0 OR MIT

//! What it means.

use super::facts::{Facts, Vendor};
use crate::features::KvmFeatures;

/// How good a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mark {
    /// As it should be.
    Good,
    /// Worth knowing.
    Note,
    /// In the way.
    Bad,
}

/// Something about a host, and what it means.
#[derive(Clone, Debug)]
pub struct Finding {
    /// How good it is.
    pub mark: Mark,
    /// What it is about.
    pub subject: &'static str,
    /// What there is.
    pub fact: String,
    /// What it means for the user, if that is not obvious.
    pub meaning: String,
}

fn finding(
    mark: Mark,
    subject: &'static str,
    fact: impl Into<String>,
    meaning: impl Into<String>,
) -> Finding {
    Finding {
        mark,
        subject,
        fact: fact.into(),
        meaning: meaning.into(),
    }
}

/// Says what the facts mean, and whether pvirq can be used.
pub fn diagnose(facts: &Facts) -> (Vec<Finding>, bool) {
    let findings = vec![
        kernel(facts),
        processor(facts),
        machine(facts),
        kvm_module(facts),
        interrupts(facts),
        nested(facts),
        kvm_device(facts),
        pvirq_module(facts),
        pvirq_device(facts),
        tracing(facts),
    ];
    (findings, facts.pvirq.is_ok())
}

fn kernel(facts: &Facts) -> Finding {
    let (mark, rust, meaning) = match facts.rust {
        Some(true) => (Mark::Good, "with Rust", ""),
        Some(false) => (
            Mark::Bad,
            "without Rust",
            "pvirq.ko needs a kernel with CONFIG_RUST=y, as Debian's 7.2 and later.",
        ),
        None => (
            Mark::Note,
            "which may have Rust or not",
            "pvirq.ko needs a kernel with CONFIG_RUST=y.",
        ),
    };
    finding(mark, "kernel", format!("{}, {rust}", facts.kernel), meaning)
}

fn processor(facts: &Facts) -> Finding {
    let model = &facts.processor.model;
    match facts.processor.vendor {
        Some(Vendor::Svm) => finding(Mark::Good, "CPU", format!("{model}, with AMD's SVM"), ""),
        Some(Vendor::Vmx) => finding(Mark::Good, "CPU", format!("{model}, with Intel's VMX"), ""),
        None => finding(
            Mark::Bad,
            "CPU",
            format!("{model}, without virtualisation"),
            "KVM cannot work. Enable SVM or VMX in the firmware, or nested virtualisation in the hypervisor.",
        ),
    }
}

fn machine(facts: &Facts) -> Finding {
    match facts.accel.as_str() {
        "none" => finding(Mark::Good, "machine", "hardware", ""),
        "tcg" => finding(
            Mark::Note,
            "machine",
            "emulated by QEMU's TCG",
            "Numbers of exits are real here, times only compare within one run.",
        ),
        name => finding(
            Mark::Note,
            "machine",
            format!("virtual, on {name}"),
            "KVM's guests are nested, so each of their exits costs many times what it does on hardware.",
        ),
    }
}

fn kvm_module(facts: &Facts) -> Finding {
    let name = facts.processor.vendor.map_or("kvm", Vendor::module);
    if facts.module_loaded {
        finding(Mark::Good, "KVM", format!("{name} is loaded"), "")
    } else {
        finding(
            Mark::Bad,
            "KVM",
            format!("{name} is not loaded"),
            format!("Load it: modprobe {name}."),
        )
    }
}

fn interrupts(facts: &Facts) -> Finding {
    let name = match facts.processor.vendor {
        Some(Vendor::Svm) => "AVIC",
        _ => "APICv and IPI virtualisation",
    };
    match (facts.virtual_apic, facts.virtual_ipi) {
        (_, Some(true)) => finding(
            Mark::Note,
            "interrupts",
            format!("sent by the CPU itself ({name})"),
            "Interrupts between running vCPUs cost no exit already. pvirq can save those of idle vCPUs only.",
        ),
        (Some(true), _) => finding(
            Mark::Good,
            "interrupts",
            "received without exits (APICv), but each one sent costs one",
            "pvirq can save the sender's exits, and those of idle vCPUs.",
        ),
        (Some(false), _) => finding(
            Mark::Good,
            "interrupts",
            format!("no {name} in use: each one costs an exit at the sender and one at the target"),
            "This is what pvirq is for.",
        ),
        (None, _) if facts.processor.vendor == Some(Vendor::Svm) && !facts.processor.avic => finding(
            Mark::Good,
            "interrupts",
            "the CPU has no AVIC: each one costs an exit at the sender and one at the target",
            "This is what pvirq is for.",
        ),
        (None, _) => finding(Mark::Note, "interrupts", format!("it cannot be told whether KVM uses {name}"), ""),
    }
}

fn nested(facts: &Facts) -> Finding {
    let fact = match facts.nested {
        Some(true) => "guests can run guests of their own",
        Some(false) => "guests cannot run guests of their own",
        None => "unknown, KVM's module does not say",
    };
    finding(Mark::Note, "nesting", fact, "")
}

fn features(features: KvmFeatures) -> String {
    let has = |has: bool| if has { "yes" } else { "no" };
    format!(
        "usable; PV IPI: {}, PV EOI: {}",
        has(features.pv_send_ipi()),
        has(features.pv_eoi())
    )
}

fn kvm_device(facts: &Facts) -> Finding {
    match &facts.kvm {
        Ok(kvm) => finding(Mark::Good, "/dev/kvm", features(*kvm), ""),
        Err(error) => finding(
            Mark::Bad,
            "/dev/kvm",
            error,
            "pvirq needs what /dev/kvm needs.",
        ),
    }
}

fn pvirq_module(facts: &Facts) -> Finding {
    match &facts.pvirq_version {
        Some(version) => finding(
            Mark::Good,
            "pvirq",
            format!("the module is loaded, version {version}"),
            "",
        ),
        None => finding(
            Mark::Bad,
            "pvirq",
            "the module is not loaded",
            "Load it: insmod pvirq.ko.",
        ),
    }
}

fn pvirq_device(facts: &Facts) -> Finding {
    match &facts.pvirq {
        Ok(pvirq) => finding(
            Mark::Good,
            "/dev/pvirq",
            features(*pvirq),
            "VMMs can use it in place of /dev/kvm: qemu-system-x86_64 -accel kvm,device=/dev/pvirq.",
        ),
        Err(error) => finding(Mark::Bad, "/dev/pvirq", error, ""),
    }
}

fn tracing(facts: &Facts) -> Finding {
    match &facts.tracing {
        Ok(()) => finding(Mark::Good, "tracing", "KVM's tracepoints can be read", ""),
        Err(error) => finding(
            Mark::Note,
            "tracing",
            error,
            "pvirq bench cannot be used, all else can.",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::Processor;

    /// A host on which all is well.
    fn facts() -> Facts {
        Facts {
            kernel: "7.3".into(),
            rust: Some(true),
            processor: Processor {
                model: "CPU".into(),
                vendor: Some(Vendor::Svm),
                avic: false,
            },
            accel: "none".into(),
            module_loaded: true,
            nested: Some(true),
            virtual_apic: Some(false),
            virtual_ipi: Some(false),
            pvirq_version: Some("0.1.0".into()),
            kvm: Ok(KvmFeatures::default()),
            pvirq: Ok(KvmFeatures::default()),
            tracing: Ok(()),
        }
    }

    fn bad(facts: &Facts) -> Vec<&'static str> {
        diagnose(facts)
            .0
            .iter()
            .filter(|finding| finding.mark == Mark::Bad)
            .map(|finding| finding.subject)
            .collect()
    }

    #[test]
    fn a_good_host_has_nothing_in_the_way() {
        assert!(bad(&facts()).is_empty());
        assert!(diagnose(&facts()).1);
    }

    #[test]
    fn what_is_missing_is_in_the_way() {
        let without_module = Facts {
            pvirq_version: None,
            pvirq: Err("no such device".into()),
            ..facts()
        };
        assert_eq!(bad(&without_module), ["pvirq", "/dev/pvirq"]);
        assert!(!diagnose(&without_module).1);

        let not_permitted = Facts {
            pvirq: Err("not permitted".into()),
            ..facts()
        };
        assert_eq!(bad(&not_permitted), ["/dev/pvirq"]);
        assert_eq!(
            bad(&Facts {
                rust: Some(false),
                ..facts()
            }),
            ["kernel"]
        );
        assert_eq!(
            bad(&Facts {
                module_loaded: false,
                ..facts()
            }),
            ["KVM"]
        );
    }

    #[test]
    fn what_pvirq_can_save_depends_on_the_cpu() {
        let meaning = |facts: &Facts| interrupts(facts).meaning;
        assert!(meaning(&facts()).contains("what pvirq is for"));
        let avic = Facts {
            virtual_apic: Some(true),
            virtual_ipi: Some(true),
            ..facts()
        };
        assert!(meaning(&avic).contains("idle vCPUs only"));
        let apicv = Facts {
            virtual_apic: Some(true),
            ..facts()
        };
        assert!(meaning(&apicv).contains("the sender's exits"));
        let unknown = Facts {
            virtual_apic: None,
            virtual_ipi: None,
            ..facts()
        };
        assert!(meaning(&unknown).contains("what pvirq is for"));
    }

    #[test]
    fn without_tracing_pvirq_is_still_usable() {
        let facts = Facts {
            tracing: Err("not permitted".into()),
            ..facts()
        };
        assert!(bad(&facts).is_empty());
        assert!(diagnose(&facts).1);
    }
}
