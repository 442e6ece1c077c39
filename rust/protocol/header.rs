// SPDX-License-Identifier: GPL-2.0 OR MIT

//! A test that compares `include/uapi/linux/pvirq.h` with the types of this crate, by a C compiler.

use core::mem::{
    align_of,
    offset_of,
    size_of, //
};
use std::{
    collections::BTreeMap,
    fs,
    io::Write,
    path::Path,
    process::{
        Command,
        Stdio, //
    },
    string::String,
    vec::Vec, //
};

use crate::{
    ioctl::{
        self,
        Bind,
        BottomHalf,
        BottomHalfKind,
        EndReason,
        Map,
        PolicyName,
        Poll,
        Posted,
        Posting,
        Registration,
        Source,
        Unbind, //
    },
    registers::{
        self,
        Command as GuestCommand,
        ReadRegister,
        Status,
        WriteRegister, //
    },
    Descriptor,
    GuestState,
    HostState,
    IdleEnd,
    Vector, //
};

/// Returns the C name of a variant: `NotRam` is `NOT_RAM`.
fn upper_snake(name: &str) -> String {
    let mut snake = String::new();
    for character in name.chars() {
        if character.is_uppercase() && !snake.is_empty() {
            snake.push('_');
        }
        snake.extend(character.to_uppercase());
    }
    snake
}

/// Returns the header's macros with their expected values.
fn macros() -> BTreeMap<String, u64> {
    let mut macros = BTreeMap::new();
    let mut add = |prefix: &str, name: &str, value: u64| {
        let name = std::format!("PVIRQ_{prefix}{}", upper_snake(name));
        assert!(macros.insert(name, value).is_none());
    };

    for state in [
        HostState::Running,
        HostState::Blocked,
        HostState::Preempted,
        HostState::Outside,
        HostState::Polling,
    ] {
        add("HOST_", &std::format!("{state:?}"), state.word().into());
    }
    for state in [GuestState::Running, GuestState::Polling] {
        add("GUEST_", &std::format!("{state:?}"), state.word().into());
    }
    for policy in PolicyName::ALL {
        add(
            "POLICY_",
            &std::format!("{policy:?}"),
            policy.number().into(),
        );
    }
    for kind in BottomHalfKind::ALL {
        add(
            "BOTTOM_HALF_",
            &std::format!("{kind:?}"),
            kind.number().into(),
        );
    }
    for end in IdleEnd::ALL {
        add("IDLE_", &std::format!("{end:?}"), end.number().into());
    }
    for reason in EndReason::ALL {
        add(
            "ENDED_",
            &std::format!("{reason:?}"),
            reason.number().into(),
        );
    }
    for status in Status::ALL {
        add(
            "STATUS_",
            &std::format!("{status:?}"),
            status.number().into(),
        );
    }
    for register in ReadRegister::ALL {
        add(
            "REG_",
            &std::format!("{register:?}"),
            register.offset().into(),
        );
    }
    for register in WriteRegister::ALL {
        add(
            "REG_",
            &std::format!("{register:?}"),
            register.offset().into(),
        );
    }
    for (name, value) in [
        ("FirstVector", Vector::FIRST.into()),
        ("PortBase", registers::BASE.into()),
        ("PortLen", registers::LEN.into()),
        ("Magic", registers::MAGIC.into()),
        ("Version", registers::VERSION.into()),
        ("Absent", registers::ABSENT.into()),
        ("FeaturePost", registers::FEATURE_POST.into()),
        ("FeatureIdle", registers::FEATURE_IDLE.into()),
        ("FeatureEpoch", registers::FEATURE_EPOCH.into()),
        ("CommandRegister", GuestCommand::REGISTER.into()),
        ("CommandUnregister", GuestCommand::UNREGISTER.into()),
        ("CommandIdle", GuestCommand::IDLE.into()),
        ("IoctlMagic", ioctl::MAGIC.into()),
        ("IoctlVersion", ioctl::VERSION.into()),
        ("GetVersion", ioctl::GET_VERSION.into()),
        ("SetPoll", ioctl::SET_POLL.into()),
        ("GetPoll", ioctl::GET_POLL.into()),
        ("Bind", ioctl::BIND.into()),
        ("Unbind", ioctl::UNBIND.into()),
        ("GetSource", ioctl::GET_SOURCE.into()),
        ("GetBottomHalf", ioctl::GET_BOTTOM_HALF.into()),
        ("MapDescriptors", ioctl::MAP_DESCRIPTORS.into()),
        ("SetPosting", ioctl::SET_POSTING.into()),
        ("GetRegistration", ioctl::GET_REGISTRATION.into()),
        ("EndRegistration", ioctl::END_REGISTRATION.into()),
        ("GetPosted", ioctl::GET_POSTED.into()),
        ("SetPosted", ioctl::SET_POSTED.into()),
        ("BindPost", Bind::POST.into()),
        ("BindSink", Bind::SINK.into()),
        ("PollMaxNs", Poll::MAX_NS.into()),
    ] {
        add("", name, value);
    }
    macros
}

