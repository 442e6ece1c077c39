// SPDX-License-Identifier: GPL-2.0 OR MIT
//! Properties that hold for all vectors, sets and words, in one thread.

use std::{
    collections::BTreeSet,
    sync::atomic::{
        AtomicU64,
        Ordering::Relaxed, //
    },
};

use proptest::prelude::*;
use pvirq_protocol::{
    post_all,
    registers::{
        self,
        Array,
        Command,
        ReadRegister,
        Status,
        WriteRegister, //
    },
    Descriptor,
    GuestCounters,
    GuestState,
    HostState,
    HostStatistics,
    IdleEnd,
    Pickup,
    Posted,
    ReservedVector,
    Tally,
    Vector,
    Vectors,
    POLL_MAX_NS, //
};

const HOST_STATES: [HostState; 5] = [
    HostState::Running,
    HostState::Blocked,
    HostState::Preempted,
    HostState::Outside,
    HostState::Polling,
];

fn vector() -> impl Strategy<Value = Vector> {
    (Vector::FIRST..=u8::MAX).prop_map(|vector| Vector::new(vector).unwrap())
}

fn host_state() -> impl Strategy<Value = HostState> {
    proptest::sample::select(&HOST_STATES)
}

/// A guest that writes to its own memory as it likes.
fn scribble(descriptor: &Descriptor, offset: usize, value: u64) {
    assert!(offset < size_of::<Descriptor>() && offset % 8 == 0);
    // SAFETY: The word is within the descriptor and aligned, and all its accesses are atomic.
    unsafe {
        &*std::ptr::from_ref(descriptor)
            .byte_add(offset)
            .cast::<AtomicU64>()
    }
    .store(value, Relaxed);
}

