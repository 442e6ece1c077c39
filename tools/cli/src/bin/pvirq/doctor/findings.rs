// SPDX-License-Identifier: GPL-2.0 OR MIT

//! What it means.

use exit_count::kvm_module::Vendor;
use pvirq::features::KvmFeatures;
use pvirq_bench::ground::Ground;

use super::facts::Facts;

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
    /// The fact.
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
        ground(facts),
        kvm_module(facts),
        interrupts(facts),
        spinning(facts),
        timers(facts),
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

fn ground(facts: &Facts) -> Finding {
    let (fact, meaning) = match &facts.ground {
        Ground::Hardware => return finding(Mark::Good, "ground", "hardware", ""),
        Ground::QemuTcg => (
            "QEMU's emulator",
            "Numbers of exits are real here, times only compare within one run.",
        ),
        Ground::Bochs => (
            "the Bochs emulator",
            "Numbers of exits are real here, and times are numbers of instructions.",
        ),
        Ground::KvmNested => (
            "a virtual machine",
            "KVM's guests are nested, so each of their exits costs many times what it does on hardware.",
        ),
        Ground::Other(_) => (
            "not hardware",
            "If it is a virtual machine, KVM's guests are nested, and their exits expensive.",
        ),
    };
    finding(
        Mark::Note,
        "ground",
        format!("{}: {fact}", facts.ground),
        meaning,
    )
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
    let apic = facts
        .processor
        .vendor
        .map_or("AVIC or APICv", Vendor::virtual_apic);
    let (virtual_apic, virtual_ipi) = (facts.parameters.virtual_apic, facts.parameters.virtual_ipi);
    match (virtual_apic, virtual_ipi) {
        (Some(true), Some(true)) => finding(
            Mark::Note,
            "interrupts",
            format!("sent and received without exits ({apic} with IPI virtualisation)"),
            "Interrupts between running vCPUs cost no exit already. pvirq can save those of idle vCPUs only.",
        ),
        (Some(true), _) => finding(
            Mark::Good,
            "interrupts",
            format!("received without exits ({apic}), but each one sent costs one (no IPI virtualisation)"),
            "pvirq can save the sender's exits where the target polls or waits for a CPU, and the exits of idle vCPUs.",
        ),
        (Some(false), _) => finding(
            Mark::Good,
            "interrupts",
            format!("no {apic} in use: each one costs an exit at the sender and one at the target"),
            "This is what pvirq is for.",
        ),
        (None, _) if facts.processor.vendor == Some(Vendor::Svm) && !facts.processor.avic => finding(
            Mark::Good,
            "interrupts",
            "the CPU has no AVIC: each one costs an exit at the sender and one at the target",
            "This is what pvirq is for.",
        ),
        (None, _) => finding(
            Mark::Note,
            "interrupts",
            format!("unknown, KVM's module does not say whether it uses {apic}"),
            "",
        ),
    }
}

fn spinning(facts: &Facts) -> Finding {
    let (fact, meaning) = match facts.parameters.pause_exits {
        Some(true) => (
            "PAUSE loops exit",
            "A vCPU that spins lets others run that share its CPU.",
        ),
        Some(false) => (
            "PAUSE loops do not exit",
            "A vCPU that spins keeps its CPU until its time slice ends.",
        ),
        None => (
            "unknown, KVM's module does not say whether PAUSE loops exit",
            "",
        ),
    };
    finding(Mark::Note, "spinning", fact, meaning)
}

fn timers(facts: &Facts) -> Finding {
    let fact = match (facts.processor.vendor, facts.parameters.preemption_timer) {
        (Some(Vendor::Vmx), Some(true)) => {
            "a running vCPU's expires by VMX's preemption timer, an exit without a host interrupt"
        }
        (Some(Vendor::Vmx), None) => {
            "unknown, KVM's module does not say whether it uses VMX's preemption timer"
        }
        _ => "a vCPU's is one of the host's, whose interrupt makes it exit",
    };
    finding(Mark::Note, "timers", fact, "")
}