/// Returns the members of the header's structures with their expected offsets.
fn members() -> BTreeMap<(&'static str, &'static str), usize> {
    let descriptor = [
        ("pending", offset_of!(Descriptor, pending.words)),
        ("host_state", offset_of!(Descriptor, host.state)),
        ("guest_poll_ns", offset_of!(Descriptor, host.guest_poll_ns)),
        ("host_poll_ns", offset_of!(Descriptor, host.host_poll_ns)),
        ("idle_end", offset_of!(Descriptor, host.idle_end)),
        ("guest_state", offset_of!(Descriptor, guest.state)),
        ("idle_hits", offset_of!(Descriptor, guest.idle_hits)),
        ("posted", offset_of!(Descriptor, guest.posted)),
        ("coalesced", offset_of!(Descriptor, guest.coalesced)),
        ("elided", offset_of!(Descriptor, guest.elided)),
        ("kicked", offset_of!(Descriptor, guest.kicked)),
        ("drained", offset_of!(Descriptor, guest.drained)),
        ("injected", offset_of!(Descriptor, statistics.injected)),
        (
            "dropped_reserved",
            offset_of!(Descriptor, statistics.dropped_reserved),
        ),
        (
            "forced_exits",
            offset_of!(Descriptor, statistics.forced_exits),
        ),
        ("drains", offset_of!(Descriptor, statistics.drains)),
    ]
    .map(|(name, offset)| (("pvirq_descriptor", name), offset));
    let poll = [
        ("size", offset_of!(Poll, size)),
        ("flags", offset_of!(Poll, flags)),
        ("guest_poll_ns", offset_of!(Poll, guest_poll_ns)),
        ("host_poll_ns", offset_of!(Poll, host_poll_ns)),
        ("budget", offset_of!(Poll, budget)),
        ("policy", offset_of!(Poll, policy)),
    ]
    .map(|(name, offset)| (("pvirq_poll", name), offset));

    let bind = [
        ("size", offset_of!(Bind, size)),
        ("flags", offset_of!(Bind, flags)),
        ("source", offset_of!(Bind, source)),
        ("sink", offset_of!(Bind, sink)),
        ("vcpu", offset_of!(Bind, vcpu)),
        ("vector", offset_of!(Bind, vector)),
        ("bottom_half", offset_of!(Bind, bottom_half)),
        ("reserved", offset_of!(Bind, reserved)),
    ]
    .map(|(name, offset)| (("pvirq_bind", name), offset));
    let unbind = [
        ("size", offset_of!(Unbind, size)),
        ("flags", offset_of!(Unbind, flags)),
        ("source", offset_of!(Unbind, source)),
        ("reserved", offset_of!(Unbind, reserved)),
    ]
    .map(|(name, offset)| (("pvirq_unbind", name), offset));
    let source = [
        ("size", offset_of!(Source, size)),
        ("flags", offset_of!(Source, flags)),
        ("source", offset_of!(Source, source)),
        ("reserved", offset_of!(Source, reserved)),
        ("top_halves", offset_of!(Source, top_halves)),
        ("elided", offset_of!(Source, elided)),
        ("coalesced", offset_of!(Source, coalesced)),
        ("queued", offset_of!(Source, queued)),
        ("delivered", offset_of!(Source, delivered)),
    ]
    .map(|(name, offset)| (("pvirq_source", name), offset));
    let map = [
        ("size", offset_of!(Map, size)),
        ("flags", offset_of!(Map, flags)),
        ("offset", offset_of!(Map, offset)),
        ("count", offset_of!(Map, count)),
    ]
    .map(|(name, offset)| (("pvirq_map", name), offset));
    let posting = [
        ("size", offset_of!(Posting, size)),
        ("flags", offset_of!(Posting, flags)),
        ("allowed", offset_of!(Posting, allowed)),
        ("reserved", offset_of!(Posting, reserved)),
    ]
    .map(|(name, offset)| (("pvirq_posting", name), offset));
    let registration = [
        ("size", offset_of!(Registration, size)),
        ("flags", offset_of!(Registration, flags)),
        ("allowed", offset_of!(Registration, allowed)),
        ("epoch", offset_of!(Registration, epoch)),
        ("count", offset_of!(Registration, count)),
        ("ended", offset_of!(Registration, ended)),
        ("address", offset_of!(Registration, address)),
        ("registrations", offset_of!(Registration, registrations)),
    ]
    .map(|(name, offset)| (("pvirq_registration", name), offset));
    let posted = [
        ("size", offset_of!(Posted, size)),
        ("flags", offset_of!(Posted, flags)),
        ("vcpu", offset_of!(Posted, vcpu)),
        ("reserved", offset_of!(Posted, reserved)),
        ("vectors", offset_of!(Posted, vectors)),
    ]
    .map(|(name, offset)| (("pvirq_posted", name), offset));
    let bottom_half = [
        ("size", offset_of!(BottomHalf, size)),
        ("flags", offset_of!(BottomHalf, flags)),
        ("cpu", offset_of!(BottomHalf, cpu)),
        ("kind", offset_of!(BottomHalf, kind)),
        ("top_halves", offset_of!(BottomHalf, top_halves)),
        ("elided", offset_of!(BottomHalf, elided)),
        ("coalesced", offset_of!(BottomHalf, coalesced)),
        ("queued", offset_of!(BottomHalf, queued)),
        ("delivered", offset_of!(BottomHalf, delivered)),
        ("batches", offset_of!(BottomHalf, batches)),
        ("largest_batch", offset_of!(BottomHalf, largest_batch)),
        ("ksoftirqd", offset_of!(BottomHalf, ksoftirqd)),
    ]
    .map(|(name, offset)| (("pvirq_bottom_half", name), offset));

    descriptor
        .into_iter()
        .chain(poll)
        .chain(bind)
        .chain(unbind)
        .chain(source)
        .chain(map)
        .chain(posting)
        .chain(registration)
        .chain(posted)
        .chain(bottom_half)
        .collect()
}