proptest! {
    #[test]
    fn vectors_are_iterated_once_from_the_highest_to_the_lowest(words: [u64; 4]) {
        let mut expected = Vec::new();
        for vector in (Vector::FIRST..=u8::MAX).rev() {
            if words[usize::from(vector) / 64] & (1 << (vector % 64)) != 0 {
                expected.push(vector);
            }
        }

        let vectors = Vectors::from_words(words);
        let given: Vec<u8> = vectors.into_iter().map(u8::from).collect();
        prop_assert_eq!(&given, &expected);
        for vector in (Vector::FIRST..=u8::MAX).map(|vector| Vector::new(vector).unwrap()) {
            prop_assert_eq!(vectors.contains(vector), expected.contains(&vector.get()));
        }
    }

    #[test]
    fn reserved_vectors_are_counted_and_never_returned(low: u16, words: [u64; 4]) {
        let mut words = words;
        words[0] = (words[0] & !0xffff) | u64::from(low);

        let mut vectors = Vectors::from_words(words);
        let all = vectors.len();
        prop_assert!(vectors.into_iter().all(|vector| vector.get() >= Vector::FIRST));
        prop_assert_eq!(vectors.remove_reserved(), low.count_ones());
        prop_assert_eq!(vectors.len(), all - low.count_ones());
        prop_assert_eq!(vectors.into_iter().count(), vectors.len() as usize);
        prop_assert_eq!(vectors.remove_reserved(), 0);
    }

    #[test]
    fn vectors_that_are_posted_while_the_owner_will_poll_are_drained_once(
        posts in proptest::collection::vec(vector(), 0..100),
        state in host_state().prop_filter("must poll", |state| state.will_poll()),
    ) {
        let descriptor = Descriptor::new();
        descriptor.set_host_state(state);

        let mut pending = BTreeSet::new();
        for vector in posts {
            let expected = match pending.insert(vector) {
                true => Posted::Elided,
                false => Posted::Coalesced,
            };
            prop_assert_eq!(descriptor.post(vector), expected);
        }
        prop_assert_eq!(descriptor.has_pending(), !pending.is_empty());

        let drained: Vec<Vector> = descriptor.leave(HostState::Running).into_iter().collect();
        prop_assert_eq!(drained, pending.into_iter().rev().collect::<Vec<_>>());
        prop_assert_eq!(descriptor.host_state(), HostState::Running);
        prop_assert!(descriptor.drain().is_empty());
    }

    #[test]
    fn a_sender_is_told_the_pickup_if_and_only_if_its_post_is_elided(
        vector in vector(),
        state in host_state(),
        guest_polls: bool,
    ) {
        let descriptor = Descriptor::new();
        descriptor.set_host_state(state);
        if guest_polls {
            descriptor.enter_polling();
        }
        let expected = match (guest_polls, state.will_poll()) {
            (true, _) => Some(Pickup::Guest),
            (false, true) => Some(Pickup::Host(state)),
            (false, false) => None,
        };

        let mut told = None;
        let posted = descriptor.post_and_tell(vector, |pickup| told = Some(pickup));
        prop_assert_eq!(told, expected);
        prop_assert_eq!(posted == Posted::Elided, expected.is_some());
        // The next post is coalesced with the first one, or a kick as well.
        let mut told = None;
        let posted = descriptor.post_and_tell(vector, |pickup| told = Some(pickup));
        prop_assert_eq!(told, None);
        prop_assert_eq!(posted == Posted::Coalesced, expected.is_some());
    }

    #[test]
    fn a_post_leaves_nothing_behind_if_the_owner_will_not_poll(
        posts in proptest::collection::vec(vector(), 0..100),
        state in host_state().prop_filter("must not poll", |state| !state.will_poll()),
    ) {
        let descriptor = Descriptor::new();
        descriptor.set_host_state(state);

        for vector in posts {
            prop_assert_eq!(descriptor.post(vector), Posted::Kick);
            prop_assert!(!descriptor.has_pending());
        }
        prop_assert!(!descriptor.resume(HostState::Running));
    }

    #[test]
    fn words_stand_for_states_and_unknown_ones_for_running(
        word in prop_oneof![0..8_u32, any::<u32>()],
    ) {
        let host = HostState::from_word(word);
        if word <= 4 {
            prop_assert_eq!(host.word(), word);
        } else {
            prop_assert_eq!(host, HostState::Running);
        }

        let guest = GuestState::from_word(word);
        if word <= 1 {
            prop_assert_eq!(guest.word(), word);
        } else {
            prop_assert_eq!(guest, GuestState::Running);
        }
    }

    #[test]
    fn nothing_in_memory_causes_a_panic_or_returns_reserved_vectors(
        words: [u64; 32],
        vector in vector(),
    ) {
        let descriptor = Descriptor::new();
        for (index, word) in words.into_iter().enumerate() {
            scribble(&descriptor, index * 8, word);
        }

        let _ = descriptor.post(vector);
        let mut tally = Tally::default();
        tally.add(Posted::Elided);
        descriptor.count_posts(&tally);
        let mut drained = descriptor.leave(HostState::Blocked);
        descriptor.count_drained(&drained);
        drained.remove_reserved();
        prop_assert_eq!(drained.into_iter().count(), drained.len() as usize);
        prop_assert!(!descriptor.has_pending());
        let _ = (descriptor.guest_counters(), descriptor.host_statistics());
    }

    #[test]
    fn a_multicast_kicks_those_that_will_not_poll(
        targets in proptest::collection::vec((host_state(), any::<bool>()), 0..70),
        vector in vector(),
    ) {
        let descriptors: Vec<Descriptor> = targets.iter().map(|(state, polling)| {
            let descriptor = Descriptor::new();
            descriptor.set_host_state(*state);
            if *polling {
                descriptor.enter_polling();
            }
            descriptor
        }).collect();

        let mut kicked = Vec::new();
        let tally = post_all(
            descriptors.iter().enumerate(),
            |target| target.post(vector),
            |index| kicked.push(index),
        );

        let expected: Vec<usize> = (0..targets.len())
            .filter(|&index| !targets[index].0.will_poll() && !targets[index].1)
            .collect();
        prop_assert_eq!(&kicked, &expected);
        let expected = Tally {
            coalesced: 0,
            elided: (targets.len() - kicked.len()) as u64,
            kicked: kicked.len() as u64,
        };
        prop_assert_eq!(tally, expected);
        prop_assert_eq!(tally.posts(), targets.len() as u64);
    }

    #[test]
    fn a_command_is_what_it_was_encoded_from(
        word in prop_oneof![
            (0..4_u32, 0..4_u32).prop_map(|(version, command)| (version << 16) | command),
            any::<u32>(),
        ],
    ) {
        match Command::decode(word) {
            Ok(command) => prop_assert_eq!(command.encode(), word),
            Err(status) => prop_assert!(
                matches!(status, Status::Unsupported | Status::WrongVersion)
            ),
        }
    }

    #[test]
    fn an_array_that_is_taken_has_an_end(address: u64, count: u32, max in 0..4096_u32) {
        let mut array = Array::default();
        array.write(WriteRegister::AddressHigh, (address >> 32) as u32);
        array.write(WriteRegister::AddressLow, address as u32);
        array.write(WriteRegister::Count, count);
        array.write(WriteRegister::Command, u32::MAX);
        prop_assert_eq!(array, Array { address, count });

        for array in [array, Array { address: address & !0xff, count: count % 4096 }] {
            if let Ok(len) = array.check(max) {
                prop_assert_eq!(len, u64::from(array.count) * 256);
                prop_assert!(array.address % 256 == 0 && (1..=max).contains(&array.count));
                prop_assert!(array.address.checked_add(len - 1).is_some());
            }
        }
    }
}