fn nested(facts: &Facts) -> Finding {
    let fact = match facts.parameters.nested {
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
    use crate::doctor::facts::Processor;
    use exit_count::kvm_module::{
        Parameters,
        Vendor::{Svm, Vmx},
    };

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
            ground: Ground::Hardware,
            module_loaded: true,
            parameters: Parameters {
                nested: Some(true),
                virtual_apic: Some(false),
                virtual_ipi: Some(false),
                pause_exits: Some(true),
                preemption_timer: None,
            },
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
        let mut without_rust = facts();
        without_rust.rust = Some(false);
        assert_eq!(bad(&without_rust), ["kernel"]);
        let mut without_kvm = facts();
        without_kvm.module_loaded = false;
        assert_eq!(bad(&without_kvm), ["KVM"]);
    }

    /// The host above with another CPU and other parameters.
    fn host(vendor: Vendor, virtual_apic: Option<bool>, virtual_ipi: Option<bool>) -> Facts {
        let mut facts = facts();
        facts.processor.vendor = Some(vendor);
        facts.parameters.virtual_apic = virtual_apic;
        facts.parameters.virtual_ipi = virtual_ipi;
        facts
    }

    #[test]
    fn what_pvirq_can_save_depends_on_the_cpu() {
        let (purpose, sender, idle) = ("what pvirq is for", "sender's exits", "idle vCPUs only");
        let (on, off) = (Some(true), Some(false));
        let cases = [
            (Svm, off, off, "no AVIC in use", purpose),
            (Svm, on, on, "without exits (AVIC with IPI", idle),
            (Svm, on, off, "without exits (AVIC), but", sender),
            (Svm, None, None, "the CPU has no AVIC", purpose),
            (Vmx, off, off, "no APICv in use", purpose),
            (Vmx, on, off, "without exits (APICv), but", sender),
            // A kernel without IPI virtualisation.
            (Vmx, on, None, "without exits (APICv), but", sender),
            (Vmx, on, on, "without exits (APICv with IPI", idle),
            (Vmx, None, None, "whether it uses APICv", ""),
        ];
        for (vendor, apic, ipi, fact, meaning) in cases {
            let finding = interrupts(&host(vendor, apic, ipi));
            assert!(finding.fact.contains(fact), "{}", finding.fact);
            assert!(finding.meaning.contains(meaning), "{}", finding.meaning);
        }
    }

    #[test]
    fn the_ground_is_named() {
        let on = |ground: Ground| {
            let Finding {
                mark,
                fact,
                meaning,
                ..
            } = super::ground(&Facts { ground, ..facts() });
            (mark, fact + "; " + &meaning)
        };
        assert_eq!(on(Ground::Hardware), (Mark::Good, "hardware; ".into()));
        for (ground, text) in [
            (
                Ground::QemuTcg,
                "qemu-tcg: QEMU's emulator; Numbers of exits",
            ),
            (Ground::Bochs, "times are numbers of instructions"),
            (
                Ground::KvmNested,
                "kvm-nested: a virtual machine; KVM's guests are nested",
            ),
            (
                Ground::Other("Microsoft Hv".into()),
                "Microsoft Hv: not hardware",
            ),
        ] {
            let (mark, told) = on(ground);
            assert_eq!(mark, Mark::Note);
            assert!(told.contains(text), "{told}");
        }
    }

    #[test]
    fn timers_and_pause_loops_are_the_vendors() {
        let mut facts = host(Vendor::Vmx, Some(false), Some(false));
        assert!(timers(&facts).fact.contains("does not say"));
        facts.parameters.preemption_timer = Some(true);
        assert!(timers(&facts).fact.contains("preemption timer"));
        facts.parameters.preemption_timer = Some(false);
        assert!(timers(&facts).fact.contains("the host's"));
        facts.processor.vendor = Some(Vendor::Svm);
        facts.parameters.preemption_timer = None;
        assert!(timers(&facts).fact.contains("the host's"));

        assert_eq!(spinning(&facts).fact, "PAUSE loops exit");
        facts.parameters.pause_exits = Some(false);
        assert_eq!(spinning(&facts).fact, "PAUSE loops do not exit");
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