#[test]
fn the_c_header_says_the_same() {
    let include = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../include/uapi");
    let header = fs::read_to_string(include.join("linux/pvirq.h")).unwrap();
    let (macros, members) = (macros(), members());

    // Everything in the header must be known here.
    let mut structure = "";
    for line in header.lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        match words.as_slice() {
            ["#define", "_UAPI_LINUX_PVIRQ_H"] => {}
            ["#define", name, ..] => assert!(macros.contains_key(*name), "{name}"),
            ["struct", name, "{"] => structure = name,
            ["__u32" | "__s32" | "__aligned_u64", member, ..] => {
                let name = member.split(['[', ';']).next().unwrap();
                assert!(
                    name.starts_with("reserved") || members.contains_key(&(structure, name)),
                    "{structure}.{name}"
                );
            }
            _ => {}
        }
    }

    let mut source = std::format!(
        "#include <linux/pvirq.h>\n\
         _Static_assert(sizeof(struct pvirq_descriptor) == {}, \"size\");\n\
         _Static_assert(_Alignof(struct pvirq_descriptor) == {}, \"alignment\");\n\
         _Static_assert(sizeof(struct pvirq_poll) == {}, \"size\");\n\
         _Static_assert(sizeof(struct pvirq_bind) == {}, \"size\");\n\
         _Static_assert(sizeof(struct pvirq_unbind) == {}, \"size\");\n\
         _Static_assert(sizeof(struct pvirq_source) == {}, \"size\");\n\
         _Static_assert(sizeof(struct pvirq_map) == {}, \"size\");\n\
         _Static_assert(sizeof(struct pvirq_posting) == {}, \"size\");\n\
         _Static_assert(sizeof(struct pvirq_registration) == {}, \"size\");\n\
         _Static_assert(sizeof(struct pvirq_posted) == {}, \"size\");\n\
         _Static_assert(sizeof(struct pvirq_bottom_half) == {}, \"size\");\n",
        size_of::<Descriptor>(),
        align_of::<Descriptor>(),
        size_of::<Poll>(),
        size_of::<Bind>(),
        size_of::<Unbind>(),
        size_of::<Source>(),
        size_of::<Map>(),
        size_of::<Posting>(),
        size_of::<Registration>(),
        size_of::<Posted>(),
        size_of::<BottomHalf>(),
    );
    for (name, value) in &macros {
        source += &std::format!("_Static_assert({name} == {value}, \"{name}\");\n");
    }
    for ((structure, name), offset) in &members {
        source += &std::format!(
            "_Static_assert(__builtin_offsetof(struct {structure}, {name}) == {offset}, \
             \"{name}\");\n"
        );
    }

    let mut compiler = Command::new("cc")
        .args(["-std=c11", "-Wall", "-Wextra", "-Werror", "-pedantic"])
        .args(["-fsyntax-only", "-x", "c", "-", "-I"])
        .arg(include)
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    compiler
        .stdin
        .take()
        .unwrap()
        .write_all(source.as_bytes())
        .unwrap();
    assert!(
        compiler.wait().unwrap().success(),
        "the compiler's messages are above"
    );
}