#[test]
fn the_first_sixteen_vectors_cannot_be_posted() {
    for vector in 0..=u8::MAX {
        match Vector::try_from(vector) {
            Ok(given) => assert!(vector >= 16 && given.get() == vector),
            Err(ReservedVector) => assert!(vector < 16),
        }
    }
}

#[test]
fn zeroed_memory_is_a_descriptor_that_swallows_nothing() {
    // SAFETY: Every bit pattern is a descriptor.
    let descriptor: Descriptor = unsafe { std::mem::zeroed() };
    let vector = Vector::new(0x40).unwrap();
    assert_eq!(descriptor.host_state(), HostState::Running);
    assert_eq!(descriptor.guest_state(), GuestState::Running);
    assert_eq!(descriptor.post(vector), Posted::Kick);
    assert!(!descriptor.has_pending());
}

#[test]
fn either_side_that_polls_is_enough() {
    let vector = Vector::new(0xf0).unwrap();
    for state in HOST_STATES {
        let descriptor = Descriptor::new();
        descriptor.enter_polling();
        descriptor.set_host_state(state);
        assert_eq!(descriptor.post(vector), Posted::Elided, "{state:?}");
        assert!(descriptor.resume(HostState::Running), "{state:?}");
        assert!(descriptor.leave_polling().contains(vector), "{state:?}");
        assert_eq!(descriptor.post(vector), Posted::Kick, "{state:?}");
    }
}

#[test]
fn post_and_post_once_agree_while_the_states_stay() {
    let vector = Vector::new(0x80).unwrap();
    for state in HOST_STATES {
        let (any, once) = (Descriptor::new(), Descriptor::new());
        any.set_host_state(state);
        once.set_host_state(state);
        for _ in 0..2 {
            assert_eq!(any.post(vector), once.post_once(vector), "{state:?}");
        }
        assert_eq!(any.has_pending(), once.has_pending(), "{state:?}");
        assert_eq!(any.has_pending(), state.will_poll(), "{state:?}");
    }
}

#[test]
fn a_closed_descriptor_promises_nothing() {
    let descriptor = Descriptor::new();
    descriptor.set_poll_windows(1, 2);
    descriptor.set_idle_end(IdleEnd::Posted);
    for state in HOST_STATES {
        descriptor.set_host_state(state);
        assert!(descriptor.close().is_empty());
        assert_eq!(descriptor.host_state(), HostState::Running);
        assert_eq!(descriptor.idle_end(), IdleEnd::Expired);
        assert_eq!(
            (descriptor.guest_poll_ns(), descriptor.host_poll_ns()),
            (0, 0)
        );
    }
}

#[test]
fn a_closed_descriptor_gets_kicks() {
    let descriptor = Descriptor::new();
    let vector = Vector::new(0x80).unwrap();
    descriptor.set_host_state(HostState::Outside);
    assert_eq!(descriptor.post(vector), Posted::Elided);
    assert!(descriptor.close().contains(vector));
    assert_eq!(descriptor.post(vector), Posted::Kick);
}

#[test]
fn each_counter_is_its_own() {
    let descriptor = Descriptor::new();
    let tally = Tally {
        coalesced: 1,
        elided: 2,
        kicked: 4,
    };
    descriptor.count_posts(&tally);
    descriptor.count_posts(&tally);
    descriptor.count_drained(&Vectors::from_words([1, 3, 0, 0]));
    let expected = GuestCounters {
        posted: 14,
        coalesced: 2,
        elided: 4,
        kicked: 8,
        drained: 3,
    };
    assert_eq!(descriptor.guest_counters(), expected);

    let statistics = HostStatistics {
        injected: 5,
        dropped_reserved: 6,
        forced_exits: 7,
        drains: 8,
    };
    descriptor.publish(&statistics);
    assert_eq!(descriptor.host_statistics(), statistics);
    descriptor.set_poll_windows(9, 10);
    assert_eq!(
        (descriptor.guest_poll_ns(), descriptor.host_poll_ns()),
        (9, 10)
    );
}

#[test]
fn a_poll_is_no_longer_than_a_host_may_ask() {
    let descriptor = Descriptor::new();
    for (word, ns) in [
        (POLL_MAX_NS, POLL_MAX_NS),
        (POLL_MAX_NS + 1, POLL_MAX_NS),
        (u32::MAX, POLL_MAX_NS),
    ] {
        descriptor.set_poll_windows(word, 0);
        assert_eq!(descriptor.guest_poll_ns(), ns);
    }
}

#[test]
fn a_status_comes_back_and_is_never_what_an_absent_host_answers() {
    for &status in Status::ALL {
        assert_eq!(Status::from_number(status.number()), Some(status));
        assert!(!status.to_string().is_empty());
    }
    assert_eq!(Status::from_number(registers::ABSENT), None);
    assert_eq!(Status::ALL.len(), 14);
}

#[test]
fn registers_are_where_they_say_and_nowhere_else() {
    let (mut read, mut written) = (Vec::new(), Vec::new());
    for offset in 0..=u16::MAX {
        if let Some(register) = ReadRegister::from_offset(offset) {
            assert_eq!(register.offset(), offset);
            read.push(register);
        }
        if let Some(register) = WriteRegister::from_offset(offset) {
            assert_eq!(register.offset(), offset);
            written.push(register);
        }
    }
    assert_eq!(
        (read.as_slice(), written.as_slice()),
        (ReadRegister::ALL, WriteRegister::ALL)
    );
    assert_eq!(WriteRegister::Count.offset() + 4, registers::LEN);
}

#[test]
fn commands_are_refused_for_a_reason() {
    let register = |version: u16| (u32::from(version) << 16) | u32::from(Command::REGISTER);
    let version = registers::VERSION;
    assert_eq!(
        Command::decode(register(version)),
        Ok(Command::Register { version })
    );
    assert_eq!(Command::decode(register(0)), Err(Status::WrongVersion));
    assert_eq!(
        Command::decode(register(version + 1)),
        Err(Status::WrongVersion)
    );
    assert_eq!(Command::decode(2), Ok(Command::Unregister));
    assert_eq!(Command::decode(0x1_0002), Err(Status::Unsupported));
    assert_eq!(Command::decode(3), Ok(Command::Idle));
    for word in [0, 0x1_0003, registers::ABSENT] {
        assert_eq!(Command::decode(word), Err(Status::Unsupported), "{word:#x}");
    }
}

#[test]
fn arrays_are_refused_for_a_reason() {
    let check = |address, count| Array { address, count }.check(64);
    assert_eq!(check(0x1000, 64), Ok(0x4000));
    assert_eq!(check(0x1040, 1), Err(Status::Unaligned));
    assert_eq!(check(0x1000, 0), Err(Status::TooMany));
    assert_eq!(check(0x1000, 65), Err(Status::TooMany));
    assert_eq!(check(u64::MAX - 0xff, 1), Ok(0x100));
    assert_eq!(check(u64::MAX - 0xff, 2), Err(Status::NotRam));
}
